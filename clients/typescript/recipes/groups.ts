import { addMembers, createGroup, listMembers, removeMember, updateConversation } from "../lib/api/messages.ts";

/** Keep the key with the form: "try again" with the same one never makes a second group. */
export async function makeGroup(title: string, memberIds: string[], idempotencyKey: string) {
  return (await createGroup({ title, memberIds, idempotencyKey })).conversation;
}

export const rename = (groupId: string, title: string) => updateConversation(groupId, { title });
export const invite = (groupId: string, userIds: string[]) => addMembers(groupId, { userIds });
export const promote = (groupId: string, userId: string) => addMembers(groupId, { userIds: [userId], role: "admin" });
export const remove = (groupId: string, userId: string) => removeMember(groupId, userId);
export const leave = (groupId: string, myId: string) => removeMember(groupId, myId);

/** A row of the inbox shows the first 8; this walks through all. */
export async function* everybody(groupId: string) {
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<typeof listMembers>> = await listMembers(groupId, { cursor, limit: 100 });
    yield* page.members;
    cursor = page.nextCursor;
  } while (cursor !== null);
}
