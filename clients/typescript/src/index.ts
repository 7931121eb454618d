export { createClient } from "./client.ts";
export type {
  BlockedQuery, Client, HistoryQuery, InboxQuery, MembersQuery, ModerationActionsQuery, ModerationQueueQuery, NewGroup, NewMessage,
} from "./client.ts";
export { MessagingError, NetworkError, TimeoutError } from "./errors.ts";
export type { Code, Details } from "./errors.ts";
export type { ProblemCode, Retry } from "./catalogue.ts";
export { connectMessaging } from "./live.ts";
export type { ConnectionState, LiveApi, LiveOptions, Messaging, OpenConversation } from "./live.ts";
export { createStore } from "./store.ts";
export type { Known, PendingMessage, SavedStore, Store } from "./store.ts";
export type * from "./events.ts";
export type { CallOptions, ClientOptions } from "./transport.ts";
export type * from "./schema.ts";
