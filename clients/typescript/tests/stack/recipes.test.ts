// The recipes of docs/web.md, as they are printed there, against the real stack. "I" am the person of lib/api/messages.ts.
import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, mock, test } from "node:test";
import * as messages from "../../lib/api/messages.ts";
import type { Conversation, Message } from "../../lib/api/messages.ts";
import * as arrange from "../../recipes/arrange.ts";
import * as badges from "../../recipes/badges.ts";
import * as edits from "../../recipes/edits.ts";
import { offer } from "../../recipes/errors.ts";
import * as groups from "../../recipes/groups.ts";
import * as history from "../../recipes/history.ts";
import * as inbox from "../../recipes/inbox.ts";
import * as profile from "../../recipes/profile.ts";
import * as safety from "../../recipes/safety.ts";
import * as sending from "../../recipes/send.ts";
import { messagesOf } from "../../recipes/server.ts";
import { connect } from "../../recipes/session.ts";
import { connectMessaging, type Messaging, type PendingMessage } from "../../lib/realtime.ts";
import { API_URL, EXPIRED_TOKEN, MODERATOR_TOKEN, PUBLISHABLE_KEY, SUPABASE_URL, person, type Person } from "./people.ts";

let me: Person, bob: Person;
let supabase: ReturnType<typeof connect>;
let talk: Conversation;

/** A conversation with somebody new, in which they have written these. */
async function writtenTo(...bodies: string[]): Promise<{ from: Person; row: Conversation; sent: Message[] }> {
  const from = await person("Somebody");
  const sent: Message[] = [];
  let row: Conversation | undefined;
  for (const body of bodies) {
    const answer = await from.client.sendMessage({ toUserId: me.id, body });
    sent.push(answer.message);
    row = answer.conversation;
  }
  assert(row);
  return { from, row, sent };
}

before(async () => {
  [me, bob] = await Promise.all([person("Me"), person("Bob")]);
  supabase = connect(SUPABASE_URL, PUBLISHABLE_KEY, API_URL);
  const { error } = await supabase.auth.signInWithPassword(me.account);
  assert.equal(error, null);
  talk = (await messages.sendMessage({ toUserId: bob.id, body: "1" })).conversation;
});
after(async () => {
  await supabase.auth.stopAutoRefresh();
  await supabase.removeAllChannels();
});

/** Wait for what must become true, at most 15 s. */
async function until(isSo: () => unknown, what: string): Promise<void> {
  const began = performance.now();
  while (!isSo()) {
    assert(performance.now() - began < 15_000, `In vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** My page, live, for the time of the work. */
async function withMyPage(work: (live: Messaging) => Promise<void>): Promise<void> {
  const live = connectMessaging({ supabase, userId: me.id });
  try {
    await until(() => live.state === "live", "live");
    await work(live);
  } finally {
    live.close();
  }
}

/** A moderator decides what is held of me. */
async function decide(message: { messageId?: string }, decision: "release" | "reject"): Promise<void> {
  const desk = me.with({ getToken: () => MODERATOR_TOKEN });
  const { items } = await desk.listModerationQueue({ kind: "held", userId: me.id });
  const item = items.find((one) => one.messageId === message.messageId);
  assert(item);
  await desk.decideModerationItem(item.id, { decision });
}

test("session: the functions act as whoever has signed in", async () => {
  assert.equal((await messages.getProfile()).profile.id, me.id);
});

test("session: an expired token is refreshed, offline is not signed out", async () => {
  const { data } = await supabase.auth.getSession();
  assert(data.session);
  const stale = { ...data.session, access_token: EXPIRED_TOKEN };
  const session = mock.method(supabase.auth, "getSession", async () => ({ data: { session: stale }, error: null }));
  assert.equal((await messages.getProfile()).profile.id, me.id);
  session.mock.mockImplementation(async () => ({ data: { session: null }, error: new AuthRetryable() }) as never);
  await assert.rejects(messages.getProfile({ retries: 0 }), { code: "network_error" });
  session.mock.restore();
});

class AuthRetryable extends Error {
  readonly __isAuthError = true;
  override readonly name = "AuthRetryableFetchError";
}

test("server: a client per request", async () => {
  process.env["API_URL"] = API_URL;
  assert.equal((await messagesOf(bob.token).getProfile()).profile.displayName, "Bob");
});

test("send: a bubble is pending, then sent, in its place", async () => {
  let bubbles: sending.Bubble[] = [];
  const states: string[] = [];
  const show = (bubble: sending.Bubble) => {
    states.push(bubble.state);
    bubbles = sending.place(bubbles, bubble);
  };
  await Promise.all([sending.send(talk.id, "One", show), sending.send(talk.id, "Two", show)]);
  assert.deepEqual(states.toSorted(), ["pending", "pending", "sent", "sent"]);
  assert.deepEqual(bubbles.map((bubble) => [bubble.body, bubble.state]), [["One", "sent"], ["Two", "sent"]]);
  const { conversation } = await messages.getConversation(talk.id);
  assert.equal(bubbles[0]?.message?.id, conversation.messages.find((message) => message.body === "One")?.id);
  assert.deepEqual(sending.remaining(bubbles, conversation.messages, me.id), []);
  assert.equal(sending.remaining(bubbles, conversation.messages, bob.id).length, 2);
});

test("send: a failed bubble is sent again with its key, and is one message though the first try had arrived", async () => {
  let bubbles: sending.Bubble[] = [];
  const show = (bubble: sending.Bubble) => (bubbles = sending.place(bubbles, bubble));
  const real = globalThis.fetch;
  const lossy = mock.method(globalThis, "fetch", async (...given: Parameters<typeof fetch>) => {
    const answer = await real(...given);
    if (String(given[0]).startsWith(API_URL)) throw new TypeError("fetch failed");
    return answer;
  });
  messages.configure({ baseUrl: API_URL, getToken: () => me.token, retries: 1 });
  await sending.send(talk.id, "Lost", show);
  lossy.mock.restore();
  connect(SUPABASE_URL, PUBLISHABLE_KEY, API_URL);
  messages.configure({ baseUrl: API_URL, getToken: () => me.token });
  const failed = bubbles[0];
  assert.equal(failed?.state, "failed");
  assert.equal(offer(failed?.error), "try again");
  await sending.send(talk.id, failed!.body, show, failed!.clientMessageId);
  assert.deepEqual(bubbles.map((bubble) => bubble.state), ["sent"]);
  const { conversation } = await messages.getConversation(talk.id);
  assert.equal(conversation.messages.filter((message) => message.body === "Lost").length, 1);
});

test("errors: what to offer", async () => {
  const failure = (call: Promise<unknown>) => call.then(() => assert.fail("nothing failed"), (error: unknown) => error);
  assert.equal(offer(await failure(messages.getConversation(crypto.randomUUID()))), "nothing");
  assert.equal(offer(await failure(messagesOf("no token").getProfile())), "sign in");
  assert.equal(offer(await failure(messages.getProfile({ signal: AbortSignal.abort() }))), "nothing");
});

test("history: scroll up to the beginning, jump, catch up", async () => {
  const { from, row } = await writtenTo("1");
  for (let n = 2; n <= 120; n++) {
    // The pace is 100 in a minute for each of us.
    await (n % 2 ? from.client : messages).sendMessage({ conversationId: row.id, body: String(n) });
  }
  const bodies = (page: { messages: Message[] }) => page.messages.map((message) => Number(message.body));
  const upTo = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, n) => first + n);

  let shown = await history.older(row.id, []);
  assert.deepEqual(bodies(shown), upTo(71, 120));
  while (shown.hasMore) shown = await history.older(row.id, shown.messages);
  assert.deepEqual(bodies(shown), upTo(1, 120));

  const around = await history.jumpTo(row.id, 60);
  assert.deepEqual(bodies(around), upTo(35, 84));
  assert.deepEqual([around.hasMoreBefore, around.hasMoreAfter], [true, true]);
  let below = await history.newer(row.id, around.messages);
  assert.equal(below.hasMore, false);
  assert.deepEqual(bodies(below), upTo(35, 120));

  await from.client.sendMessage({ conversationId: row.id, body: "121" });
  below = await history.newer(row.id, below.messages);
  assert.equal(bodies(below).at(-1), 121);
  assert.deepEqual(await history.newer(row.id, below.messages), { messages: below.messages, hasMore: false });
});

test("inbox: pages by cursor, and conversations that jump meanwhile", async () => {
  // Two owners, because nobody starts more than 30 conversations in an hour.
  const eve = await person("Eve");
  const rows: Conversation[] = [];
  for (let n = 0; n < 36; n++) {
    const { client } = n % 2 ? bob : eve;
    const { conversation } = await client.createGroup({ title: `Group ${n}`, memberIds: [me.id] });
    if (n % 3) await client.sendMessage({ conversationId: conversation.id, body: "Welcome" });
    rows.push(conversation);
  }

  let view = await inbox.refresh();
  assert.equal(view.conversations.length, 30);
  // The oldest one, not loaded yet, jumps to the top.
  const oldest = rows[0]!;
  await eve.client.sendMessage({ conversationId: oldest.id, body: "Still there?" });
  while (view.cursor) view = await inbox.more(view);
  assert(!view.conversations.some((row) => row.id === oldest.id));
  view = await inbox.refresh(view);
  const ids = view.conversations.map((row) => row.id);
  assert.equal(ids[0], oldest.id);
  assert.equal(new Set(ids).size, ids.length);
  assert(rows.every((row) => ids.includes(row.id)));
  const { conversations } = await messages.listInbox({ limit: 100 });
  assert.deepEqual(ids, conversations.map((row) => row.id));
});

test("badges: from the count at the start and from the answers of reading", async () => {
  const { row, sent } = await writtenTo("1", "2", "3");
  let shown = await badges.total({ total: 0, rows: {} });
  const before = shown.total;
  shown = await badges.seen(shown, sent[1]!);
  assert.deepEqual([shown.total, shown.rows[row.id]], [before - 2, 1]);
  shown = await badges.seenAll(shown, (await messages.getConversation(row.id)).conversation);
  assert.deepEqual([shown.total, shown.rows[row.id]], [before - 3, 0]);
  assert.deepEqual(await badges.total(shown), shown);
});

test("arrange: archive, pin, mute, mark unread; the inbox follows", async () => {
  const { from, row } = await writtenTo("1");
  const view = (await inbox.refresh()).conversations;
  const pinned = (await arrange.pin(row.id)).conversation;
  assert.equal(inbox.mergeRows(view, [pinned])[0]?.id, row.id);
  assert.equal((await inbox.refresh()).conversations[0]?.id, row.id);
  const archived = (await arrange.archive(row.id)).conversation;
  assert(!inbox.mergeRows(view, [archived]).some((other) => other.id === row.id));
  assert.deepEqual((await arrange.archivedOnes()).conversations.map((other) => other.id), [row.id]);
  await from.client.sendMessage({ conversationId: row.id, body: "2" });
  assert.deepEqual((await arrange.archivedOnes()).conversations, []);
  const total = async () => (await badges.total({ total: 0, rows: {} })).total;
  const loud = await total();
  assert.notEqual((await arrange.mute(row.id, new Date(Date.now() + 3_600_000))).conversation.mutedUntil, null);
  assert.equal(await total(), loud - 2);
  assert.equal((await arrange.mute(row.id, null)).conversation.mutedUntil, null);
  await messages.markAllRead(row.id);
  assert.equal((await arrange.markUnread(row.id)).conversation.markedUnread, true);
  await arrange.pin(row.id, false);
});

test("groups: made once, filled, walked through, left", async () => {
  const key = crypto.randomUUID();
  const group = await groups.makeGroup("Movers", [bob.id], key);
  assert.equal((await groups.makeGroup("Movers", [bob.id], key)).id, group.id);
  assert.equal((await groups.rename(group.id, "Shakers")).conversation.title, "Shakers");
  const eve = await person("Eve");
  await groups.invite(group.id, [eve.id]);
  await groups.promote(group.id, eve.id);
  const roles: Record<string, string> = {};
  for await (const member of groups.everybody(group.id)) roles[member.displayName] = member.role;
  assert.deepEqual(roles, { Me: "owner", Bob: "member", Eve: "admin" });
  await groups.remove(group.id, bob.id);
  await groups.leave(group.id, me.id);
  assert.equal((await eve.client.getConversation(group.id)).conversation.memberCount, 1);
});

test("edits: replaced in the list, remembered, then a tombstone", async () => {
  const { message } = await messages.sendMessage({ conversationId: talk.id, body: "Tuesday" });
  let shown = (await messages.listMessages(talk.id)).messages;
  shown = await edits.edit(shown, message.id, "Wednesday");
  assert.equal(shown.at(-1)?.body, "Wednesday");
  assert.notEqual(shown.at(-1)?.editedAt, null);
  assert.deepEqual(await edits.texts(message.id), ["Tuesday", "Wednesday"]);
  const count = shown.length;
  shown = await edits.remove(shown, message.id);
  assert.deepEqual([shown.length, shown.at(-1)?.state, shown.at(-1)?.body], [count, "deleted", null]);
  // An answer that is older than what is shown changes nothing.
  assert.equal(history.merge(shown, [message]).at(-1)?.state, "deleted");
});

test("profile: a picture from Storage, the one before is gone", async () => {
  const png = Uint8Array.from(atob("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="), (c) =>
    c.charCodeAt(0),
  );
  const picture = new Blob([png], { type: "image/png" });
  const first = await profile.changePicture(supabase, me.id, picture);
  const second = await profile.changePicture(supabase, me.id, picture);
  assert.notEqual(first.avatarUrl, second.avatarUrl);
  assert.deepEqual(new Uint8Array(await (await fetch(second.avatarUrl!)).arrayBuffer()), png);
  assert.equal((await fetch(first.avatarUrl!)).ok, false);
  assert.equal((await profile.rename("Me Myself")).profile.displayName, "Me Myself");
});

test("next.config.mjs: the rules carry every route of the API to the service", async (t) => {
  const { default: config } = await import("../../recipes/next.config.mjs");
  process.env["API_URL"] = API_URL;
  const rules = await config.rewrites();
  // What Next.js does with such rules, without Next.js.
  const rewritten = (path: string) => {
    for (const { source, destination } of rules) {
      const found = new RegExp(`^${source.replace("/:path*", "(/.*)?")}$`).exec(path);
      if (found) return destination.replace("/:path*", found[1] ?? "");
    }
    return undefined;
  };
  const server = createServer((asked, reply) => {
    const [path, query] = (asked.url ?? "").split("?");
    const target = rewritten(path ?? "");
    if (!target) return void reply.writeHead(404).end();
    const headers = { ...asked.headers, host: new URL(target).host };
    const onward = request(query ? `${target}?${query}` : target, { method: asked.method, headers });
    asked.pipe(onward).on("response", (answer) => answer.pipe(reply.writeHead(answer.statusCode ?? 0, answer.headers)));
  }).listen(0, "127.0.0.1");
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  await new Promise((resolve) => server.once("listening", resolve));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = me.with({ baseUrl: origin });
  const { message } = await client.sendMessage({ conversationId: talk.id, body: "Through the page's own origin" });
  assert.equal((await client.listMessages(talk.id, { after: message.seq - 1 })).messages[0]?.id, message.id);
  assert.equal((await client.getProfile()).profile.id, me.id);
  const document: { paths: object } = await (await fetch(`${API_URL}/schema/openapi.json`)).json();
  const ours = Object.keys(document.paths).filter((path) => path.startsWith("/api/"));
  assert.deepEqual(ours.filter((path) => rewritten(path) === undefined), []);
});

test("safety: what the rules mark or cover says so, and what they refuse is not delivered", () =>
  withMyPage(async (live) => {
    const newest = () => live.store.messages(talk.id).at(-1)!;
    const ofBob = async () => (await bob.client.listMessages(talk.id, { limit: 1 })).messages[0]!;
    assert.deepEqual(safety.look((await live.send({ conversationId: talk.id, body: "Plain" })).message, me.id), { text: "Plain" });

    await live.send({ conversationId: talk.id, body: "A flimflam for you" });
    const note = "Pay only through this site; payments elsewhere are not protected.";
    assert.deepEqual(safety.look(newest(), me.id), { text: "A flimflam for you", note, isCovered: false });
    assert.deepEqual(safety.look(await ofBob(), bob.id), { text: "A flimflam for you", note, isCovered: true });

    await live.send({ conversationId: talk.id, body: "Write to me@example.com" });
    const covered = safety.look(await ofBob(), bob.id);
    assert(!covered.text!.includes("me@example"));
    assert.match(covered.note!, /^Contact details/);

    const { seq } = await ofBob();
    await assert.rejects(live.send({ conversationId: talk.id, body: "A zorgonite" }), { code: "message_rejected", status: 422 });
    const [refused] = live.store.pending(talk.id) as [PendingMessage];
    assert.deepEqual(safety.look(refused, me.id), { text: "A zorgonite", note: "Not delivered: it is against our rules." });
    assert.equal((refused.error as Error).message, "zorgonite is not wanted here.");
    assert.equal((await ofBob()).seq, seq);
    await safety.withdraw(live, refused);
    assert.deepEqual(live.store.pending(talk.id), []);

    const { message } = await messages.sendMessage({ conversationId: talk.id, body: "Gone" });
    live.store.merge(await messages.deleteMessage(message.id));
    assert.deepEqual(safety.look(newest(), me.id), { text: null, note: "Deleted" });
    assert.match(safety.look({ ...message, body: null, sensitive: true, unreadable: true }, me.id).note!, /cannot be opened/);
  }));

test("safety: a held message is released, rejected or withdrawn, and every device of its author sees which", () =>
  withMyPage(async (live) => {
    const hold = async (body: string) => {
      const { message } = await live.send({ conversationId: talk.id, body });
      assert.deepEqual([message.state, message.seq], ["pending", 0]);
      const bubble = live.store.pending(talk.id).find((one) => one.messageId === message.id)!;
      assert.deepEqual([bubble.body, bubble.state], [body, "held"]);
      return bubble;
    };
    const stateOf = (bubble: PendingMessage) => live.store.pending(talk.id).find((one) => one.messageId === bubble.messageId)?.state;
    const bodies = () => live.store.messages(talk.id).map((message) => message.body);
    const bobs = async () => (await bob.client.listMessages(talk.id)).messages.map((message) => message.body);

    const [good, bad, sorry] = [await hold("quarantella one"), await hold("quarantella two"), await hold("quarantella three")];
    assert.match(safety.look(good, me.id).note!, /only you see it/);
    assert(!bodies().some((body) => body?.startsWith("quarantella")));
    assert(!(await bobs()).some((body) => body?.startsWith("quarantella")));

    await safety.withdraw(live, sorry);
    assert.equal(stateOf(sorry), undefined);
    await decide(bad, "reject");
    await until(() => stateOf(bad) === "rejected", "rejected");
    assert.equal(stateOf(good), "held");
    await decide(good, "release");
    await until(() => bodies().at(-1) === "quarantella one", "released");
    assert.deepEqual(live.store.pending(talk.id).map((bubble) => bubble.messageId), [bad.messageId]);
    assert.equal((await bobs()).at(-1), "quarantella one");
    await safety.withdraw(live, live.store.pending(talk.id)[0]!);
    assert.deepEqual(live.store.pending(talk.id), []);

    // Without the live part: the bubble of send.ts, and another device that opens the conversation.
    let bubbles: sending.Bubble[] = [];
    await sending.send(talk.id, "quarantella four", (bubble) => (bubbles = sending.place(bubbles, bubble)));
    assert.equal(bubbles[0]?.state, "held");
    live.store.merge(await messages.getConversation(talk.id));
    const [elsewhere] = live.store.pending(talk.id) as [PendingMessage];
    assert.deepEqual([elsewhere.body, elsewhere.state], ["quarantella four", "held"]);
    const shown = (await messages.listMessages(talk.id)).messages;
    assert.deepEqual(await edits.remove(shown, elsewhere.messageId!), shown);
    assert.deepEqual((await messages.getConversation(talk.id)).conversation.pending, []);
  }));

test("safety: sensitive texts reach both, and no event has them", () =>
  withMyPage(async (live) => {
    const texts = () => live.store.messages(talk.id).map((message) => message.body);
    const mine = await safety.sendSensitive(live, talk.id, "The word at the door is sesame");
    assert.deepEqual(safety.look(mine.message, me.id), { text: "The word at the door is sesame", note: "Stored encrypted" });
    assert.equal((await bob.client.listMessages(talk.id, { limit: 1 })).messages[0]?.body, "The word at the door is sesame");
    const wire: string[] = [];
    const reading = mock.method(live.store, "apply", live.store.apply);
    await bob.client.sendMessage({ conversationId: talk.id, body: "The key is under the mat", sensitive: true });
    await until(() => texts().at(-1) === "The key is under the mat", "the text");
    for (const { arguments: [event] } of reading.mock.calls) wire.push(JSON.stringify(event));
    assert(wire.some((event) => event.includes('"sensitive":true')) && !wire.some((event) => event.includes("under the mat")));
    assert(!JSON.stringify(live.store.save()).includes("sesame"));
  }));

test("safety: whom one blocks is not read in groups, cannot write, and is in the list until it ends", () =>
  withMyPage(async (live) => {
    const other = await person("Mallory");
    const { conversation: direct } = await other.client.sendMessage({ toUserId: me.id, body: "hello" });
    const { conversation: group } = await messages.createGroup({ title: "Crew", memberIds: [other.id, bob.id] });
    for (const body of ["one", "two"]) await other.client.sendMessage({ conversationId: group.id, body });
    const own = (await messages.sendMessage({ conversationId: group.id, body: "mine" })).message;
    live.store.merge(await messages.getConversation(group.id));
    live.store.merge(await messages.getConversation(direct.id));
    const shown = () => live.store.messages(group.id).map((message) => safety.look(message, me.id).text);
    assert.deepEqual(shown(), ["one", "two", "mine"]);
    const topic = live.store.conversation(direct.id)!.liveTopic;

    await safety.block(live, other.id, group.id);
    assert.deepEqual(shown(), [null, null, "mine"]);
    const list: string[] = [];
    for await (const { displayName } of safety.blocked()) list.push(displayName);
    assert.deepEqual(list, ["Mallory"]);
    await until(() => live.store.conversation(direct.id)?.canSend === false, "the direct conversation is closed");
    assert.notEqual(live.store.conversation(direct.id)!.liveTopic, topic);
    assert.deepEqual(await safety.composer(live.store.conversation(direct.id)!), { canWrite: false, left: 0, waitS: null });
    await assert.rejects(other.client.sendMessage({ conversationId: direct.id, body: "?" }), { code: "recipient_unavailable" });
    await other.client.sendMessage({ conversationId: group.id, body: "three" });
    await until(() => shown().length === 4, "its place");
    assert.deepEqual(shown(), [null, null, "mine", null]);
    assert.deepEqual(own.seq, 3);

    await safety.unblock(live, other.id, group.id);
    assert.deepEqual(shown(), ["one", "two", "mine", "three"]);
    for await (const _ of safety.blocked()) assert.fail("nobody is blocked");
    await until(() => live.store.conversation(direct.id)?.canSend, "open again");
    assert.equal(live.store.conversation(direct.id)!.liveTopic, topic);
    const field = await safety.composer(live.store.conversation(direct.id)!);
    assert(field.canWrite && field.left > 0 && field.left < 100 && field.waitS! > 0);
  }));

test("safety: messages and people are reported, once while it is open", async () => {
  const { from, sent } = await writtenTo("rude words");
  const { report } = await safety.report(sent[0]!, "harassment", "Please look");
  assert.deepEqual([report.kind, report.messageId, report.status], ["message", sent[0]!.id, "open"]);
  assert.equal((await safety.report(sent[0]!, "spam")).report.id, report.id);
  const { report: person } = await safety.report(sent[0]!.sender, "scam");
  assert.deepEqual([person.kind, person.userId], ["user", from.id]);
});
