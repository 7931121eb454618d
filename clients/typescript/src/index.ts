export { createClient } from "./client.ts";
export type { Client, HistoryQuery, InboxQuery, MembersQuery, NewGroup, NewMessage } from "./client.ts";
export { MessagingError, NetworkError, TimeoutError } from "./errors.ts";
export type { Code, Details } from "./errors.ts";
export type { ProblemCode, Retry } from "./catalogue.ts";
export type { CallOptions, ClientOptions } from "./transport.ts";
export type * from "./schema.ts";
