// One Realtime channel that is kept joined: made anew when it was closed, left alone while supabase-js rejoins by itself.
// Of supabase-js only what is named here is used, so any version that has it will do.

/** What is used of a channel of supabase-js. */
export interface Channel {
  on(type: "broadcast", filter: { event: string }, callback: (message: { event: string; payload?: any }) => void): unknown;
  on(type: "presence", filter: { event: "sync" }, callback: () => void): unknown;
  on(type: "system", filter: {}, callback: (message: any) => void): unknown;
  subscribe(callback: (status: any, error?: Error) => void): unknown;
  send(message: { type: "broadcast"; event: string; payload: object }): Promise<unknown>;
  track(payload: object): Promise<unknown>;
  presenceState(): object;
}

/** What is used of a client of supabase-js. */
export interface Supabase {
  channel(topic: string, options: { config: ChannelConfig }): Channel;
  removeChannel(channel: any): Promise<unknown>;
  realtime: { setAuth(): Promise<void> };
  auth: { getSession(): Promise<unknown>; refreshSession(): Promise<unknown> };
}

export interface ChannelConfig {
  private: boolean;
  broadcast?: { replication_ready?: boolean };
  presence?: { key: string; enabled: boolean };
}

/** Time, so that tests can turn it. */
export interface Clock {
  now(): number;
  setTimeout(work: () => void, ms: number): unknown;
  clearTimeout(timer: any): void;
}

export const SYSTEM_CLOCK: Clock = {
  now: () => Date.now(),
  setTimeout: (work, ms) => setTimeout(work, ms),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** Timers that end together. */
export class Timers {
  readonly #clock: Clock;
  readonly #running = new Set<unknown>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  after(ms: number, work: () => void): unknown {
    const timer = this.#clock.setTimeout(() => {
      this.#running.delete(timer);
      work();
    }, ms);
    this.#running.add(timer);
    return timer;
  }

  cancel(timer: unknown): void {
    if (this.#running.delete(timer)) this.#clock.clearTimeout(timer);
  }

  cancelAll(): void {
    for (const timer of [...this.#running]) this.cancel(timer);
  }
}

/** `joined`; `joining`: at first, or supabase-js is at it again; `closed`: to be made anew in a while; `refused`: left
 * alone until it is woken. */
export type TopicState = "joining" | "joined" | "closed" | "refused";

export interface TopicOptions {
  supabase: Supabase;
  clock: Clock;
  topic: string;
  config: ChannelConfig;
  /** Listeners go on before joining. */
  attach: (channel: Channel) => void;
  onState: (state: TopicState, channel: Channel | undefined) => void;
  /** How often in a row the server may say no before the channel is left alone. */
  refusalMax: number;
  /** How long it is left alone; undefined: until it is woken. */
  refusedMs?: number;
}

const BACKOFF_MS = [1_000, 2_000, 5_000, 10_000, 30_000] as const;
/** A channel that lived this long was not closed for the reason of the time before. */
const STEADY_MS = 60_000;
const IS_ABOUT_ACCESS = /unauthorized|permission|expired|jwt|token/i;

export type Topic = ReturnType<typeof keepTopic>;

/** Join `topic` and keep it joined until `close()`. */
export function keepTopic(options: TopicOptions) {
  const { supabase, clock } = options;
  const timers = new Timers(clock);
  let channel: Channel | undefined;
  let state: TopicState = "joining";
  let generation = 0;
  let attempts = 0;
  let refusals = 0;
  let joinedAt = 0;
  let isClosed = false;

  const become = (next: TopicState) => {
    state = next;
    options.onState(next, channel);
  };

  const drop = () => {
    const old = channel;
    channel = undefined;
    // A removal that fails leaves nothing behind that could still speak: its callbacks are not listened to any more.
    if (old) void supabase.removeChannel(old).catch(() => {});
  };

  /** Realtime gets the token of now. Without a connection, or with a client that has no session of its own, the one it has. */
  const freshen = async (isRefused: boolean) => {
    try {
      await (isRefused ? supabase.auth.refreshSession() : supabase.auth.getSession());
    } catch {}
    try {
      await supabase.realtime.setAuth();
    } catch {}
  };

  const open = async (isRefused: boolean) => {
    const mine = ++generation;
    timers.cancelAll();
    drop();
    // The first join must carry the token already: without one a private channel is refused, after five seconds.
    await freshen(isRefused);
    if (isClosed || mine !== generation) return;
    const made = supabase.channel(options.topic, { config: options.config });
    channel = made;
    options.attach(made);
    made.subscribe((status, error) => {
      if (channel === made) said(String(status), error);
    });
  };

  const openIn = (ms: number, isRefused: boolean) => {
    timers.cancelAll();
    timers.after(ms, () => void open(isRefused));
  };

  const said = (status: string, error: Error | undefined) => {
    if (status === "SUBSCRIBED") {
      refusals = 0;
      joinedAt = clock.now();
      become("joined");
    } else if (status === "CLOSED") {
      // For good: the token has expired, a limit was reached, the server was told to. supabase-js does not rejoin.
      if (state === "joined" && clock.now() - joinedAt >= STEADY_MS) attempts = 0;
      channel = undefined;
      openIn(BACKOFF_MS[Math.min(attempts++, BACKOFF_MS.length - 1)] ?? 0, true);
      become("closed");
    } else {
      // CHANNEL_ERROR, TIMED_OUT: supabase-js is rejoining, and a second channel would only be in its way.
      refusals = error && IS_ABOUT_ACCESS.test(error.message) ? refusals + 1 : 0;
      if (refusals >= options.refusalMax) {
        drop();
        if (options.refusedMs !== undefined) openIn(options.refusedMs, true);
        become("refused");
        return;
      }
      if (refusals === 1) void freshen(true);
      become("joining");
    }
  };

  void open(false);
  return {
    topic: options.topic,

    get state(): TopicState {
      return state;
    },

    /** The channel, while something can be sent on it. */
    get joined(): Channel | undefined {
      return state === "joined" ? channel : undefined;
    },

    /** The page was asleep or offline: whatever is waited for may be tried now. */
    wake: (): void => {
      if (isClosed || state === "joined") return;
      if (channel !== undefined) return void freshen(false);
      if (state === "closed" || state === "refused") {
        refusals = 0;
        void open(true);
        become("joining");
      }
    },

    /** Leave for good. */
    close: (): void => {
      isClosed = true;
      generation++;
      timers.cancelAll();
      drop();
    },
  };
}
