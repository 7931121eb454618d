// The live part: one channel `user:<uuid>`, a chain that shows when something is missing, and sync, which repairs it.
// docs/realtime.md says what the topics carry and why this is done as it is.
import type { Client, NewMessage } from "./client.ts";
import { MessagingError } from "./errors.ts";
import { isLiveEvent, type LiveEvent } from "./events.ts";
import type { Changes, Conversation, Message, MessageSent } from "./schema.ts";
import { createStore, type PendingMessage, type Store } from "./store.ts";
import { keepTopic, SYSTEM_CLOCK, Timers, type Clock, type Supabase, type Topic } from "./topic.ts";

/** `live`: joined, and everything until now is here. `connecting`: not yet. `reconnecting`: the connection is being
 * repaired. `lost`: the channel was closed or is refused; it is made anew in a while. But for `live`, sync asks slowly. */
export type ConnectionState = "connecting" | "live" | "reconnecting" | "lost";

export type LiveApi = Pick<
  Client,
  "sync" | "markDelivered" | "setTyping" | "unreadCounts" | "sendMessage" | "getConversation" | "listMessages"
>;

export interface LiveOptions {
  supabase: Supabase;
  api: LiveApi;
  /** Who is signed in. */
  userId: string;
  /** One of an earlier visit (`createStore(userId, saved)`); a new one otherwise. */
  store?: Store | undefined;
  /** Something in the store has changed. */
  onChange?: ((store: Store) => void) | undefined;
  onState?: ((state: ConnectionState) => void) | undefined;
  /** An event, after the store has it; for sounds and notifications. What sync brings has no event, and the text of a
   * sensitive message is fetched after its event. */
  onEvent?: ((event: LiveEvent) => void) | undefined;
  /** Who is typing in an open conversation, without oneself. */
  onTyping?: ((conversationId: string, userIds: readonly string[]) => void) | undefined;
  /** Who has an open conversation before them now, oneself included. */
  onPresence?: ((conversationId: string, userIds: readonly string[]) => void) | undefined;
  /** The cursor was of another database, and everything that was loaded is gone: load what is on the screen again. */
  onReset?: (() => void) | undefined;
  /** A call that failed for now; it is made again by itself. */
  onError?: ((error: unknown) => void) | undefined;
  /** When the page comes back to life. Default: it is shown again, or online again. The answer ends that. */
  onWake?: ((wake: () => void) => () => void) | undefined;
  clock?: Clock | undefined;
}

export interface OpenConversation {
  readonly conversationId: string;
  /** For every key: sends one "is typing" in 2.5 s. */
  typing: () => void;
  /** Without oneself. */
  typingUsers: () => readonly string[];
  presentUsers: () => readonly string[];
  /** Leave the live topic, unless the conversation is open elsewhere too. */
  close: () => void;
}

export type Messaging = ReturnType<typeof connectMessaging>;

const SYNC_PAGE = 200;
const SYNC_SPACING_MS = 500;
/** While live: once after a minute, as a cold project may stream a while after it has let us join; then rarely. */
const FIRST_WATCH_MS = 60_000;
const WATCH_MS = 240_000;
const POLL_MS = 45_000;
const DELIVERED_SPACING_MS = 1_000;
const DELIVERED_MAX = 100;
const RETRY_MS = 30_000;
/** Texts of sensitive messages: conversations asked at the same time, messages at once. */
const READERS_MAX = 3;
const TEXTS_MAX = 100;
const TYPING_SPACING_MS = 2_500;
const TYPING_LASTS_MS = 6_000;
/** A member can say that anybody is typing: more than this is not worth a timer. */
const TYPING_MAX = 64;
const USER_REFUSAL_MAX = 5;
const LIVE_REFUSAL_MAX = 3;

interface Room {
  conversationId: string;
  topic: Topic;
  openCount: number;
  typing: Map<string, unknown>;
  present: readonly string[];
  typedAt: number;
}

/** Connect the page of one person. Once per page: a second connection of the same supabase client would share the channel. */
export function connectMessaging(options: LiveOptions) {
  const { supabase, api, userId } = options;
  const clock = options.clock ?? SYSTEM_CLOCK;
  const store = options.store ?? createStore(userId);
  const timers = new Timers(clock);
  const ended = new AbortController();
  const { signal } = ended;
  const rooms = new Map<string, Room>();

  let state: ConnectionState = "connecting";
  let wasLive = false;

  // ----- sync -----

  let isSyncing = false;
  let isSyncWanted = false;
  let hasSyncFailed = false;
  let isRepairDue = false;
  let repairedAt = -Infinity;
  let isCountWanted = false;
  let eventCount = 0;
  /** Joins of the user's topic, and which of them was followed by a whole sync. */
  let joins = 0;
  let syncedJoin = 0;
  let syncsSinceJoin = 0;
  let lastPosition: number | undefined;
  /** Conversations that events spoke of while a page of sync was on its way: that page may be older. */
  const touched = new Set<string>();
  const lostMeanwhile = new Set<string>();
  let watch: unknown;

  const requestSync = () => {
    isSyncWanted = true;
    if (!isSyncing && !signal.aborted) void sync();
  };

  /** The same for what events give reason to: a chain that breaks again and again must not become a storm. */
  const repair = () => {
    const waitMs = repairedAt + SYNC_SPACING_MS - clock.now();
    if (isRepairDue) return;
    isRepairDue = waitMs > 0;
    if (isRepairDue) timers.after(waitMs, repairNow);
    else repairNow();
  };

  const repairNow = () => {
    isRepairDue = false;
    repairedAt = clock.now();
    requestSync();
  };

  const sync = async () => {
    isSyncing = true;
    timers.cancel(watch);
    while (isSyncWanted && !signal.aborted) {
      isSyncWanted = false;
      const join = joins;
      try {
        await catchUp();
        if (signal.aborted) return;
        hasSyncFailed = false;
        if (join === joins) {
          syncedJoin = join;
          syncsSinceJoin++;
        }
      } catch (error) {
        if (signal.aborted) return;
        hasSyncFailed = true;
        isSyncWanted = false;
        options.onError?.(error);
      }
      settle();
    }
    isSyncing = false;
    armWatch();
  };

  const catchUp = async () => {
    for (let page: Changes | undefined; page === undefined || page.hasMore; ) {
      touched.clear();
      lostMeanwhile.clear();
      const cursor = store.cursor;
      try {
        page = await api.sync({ cursor, limit: SYNC_PAGE }, { signal });
      } catch (error) {
        if (!(error instanceof MessagingError) || error.code !== "cursor_invalid" || cursor === null) throw error;
        lastPosition = undefined;
        delivered.clear();
        store.reset();
        textless.clear();
        options.onReset?.();
        lookAfterHeld(store.holding());
        continue;
      }
      if (signal.aborted) return;
      const spoken = [...page.conversations.map((conversation) => conversation.id), ...page.lost];
      if (spoken.some((id) => touched.has(id))) repair();
      const lost = [...page.lost, ...lostMeanwhile];
      if (cursor === null || spoken.length > 0) isCountWanted = true;
      store.merge({ ...page, lost });
      // Everything up to here is in: an event that comes late says nothing new, and the next one follows this.
      if (page.position !== null) lastPosition = Math.max(lastPosition ?? 0, page.position);
      for (const message of page.messages) endTyping(message.conversationId, message.fromUserId);
      page.conversations.forEach(noteArrival);
      lookAfterHeld(spoken);
      fetchTexts();
      followTopics();
      if (page.hasMore && page.cursor === cursor) throw new Error("The service answers sync with a cursor that does not move.");
    }
    if (!isCountWanted) return;
    const before = eventCount;
    const { messages } = await api.unreadCounts({ signal });
    isCountWanted = false;
    // An event that came meanwhile has brought the newer number.
    if (before === eventCount && !signal.aborted) store.unreadTotal = messages;
  };

  const armWatch = () => {
    if (isSyncing || signal.aborted) return;
    timers.cancel(watch);
    const ms = state !== "live" ? POLL_MS : syncsSinceJoin < 2 ? FIRST_WATCH_MS : WATCH_MS;
    // Not everybody at once after an outage.
    watch = timers.after(ms * (0.9 + Math.random() * 0.2), requestSync);
  };

  // ----- the user's topic -----

  const onEvent = (event: unknown) => {
    if (signal.aborted || !isLiveEvent(event)) return;
    // Seen already, or overtaken by a later one; that one has asked for a sync, which brings this one too.
    if (lastPosition !== undefined && event.position <= lastPosition) return;
    // Without anything to compare with, the first event ever is as good as a gap.
    const isNext = event.previousPosition === (lastPosition ?? 0);
    lastPosition = event.position;
    eventCount++;
    if ("conversationId" in event) touched.add(event.conversationId);
    if (event.type === "conversation.lost") lostMeanwhile.add(event.conversationId);
    else if ("conversationId" in event) lostMeanwhile.delete(event.conversationId);

    const isWhole = store.apply(event);
    if (event.type === "message.created") endTyping(event.conversationId, event.message.fromUserId);
    if ("conversation" in event) noteArrival(event.conversation);
    if (event.type === "conversation.updated") lookAfterHeld([event.conversationId]);
    if ("message" in event && event.message.sensitive) fetchTexts();
    followTopics();
    if (!isNext || !isWhole) repair();
    options.onEvent?.(event);
  };

  const settle = () => {
    const isLive = userTopic.state === "joined" && syncedJoin === joins && joins > 0 && !hasSyncFailed;
    const isOut = userTopic.state === "closed" || userTopic.state === "refused";
    const next = isLive ? "live" : isOut ? "lost" : wasLive ? "reconnecting" : "connecting";
    wasLive ||= isLive;
    if (next === state || signal.aborted) return;
    state = next;
    armWatch();
    options.onState?.(next);
  };

  const userTopic: Topic = keepTopic({
    supabase,
    clock,
    topic: `user:${userId}`,
    // The server says when it really streams; a join alone does not mean that.
    config: { private: true, broadcast: { replication_ready: true } },
    attach: (channel) => {
      channel.on("broadcast", { event: "*" }, ({ payload }) => onEvent(payload));
      channel.on("system", {}, (message) => {
        if (message?.extension === "system" && message.status === "ok") requestSync();
      });
    },
    onState: (now) => {
      if (signal.aborted) return;
      if (now === "joined") {
        joins++;
        syncsSinceJoin = 0;
        requestSync();
      }
      settle();
    },
    refusalMax: USER_REFUSAL_MAX,
    refusedMs: RETRY_MS * 2,
  });

  // ----- texts of sensitive messages, which events do not carry -----

  const readers = new Set<string>();
  /** Messages the service gave no text for, in this state: nothing is asked twice. */
  const textless = new Map<string, number>();
  let isTextsPaused = false;

  const fetchTexts = () => {
    if (isTextsPaused || signal.aborted) return;
    const isDue = (message: Message) =>
      textless.get(message.id) !== message.eventSeq && store.conversation(message.conversationId) !== undefined;
    const missing = store.sealed().filter(isDue);
    for (const { conversationId } of missing) {
      if (readers.size >= READERS_MAX) return;
      if (readers.has(conversationId)) continue;
      const seqs = missing.filter((message) => message.conversationId === conversationId).map((message) => message.seq);
      void fetchTextsOf(conversationId, Math.min(...seqs), Math.max(...seqs));
    }
  };

  /** One page up to the newest that is missing. What is further up is the next one. */
  const fetchTextsOf = async (conversationId: string, from: number, to: number) => {
    const limit = Math.min(to - from + 1, TEXTS_MAX);
    const asked = store.sealed().filter((one) => one.conversationId === conversationId && one.seq > to - limit);
    readers.add(conversationId);
    let isDone = true;
    try {
      const place = limit === 1 ? { around: to } : { before: to + 1 };
      const page = await api.listMessages(conversationId, { ...place, limit }, { signal });
      // Lost meanwhile, it does not come back by an older answer.
      if (store.conversation(conversationId)) store.merge(page);
    } catch (error) {
      if (signal.aborted) return;
      isDone = error instanceof MessagingError && error.retry === "never";
      options.onError?.(error);
    }
    if (signal.aborted) return;
    readers.delete(conversationId);
    if (isDone) {
      for (const { id, eventSeq } of asked) textless.set(id, eventSeq);
      fetchTexts();
    } else if (!isTextsPaused) {
      isTextsPaused = true;
      timers.after(RETRY_MS, () => {
        isTextsPaused = false;
        fetchTexts();
      });
    }
  };

  // ----- held messages: what became of them -----

  const unsure = new Set<string>();
  let isLooking = false;

  /** A released message comes as any other. That one was rejected shows in its not being there any more. */
  const lookAfterHeld = (conversationIds: readonly string[]) => {
    const holding = store.holding();
    for (const id of conversationIds) if (holding.includes(id)) unsure.add(id);
    if (!isLooking && unsure.size > 0 && !signal.aborted) void look();
  };

  const look = async () => {
    isLooking = true;
    // What is added meanwhile comes round as well.
    for (const conversationId of unsure) {
      unsure.delete(conversationId);
      const isHeld = (bubble: PendingMessage) => bubble.state === "held";
      const keys = store.pending(conversationId).filter(isHeld).map((bubble) => bubble.clientMessageId);
      if (keys.length === 0) continue;
      let missing: Partial<PendingMessage> = { state: "rejected" };
      let waiting: readonly Message[] = [];
      try {
        const answer = await api.getConversation(conversationId, { signal });
        if (signal.aborted) return;
        waiting = answer.conversation.pending;
        // Without a bubble it is over: arrived, withdrawn, or the whole conversation is lost.
        if (store.pending(conversationId).some(isHeld)) store.merge(answer);
      } catch (error) {
        if (signal.aborted) return;
        options.onError?.(error);
        if (!(error instanceof MessagingError && error.retry === "never")) {
          timers.after(RETRY_MS, () => lookAfterHeld([conversationId]));
          continue;
        }
        missing = { state: "failed", error };
      }
      for (const bubble of store.pending(conversationId).filter(isHeld)) {
        const { clientMessageId: key } = bubble;
        // What came to be held after the question is not spoken of in the answer.
        if (!keys.includes(key) || waiting.some((message) => message.clientMessageId === key)) continue;
        store.show({ ...bubble, ...missing });
      }
    }
    isLooking = false;
  };

  // ----- delivered -----

  const delivered = new Map<string, number>();
  const arrivals = new Map<string, number>();
  let isDelivering = false;
  let deliveredAt = -Infinity;

  /** Whatever is unread has arrived here, and those who wrote it may know. */
  const noteArrival = (row: Pick<Conversation, "id" | "unreadCount" | "lastSeq">) => {
    if (row.unreadCount === 0 || row.lastSeq <= (arrivals.get(row.id) ?? 0)) return;
    const own = store.receipts(row.id).find((receipt) => receipt.userId === userId);
    if (row.lastSeq <= Math.max(delivered.get(row.id) ?? 0, own?.lastDeliveredSeq ?? 0)) return;
    arrivals.set(row.id, row.lastSeq);
    deliverIn(deliveredAt + DELIVERED_SPACING_MS - clock.now());
  };

  const deliverIn = (ms: number) => {
    if (isDelivering || signal.aborted) return;
    isDelivering = true;
    timers.after(Math.max(0, ms), () => void deliver());
  };

  const deliver = async () => {
    const batch = [...arrivals].slice(0, DELIVERED_MAX);
    const receipts = batch.map(([conversationId, seq]) => ({ conversationId, seq }));
    let waitMs = DELIVERED_SPACING_MS;
    let isDone = true;
    deliveredAt = clock.now();
    try {
      await api.markDelivered({ receipts }, { signal });
    } catch (error) {
      if (signal.aborted) return;
      isDone = error instanceof MessagingError && error.retry === "never";
      if (!isDone) waitMs = RETRY_MS;
      options.onError?.(error);
    }
    if (signal.aborted) return;
    if (isDone) {
      for (const [conversationId, seq] of batch) {
        delivered.set(conversationId, seq);
        if (arrivals.get(conversationId) === seq) arrivals.delete(conversationId);
      }
    }
    isDelivering = false;
    if (arrivals.size > 0) deliverIn(deliveredAt + waitMs - clock.now());
  };

  // ----- open conversations: typing and presence -----

  const joinRoom = (room: Pick<Room, "conversationId">, liveTopic: string): Topic =>
    keepTopic({
      supabase,
      clock,
      topic: liveTopic,
      config: { private: true, presence: { key: userId, enabled: true } },
      attach: (channel) => {
        channel.on("broadcast", { event: "typing" }, ({ payload }) => beginTyping(room.conversationId, payload?.userId));
        channel.on("presence", { event: "sync" }, () => setPresent(room.conversationId, Object.keys(channel.presenceState())));
      },
      onState: (now, channel) => {
        if (signal.aborted || rooms.get(room.conversationId)?.topic.topic !== liveTopic) return;
        // supabase-js does not track again by itself after a rejoin.
        if (now === "joined" && channel) void quietly(channel.track({ since: new Date(clock.now()).toISOString() }));
        else setPresent(room.conversationId, []);
        // Perhaps the topic is another one by now, or not ours any more.
        if (now === "refused") requestSync();
      },
      refusalMax: LIVE_REFUSAL_MAX,
    });

  /** Joined topics follow what the server says they are. */
  const followTopics = () => {
    for (const room of [...rooms.values()]) {
      const row = store.conversation(room.conversationId);
      if (row === undefined) leaveRoom(room);
      else if (row.liveTopic !== room.topic.topic) {
        room.topic.close();
        setPresent(room.conversationId, []);
        room.topic = joinRoom(room, row.liveTopic);
      }
    }
  };

  const leaveRoom = (room: Room) => {
    rooms.delete(room.conversationId);
    room.topic.close();
    for (const timer of room.typing.values()) timers.cancel(timer);
    const { typing, present } = room;
    room.typing = new Map();
    room.present = [];
    if (signal.aborted) return;
    if (typing.size > 0) options.onTyping?.(room.conversationId, []);
    if (present.length > 0) options.onPresence?.(room.conversationId, []);
  };

  const beginTyping = (conversationId: string, typist: unknown) => {
    const room = rooms.get(conversationId);
    if (!room || typeof typist !== "string" || typist === userId || signal.aborted) return;
    // Members write this topic, not the database: it can name anybody.
    const row = store.conversation(conversationId);
    if (row && row.memberCount === row.members.length && !row.members.some((member) => member.id === typist)) return;
    const isNew = !room.typing.has(typist);
    if (isNew && room.typing.size >= TYPING_MAX) return;
    timers.cancel(room.typing.get(typist));
    room.typing.set(typist, timers.after(TYPING_LASTS_MS, () => endTyping(conversationId, typist)));
    if (isNew) options.onTyping?.(conversationId, [...room.typing.keys()]);
  };

  const endTyping = (conversationId: string, typist: string) => {
    const room = rooms.get(conversationId);
    if (!room?.typing.has(typist)) return;
    timers.cancel(room.typing.get(typist));
    room.typing.delete(typist);
    options.onTyping?.(conversationId, [...room.typing.keys()]);
  };

  const setPresent = (conversationId: string, userIds: readonly string[]) => {
    const room = rooms.get(conversationId);
    if (!room || signal.aborted || (userIds.length === 0 && room.present.length === 0)) return;
    room.present = userIds;
    options.onPresence?.(conversationId, userIds);
  };

  const sayTyping = (room: Room) => {
    if (signal.aborted || rooms.get(room.conversationId) !== room) return;
    if (clock.now() - room.typedAt < TYPING_SPACING_MS) return;
    room.typedAt = clock.now();
    const { conversationId } = room;
    const channel = room.topic.joined;
    const payload = { conversationId, userId };
    // While the channel is not joined, supabase-js would fall back to a call of Realtime: ours is checked by the service.
    void quietly(
      channel
        ? channel.send({ type: "broadcast", event: "typing", payload })
        : api.setTyping(conversationId, { signal, retries: 0 }),
    );
  };

  /** For what is not worth a word when it fails. */
  const quietly = async (work: Promise<unknown>) => {
    try {
      await work;
    } catch {}
  };

  // ----- begin -----

  const unsubscribe = store.subscribe(() => {
    if (!signal.aborted) options.onChange?.(store);
  });
  const wake = () => {
    if (signal.aborted) return;
    userTopic.wake();
    for (const room of rooms.values()) room.topic.wake();
    requestSync();
  };
  const sleepAgain = (options.onWake ?? onPageWake)(wake);
  // Not only after joining: the screen has something at once, and also without Realtime.
  requestSync();
  lookAfterHeld(store.holding());

  return {
    store,

    get state(): ConnectionState {
      return state;
    },

    /** Look now, whatever is known. For apps without a page: call it when the app comes to the front. */
    wake,

    /** Send, and show it at once: `store.pending()` has it until the real one arrives, also while a moderator looks at it.
     * "Try again" is the same call with the `clientMessageId` of the failed one. */
    send: async (message: NewMessage): Promise<MessageSent> => {
      const clientMessageId = message.clientMessageId ?? crypto.randomUUID();
      const { body, sensitive } = message;
      const bubble = { clientMessageId, to: (message.conversationId ?? message.toUserId)!, body, sensitive };
      store.show({ ...bubble, state: "pending" });
      try {
        const answer = await api.sendMessage({ ...message, clientMessageId });
        store.merge(answer);
        return answer;
      } catch (error) {
        const isRejected = error instanceof MessagingError && error.code === "message_rejected";
        store.show({ ...bubble, state: isRejected ? "rejected" : "failed", error });
        throw error;
      }
    },

    /** The conversation is on the screen: typing and presence, until it is closed. It has to be in the store. */
    openConversation: (conversation: Conversation | string): OpenConversation => {
      if (signal.aborted) throw new Error("This connection is closed.");
      if (typeof conversation !== "string") store.merge({ conversation });
      const conversationId = typeof conversation === "string" ? conversation : conversation.id;
      const row = store.conversation(conversationId);
      if (row === undefined) throw new Error(`The conversation ${conversationId} is not in the store.`);
      let room = rooms.get(conversationId);
      if (room === undefined) {
        const topic = joinRoom({ conversationId }, row.liveTopic);
        room = { conversationId, topic, openCount: 0, typing: new Map(), present: [], typedAt: -Infinity };
        rooms.set(conversationId, room);
      }
      const mine = room;
      mine.openCount++;
      let isOpen = true;
      return {
        conversationId,
        typing: () => sayTyping(mine),
        typingUsers: () => [...mine.typing.keys()],
        presentUsers: () => mine.present,
        close: () => {
          if (!isOpen) return;
          isOpen = false;
          if (--mine.openCount === 0 && rooms.get(conversationId) === mine) leaveRoom(mine);
        },
      };
    },

    /** Leave everything; nothing is called back any more. The store stays as it is. */
    close: (): void => {
      ended.abort();
      timers.cancelAll();
      unsubscribe();
      sleepAgain();
      userTopic.close();
      for (const room of [...rooms.values()]) leaveRoom(room);
    },
  };
}

/** A page that is shown or online again; elsewhere (a server, a native app) nothing is listened to. */
function onPageWake(wake: () => void): () => void {
  if (typeof document === "undefined" || typeof window === "undefined") return () => {};
  const onVisible = () => {
    if (document.visibilityState === "visible") wake();
  };
  document.addEventListener("visibilitychange", onVisible);
  window.addEventListener("online", wake);
  return () => {
    document.removeEventListener("visibilitychange", onVisible);
    window.removeEventListener("online", wake);
  };
}
