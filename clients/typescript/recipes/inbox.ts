import { listInbox, type Conversation } from "../lib/api/messages.ts";

export interface Inbox {
  conversations: Conversation[];
  /** Where the next page begins; null after the last one. */
  cursor: string | null;
}

// Pinned first, then the newest activity, then id. The times are of equal length, so they compare as text.
const rank = (row: Conversation) => `${row.pinnedAt ? 1 : 0} ${row.lastMessageAt ?? row.createdAt} ${row.id}`;

/** One row per conversation, in order, without what has been archived. */
export function mergeRows(known: readonly Conversation[], incoming: readonly Conversation[]): Conversation[] {
  const byId = new Map(known.map((row) => [row.id, row]));
  for (const row of incoming) if (row.eventSeq >= (byId.get(row.id)?.eventSeq ?? 0)) byId.set(row.id, row);
  const rows = [...byId.values()].filter((row) => row.archivedAt === null);
  return rows.sort((one, other) => (rank(one) < rank(other) ? 1 : -1));
}

/** The first page: at the start, when the window gets the focus, when something has arrived. What jumped to the top
 * since is in it; rows that are loaded already stay, and so does the place where paging goes on. */
export async function refresh(inbox?: Inbox): Promise<Inbox> {
  const page = await listInbox({ limit: 30 });
  return {
    conversations: mergeRows(inbox?.conversations ?? [], page.conversations),
    cursor: inbox ? inbox.cursor : page.nextCursor,
  };
}

/** The next page, for the sentinel at the bottom. */
export async function more(inbox: Inbox): Promise<Inbox> {
  if (inbox.cursor === null) return inbox;
  const page = await listInbox({ limit: 30, cursor: inbox.cursor });
  return { conversations: mergeRows(inbox.conversations, page.conversations), cursor: page.nextCursor };
}
