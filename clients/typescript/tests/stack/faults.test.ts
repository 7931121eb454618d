// The network at its worst, between the client and the real service: what was done is never done twice.
import assert from "node:assert/strict";
import { createServer, request, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { NetworkError, TimeoutError } from "../../src/index.ts";
import { API_URL, EXPIRED_TOKEN, person, type Person } from "./people.ts";

let ann: Person, bob: Person;
before(async () => {
  [ann, bob] = await Promise.all([person("Ann"), person("Bob")]);
});

const open: (() => void)[] = [];
after(() => open.forEach((close) => close()));

async function serve(answer: (asked: IncomingMessage, reply: ServerResponse) => void): Promise<string> {
  const server = createServer(answer).listen(0, "127.0.0.1");
  open.push(() => (server.close(), server.closeAllConnections()));
  await new Promise((resolve) => server.once("listening", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

type Fault = "drop" | "half" | "hang" | "gateway" | "none";

/** Passes every request on to the service and waits for its answer; then commits this fault instead of passing it back. */
async function proxy(faults: Fault[]): Promise<{ url: string; statuses: number[] }> {
  const statuses: number[] = [];
  const url = await serve((asked, reply) => {
    const onward = request(API_URL + asked.url, { method: asked.method, headers: { ...asked.headers, host: "service" } });
    asked.pipe(onward).on("response", async (answer) => {
      const body = Buffer.concat(await answer.toArray());
      statuses.push(answer.statusCode ?? 0);
      const fault = faults[statuses.length - 1] ?? "none";
      if (fault === "hang") return;
      if (fault === "drop") return void asked.socket.destroy();
      if (fault === "gateway") return void reply.writeHead(502, { "Content-Type": "text/html" }).end("<html>");
      reply.writeHead(answer.statusCode ?? 0, answer.headers);
      if (fault === "none") return void reply.end(body);
      reply.write(body.subarray(0, body.length / 2), () => asked.socket.destroy());
    });
  });
  return { url, statuses };
}

for (const fault of ["drop", "half", "hang", "gateway"] as const) {
  test(`a send whose answer is lost twice (${fault}) is one message`, async () => {
    const { url, statuses } = await proxy([fault, fault]);
    const body = `Only once: ${fault}`;
    const { message } = await ann.with({ baseUrl: url, timeoutMs: 3_000 }).sendMessage({ toUserId: bob.id, body });
    assert.deepEqual(statuses, [201, 200, 200]);
    const { messages } = await bob.client.listMessages(message.conversationId, { limit: 100 });
    assert.deepEqual(messages.filter((one) => one.body === body).map((one) => one.id), [message.id]);
  });
}

test("a group whose answer is lost is one group", async () => {
  const { url, statuses } = await proxy(["half"]);
  const title = `Once ${crypto.randomUUID()}`;
  await ann.with({ baseUrl: url }).createGroup({ title, memberIds: [bob.id] });
  assert.deepEqual(statuses, [201, 200]);
  assert.equal((await ann.client.listInbox({ q: title })).conversations.length, 1);
});

test("a removal whose answer is lost says so instead of guessing", async () => {
  const { conversation } = await ann.client.createGroup({ title: "Short", memberIds: [bob.id] });
  const { url, statuses } = await proxy(["drop"]);
  await assert.rejects(ann.with({ baseUrl: url }).removeMember(conversation.id, bob.id), NetworkError);
  assert.deepEqual(statuses, [200]);
});

test("no answer in time is a TimeoutError; the message may have been sent, and the key finds it", async () => {
  const { url } = await proxy(["hang"]);
  const message = { toUserId: bob.id, body: "Are you there?", clientMessageId: crypto.randomUUID() };
  await assert.rejects(ann.with({ baseUrl: url, timeoutMs: 500, retries: 0 }).sendMessage(message), TimeoutError);
  const { message: found } = await ann.client.sendMessage(message);
  assert.equal(found.clientMessageId, message.clientMessageId);
});

test("nobody listening is a NetworkError", async () => {
  const url = await serve(() => {});
  open.pop()?.();
  await assert.rejects(ann.with({ baseUrl: url, retries: 0 }).unreadCounts(), NetworkError);
});

test("abort rejects at once, in a request and between two", async () => {
  for (const fault of ["hang", "drop"] as const) {
    const { url } = await proxy(Array<Fault>(9).fill(fault));
    const stop = new AbortController();
    const client = ann.with({ baseUrl: url });
    const sent = client.sendMessage({ toUserId: bob.id, body: "Never mind" }, { signal: stop.signal });
    let abortedAt = 0;
    setTimeout(() => {
      abortedAt = performance.now();
      stop.abort();
    }, 300);
    await assert.rejects(sent, { name: "AbortError" });
    assert(performance.now() - abortedAt < 100);
  }
});

test("an expired token is refreshed once", async () => {
  const asked: boolean[] = [];
  const getToken = ({ refresh }: { refresh: boolean }) => (asked.push(refresh), refresh ? ann.token : EXPIRED_TOKEN);
  assert.equal((await ann.with({ getToken }).getProfile()).profile.id, ann.id);
  assert.deepEqual(asked, [false, true]);
  await assert.rejects(ann.with({ getToken: () => EXPIRED_TOKEN }).getProfile(), { code: "token_expired", status: 401 });
});

test("429 is repeated after Retry-After, with the same key", async () => {
  const keys: string[] = [];
  const times: number[] = [];
  const url = await serve(async (asked, reply) => {
    times.push(performance.now());
    keys.push(JSON.parse(Buffer.concat(await asked.toArray()).toString()).clientMessageId);
    const problem = { code: "rate_limited", status: 429, detail: "Wait.", retryAfterS: 1 };
    if (keys.length === 1) return reply.writeHead(429, { "Retry-After": "1" }).end(JSON.stringify(problem));
    return reply.writeHead(201).end(JSON.stringify({ message: {}, conversation: {} }));
  });
  await ann.with({ baseUrl: url }).sendMessage({ toUserId: bob.id, body: "Slowly" });
  assert.equal(keys[0], keys[1]);
  assert((times[1] ?? 0) - (times[0] ?? 0) >= 1000);
});
