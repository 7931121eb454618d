// The functions of the API. Ids of the path come first, then what is asked or changed, then CallOptions; each resolves
// to the answer as the service gives it and rejects with a MessagingError (or the signal's reason).
import type {
  AddMembers,
  CreateGroup,
  Decide,
  EditMessage,
  ListConversations,
  MarkAllRead,
  MarkDelivered,
  ModerateMessage,
  NewReport,
  NewSanction,
  SendMessage,
  SyncRequest,
  UpdateConversation,
  UpdateProfile,
  Why,
} from "./schema.ts";
import { createCall, type CallOptions, type ClientOptions, type Query } from "./transport.ts";

/** Where to and what: a conversation, or a person (with `gigId` when it is about one). */
export type NewMessage = SendMessage & ({ conversationId: string } | { toUserId: string });
/** `idempotencyKey`: a UUID; the same one is never a second group. */
export type NewGroup = CreateGroup & { idempotencyKey?: string };
export type InboxQuery = Query<"/api/messages/conversations">;
export type MembersQuery = Query<"/api/messages/conversations/{id}/members">;
export type BlockedQuery = Query<"/api/users/blocked">;
export type ModerationQueueQuery = Query<"/api/moderation/queue">;
export type ModerationActionsQuery = Query<"/api/moderation/actions">;
/** The newest page, or one place: at most one of `before`, `after` and `around`. */
export type HistoryQuery = { limit?: number } & (
  | { before?: number | undefined; after?: never; around?: never }
  | { after: number; before?: never; around?: never }
  | { around: number; before?: never; after?: never }
);

export type Client = ReturnType<typeof createClient>;

/** A client for one person. On a server that renders for many people: one per request. */
export function createClient(options: ClientOptions) {
  const call = createCall(options);
  return {
    /** A page of the inbox by offset. `listInbox` stays exact while conversations move. */
    listConversations: (asked: ListConversations, options?: CallOptions) =>
      call("post", "/api/messages/conversations", { body: asked }, options),

    /** One conversation with its newest 30 messages. */
    getConversation: (conversationId: string, options?: CallOptions) =>
      call("get", "/api/messages/conversations/{id}", { path: { id: conversationId } }, options),

    /** Send one message. Give a `clientMessageId` of your own to be able to send again after an error; without one it
     * is made here, once, and all repetitions use it. */
    sendMessage: (message: NewMessage, options?: CallOptions) => {
      const clientMessageId = message.clientMessageId ?? crypto.randomUUID();
      return call("post", "/api/messages/send", { body: { ...message, clientMessageId } }, options);
    },

    /** Mark everything up to this message as read. */
    markRead: (messageId: string, options?: CallOptions) =>
      call("patch", "/api/messages/{id}/read", { path: { id: messageId } }, options),

    /** Mark a conversation as read, up to `upToSeq`. Without it a repetition could read what nobody has seen, so then
     * there is none. */
    markAllRead: (conversationId: string, asked: MarkAllRead = {}, options?: CallOptions) =>
      call(
        "patch",
        "/api/messages/conversations/{id}/read-all",
        { path: { id: conversationId }, body: asked, repeatable: typeof asked.upToSeq === "number" },
        options,
      ),

    /** A page of the inbox or the archive, by cursor. */
    listInbox: (asked: InboxQuery = {}, options?: CallOptions) =>
      call("get", "/api/messages/conversations", { query: asked }, options),

    /** A page of a conversation. */
    listMessages: (conversationId: string, asked: HistoryQuery = {}, options?: CallOptions) =>
      call("get", "/api/messages/conversations/{id}/messages", { path: { id: conversationId }, query: asked }, options),

    /** Archive, pin, mute, mark as unread, for oneself; rename a group. */
    updateConversation: (conversationId: string, changes: UpdateConversation, options?: CallOptions) =>
      call("patch", "/api/messages/conversations/{id}", { path: { id: conversationId }, body: changes }, options),

    /** Make a group. As with sending: one key for all repetitions, your own to try again after an error. */
    createGroup: ({ idempotencyKey = crypto.randomUUID(), ...group }: NewGroup, options?: CallOptions) =>
      call("post", "/api/messages/conversations/group", { body: group, idempotencyKey }, options),

    /** A page of the members of a conversation. */
    listMembers: (conversationId: string, asked: MembersQuery = {}, options?: CallOptions) =>
      call("get", "/api/messages/conversations/{id}/members", { path: { id: conversationId }, query: asked }, options),

    /** Add people to a group, or give members another role. */
    addMembers: (conversationId: string, added: AddMembers, options?: CallOptions) =>
      call("post", "/api/messages/conversations/{id}/members", { path: { id: conversationId }, body: added }, options),

    /** Remove somebody from a group, or leave it. Not repeated when it may have been done: the second time is 404. */
    removeMember: (conversationId: string, userId: string, options?: CallOptions) =>
      call(
        "delete",
        "/api/messages/conversations/{id}/members/{userId}",
        { path: { id: conversationId, userId }, repeatable: false },
        options,
      ),

    /** Replace the text of one's own message. */
    editMessage: (messageId: string, changes: EditMessage, options?: CallOptions) =>
      call("patch", "/api/messages/{id}", { path: { id: messageId }, body: changes }, options),

    /** Delete one's own message for everybody. */
    deleteMessage: (messageId: string, options?: CallOptions) =>
      call("delete", "/api/messages/{id}", { path: { id: messageId } }, options),

    /** All texts a message has had. */
    messageHistory: (messageId: string, options?: CallOptions) =>
      call("get", "/api/messages/{id}/history", { path: { id: messageId } }, options),

    /** Everything that changed since `cursor`, as it is now; `cursor_invalid`: start over without one. */
    sync: (asked: SyncRequest = {}, options?: CallOptions) => call("post", "/api/messages/sync", { body: asked }, options),

    /** Messages have arrived on this device, up to these. */
    markDelivered: (asked: MarkDelivered, options?: CallOptions) =>
      call("patch", "/api/messages/delivered", { body: asked }, options),

    /** Tell the others that one is typing. */
    setTyping: (conversationId: string, options?: CallOptions) =>
      call("post", "/api/messages/conversations/{id}/typing", { path: { id: conversationId } }, options),

    /** The badge: without muted and archived conversations. */
    unreadCounts: (options?: CallOptions) => call("get", "/api/messages/unread", {}, options),

    /** What one may still do now: sends, conversations started, edits, reports. */
    getLimits: (options?: CallOptions) => call("get", "/api/messages/limits", {}, options),

    /** Report somebody else's message to the moderators; while one's report about it is open, that one is answered. */
    reportMessage: (messageId: string, report: NewReport, options?: CallOptions) =>
      call("post", "/api/messages/{id}/report", { path: { id: messageId }, body: report }, options),

    /** Report a person one is, or was, in a conversation with. */
    reportUser: (userId: string, report: NewReport, options?: CallOptions) =>
      call("post", "/api/users/{id}/report", { path: { id: userId }, body: report }, options),

    /** For moderators, as all that follow: what waits for a decision, or what has been decided. */
    listModerationQueue: (asked: ModerationQueueQuery = {}, options?: CallOptions) =>
      call("get", "/api/moderation/queue", { query: asked }, options),

    /** What an item is about. The audit log keeps that one looked. */
    getModerationItem: (itemId: string, options?: CallOptions) =>
      call("get", "/api/moderation/items/{id}", { path: { id: itemId } }, options),

    /** Decide an item; `already_decided`: somebody else was first. */
    decideModerationItem: (itemId: string, decision: Decide, options?: CallOptions) =>
      call("post", "/api/moderation/items/{id}/decide", { path: { id: itemId }, body: decision }, options),

    /** Mute or suspend a person, from now on. */
    sanctionUser: (userId: string, sanction: NewSanction, options?: CallOptions) =>
      call("post", "/api/moderation/users/{id}/sanctions", { path: { id: userId }, body: sanction }, options),

    /** End a sanction early. */
    liftSanction: (sanctionId: string, why: Why = {}, options?: CallOptions) =>
      call("delete", "/api/moderation/sanctions/{id}", { path: { id: sanctionId }, body: why }, options),

    /** Hide a message, also when nobody has reported it. */
    moderateHideMessage: (messageId: string, why: ModerateMessage, options?: CallOptions) =>
      call("post", "/api/moderation/messages/{id}/hide", { path: { id: messageId }, body: why }, options),

    /** Show a hidden message again. */
    moderateRestoreMessage: (messageId: string, why: ModerateMessage, options?: CallOptions) =>
      call("post", "/api/moderation/messages/{id}/restore", { path: { id: messageId }, body: why }, options),

    /** Take back what an action did, once. */
    undoModerationAction: (actionId: string, why: Why = {}, options?: CallOptions) =>
      call("post", "/api/moderation/actions/{id}/undo", { path: { id: actionId }, body: why }, options),

    /** The audit log, newest first. */
    listModerationActions: (asked: ModerationActionsQuery = {}, options?: CallOptions) =>
      call("get", "/api/moderation/actions", { query: asked }, options),

    /** One's own profile. */
    getProfile: (options?: CallOptions) => call("get", "/api/profile", {}, options),

    /** Change one's own profile; what is left out stays. */
    updateProfile: (changes: UpdateProfile, options?: CallOptions) =>
      call("patch", "/api/profile", { body: changes }, options),

    /** End direct contact with a person both ways, and hide their messages in groups; they are not told. */
    blockUser: (userId: string, options?: CallOptions) =>
      call("post", "/api/users/{id}/block", { path: { id: userId } }, options),

    /** End a block; everything is as it was before. */
    unblockUser: (userId: string, options?: CallOptions) =>
      call("delete", "/api/users/{id}/block", { path: { id: userId } }, options),

    /** A page of the people one blocks, newest first. */
    listBlocked: (asked: BlockedQuery = {}, options?: CallOptions) => call("get", "/api/users/blocked", { query: asked }, options),
  };
}
