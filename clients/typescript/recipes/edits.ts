import { deleteMessage, editMessage, messageHistory, type Message } from "../lib/api/messages.ts";
import { merge } from "./history.ts";

/** The answer replaces the message in the list; `editedAt` is set when the text has changed. */
export async function edit(shown: readonly Message[], messageId: string, body: string): Promise<Message[]> {
  return merge(shown, [(await editMessage(messageId, { body })).message]);
}

/** A tombstone keeps the place: `state` is "deleted", `body` null. */
export async function remove(shown: readonly Message[], messageId: string): Promise<Message[]> {
  return merge(shown, [(await deleteMessage(messageId)).message]);
}

/** What it said, oldest first; the last one is in force. Null: a sensitive text that cannot be opened now. */
export async function texts(messageId: string): Promise<(string | null)[]> {
  return (await messageHistory(messageId)).versions.map((version) => version.body);
}
