// What a device knows: conversations and messages, merged by id and eventSeq, in order. Answers and events may come in
// any order and any number of times; the same ones leave the same state. Nothing here talks to anybody.
import type { ConversationFacts, LiveEvent } from "./events.ts";
import type { Conversation, DetailedConversation, Message, Profile, Receipt } from "./schema.ts";

/** A message that has not arrived: on its way and shown at once (`pending`), not sent (`failed`), waiting for a moderator
 * (`held`), or not let through, by a rule or a moderator (`rejected`). */
export interface PendingMessage {
  clientMessageId: string;
  /** The conversation, or the person when there is none yet. */
  to: string;
  body: string;
  state: "pending" | "failed" | "held" | "rejected";
  sensitive?: boolean | undefined;
  /** Of one that is or was held: what `deleteMessage` takes, to withdraw it. */
  messageId?: string;
  error?: unknown;
}

/** What of an answer of the API can be merged; every answer of ours is one. */
export interface Known {
  messages?: readonly Message[];
  message?: Message;
  conversations?: readonly Conversation[];
  conversation?: Conversation | DetailedConversation;
  receipts?: readonly (Receipt & { conversationId: string })[];
  lost?: readonly string[];
}

/** A whole store as JSON, to keep between two visits. The texts of sensitive messages are not in it. */
export interface SavedStore {
  userId: string;
  cursor: string | null;
  unreadTotal: number;
  conversations: Conversation[];
  messages: Message[];
  receipts: (Receipt & { conversationId: string })[];
  pending: PendingMessage[];
}

interface Room {
  messages: Map<string, Message>;
  bySeq: Map<number, Message>;
  receipts: Map<string, Receipt>;
  /** The first message of the window that is loaded without a gap; undefined until the conversation is known. */
  from: number | undefined;
  shown: readonly Message[] | undefined;
}

const STATUSES: readonly Message["status"][] = ["sent", "delivered", "read"];
const later = (one: Message["status"], other: Message["status"]) =>
  STATUSES.indexOf(one) < STATUSES.indexOf(other) ? other : one;

// Pinned first, then the newest activity, then id. The times are of equal length, so they compare as text.
const rank = (row: Conversation) => `${row.pinnedAt ? 1 : 0} ${row.lastMessageAt ?? row.createdAt} ${row.id}`;

export type Store = ReturnType<typeof createStore>;

/** The store of one person; `saved` is what `save()` gave on an earlier visit. */
export function createStore(userId: string, saved?: SavedStore) {
  const rows = new Map<string, Conversation>();
  const rooms = new Map<string, Room>();
  const pending = new Map<string, PendingMessage>();
  /** Keys that have no bubble any more: the message has arrived, or was withdrawn. */
  const settled = new Set<string>();
  const listeners = new Set<() => void>();
  const pendingLists = new Map<string, readonly PendingMessage[]>();
  let list: readonly Conversation[] | undefined;
  let unreadTotal = 0;
  let cursor: string | null = null;
  let depth = 0;
  let isChanged = false;

  /** Listeners are told once, when everything is in. */
  const changing = <T>(work: () => T): T => {
    depth++;
    try {
      return work();
    } finally {
      if (--depth === 0 && isChanged) {
        isChanged = false;
        for (const listener of [...listeners]) listener();
      }
    }
  };

  const roomOf = (conversationId: string): Room => {
    let room = rooms.get(conversationId);
    if (room === undefined) {
      room = { messages: new Map(), bySeq: new Map(), receipts: new Map(), from: undefined, shown: undefined };
      rooms.set(conversationId, room);
    }
    return room;
  };

  const touchRoom = (room: Room) => {
    if (room.from !== undefined) while (room.bySeq.has(room.from - 1)) room.from--;
    room.shown = undefined;
    isChanged = true;
  };

  const putMessage = (message: Message) => {
    // Held back, it has no place in the conversation.
    if (message.seq === 0) return putHeld(message);
    const room = roomOf(message.conversationId);
    const known = room.messages.get(message.id);
    const newer = known === undefined ? message : message.eventSeq >= known.eventSeq ? withText(message, known) : known;
    // The status is of the moment of the answer and only goes up, whichever answer is the newer one.
    const status = later(ticks(room, newer), later(message.status, known?.status ?? "sent"));
    const kept = status === newer.status ? newer : { ...newer, status };
    room.messages.set(kept.id, kept);
    room.bySeq.set(kept.seq, kept);
    touchRoom(room);
    const row = rows.get(message.conversationId);
    if (row !== undefined && message.seq === row.lastSeq) putRow({ ...row, lastMessage: kept });
    if (message.fromUserId === userId) settle(message.clientMessageId);
  };

  /** Of a state that is known an event says nothing new, and comes late perhaps: an answer knows of a block made since. */
  const putTold = (message: Message) => {
    const known = rooms.get(message.conversationId)?.messages.get(message.id);
    putMessage(known === undefined || known.eventSeq < message.eventSeq ? message : { ...known, status: message.status });
  };

  const settle = (clientMessageId: string) => {
    settled.add(clientMessageId);
    if (!pending.delete(clientMessageId)) return;
    pendingLists.clear();
    isChanged = true;
  };

  /** One's own message that waits for a moderator, was not let through, or has been withdrawn. */
  const putHeld = (message: Message) => {
    const { clientMessageId, conversationId: to, sensitive, id: messageId } = message;
    if (message.state === "deleted") return settle(clientMessageId);
    const body = message.body ?? pending.get(clientMessageId)?.body ?? "";
    putPending({ clientMessageId, to, body, state: message.state === "rejected" ? "rejected" : "held", sensitive, messageId });
  };

  /** The author's view, as far as everybody's receipts are known. */
  const ticks = (room: Room, message: Message): Message["status"] => {
    let others = 0;
    let read = Infinity;
    let delivered = Infinity;
    for (const receipt of room.receipts.values()) {
      if (receipt.userId === message.fromUserId) continue;
      others++;
      read = Math.min(read, receipt.lastReadSeq);
      delivered = Math.min(delivered, receipt.lastDeliveredSeq);
    }
    const count = (rows.get(message.conversationId)?.memberCount ?? Infinity) - 1;
    if (others === 0 || others < count || message.seq > Math.max(read, delivered)) return "sent";
    return message.seq <= read ? "read" : "delivered";
  };

  const putReceipts = (conversationId: string, receipts: readonly Receipt[], isWhole: boolean) => {
    const room = roomOf(conversationId);
    if (isWhole) {
      const members = new Set(receipts.map((receipt) => receipt.userId));
      for (const member of room.receipts.keys()) if (!members.has(member)) room.receipts.delete(member);
    }
    for (const receipt of receipts) {
      const known = room.receipts.get(receipt.userId);
      room.receipts.set(receipt.userId, {
        userId: receipt.userId,
        lastReadSeq: Math.max(receipt.lastReadSeq, known?.lastReadSeq ?? 0),
        lastDeliveredSeq: Math.max(receipt.lastDeliveredSeq, known?.lastDeliveredSeq ?? 0),
      });
    }
    for (const message of [...room.messages.values()]) {
      // Ticks are shown on one's own messages only, and nothing is beyond "read".
      if (message.fromUserId !== userId || message.status === "read") continue;
      if (ticks(room, message) !== message.status) putMessage(message);
    }
    touchRoom(room);
  };

  const putRow = (row: Conversation) => {
    rows.set(row.id, row);
    const room = roomOf(row.id);
    const from = Math.max(room.from ?? Math.max(1, row.lastSeq), row.firstSeq);
    // Who has left a group and come back begins anew, and retention removes from the beginning.
    if (room.from !== undefined && from > room.from) {
      for (const message of [...room.messages.values()]) {
        if (message.seq >= row.firstSeq) continue;
        room.messages.delete(message.id);
        room.bySeq.delete(message.seq);
      }
      room.shown = undefined;
    }
    room.from = from;
    list = undefined;
    isChanged = true;
  };

  const putConversation = (given: Conversation | DetailedConversation) => {
    const { messages, receipts, hasMore: _, pending: held, ...row } = { ...given } as DetailedConversation;
    const known = rows.get(row.id);
    if (known === undefined || row.eventSeq >= known.eventSeq) putRow(row);
    if (receipts) putReceipts(row.id, receipts, true);
    if (row.lastMessage) putMessage(row.lastMessage);
    for (const message of messages ?? []) putMessage(message);
    for (const message of held ?? []) putMessage(message);
    touchRoom(roomOf(row.id));
  };

  /** Whether the facts could be placed: the people of an unknown conversation are not among them. */
  const putFacts = (facts: ConversationFacts): boolean => {
    const known = rows.get(facts.id);
    if (known === undefined) return false;
    if (facts.eventSeq < known.eventSeq) return true;
    const newest = roomOf(facts.id).bySeq.get(facts.lastSeq);
    putRow({ ...known, ...facts, lastMessage: newest ?? known.lastMessage });
    return true;
  };

  const putProfile = (profile: Profile) => {
    for (const row of [...rows.values()]) {
      if (!row.members.some((member) => member.id === profile.id)) continue;
      putRow({ ...row, members: row.members.map((member) => (member.id === profile.id ? profile : member)) });
    }
    for (const room of rooms.values()) {
      for (const message of [...room.messages.values()]) {
        if (message.fromUserId === profile.id) putMessage({ ...message, sender: profile });
      }
    }
  };

  const forget = (conversationId: string) => {
    rows.delete(conversationId);
    rooms.delete(conversationId);
    for (const [key, bubble] of pending) if (bubble.to === conversationId) pending.delete(key);
    pendingLists.clear();
    list = undefined;
    isChanged = true;
  };

  const putPending = (bubble: PendingMessage) => {
    // The message has arrived by an event, and the answer to its sending has been lost: that is no failure.
    if (settled.has(bubble.clientMessageId)) return;
    pending.set(bubble.clientMessageId, bubble);
    pendingLists.clear();
    isChanged = true;
  };

  const store = {
    userId,

    /** The inbox: without what is archived, pinned first, then the newest activity. The same array until it changes. */
    conversations: (): readonly Conversation[] =>
      (list ??= [...rows.values()]
        .filter((row) => row.archivedAt === null)
        .sort((one, other) => (rank(one) < rank(other) ? 1 : -1))),

    /** Archived ones too. */
    conversation: (conversationId: string): Conversation | undefined => rows.get(conversationId),

    /** The newest messages, oldest first, back to where nothing more is loaded. The same array until it changes. */
    messages: (conversationId: string): readonly Message[] => {
      const room = rooms.get(conversationId);
      if (room === undefined || room.from === undefined) return [];
      const from = room.from;
      return (room.shown ??= [...room.messages.values()]
        .filter((message) => message.seq >= from)
        .sort((one, other) => one.seq - other.seq));
    },

    /** Whether there is something above `messages()`: ask `listMessages` with `before` the first of them, and `merge`. */
    hasOlder: (conversationId: string): boolean => {
      const from = rooms.get(conversationId)?.from;
      const row = rows.get(conversationId);
      const first = store.messages(conversationId)[0]?.seq ?? (from ?? 0) + 1;
      return row !== undefined && first > row.firstSeq && row.lastSeq >= row.firstSeq;
    },

    /** What has not arrived, below `messages()`. By conversation, or by person when there is none. */
    pending: (to: string): readonly PendingMessage[] => {
      let bubbles = pendingLists.get(to);
      if (bubbles === undefined) {
        bubbles = [...pending.values()].filter((bubble) => bubble.to === to);
        pendingLists.set(to, bubbles);
      }
      return bubbles;
    },

    /** Conversations with something of one's own that waits for a moderator. */
    holding: (): readonly string[] => [
      ...new Set([...pending.values()].filter((bubble) => bubble.state === "held").map((bubble) => bubble.to)),
    ],

    /** Sensitive messages whose text has not come: events do not carry it. */
    sealed: (): readonly Message[] => [...rooms.values()].flatMap((room) => [...room.messages.values()].filter(isSealed)),

    /** How far everybody has read and received, as far as that is known. */
    receipts: (conversationId: string): readonly Receipt[] => [...(rooms.get(conversationId)?.receipts.values() ?? [])],

    get unreadTotal(): number {
      return unreadTotal;
    },
    set unreadTotal(count: number) {
      if (count === unreadTotal) return;
      changing(() => {
        unreadTotal = count;
        isChanged = true;
      });
    },

    /** Where sync goes on; part of what is saved, because it belongs to what was merged. */
    get cursor(): string | null {
      return cursor;
    },

    /** An answer of the API, of whatever call; a page of sync also moves the cursor. */
    merge: (answer: Known & { cursor?: string }): void =>
      changing(() => {
        for (const conversation of answer.conversations ?? []) putConversation(conversation);
        if (answer.conversation) putConversation(answer.conversation);
        const whole = new Set((answer.conversations ?? []).map((conversation) => conversation.id));
        const receipts = new Map<string, Receipt[]>();
        for (const { conversationId, ...receipt } of answer.receipts ?? []) {
          receipts.set(conversationId, [...(receipts.get(conversationId) ?? []), receipt]);
        }
        for (const [conversationId, theirs] of receipts) putReceipts(conversationId, theirs, whole.has(conversationId));
        for (const message of answer.messages ?? []) putMessage(message);
        if (answer.message) putMessage(answer.message);
        for (const conversationId of answer.lost ?? []) forget(conversationId);
        if (answer.cursor !== undefined) cursor = answer.cursor;
      }),

    /** An event. False when it tells of something that only sync can show whole. */
    apply: (event: LiveEvent): boolean =>
      changing(() => {
        let isWhole = true;
        store.unreadTotal = event.unreadTotal;
        if (event.type === "conversation.lost") forget(event.conversationId);
        else if (event.type === "profile.updated") putProfile(event.profile);
        else if (typeof event.conversation === "object") {
          const before = rows.get(event.conversationId);
          isWhole = putFacts(event.conversation);
          if ("message" in event) putTold(event.message);
          if ("receipt" in event) putReceipts(event.conversationId, [event.receipt], false);
          // People come and go without a trace in the facts: an update that shows none is one of them.
          const isAboutPeople = event.type === "conversation.updated" && event.conversation.kind === "group";
          if (before && isAboutPeople && !differs(before, event.conversation)) isWhole = false;
        } else isWhole = false;
        return isWhole;
      }),

    /** Everything is gone but what has not been sent: the database is another one, or another person's. */
    reset: (): void =>
      changing(() => {
        rows.clear();
        rooms.clear();
        list = undefined;
        cursor = null;
        unreadTotal = 0;
        isChanged = true;
      }),

    /** What a block hides in groups, or shows again, changes without an event: forget what is loaded of them, but for
     * the newest messages, which sync brings. */
    unloadGroups: (): void =>
      changing(() => {
        for (const row of rows.values()) {
          const room = roomOf(row.id);
          if (row.kind !== "group" || room.from === undefined) continue;
          for (const message of [...room.messages.values()]) {
            if (message.seq >= row.lastSeq) continue;
            room.messages.delete(message.id);
            room.bySeq.delete(message.seq);
          }
          room.from = Math.max(row.lastSeq, row.firstSeq);
          touchRoom(room);
        }
      }),

    /** Show a message that is being sent, or has failed; the real one takes its place, by answer or by event. */
    show: (bubble: PendingMessage): void => changing(() => putPending(bubble)),

    /** The person has given up on a failed or rejected one. */
    discard: (clientMessageId: string): void =>
      changing(() => {
        isChanged = pending.delete(clientMessageId) || isChanged;
        pendingLists.clear();
      }),

    /** Told after every change; the answer ends that. */
    subscribe: (listener: () => void): (() => void) => {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },

    save: (): SavedStore => ({
      userId,
      cursor,
      unreadTotal,
      conversations: [...rows.values()].map((row) => ({ ...row, lastMessage: row.lastMessage && withoutText(row.lastMessage) })),
      // What not even the database may have is not left lying about on a device either.
      messages: [...rooms.values()].flatMap((room) => [...room.messages.values()].map(withoutText)),
      receipts: [...rooms].flatMap(([conversationId, room]) =>
        [...room.receipts.values()].map((receipt) => ({ ...receipt, conversationId })),
      ),
      pending: [...pending.values()]
        .filter((bubble) => !bubble.sensitive || bubble.state === "held")
        .map((bubble) => (bubble.sensitive ? { ...bubble, body: "" } : bubble)),
    }),
  };

  if (saved?.userId === userId) {
    const { conversations, messages, receipts } = saved;
    store.merge({ conversations, messages, receipts });
    cursor = saved.cursor;
    store.unreadTotal = saved.unreadTotal;
    // Nobody is sending these any more.
    for (const bubble of saved.pending) putPending(bubble.state === "pending" ? { ...bubble, state: "failed" } : bubble);
  }
  return store;
}

const isSealed = (message: Message) =>
  message.sensitive && message.state === "visible" && message.body === null && !message.unreadable;

/** What comes without the text does not take it away. */
function withText(message: Message, known: Message): Message {
  const isSame = message.eventSeq === known.eventSeq && message.state === "visible" && known.state === "visible";
  if (!message.sensitive || !isSame || message.body !== null) return message;
  return known.body === null && message.unreadable ? message : { ...message, body: known.body, unreadable: known.unreadable };
}

const withoutText = (message: Message): Message =>
  message.sensitive && message.body !== null ? { ...message, body: null } : message;

/** What an update of a group shows of itself; removals show in liveTopic, and have to be looked at too. */
function differs(before: ConversationFacts, after: ConversationFacts): boolean {
  if (before.liveTopic !== after.liveTopic || before.myRole !== after.myRole) return false;
  const names = ["title", "unreadCount", "markedUnread", "myLastReadSeq", "archivedAt", "mutedUntil", "pinnedAt"] as const;
  return names.some((name) => before[name] !== after[name]);
}
