// The functions a front end imports, for the one person who is signed in to this page. `configure` comes first, once.
// On a server, where one module serves many people, use `createClient` per request instead.
import { createClient, type Client, type ClientOptions } from "../../src/index.ts";

export * from "../../src/index.ts";

let client: Client | undefined;

/** Say where the service is and how to get a token. */
export function configure(options: ClientOptions): void {
  client = createClient(options);
}

function theirs(): Client {
  if (client === undefined) throw new Error("lib/api/messages.ts: call configure({ baseUrl, getToken }) first.");
  return client;
}

export const listConversations: Client["listConversations"] = (...given) => theirs().listConversations(...given);
export const getConversation: Client["getConversation"] = (...given) => theirs().getConversation(...given);
export const sendMessage: Client["sendMessage"] = (...given) => theirs().sendMessage(...given);
export const markRead: Client["markRead"] = (...given) => theirs().markRead(...given);
export const markAllRead: Client["markAllRead"] = (...given) => theirs().markAllRead(...given);
export const listInbox: Client["listInbox"] = (...given) => theirs().listInbox(...given);
export const listMessages: Client["listMessages"] = (...given) => theirs().listMessages(...given);
export const updateConversation: Client["updateConversation"] = (...given) => theirs().updateConversation(...given);
export const createGroup: Client["createGroup"] = (...given) => theirs().createGroup(...given);
export const listMembers: Client["listMembers"] = (...given) => theirs().listMembers(...given);
export const addMembers: Client["addMembers"] = (...given) => theirs().addMembers(...given);
export const removeMember: Client["removeMember"] = (...given) => theirs().removeMember(...given);
export const editMessage: Client["editMessage"] = (...given) => theirs().editMessage(...given);
export const deleteMessage: Client["deleteMessage"] = (...given) => theirs().deleteMessage(...given);
export const messageHistory: Client["messageHistory"] = (...given) => theirs().messageHistory(...given);
export const sync: Client["sync"] = (...given) => theirs().sync(...given);
export const markDelivered: Client["markDelivered"] = (...given) => theirs().markDelivered(...given);
export const setTyping: Client["setTyping"] = (...given) => theirs().setTyping(...given);
export const unreadCounts: Client["unreadCounts"] = (...given) => theirs().unreadCounts(...given);
export const getLimits: Client["getLimits"] = (...given) => theirs().getLimits(...given);
export const reportMessage: Client["reportMessage"] = (...given) => theirs().reportMessage(...given);
export const reportUser: Client["reportUser"] = (...given) => theirs().reportUser(...given);
export const listModerationQueue: Client["listModerationQueue"] = (...given) => theirs().listModerationQueue(...given);
export const getModerationItem: Client["getModerationItem"] = (...given) => theirs().getModerationItem(...given);
export const decideModerationItem: Client["decideModerationItem"] = (...given) => theirs().decideModerationItem(...given);
export const sanctionUser: Client["sanctionUser"] = (...given) => theirs().sanctionUser(...given);
export const liftSanction: Client["liftSanction"] = (...given) => theirs().liftSanction(...given);
export const moderateHideMessage: Client["moderateHideMessage"] = (...given) => theirs().moderateHideMessage(...given);
export const moderateRestoreMessage: Client["moderateRestoreMessage"] = (...given) => theirs().moderateRestoreMessage(...given);
export const undoModerationAction: Client["undoModerationAction"] = (...given) => theirs().undoModerationAction(...given);
export const listModerationActions: Client["listModerationActions"] = (...given) => theirs().listModerationActions(...given);
export const getProfile: Client["getProfile"] = (...given) => theirs().getProfile(...given);
export const updateProfile: Client["updateProfile"] = (...given) => theirs().updateProfile(...given);
export const blockUser: Client["blockUser"] = (...given) => theirs().blockUser(...given);
export const unblockUser: Client["unblockUser"] = (...given) => theirs().unblockUser(...given);
export const listBlocked: Client["listBlocked"] = (...given) => theirs().listBlocked(...given);
