// A world for the live part: a clock that is turned by hand, a Realtime and a service that do as they are told.
import { MessagingError, NetworkError } from "../../src/index.ts";
import type { ConnectionState, LiveApi, LiveEvent, LiveOptions, Messaging } from "../../src/index.ts";
import { connectMessaging } from "../../src/live.ts";
import type { Changes, Conversation, DetailedConversation, Message } from "../../src/index.ts";
import type { ConversationFacts } from "../../src/events.ts";
import { settle } from "./fake.ts";

export const ME = "00000000-0000-4000-8000-0000000000aa";
export const BOB = "00000000-0000-4000-8000-0000000000bb";
export const EVE = "00000000-0000-4000-8000-0000000000ee";
export const TALK = "00000000-0000-4000-8000-000000000001";
export const OTHER_TALK = "00000000-0000-4000-8000-000000000002";

export class FakeClock {
  time = 1_000_000;
  readonly timers = new Map<number, { at: number; work: () => void }>();
  #last = 0;

  now = () => this.time;
  setTimeout = (work: () => void, ms: number) => {
    this.timers.set(++this.#last, { at: this.time + ms, work });
    return this.#last;
  };
  clearTimeout = (timer: number) => void this.timers.delete(timer);

  /** Time passes, and everything happens in its order. */
  async pass(ms: number): Promise<void> {
    await settle();
    const until = this.time + ms;
    for (;;) {
      const due = [...this.timers].filter(([, { at }]) => at <= until).sort(([, one], [, other]) => one.at - other.at)[0];
      if (due === undefined) break;
      this.timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].work();
      await settle();
    }
    this.time = until;
    await settle();
  }
}

export class FakeChannel {
  readonly sent: any[] = [];
  readonly tracked: object[] = [];
  presence: Record<string, object[]> = {};
  #listeners: { type: string; event: string; callback: (message: any) => void }[] = [];
  #status: ((status: string, error?: Error) => void) | undefined;
  readonly topic: string;
  readonly config: any;

  constructor(topic: string, config: any) {
    this.topic = topic;
    this.config = config;
  }

  on(type: string, filter: { event?: string }, callback: (message: any) => void) {
    if (type === "presence" && this.#status) throw new Error("cannot add `presence` callbacks after `subscribe()`");
    this.#listeners.push({ type, event: filter.event ?? "", callback });
    return this;
  }
  subscribe(callback: (status: string, error?: Error) => void) {
    this.#status = callback;
    return this;
  }
  get isSubscribed() {
    return this.#status !== undefined;
  }
  say(status: string, error?: string) {
    this.#status?.(status, error === undefined ? undefined : new Error(error));
  }
  hear(type: string, event: string, message: any) {
    for (const one of this.#listeners) if (one.type === type && ["", "*", event].includes(one.event)) one.callback(message);
  }
  async send(message: any) {
    this.sent.push(message);
    return "ok";
  }
  async track(payload: object) {
    this.tracked.push(payload);
    return "ok";
  }
  presenceState() {
    return this.presence;
  }
}

export class FakeSupabase {
  readonly made: FakeChannel[] = [];
  open: FakeChannel[] = [];
  readonly log: string[] = [];
  auth = {
    getSession: async () => void this.log.push("getSession"),
    refreshSession: async () => void this.log.push("refreshSession"),
  };
  realtime = { setAuth: async () => void this.log.push("setAuth") };

  channel(topic: string, { config }: { config: any }) {
    const known = this.open.find((channel) => channel.topic === topic);
    if (known) return known;
    this.log.push(`join ${topic.split(":")[0]}`);
    const channel = new FakeChannel(topic, config);
    this.made.push(channel);
    this.open.push(channel);
    return channel;
  }
  async removeChannel(channel: FakeChannel) {
    this.open = this.open.filter((other) => other !== channel);
    channel.say("CLOSED");
    return "ok";
  }
  /** The newest channel of this topic that has not been removed. */
  of(prefix: string): FakeChannel {
    const found = this.open.findLast((channel) => channel.topic.startsWith(prefix));
    if (!found) throw new Error(`There is no channel ${prefix}`);
    return found;
  }
  /** The server closes it: supabase-js forgets the channel. */
  close(channel: FakeChannel) {
    this.open = this.open.filter((other) => other !== channel);
    channel.say("CLOSED");
  }
}

export const profile = (id: string) => ({ id, displayName: id.slice(-2), avatarUrl: null, isFallback: false });

export function message(seq: number, more: Partial<Message> = {}): Message {
  return {
    id: `m-${more.conversationId ?? TALK}-${seq}`, conversationId: TALK, seq, eventSeq: seq, fromUserId: BOB, toUserId: ME, gigId: null,
    clientMessageId: `c-${seq}`, body: `body ${seq}`, state: "visible", warning: null,
    masked: false, sensitive: false, unreadable: false, status: "sent", sender: profile(BOB), editedAt: null,
    deletedAt: null, createdAt: time(seq), ...more,
  };
}

export const time = (seq: number) => `2026-03-01T09:30:00.${String(seq).padStart(6, "0")}Z`;

export function facts(seq: number, more: Partial<ConversationFacts> = {}): ConversationFacts {
  return {
    id: TALK, kind: "direct", gigId: null, title: null, lastMessageAt: time(seq), unreadCount: 0, markedUnread: false, myRole: "member",
    myLastReadSeq: 0, canSend: true, liveTopic: `conversation:${more.id ?? TALK}:live:1`, lastSeq: seq, firstSeq: 1, eventSeq: seq,
    archivedAt: null, mutedUntil: null, pinnedAt: null, createdAt: time(0), ...more,
  };
}

export function conversation(seq: number, more: Partial<Conversation> = {}): Conversation {
  const members = [profile(ME), profile(BOB)];
  return { ...facts(seq, more), members, memberCount: members.length, lastMessage: null, ...more };
}

export function detailed(seq: number, pending: Message[] = [], more: Partial<DetailedConversation> = {}): DetailedConversation {
  return { ...conversation(seq, more), messages: [], receipts: [], hasMore: false, pending, ...more };
}

/** One's own message that waits for a moderator: without a place in the conversation. */
export const held = (key: string, more: Partial<Message> = {}): Message =>
  message(0, { id: `held-${key}`, fromUserId: ME, toUserId: BOB, clientMessageId: key, body: `held ${key}`, state: "pending", ...more });

export const created = (position: number, previousPosition: number, one: Message, more: Partial<ConversationFacts> = {}): LiveEvent => ({
  id: `e-${position}`, type: "message.created", position, previousPosition, unreadTotal: more.unreadCount ?? 0,
  conversationId: one.conversationId, conversation: facts(one.seq, { id: one.conversationId, eventSeq: one.eventSeq, ...more }), message: one,
});

export const page = (more: Partial<Changes> = {}): Changes => ({
  messages: [], conversations: [], receipts: [], lost: [], cursor: "c1", hasMore: false, position: null, ...more,
});

export const refusal = (status: number, code: string) => new MessagingError("No.", { code, status, retry: "never" });
export const unreachable = () => new NetworkError("The service could not be reached.", undefined);

export interface World {
  clock: FakeClock;
  supabase: FakeSupabase;
  live: Messaging;
  /** Every call of the API: its name and what was asked. */
  calls: [string, any][];
  count: (name: string) => number;
  /** Answers of sync in turn; afterwards nothing has changed. An Error is thrown, a function is called. */
  pages: (Changes | Error | (() => Promise<Changes>))[];
  answers: {
    unread: number;
    markDelivered: () => Promise<any>;
    sendMessage: (asked: any) => Promise<any>;
    getConversation: (id: string) => Promise<{ conversation: DetailedConversation }>;
    listMessages: (id: string, asked: any) => Promise<{ messages: Message[] }>;
  };
  states: ConnectionState[];
  typing: [string, readonly string[]][];
  presence: [string, readonly string[]][];
  seen: LiveEvent[];
  errors: unknown[];
  resets: number;
  /** SUBSCRIBED on the user's topic, and the sync that follows. */
  join: () => Promise<FakeChannel>;
  /** An event on the user's topic. */
  event: (event: LiveEvent) => void;
  wake: () => void;
}

export function world(options: Partial<LiveOptions> = {}, ...pages: World["pages"]): World {
  const clock = new FakeClock();
  const supabase = new FakeSupabase();
  const calls: [string, any][] = [];
  let cursor = 1;
  const answers: World["answers"] = {
    unread: 0,
    markDelivered: async () => ({ receipts: [] }),
    sendMessage: async () => Promise.reject(unreachable()),
    getConversation: async () => Promise.reject(unreachable()),
    listMessages: async () => Promise.reject(unreachable()),
  };
  const api = {
    sync: async (asked: any) => {
      calls.push(["sync", asked]);
      const next = it.pages.shift();
      if (next instanceof Error) throw next;
      return typeof next === "function" ? next() : (next ?? page({ cursor: asked.cursor ?? `c${cursor++}` }));
    },
    markDelivered: async (asked: any) => (calls.push(["markDelivered", asked]), answers.markDelivered()),
    setTyping: async (id: any) => void calls.push(["setTyping", id]),
    unreadCounts: async () => (calls.push(["unreadCounts", undefined]), { messages: answers.unread, conversations: 0 }),
    sendMessage: async (asked: any) => (calls.push(["sendMessage", asked]), answers.sendMessage(asked)),
    // A moment later, so that a test can say what they answer to what is asked at the start.
    getConversation: async (id: any) => (calls.push(["getConversation", id]), await undefined, answers.getConversation(id)),
    listMessages: async (id: any, asked: any) => (
      calls.push(["listMessages", [id, asked]]), await undefined, answers.listMessages(id, asked)
    ),
  } as unknown as LiveApi;
  const it: World = {
    clock, supabase, calls, pages, answers, states: [], typing: [], presence: [], seen: [], errors: [], resets: 0,
    count: (name) => calls.filter(([called]) => called === name).length,
    join: async () => {
      await settle();
      const channel = supabase.of("user:");
      channel.say("SUBSCRIBED");
      await settle();
      return channel;
    },
    event: (event) => supabase.of("user:").hear("broadcast", event.type, { type: "broadcast", event: event.type, payload: event }),
    wake: () => {},
    live: undefined as unknown as Messaging,
  };
  it.live = connectMessaging({
    supabase, api, userId: ME, clock,
    onState: (state) => it.states.push(state),
    onTyping: (...said) => it.typing.push(said),
    onPresence: (...said) => it.presence.push(said),
    onEvent: (event) => it.seen.push(event),
    onError: (error) => it.errors.push(error),
    onReset: () => void it.resets++,
    onWake: (wake) => ((it.wake = wake), () => (it.wake = () => {})),
    ...options,
  });
  return it;
}
