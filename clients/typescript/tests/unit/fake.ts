// A service that answers as it is told, and a clock that stands still until it is told.
import { mock } from "node:test";
import { createClient, type Client, type ClientOptions } from "../../src/index.ts";

export interface Seen {
  method: string;
  url: string;
  headers: Headers;
  body: any;
}

type Reply = () => Promise<Response>;

export const ok = (body: unknown = {}): Reply => async () => Response.json(body);
export const down: Reply = () => Promise.reject(new TypeError("fetch failed"));
/** Never answers, and does not even look at the signal. */
export const silent: Reply = () => new Promise(() => {});
/** Headers arrive, the body breaks off. */
export const cutOff: Reply = async () =>
  new Response(new ReadableStream({ start: (stream) => stream.error(new TypeError("terminated")) }));
export const page = (status: number, headers: Record<string, string> = {}): Reply => async () =>
  new Response("<html>Bad gateway</html>", { status, headers });

export const problem = (status: number, code: string, more: object = {}): Reply => async () =>
  new Response(
    JSON.stringify({ type: `/problems/${code}`, title: "T", status, code, detail: "D.", requestId: "r-1", ...more }),
    { status, headers: { "Content-Type": "application/problem+json" } },
  );

/** A client whose service gives these replies in turn (the last one for ever), and the requests it has seen. */
export function serving(replies: Reply[], options: Partial<ClientOptions> = {}): { client: Client; seen: Seen[] } {
  const seen: Seen[] = [];
  const fetch = async (url: string | URL | Request, init: RequestInit = {}) => {
    const reply = replies[Math.min(seen.length, replies.length - 1)] ?? down;
    const body = typeof init.body === "string" ? JSON.parse(init.body) : undefined;
    seen.push({ method: init.method ?? "", url: String(url), headers: new Headers(init.headers), body });
    return reply();
  };
  const client = createClient({ baseUrl: "https://service.example/", getToken: () => "a-token", fetch, ...options });
  return { client, seen };
}

/** Let everything happen that needs no time. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
}

export async function pass(ms: number): Promise<void> {
  await settle();
  mock.timers.tick(ms);
  await settle();
}

export const ID = "00000000-0000-4000-8000-000000000001";
