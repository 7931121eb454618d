import { listInbox, updateConversation } from "../lib/api/messages.ts";

export const archive = (id: string, archived = true) => updateConversation(id, { archived });
export const pin = (id: string, pinned = true) => updateConversation(id, { pinned });
export const markUnread = (id: string) => updateConversation(id, { markedUnread: true });

/** `null` unmutes. "For ever" is a far year. */
export const mute = (id: string, until: Date | null) =>
  updateConversation(id, { mutedUntil: until && until.toISOString() });

export const archivedOnes = (cursor: string | null = null) => listInbox({ archived: true, cursor });
