import { MessagingError } from "../lib/api/messages.ts";

/** What to offer when a call has failed for good; `error.message` is a sentence to show. */
export function offer(error: unknown): "try again" | "sign in" | "nothing" {
  if (!(error instanceof MessagingError)) return "nothing"; // aborted, or a mistake of our own
  if (error.status === 401) return "sign in";
  return error.retry === "never" ? "nothing" : "try again";
}
