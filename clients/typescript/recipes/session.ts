import { createClient, isAuthRetryableFetchError } from "@supabase/supabase-js";
import { configure, NetworkError } from "../lib/api/messages.ts";

/** Once per page, before anything else. */
export function connect(supabaseUrl: string, publishableKey: string, baseUrl = "") {
  const supabase = createClient(supabaseUrl, publishableKey);
  configure({
    baseUrl,
    getToken: async ({ refresh }) => {
      const { data, error } = refresh ? await supabase.auth.refreshSession() : await supabase.auth.getSession();
      // Offline is not signed out: this is repeated like any request that did not arrive.
      if (isAuthRetryableFetchError(error)) throw new NetworkError("Auth could not be reached.", error);
      return data.session?.access_token;
    },
  });
  return supabase;
}
