// People who sign up through supabase-js, and where the stack is.
import assert from "node:assert/strict";
import { createClient as createSupabase } from "@supabase/supabase-js";
import { createClient, type Client, type ClientOptions } from "../../src/index.ts";

function given(name: string): string {
  const value = process.env[name];
  assert(value, `${name} is missing: these tests are started by tests/clients/test_typescript.py`);
  return value;
}

export const API_URL = given("API_URL");
export const SUPABASE_URL = given("SUPABASE_URL");
export const PUBLISHABLE_KEY = given("SUPABASE_PUBLISHABLE_KEY");
export const MODERATOR_TOKEN = given("MODERATOR_TOKEN");
export const EXPIRED_TOKEN = given("EXPIRED_TOKEN");

export interface Person {
  id: string;
  token: string;
  client: Client;
  account: { email: string; password: string };
  /** Another client of the same person. */
  with: (options: Partial<ClientOptions>) => Client;
}

export async function person(displayName: string): Promise<Person> {
  const supabase = createSupabase(SUPABASE_URL, PUBLISHABLE_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
  const account = { email: `${crypto.randomUUID()}@example.com`, password: crypto.randomUUID() };
  const { data, error } = await supabase.auth.signUp({ ...account, options: { data: { display_name: displayName } } });
  assert.equal(error, null);
  assert(data.session);
  const token = data.session.access_token;
  const make = (options: Partial<ClientOptions>) => createClient({ baseUrl: API_URL, getToken: () => token, ...options });
  return { id: data.session.user.id, token, client: make({}), account, with: make };
}
