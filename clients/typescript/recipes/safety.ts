import {
  blockUser, deleteMessage, getConversation, getLimits, listBlocked, reportMessage, reportUser, unblockUser,
  type Conversation, type Message, type NewReport, type Profile,
} from "../lib/api/messages.ts";
import type { Messaging, PendingMessage } from "../lib/realtime.ts";

export interface Look {
  text: string | null;
  /** To be shown with it, or in its place. */
  note?: string;
  /** The text is not to be seen before a tap. */
  isCovered?: boolean;
}

const WARNINGS: Record<string, string> = {
  scam: "Pay only through this site; payments elsewhere are not protected.",
  abuse: "This may hurt.",
};
const BUBBLES: Record<PendingMessage["state"], string> = {
  pending: "Sending",
  failed: "Not sent",
  held: "We look at this message before it is delivered. Until then only you see it.",
  rejected: "Not delivered: it is against our rules.",
};

/** How to show a message, or a bubble of `store.pending()`. */
export function look(shown: Message | PendingMessage, myId: string): Look {
  if (!("seq" in shown)) return { text: shown.body, note: BUBBLES[shown.state] };
  if (shown.state === "deleted") return { text: null, note: "Deleted" };
  if (shown.state === "hidden") return { text: null, note: "This message is not shown." };
  if (shown.unreadable) return { text: null, note: "This message cannot be opened at the moment." };
  if (shown.body === null) return { text: null, note: "…" }; // sensitive, and on its way
  const text = shown.body;
  if (shown.warning !== null) {
    const note = WARNINGS[shown.warning] ?? "Be careful with this message.";
    return { text, note, isCovered: shown.fromUserId !== myId };
  }
  if (shown.masked) return { text, note: "Contact details are covered until contact is allowed." };
  return shown.sensitive ? { text, note: "Stored encrypted" } : { text };
}

/** The field for writing: `left` messages may be sent now, the next one after that in `waitS` seconds. */
export async function composer(row: Conversation) {
  if (!row.canSend) return { canWrite: false, left: 0, waitS: null };
  const { limits } = await getLimits();
  const sends = limits.find((limit) => limit.name === "send")!;
  return { canWrite: sends.remaining > 0, left: sends.remaining, waitS: sends.resetS };
}

/** A door code, an address: the database and the events do not have the text. */
export const sendSensitive = (live: Messaging, conversationId: string, body: string) =>
  live.send({ conversationId, body, sensitive: true });

/** Take back what waits, or clear away what was not let through or not sent. */
export async function withdraw(live: Messaging, bubble: PendingMessage): Promise<void> {
  if (bubble.messageId) live.store.merge(await deleteMessage(bubble.messageId));
  else live.store.discard(bubble.clientMessageId);
}

/** `openId`: the conversation that is on the screen. */
export async function block(live: Messaging, userId: string, openId?: string): Promise<void> {
  await blockUser(userId);
  await readAgain(live, openId);
}

export async function unblock(live: Messaging, userId: string, openId?: string): Promise<void> {
  await unblockUser(userId);
  await readAgain(live, openId);
}

/** What a block hides, or shows again, in groups changes without an event: what was loaded of them is out of date. */
async function readAgain(live: Messaging, openId?: string): Promise<void> {
  live.store.unloadGroups();
  live.wake(); // brings the rows of the inbox
  if (openId) live.store.merge(await getConversation(openId));
}

/** The list in the settings, newest block first. */
export async function* blocked() {
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<typeof listBlocked>> = await listBlocked({ cursor, limit: 100 });
    yield* page.users;
    cursor = page.nextCursor;
  } while (cursor !== null);
}

/** Tell the moderators. Nobody else learns of it; a second report while the first one is open is the first one. */
export const report = (about: Message | Profile, reason: NewReport["reason"], note: string | null = null) =>
  "seq" in about ? reportMessage(about.id, { reason, note }) : reportUser(about.id, { reason, note });
