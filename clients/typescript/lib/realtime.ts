// The live part, for the one person who is signed in to this page: it calls the functions of lib/api/messages.ts.
import { connectMessaging as connect, type LiveOptions, type Messaging } from "../src/live.ts";
import * as messages from "./api/messages.ts";

export * from "../src/events.ts";
export * from "../src/store.ts";
export type { ConnectionState, LiveApi, LiveOptions, Messaging, OpenConversation } from "../src/live.ts";

/** Connect this page; `configure` of lib/api/messages.ts comes first. */
export function connectMessaging(options: Omit<LiveOptions, "api"> & Partial<Pick<LiveOptions, "api">>): Messaging {
  return connect({ api: messages, ...options });
}
