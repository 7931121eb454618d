import { createClient } from "../lib/api/messages.ts";

/** In server code: one client per request, with the token of whoever asks. Never `configure` there. */
export function messagesOf(accessToken: string) {
  const baseUrl = process.env["API_URL"];
  if (!baseUrl) throw new Error("API_URL is missing.");
  return createClient({ baseUrl, getToken: () => accessToken, retries: 1, maxWaitMs: 1000 });
}
