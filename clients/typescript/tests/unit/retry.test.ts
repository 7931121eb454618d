import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { RETRY } from "../../src/catalogue.ts";
import { MessagingError, NetworkError, TimeoutError } from "../../src/index.ts";
import { ID, cutOff, down, ok, page, pass, problem, serving, settle, silent } from "./fake.ts";

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(Math, "random", () => 1);
});
afterEach(() => mock.reset());

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

for (const [what, trouble] of Object.entries({
  "no connection": down,
  "an answer that breaks off": cutOff,
  "a page of a gateway": page(502),
  "a page of Next.js without its service": page(500),
  "a portal's page": async () => new Response("<html>Sign in to the Wi-Fi</html>"),
  request_timeout: problem(408, "request_timeout"),
  conflict: problem(409, "conflict"),
  internal_error: problem(500, "internal_error"),
  upstream_invalid: problem(502, "upstream_invalid"),
  upstream_timeout: problem(504, "upstream_timeout"),
  "a code from the future": problem(503, "moon_in_the_way"),
})) {
  test(`a send is repeated with the same key after ${what}`, async () => {
    const { client, seen } = serving([trouble, trouble, ok({ message: { seq: 1 } })]);
    const sent = client.sendMessage({ toUserId: ID, body: "Hello" });
    await pass(500);
    await pass(1000);
    assert.deepEqual(await sent, { message: { seq: 1 } });
    assert.equal(seen.length, 3);
    assert.match(seen[0]!.body.clientMessageId, UUID);
    assert.deepEqual(seen[1], seen[0]);
    assert.deepEqual(seen[2], seen[0]);
  });
}

test("a key of the caller's own is used", async () => {
  const { client, seen } = serving([down, ok()]);
  const sent = client.sendMessage({ conversationId: ID, body: "Hello", clientMessageId: ID });
  await pass(500);
  await sent;
  assert.deepEqual(seen.map((request) => request.body.clientMessageId), [ID, ID]);
});

test("two sends never share a key", async () => {
  const { client, seen } = serving([ok()]);
  await Promise.all([client.sendMessage({ toUserId: ID, body: "a" }), client.sendMessage({ toUserId: ID, body: "a" })]);
  assert.notEqual(seen[0]!.body.clientMessageId, seen[1]!.body.clientMessageId);
});

test("a group is repeated with the same Idempotency-Key, which is not in the body", async () => {
  const { client, seen } = serving([down, ok()]);
  const made = client.createGroup({ title: "Movers", memberIds: [ID] });
  await pass(500);
  await made;
  assert.match(seen[0]!.headers.get("Idempotency-Key")!, UUID);
  assert.equal(seen[1]!.headers.get("Idempotency-Key"), seen[0]!.headers.get("Idempotency-Key"));
  assert.deepEqual(seen[1]!.body, { title: "Movers", memberIds: [ID] });
});

for (const [code, retry] of Object.entries(RETRY)) {
  test(`${code} is ${retry === "never" ? "not " : ""}repeated`, async () => {
    const { client, seen } = serving([problem(400, code), ok()]);
    const sent = client.sendMessage({ toUserId: ID, body: "Hello" });
    sent.catch(() => {});
    await pass(60_000);
    assert.equal(seen.length, retry === "never" ? 1 : 2);
    if (retry === "never") await assert.rejects(sent, { name: "MessagingError", code, retry });
  });
}

test("waits double, are bounded, and end after `retries`", async () => {
  const waits: number[] = [];
  const { client, seen } = serving([down], { retries: 7 });
  const sent = client.unreadCounts({ onRetry: (_, waitMs) => waits.push(waitMs) });
  sent.catch(() => {});
  for (let second = 0; second < 60; second++) await pass(1000);
  await assert.rejects(sent, NetworkError);
  assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
  assert.equal(seen.length, 8);
});

test("jitter takes up to half of a wait", async () => {
  mock.method(Math, "random", () => 0);
  const waits: number[] = [];
  const { client } = serving([down, down, ok()]);
  const asked = client.unreadCounts({ onRetry: (_, waitMs) => waits.push(waitMs) });
  await pass(250);
  await pass(500);
  await asked;
  assert.deepEqual(waits, [250, 500]);
});

test("`retries: 0` means once", async () => {
  const { client, seen } = serving([down]);
  await assert.rejects(client.unreadCounts({ retries: 0 }), NetworkError);
  assert.equal(seen.length, 1);
});

for (const [where, refused] of Object.entries({
  problem: problem(429, "rate_limited", { retryAfterS: 7 }),
  "header in seconds": page(429, { "Retry-After": "7" }),
  "header as a date": page(503, { "Retry-After": "Thu, 01 Jan 1970 00:00:07 GMT" }),
})) {
  test(`Retry-After is kept to: ${where}`, async () => {
    const { client, seen } = serving([refused, ok()]);
    const sent = client.sendMessage({ toUserId: ID, body: "Hello" });
    await pass(6_999);
    assert.equal(seen.length, 1);
    await pass(501);
    await sent;
    assert.equal(seen.length, 2);
  });
}

test("a Retry-After beyond `maxWaitMs` is an error at once", async () => {
  const { client, seen } = serving([problem(429, "rate_limited", { retryAfterS: 8 })], { maxWaitMs: 7_999 });
  await assert.rejects(client.unreadCounts(), { code: "rate_limited", retryAfterS: 8 });
  assert.equal(seen.length, 1);
});

test("no answer in time is a TimeoutError, and repeated", async () => {
  const { client, seen } = serving([silent], { timeoutMs: 3000, retries: 1 });
  const sent = client.sendMessage({ toUserId: ID, body: "Hello" });
  sent.catch(() => {});
  await pass(2999);
  assert.equal(seen.length, 1);
  await pass(1);
  await pass(500);
  assert.equal(seen.length, 2);
  assert.equal(seen[1]!.body.clientMessageId, seen[0]!.body.clientMessageId);
  await pass(3000);
  await assert.rejects(sent, (error) => error instanceof TimeoutError && error.code === "timeout" && error.status === 0);
});

test("a getToken that hangs is a time-out too", async () => {
  const { client, seen } = serving([ok()], { getToken: () => new Promise(() => {}), timeoutMs: 100, retries: 0 });
  const asked = client.unreadCounts();
  asked.catch(() => {});
  await pass(100);
  await assert.rejects(asked, TimeoutError);
  assert.equal(seen.length, 0);
});

// ----- abort -----

const wish = () => new AbortController();

test("abort during a request rejects at once and nothing is repeated", async () => {
  const { client, seen } = serving([silent]);
  const stop = wish();
  const sent = client.sendMessage({ toUserId: ID, body: "Hello" }, { signal: stop.signal });
  await settle();
  stop.abort();
  await assert.rejects(sent, { name: "AbortError" });
  await pass(100_000);
  assert.equal(seen.length, 1);
});

test("abort during a wait rejects at once with the reason", async () => {
  const { client, seen } = serving([down]);
  const stop = wish();
  const sent = client.sendMessage({ toUserId: ID, body: "Hello" }, { signal: stop.signal });
  await settle();
  stop.abort("gone to another page");
  await assert.rejects(sent, (reason) => reason === "gone to another page");
  await pass(100_000);
  assert.equal(seen.length, 1);
});

test("a signal that was aborted before asks nothing", async () => {
  const { client, seen } = serving([ok()]);
  await assert.rejects(client.unreadCounts({ signal: AbortSignal.abort() }), { name: "AbortError" });
  assert.equal(seen.length, 0);
});

test("nothing is left on a signal that is used again and again", async () => {
  const stop = wish();
  const added = mock.method(stop.signal, "addEventListener");
  const removed = mock.method(stop.signal, "removeEventListener");
  const { client } = serving([down, ok()]);
  const asked = client.unreadCounts({ signal: stop.signal });
  await pass(500);
  await asked;
  assert.equal(added.mock.callCount(), 3);
  assert.equal(removed.mock.callCount(), 3);
});

// ----- tokens -----

test("an expired token is refreshed once, then the same request is sent", async () => {
  const asked: boolean[] = [];
  const { client, seen } = serving([problem(401, "token_expired"), down, ok()], {
    getToken: ({ refresh }) => (asked.push(refresh), refresh ? "new" : "old"),
  });
  const sent = client.sendMessage({ toUserId: ID, body: "Hello" });
  await pass(500);
  await sent;
  assert.deepEqual(asked, [false, true]);
  assert.deepEqual(seen.map((request) => request.headers.get("Authorization")), ["Bearer old", "Bearer new", "Bearer new"]);
  assert.deepEqual(seen[1]!.body, seen[0]!.body);
});

test("a new token that has expired as well is an error", async () => {
  const { client, seen } = serving([problem(401, "token_expired")]);
  await assert.rejects(client.unreadCounts(), { code: "token_expired", retry: "refreshToken" });
  assert.equal(seen.length, 2);
});

test("calls at the same time share one refresh", async () => {
  let refreshes = 0;
  const { client } = serving([problem(401, "token_expired"), problem(401, "token_expired"), ok()], {
    getToken: async ({ refresh }) => (refresh ? `new ${++refreshes}` : "old"),
  });
  await Promise.all([client.unreadCounts(), client.getProfile()]);
  assert.equal(refreshes, 1);
});

test("an error of getToken is the caller's own, and not repeated", async () => {
  const { client, seen } = serving([ok()], { getToken: () => Promise.reject(new RangeError("no session")) });
  await assert.rejects(client.unreadCounts(), RangeError);
  assert.equal(seen.length, 0);
});

test("without a token the request goes out without one", async () => {
  const { client, seen } = serving([problem(401, "unauthenticated")], { getToken: () => null });
  await assert.rejects(client.unreadCounts(), { code: "unauthenticated" });
  assert.equal(seen[0]!.headers.has("Authorization"), false);
});

// ----- what cannot be repeated blindly -----

for (const [what, call] of Object.entries({
  removeMember: (client: ReturnType<typeof serving>["client"]) => client.removeMember(ID, ID),
  "markAllRead without upToSeq": (client: ReturnType<typeof serving>["client"]) => client.markAllRead(ID),
})) {
  test(`${what}: only what was surely not done is repeated`, async () => {
    for (const trouble of [down, cutOff, page(502), problem(504, "upstream_timeout"), problem(503, "upstream_unavailable")]) {
      const { client, seen } = serving([trouble]);
      await assert.rejects(call(client), MessagingError);
      assert.equal(seen.length, 1);
    }
    const { client, seen } = serving([problem(429, "rate_limited", { retryAfterS: 1 }), ok()]);
    const done = call(client);
    await pass(1500);
    await done;
    assert.equal(seen.length, 2);
  });
}

test("markAllRead with upToSeq is repeated", async () => {
  const { client, seen } = serving([down, ok()]);
  const read = client.markAllRead(ID, { upToSeq: 0 });
  await pass(500);
  await read;
  assert.equal(seen.length, 2);
});
