import type { SupabaseClient } from "@supabase/supabase-js";
import { getConversation, listMessages, markRead, type Conversation, type Message } from "../lib/api/messages.ts";
import { connectMessaging, createStore, type Messaging } from "../lib/realtime.ts";

export interface Screen {
  inbox(rows: readonly Conversation[], unreadTotal: number): void;
  connection(state: Messaging["state"]): void;
  typing(conversationId: string, userIds: readonly string[]): void;
}

/** Once per page, after `configure` and sign-in; `close()` on sign-out. What `keep` gave the last time saves the start. */
export function goLive(supabase: SupabaseClient, userId: string, screen: Screen, kept?: string): Messaging {
  return connectMessaging({
    supabase,
    userId,
    store: createStore(userId, kept ? JSON.parse(kept) : undefined),
    onChange: (store) => screen.inbox(store.conversations(), store.unreadTotal),
    onState: (state) => screen.connection(state),
    onTyping: (conversationId, userIds) => screen.typing(conversationId, userIds),
  });
}

/** For `localStorage`, now and then and when the page is hidden. */
export const keep = (live: Messaging) => JSON.stringify(live.store.save());

/** A conversation comes onto the screen; call what it answers when it goes. `show` is called after every change. */
export async function openOnScreen(live: Messaging, id: string, show: (messages: readonly Message[]) => void) {
  live.store.merge(await getConversation(id));
  const open = live.openConversation(id);
  const draw = () => show(live.store.messages(id));
  const stop = live.store.subscribe(draw);
  draw();
  return {
    typing: open.typing,
    seen: (message: Message) => markRead(message.id),
    older: async () => {
      const before = live.store.messages(id)[0]?.seq;
      if (live.store.hasOlder(id)) live.store.merge(await listMessages(id, { before, limit: 50 }));
    },
    close: () => {
      stop();
      open.close();
    },
  };
}
