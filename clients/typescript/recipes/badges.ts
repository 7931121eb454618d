import { markAllRead, markRead, unreadCounts, type Conversation, type Message } from "../lib/api/messages.ts";

export interface Badges {
  /** On the icon of the whole messenger. */
  total: number;
  /** On the rows of the inbox, by conversation. */
  rows: Record<string, number>;
}

/** At the start, and when the window gets the focus. */
export async function total(badges: Badges): Promise<Badges> {
  return { ...badges, total: (await unreadCounts()).messages };
}

/** The newest message on the screen has been seen. Older ones need no call: reading goes up to it. */
export async function seen(badges: Badges, message: Message): Promise<Badges> {
  const { unreadCount, unreadTotal } = await markRead(message.id);
  return { total: unreadTotal, rows: { ...badges.rows, [message.conversationId]: unreadCount } };
}

/** "Mark all as read". With `upToSeq` what arrives in between stays unread, and the call can be repeated. */
export async function seenAll(badges: Badges, row: Conversation): Promise<Badges> {
  const { unreadCount, unreadTotal } = await markAllRead(row.id, { upToSeq: row.lastSeq });
  return { total: unreadTotal, rows: { ...badges.rows, [row.id]: unreadCount } };
}
