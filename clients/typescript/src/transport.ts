// One call of the API: the request, its time limit, the token, and when it is made again.
//
// Plain fetch and not openapi-fetch: what has to be repeated is the whole exchange, the reading of the answer included
// (an answer that breaks off half-way is the common case of "sent, but nobody knows"), and that library reads the
// answer outside of its fetch. The types below take from the OpenAPI document what it would have taken.
import { MessagingError, NetworkError, TimeoutError, refusal } from "./errors.ts";
import type { paths } from "./schema.ts";

export interface ClientOptions {
  /** Where the service is; "" for the page's own origin, as with Next.js rewrites. */
  baseUrl: string;
  /** The caller's access token; a new one when `refresh` is set. Without a token the service refuses. What it throws is
   * passed on, and a MessagingError (such as NetworkError) is treated like the service's own. */
  getToken: (asked: { refresh: boolean }) => Token | Promise<Token>;
  /** Instead of the global fetch. */
  fetch?: typeof globalThis.fetch | undefined;
  /** How long one attempt may take. Default 15,000: the service itself gives up after 10 s. */
  timeoutMs?: number | undefined;
  /** How often a call is repeated. Default 4. */
  retries?: number | undefined;
  /** A Retry-After longer than this is an error at once. Default 60,000. */
  maxWaitMs?: number | undefined;
}

export interface CallOptions {
  /** Ends the call at once: it rejects with the signal's reason, and nothing is repeated any more. */
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
  retries?: number | undefined;
  maxWaitMs?: number | undefined;
  /** Told before each wait, for a "trying again in 5 s". */
  onRetry?: ((error: MessagingError, waitMs: number) => void) | undefined;
}

type Token = string | null | undefined;

// ----- types from the OpenAPI document -----

type Method = "get" | "post" | "patch" | "delete";
type Operation<P extends keyof paths, M extends Method> = NonNullable<paths[P][M]>;
type Json<T> = T extends { content: { "application/json": infer J } } ? J : never;
type Answer<O> = O extends { responses: { 200: infer R } } ? Json<R> : O extends { responses: { 204: unknown } } ? void : never;
type Names<Path> = Path extends `${string}{${infer Name}}${infer Rest}` ? Name | Names<Rest> : never;

/** A parameter that is null or undefined is left out, so `cursor: page.nextCursor` can be written. */
type Asked<O> = O extends { parameters: { query?: infer Q } } ? { [K in keyof Q]?: Q[K] | null | undefined } : never;

export type Query<P extends keyof paths> = NonNullable<Asked<Operation<P, "get">>>;

interface Input<P extends keyof paths, M extends Method> {
  path?: Record<Names<P>, string>;
  query?: Asked<Operation<P, M>>;
  body?: Operation<P, M> extends { requestBody?: infer B } ? Json<NonNullable<B>> : never;
  idempotencyKey?: string;
  /** False when a second time does something else than the first: then only what was surely not done is repeated. */
  repeatable?: boolean;
}

export type Call = <P extends keyof paths, M extends Method>(
  method: M,
  path: P,
  input: Input<P, M> & ([Names<P>] extends [never] ? unknown : { path: Record<Names<P>, string> }),
  options?: CallOptions,
) => Promise<Answer<Operation<P, M>>>;

// ----- calls -----

const FIRST_WAIT_MS = 500;
const LONGEST_BACKOFF_MS = 8_000;
const JITTER_AFTER_MS = 500;

export function createCall(client: ClientOptions): Call {
  const base = client.baseUrl.replace(/\/+$/, "");
  const send = client.fetch ?? ((...request: Parameters<typeof fetch>) => globalThis.fetch(...request));
  let refreshing: Promise<Token> | undefined;

  /** One refresh at a time, however many calls need it. */
  const newToken = () => {
    refreshing ??= (async () => client.getToken({ refresh: true }))().finally(() => (refreshing = undefined));
    return refreshing;
  };

  return async (method, path, input, options = {}) => {
    const url = base + fill(path, input.path ?? {}) + search(input.query ?? {});
    const body = input.body === undefined ? undefined : JSON.stringify(input.body);
    const { signal } = options;
    const timeoutMs = options.timeoutMs ?? client.timeoutMs ?? 15_000;
    const retries = options.retries ?? client.retries ?? 4;
    const maxWaitMs = options.maxWaitMs ?? client.maxWaitMs ?? 60_000;

    let fresh: Token;
    let refreshed = false;
    const exchange = async (ended: AbortSignal) => {
      if (refreshed) fresh ??= await newToken();
      const token = refreshed ? fresh : await client.getToken({ refresh: false });
      const headers: Record<string, string> = { Accept: "application/json, application/problem+json" };
      if (token) headers["Authorization"] = `Bearer ${token}`;
      if (body !== undefined) headers["Content-Type"] = "application/json";
      if (input.idempotencyKey) headers["Idempotency-Key"] = input.idempotencyKey;
      // The service forbids storing; Next.js on a server would do it all the same.
      const request: RequestInit = { method: method.toUpperCase(), headers, signal: ended, cache: "no-store" };
      return answerOf(() => send(url, body === undefined ? request : { ...request, body }));
    };

    for (let attempt = 0; ; ) {
      try {
        return await within(timeoutMs, signal, exchange);
      } catch (error) {
        if (!(error instanceof MessagingError)) throw error;
        if (error.retry === "refreshToken" && !refreshed) {
          refreshed = true;
          continue;
        }
        const waitMs = waitBefore(error, attempt++);
        const surelyNotDone = error.status >= 400 && error.status < 500;
        const allowed = input.repeatable !== false || surelyNotDone;
        if (waitMs === undefined || !allowed || attempt > retries || (error.retryAfterS ?? 0) * 1000 > maxWaitMs) throw error;
        options.onRetry?.(error, waitMs);
        await sleep(waitMs, signal);
      }
    }
  };
}

/** How long to wait before trying again; undefined when that would not help. */
function waitBefore(error: MessagingError, attempt: number): number | undefined {
  if (error.retry !== "sameKey" && error.retry !== "after") return undefined;
  if (error.retryAfterS !== undefined) return error.retryAfterS * 1000 + Math.random() * JITTER_AFTER_MS;
  const step = Math.min(FIRST_WAIT_MS * 2 ** attempt, LONGEST_BACKOFF_MS);
  return step / 2 + (Math.random() * step) / 2;
}

async function answerOf(request: () => Promise<Response>): Promise<any> {
  let response: Response;
  let body: string;
  try {
    response = await request();
    body = await response.text();
  } catch (error) {
    throw new NetworkError("The service could not be reached, or the connection broke.", error);
  }
  if (!response.ok) throw refusal(response.status, response.headers, body);
  if (response.status === 204) return undefined;
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new NetworkError("The answer was not JSON; somebody in between has answered.", error);
  }
}

/** `work` with a signal that ends it; rejects at once on abort and time-out, whatever `work` makes of the signal. */
function within<T>(timeoutMs: number, signal: AbortSignal | undefined, work: (ended: AbortSignal) => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = new AbortController();
    const tidy = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    const end = (reason: unknown) => {
      tidy();
      reject(reason);
      stop.abort(reason);
    };
    const onAbort = () => end(signal?.reason);
    const timer = setTimeout(() => end(new TimeoutError(timeoutMs)), timeoutMs);
    signal?.addEventListener("abort", onAbort);
    work(stop.signal).then(resolve, reject).finally(tidy);
  });
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** Ids never contain what could make another path of it. */
function fill(path: string, ids: Record<string, string>): string {
  return path.replace(/\{(\w+)\}/g, (_, name: string) => {
    const id = ids[name];
    if (id === undefined || !/^[\w-]+$/.test(id)) throw new TypeError(`${name} is not an id: ${id}`);
    return id;
  });
}

function search(query: object): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return given.length === 0 ? "" : `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`;
}
