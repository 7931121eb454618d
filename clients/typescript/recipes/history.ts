import { listMessages, type Message } from "../lib/api/messages.ts";

/** By id; the larger `eventSeq` is the newer state, and of two equal ones the later answer (`status` moves on its own). */
export function merge(known: readonly Message[], incoming: readonly Message[]): Message[] {
  const byId = new Map(known.map((message) => [message.id, message]));
  for (const message of incoming) {
    if (message.seq === 0) continue; // held back: it has no place here yet
    if (message.eventSeq >= (byId.get(message.id)?.eventSeq ?? 0)) byId.set(message.id, message);
  }
  return [...byId.values()].sort((one, other) => one.seq - other.seq);
}

/** The newest page, then with every call the page above: for the sentinel at the top of the list. */
export async function older(conversationId: string, known: readonly Message[], signal?: AbortSignal) {
  const page = await listMessages(conversationId, { before: known[0]?.seq, limit: 50 }, { signal });
  return { messages: merge(known, page.messages), hasMore: page.hasMoreBefore };
}

/** A window with this message in the middle, shown instead of what was loaded; `older` and `newer` extend it. */
export async function jumpTo(conversationId: string, seq: number, signal?: AbortSignal) {
  const page = await listMessages(conversationId, { around: seq, limit: 50 }, { signal });
  return { messages: page.messages, hasMoreBefore: page.hasMoreBefore, hasMoreAfter: page.hasMoreAfter };
}

/** The page below what is loaded; call it while `hasMore` to catch up after being away. */
export async function newer(conversationId: string, known: readonly Message[], signal?: AbortSignal) {
  const page = await listMessages(conversationId, { after: known.at(-1)?.seq ?? 0, limit: 50 }, { signal });
  return { messages: merge(known, page.messages), hasMore: page.hasMoreAfter };
}
