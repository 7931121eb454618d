// The live part with a Realtime and a service that do as they are told, and time that is turned by hand.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, mock, test } from "node:test";
import { isLiveEvent, type ConversationEvent, type LiveEvent, type MessageEvent } from "../../src/events.ts";
import { createStore, MessagingError } from "../../src/index.ts";
import { settle } from "./fake.ts";
import {
  BOB, EVE, ME, OTHER_TALK, TALK, conversation, created, facts, message, page, profile, refusal, unreachable, world, type World,
} from "./world.ts";

beforeEach(() => void mock.method(Math, "random", () => 0.5));
afterEach(() => mock.reset());
const bodies = (one: World) => one.live.store.messages(TALK).map((shown) => shown.body);

/** Joined, one conversation, and a chain whose last position is 10. */
async function lively(...more: World["pages"]): Promise<World> {
  const one = world({}, page({ conversations: [conversation(1, { lastMessage: message(1) })] }), ...more);
  await one.join();
  one.event(created(10, 0, message(2)));
  await settle();
  assert.equal(one.live.state, "live");
  return one;
}

function closesClean(one: World) {
  one.live.close();
  assert.equal(one.clock.timers.size, 0);
  assert.deepEqual(one.supabase.open, []);
}

test("the token is set before the first join, the channel is private, and sync follows SUBSCRIBED", async () => {
  const one = world();
  await settle();
  assert.deepEqual(one.supabase.log, ["getSession", "setAuth", "join user"]);
  const channel = one.supabase.of("user:");
  assert.equal(channel.topic, `user:${ME}`);
  assert.equal(channel.config.private, true);
  assert.equal(one.count("sync"), 1);
  assert.equal(one.live.state, "connecting");
  channel.say("SUBSCRIBED");
  assert.equal(one.live.state, "connecting");
  await settle();
  assert.equal(one.count("sync"), 2);
  assert.deepEqual(one.states, ["live"]);
  closesClean(one);
});

test("live is only said when the sync after SUBSCRIBED has ended", async () => {
  let end = (_: any) => {};
  const one = world({}, page(), () => new Promise((resolve) => (end = resolve)));
  await one.join();
  assert.deepEqual(one.states, []);
  end(page({ cursor: "c2" }));
  await settle();
  assert.deepEqual(one.states, ["live"]);
  closesClean(one);
});

test("sync pages until nothing is left, and goes on from the cursor", async () => {
  const one = world({}, page({ cursor: "a", hasMore: true }), page({ cursor: "b", hasMore: true }), page({ cursor: "c" }));
  await settle();
  assert.deepEqual(one.calls.filter(([name]) => name === "sync").map(([, asked]) => asked.cursor), [null, "a", "b"]);
  assert.equal(one.live.store.cursor, "c");
  closesClean(one);
});

test("events in a chain need no sync", async () => {
  const one = await lively();
  const before = one.count("sync");
  one.event(created(20, 10, message(3)));
  one.event(created(30, 20, message(4)));
  await settle();
  assert.equal(one.count("sync"), before);
  assert.deepEqual(bodies(one), ["body 1", "body 2", "body 3", "body 4"]);
  assert.equal(one.seen.length, 3);
  closesClean(one);
});

test("a lost event breaks the chain at the next one, and sync brings what was lost", async () => {
  const one = await lively();
  const before = one.count("sync");
  one.pages.push(page({ conversations: [conversation(4, { lastMessage: message(4) })], messages: [message(3), message(4)] }));
  one.event(created(30, 20, message(4)));
  await settle();
  assert.equal(one.count("sync"), before + 1);
  assert.deepEqual(bodies(one), ["body 1", "body 2", "body 3", "body 4"]);
  one.event(created(40, 30, message(5)));
  await settle();
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("sync says where the chain goes on: what is late is nothing, what follows needs no sync", async () => {
  const one = world({}, page({ conversations: [conversation(2)], messages: [message(2)], position: 20 }));
  await one.join();
  const before = one.count("sync");
  one.event({ id: "late", type: "conversation.lost", position: 15, previousPosition: 10, unreadTotal: 0, conversationId: message(2).conversationId });
  one.event(created(30, 20, message(3)));
  await settle();
  assert.equal(one.count("sync"), before);
  assert.equal(one.live.store.conversations().length, 1);
  closesClean(one);
});

test("gone and back between two calls: what is below firstSeq is forgotten", async () => {
  const one = await lively();
  one.pages.push(page({ conversations: [conversation(4, { firstSeq: 4, lastMessage: message(4) })], messages: [message(4)] }));
  one.event(created(30, 20, message(4)));
  await settle();
  assert.deepEqual(bodies(one), ["body 4"]);
  closesClean(one);
});

test("the first event ever has nothing to compare with: sync", async () => {
  const one = world({}, page({ conversations: [conversation(1)] }));
  await one.join();
  const before = one.count("sync");
  one.event(created(20, 10, message(2)));
  await settle();
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("reordered: the later one counts, the earlier one comes by sync and not by event", async () => {
  const one = await lively();
  const before = one.count("sync");
  one.pages.push(page({ messages: [message(3), message(4)] }));
  one.event(created(30, 20, message(4)));
  one.event(created(20, 10, message(3, { body: "older than what sync brings" })));
  await settle();
  assert.equal(one.count("sync"), before + 1);
  assert.deepEqual(bodies(one), ["body 1", "body 2", "body 3", "body 4"]);
  closesClean(one);
});

test("a duplicate is nothing", async () => {
  const one = await lively();
  const before = one.count("sync");
  one.event(created(10, 0, message(2)));
  await settle();
  assert.equal(one.count("sync"), before);
  assert.equal(one.seen.length, 1);
  closesClean(one);
});

test("what is no event of ours is nothing; one of a newer service is a reason to look", async () => {
  const one = await lively();
  const before = one.count("sync");
  for (const odd of [null, 1, "x", {}, { type: "message.created" }, { type: 1, position: 20, previousPosition: 10 }]) {
    one.supabase.of("user:").hear("broadcast", "message.created", { event: "message.created", payload: odd });
  }
  await settle();
  assert.equal(one.count("sync"), before);
  one.event({ id: "e", type: "message.pinned", position: 20, previousPosition: 10, unreadTotal: 0 } as never);
  await settle();
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("a break during a sync is looked at again, and not more often than twice a second", async () => {
  const one = await lively();
  const before = one.count("sync");
  for (let position = 100; position < 200; position += 10) {
    one.event(created(position, position - 5, message(position)));
    await settle();
  }
  assert(one.count("sync") <= before + 2);
  await one.clock.pass(500);
  assert.equal(one.count("sync"), before + 2);
  await one.clock.pass(5_000);
  assert.equal(one.count("sync"), before + 2);
  closesClean(one);
});

test("somebody unknown writes: the event has no people in it, sync has", async () => {
  const one = await lively();
  const stranger = message(1, { conversationId: OTHER_TALK, fromUserId: EVE });
  one.pages.push(page({ conversations: [conversation(1, { id: OTHER_TALK, lastMessage: stranger })], messages: [stranger] }));
  one.event(created(20, 10, stranger));
  await settle();
  assert.deepEqual(one.live.store.conversations().map((row) => row.id).sort(), [TALK, OTHER_TALK]);
  assert.deepEqual(one.live.store.messages(OTHER_TALK).map((shown) => shown.fromUserId), [EVE]);
  closesClean(one);
});

test("cursor_invalid starts over: nothing stays but what is on its way", async () => {
  const one = await lively();
  one.live.store.show({ clientMessageId: "mine", to: TALK, body: "not sent yet", state: "pending" });
  one.pages.push(refusal(400, "cursor_invalid"), page({ cursor: "new", conversations: [conversation(1, { lastMessage: message(1) })] }));
  one.wake();
  await settle();
  assert.equal(one.resets, 1);
  const asked = one.calls.filter(([name]) => name === "sync").slice(-2).map(([, given]) => given.cursor);
  assert.notEqual(asked[0], null);
  assert.equal(asked[1], null);
  assert.equal(one.live.store.cursor, "new");
  assert.deepEqual(bodies(one), ["body 1"]);
  assert.equal(one.live.store.pending(TALK).length, 1);
  // The chain of the other database says nothing about this one.
  const before = one.count("sync");
  one.event(created(5, 4, message(2)));
  await settle();
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("cursor_invalid without a cursor, or another refusal, is an error and not a loop", async () => {
  const one = world({}, refusal(400, "cursor_invalid"), refusal(401, "unauthenticated"));
  await settle();
  assert.equal(one.count("sync"), 1);
  assert.equal((one.errors[0] as MessagingError).code, "cursor_invalid");
  await one.clock.pass(45_000);
  assert.equal(one.count("sync"), 2);
  await one.clock.pass(45_000);
  assert.equal(one.count("sync"), 3);
  closesClean(one);
});

test("a cursor that does not move is an error and not a loop", async () => {
  const one = world({}, page({ cursor: "a", hasMore: true }), page({ cursor: "a", hasMore: true }));
  await settle();
  assert.equal(one.count("sync"), 2);
  assert.match(String(one.errors[0]), /does not move/);
  closesClean(one);
});

test("states: live, reconnecting while supabase-js rejoins by itself, live again after sync", async () => {
  const one = await lively();
  const channel = one.supabase.of("user:");
  const before = one.count("sync");
  channel.say("CHANNEL_ERROR", "socket closed: 1006");
  channel.say("CHANNEL_ERROR", "socket closed: 1006");
  channel.say("TIMED_OUT");
  await settle();
  assert.deepEqual(one.states, ["live", "reconnecting"]);
  assert.equal(one.supabase.made.length, 1);
  channel.say("SUBSCRIBED");
  await settle();
  assert.equal(one.count("sync"), before + 1);
  assert.deepEqual(one.states, ["live", "reconnecting", "live"]);
  closesClean(one);
});

test("CLOSED that nobody asked for: a new channel with a new token, with growing pauses", async () => {
  const one = await lively();
  one.supabase.close(one.supabase.of("user:"));
  assert.deepEqual(one.states, ["live", "lost"]);
  assert.equal(one.supabase.made.length, 1);
  one.supabase.log.length = 0;
  await one.clock.pass(1_000);
  assert.deepEqual(one.supabase.log, ["refreshSession", "setAuth", "join user"]);
  await one.join();
  assert.equal(one.live.state, "live");
  for (const ms of [2_000, 5_000, 10_000, 30_000, 30_000]) {
    one.supabase.close(one.supabase.of("user:"));
    await one.clock.pass(ms - 1);
    assert.equal(one.supabase.open.length, 0);
    await one.clock.pass(1);
    await one.join();
  }
  // It has lived for a minute: the next time begins at the beginning.
  await one.clock.pass(60_000);
  one.supabase.close(one.supabase.of("user:"));
  await one.clock.pass(1_000);
  assert.equal(one.supabase.open.length, 1);
  closesClean(one);
});

test("refused again and again: one new token at once, then the channel is left alone for a minute", async () => {
  const one = await lively();
  const channel = one.supabase.of("user:");
  one.supabase.log.length = 0;
  for (let n = 0; n < 4; n++) channel.say("CHANNEL_ERROR", `Unauthorized: You do not have permissions to read from this Channel topic`);
  await settle();
  assert.deepEqual(one.supabase.log, ["refreshSession", "setAuth"]);
  assert.equal(one.live.state, "reconnecting");
  channel.say("CHANNEL_ERROR", "Unauthorized");
  assert.equal(one.live.state, "lost");
  assert.deepEqual(one.supabase.open, []);
  await one.clock.pass(60_000);
  await one.join();
  assert.equal(one.live.state, "live");
  closesClean(one);
});

test("an auth that cannot be reached, or a client without one, does not stop the join", async () => {
  const one = world();
  one.supabase.auth.getSession = () => { throw new Error("accessToken is set"); };
  one.supabase.realtime.setAuth = async () => { throw new Error("offline"); };
  await one.join();
  assert.equal(one.live.state, "live");
  closesClean(one);
});

test("watchdog: while live after a minute and then every four, while not live every 45 s", async () => {
  const one = world();
  const during = async (ms: number) => {
    const before = one.count("sync");
    await one.clock.pass(ms);
    return one.count("sync") - before;
  };
  assert.equal(await during(45_000 * 4), 4);
  await one.join();
  assert.equal(await during(60_000), 1);
  assert.equal(await during(240_000 * 3), 3);
  one.supabase.of("user:").say("CHANNEL_ERROR");
  assert.equal(await during(45_000 * 3), 3);
  one.pages.push(unreachable());
  one.supabase.of("user:").say("SUBSCRIBED");
  await settle();
  assert.equal(one.live.state, "reconnecting");
  assert.equal(await during(45_000), 1);
  assert.equal(one.live.state, "live");
  closesClean(one);
});

test("when replication really streams, sync looks once more", async () => {
  const one = world();
  const channel = await one.join();
  const before = one.count("sync");
  assert.equal(channel.config.broadcast.replication_ready, true);
  channel.hear("system", "", { extension: "system", status: "ok", message: "Replication connection established" });
  channel.hear("system", "", { extension: "postgres_changes", status: "ok" });
  await settle();
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("waking up: sync at once, and a closed channel is not waited for", async () => {
  const one = await lively();
  one.supabase.close(one.supabase.of("user:"));
  const before = one.count("sync");
  one.wake();
  await settle();
  assert.equal(one.supabase.open.length, 1);
  assert.equal(one.count("sync"), before + 1);
  await one.join();
  one.supabase.of("user:").say("CHANNEL_ERROR");
  one.supabase.log.length = 0;
  one.wake();
  await settle();
  assert.deepEqual(one.supabase.log, ["getSession", "setAuth"]);
  closesClean(one);
});

test("a page listens for being shown and being online, and stops when closed", async () => {
  const shown = Object.assign(new EventTarget(), { visibilityState: "hidden" });
  const whole = new EventTarget();
  Object.assign(globalThis, { document: shown, window: whole });
  try {
    const one = world({ onWake: undefined });
    await one.join();
    const before = one.count("sync");
    shown.dispatchEvent(new Event("visibilitychange"));
    await settle();
    assert.equal(one.count("sync"), before);
    shown.visibilityState = "visible";
    shown.dispatchEvent(new Event("visibilitychange"));
    await settle();
    whole.dispatchEvent(new Event("online"));
    await settle();
    assert.equal(one.count("sync"), before + 2);
    closesClean(one);
    whole.dispatchEvent(new Event("online"));
    await settle();
    assert.equal(one.count("sync"), before + 2);
  } finally {
    Reflect.deleteProperty(globalThis, "document");
    Reflect.deleteProperty(globalThis, "window");
  }
});

test("delivered: at once, then one call in a second for all conversations, and never twice for the same", async () => {
  const one = await lively();
  const asked = () => one.calls.filter(([name]) => name === "markDelivered").map(([, given]) => given.receipts);
  assert.deepEqual(asked(), []);
  one.event(created(20, 10, message(3), { unreadCount: 1 }));
  await one.clock.pass(0);
  assert.deepEqual(asked(), [[{ conversationId: TALK, seq: 3 }]]);
  one.pages.push(page({ conversations: [conversation(1, { id: OTHER_TALK, unreadCount: 1 })] }));
  one.event(created(30, 20, message(4), { unreadCount: 2 }));
  one.event(created(40, 30, message(5), { unreadCount: 3 }));
  one.event(created(50, 40, message(1, { conversationId: OTHER_TALK }), { unreadCount: 1 }));
  await one.clock.pass(999);
  assert.equal(asked().length, 1);
  await one.clock.pass(1);
  assert.deepEqual(asked()[1], [{ conversationId: TALK, seq: 5 }, { conversationId: OTHER_TALK, seq: 1 }]);
  // My own message, and one that was read on another device meanwhile.
  one.event(created(60, 50, message(6, { fromUserId: ME })));
  one.event(created(70, 60, message(7)));
  await one.clock.pass(10_000);
  assert.equal(asked().length, 2);
  closesClean(one);
});

test("delivered: what is unread in the first inbox has arrived here too; what was delivered before is not said again", async () => {
  const one = world({}, page({
    conversations: [conversation(5, { unreadCount: 2 }), conversation(3, { id: OTHER_TALK, unreadCount: 1 })],
    receipts: [{ conversationId: OTHER_TALK, userId: ME, lastReadSeq: 0, lastDeliveredSeq: 3 }],
  }));
  await one.clock.pass(0);
  assert.deepEqual(one.calls.find(([name]) => name === "markDelivered")?.[1], { receipts: [{ conversationId: TALK, seq: 5 }] });
  closesClean(one);
});

test("delivered: a failure is tried again later, with what has come since; a refusal is not", async () => {
  const one = await lively();
  one.answers.markDelivered = () => Promise.reject(unreachable());
  one.event(created(20, 10, message(3), { unreadCount: 1 }));
  await one.clock.pass(0);
  one.event(created(30, 20, message(4), { unreadCount: 2 }));
  await one.clock.pass(29_999);
  assert.equal(one.count("markDelivered"), 1);
  one.answers.markDelivered = async () => Promise.reject(refusal(403, "account_unavailable"));
  await one.clock.pass(1);
  assert.deepEqual(one.calls.at(-1)?.[1], { receipts: [{ conversationId: TALK, seq: 4 }] });
  await one.clock.pass(30_000);
  assert.equal(one.count("markDelivered"), 2);
  assert.equal(one.errors.length, 2);
  closesClean(one);
});

test("delivered: more than a hundred conversations take more than one call", async () => {
  const ids = Array.from({ length: 130 }, (_, n) => `${TALK.slice(0, -3)}${100 + n}`);
  const one = world({}, page({ conversations: ids.map((id) => conversation(1, { id, unreadCount: 1 })) }));
  await one.clock.pass(2_000);
  const sizes = one.calls.filter(([name]) => name === "markDelivered").map(([, given]) => given.receipts.length);
  assert.deepEqual(sizes, [100, 30]);
  closesClean(one);
});

test("the badge: events bring it, sync asks for it when something has changed", async () => {
  const one = world({}, page({ conversations: [conversation(3, { unreadCount: 3 })] }));
  one.answers.unread = 7;
  await settle();
  assert.equal(one.live.store.unreadTotal, 7);
  await one.join();
  assert.equal(one.count("unreadCounts"), 1);
  one.event(created(20, 0, message(4), { unreadCount: 4 }));
  await settle();
  assert.equal(one.live.store.unreadTotal, 4);
  assert.equal(one.count("unreadCounts"), 1);
  closesClean(one);
});

test("lost: the conversation is gone and its live topic is left; a sync of before does not bring it back", async () => {
  const one = await lively();
  one.live.openConversation(TALK);
  await settle();
  one.supabase.of("conversation:").say("SUBSCRIBED");
  let end = (_: any) => {};
  one.pages.push(() => new Promise((resolve) => (end = resolve)));
  one.wake();
  await settle();
  one.event({ id: "e", type: "conversation.lost", position: 20, previousPosition: 10, unreadTotal: 0, conversationId: TALK });
  assert.deepEqual(one.supabase.open.map((channel) => channel.topic), [`user:${ME}`]);
  const before = one.count("sync");
  end(page({ conversations: [conversation(2)], messages: [message(2)] }));
  await settle();
  assert.equal(one.live.store.conversation(TALK), undefined);
  assert.deepEqual(bodies(one), []);
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("an open conversation follows its live topic", async () => {
  const one = await lively();
  const first = one.live.openConversation(TALK);
  const second = one.live.openConversation(conversation(2, { eventSeq: 2 }));
  await settle();
  const before = one.supabase.of("conversation:");
  assert.equal(before.topic, `conversation:${TALK}:live:1`);
  assert.deepEqual(before.config, { private: true, presence: { key: ME, enabled: true } });
  assert.equal(before.tracked.length, 0);
  before.say("SUBSCRIBED");
  before.say("CHANNEL_ERROR");
  before.say("SUBSCRIBED");
  assert.equal(before.tracked.length, 2);
  one.event({
    id: "e", type: "conversation.updated", position: 20, previousPosition: 10, unreadTotal: 0, conversationId: TALK,
    conversation: facts(2, { eventSeq: 9, liveTopic: `conversation:${TALK}:live:2` }),
  });
  await settle();
  assert.deepEqual(one.supabase.open.map((channel) => channel.topic), [`user:${ME}`, `conversation:${TALK}:live:2`]);
  one.supabase.of("conversation:").say("SUBSCRIBED");
  assert.equal(one.supabase.of("conversation:").tracked.length, 1);
  first.close();
  first.close();
  assert.equal(one.supabase.open.length, 2);
  second.close();
  assert.equal(one.supabase.open.length, 1);
  second.typing();
  await settle();
  assert.equal(one.count("setTyping"), 0);
  assert.throws(() => one.live.openConversation(OTHER_TALK), /not in the store/);
  closesClean(one);
});

test("a live topic that is refused three times is left alone, and sync looks which one it is now", async () => {
  const one = await lively();
  one.live.openConversation(TALK);
  await settle();
  const channel = one.supabase.of("conversation:");
  one.pages.push(page({ conversations: [conversation(3, { liveTopic: `conversation:${TALK}:live:5` })] }));
  for (let n = 0; n < 3; n++) channel.say("CHANNEL_ERROR", "Unauthorized: You do not have permissions");
  await settle();
  assert.equal(one.supabase.of("conversation:").topic, `conversation:${TALK}:live:5`);
  closesClean(one);
});

test("typing: one broadcast in 2.5 s, by the service while the topic is not joined", async () => {
  const one = await lively();
  const open = one.live.openConversation(TALK);
  await settle();
  open.typing();
  open.typing();
  await settle();
  assert.deepEqual(one.calls.filter(([name]) => name === "setTyping"), [["setTyping", TALK]]);
  const channel = one.supabase.of("conversation:");
  channel.say("SUBSCRIBED");
  await one.clock.pass(2_499);
  open.typing();
  assert.deepEqual(channel.sent, []);
  await one.clock.pass(1);
  for (let n = 0; n < 50; n++) {
    open.typing();
    await one.clock.pass(100);
  }
  assert.deepEqual(channel.sent, Array(2).fill({ type: "broadcast", event: "typing", payload: { conversationId: TALK, userId: ME } }));
  assert.equal(one.count("setTyping"), 1);
  closesClean(one);
});

test("typing of others: six seconds since the last word of it, and until their message arrives", async () => {
  const one = await lively();
  const open = one.live.openConversation(TALK);
  await settle();
  const channel = one.supabase.of("conversation:");
  channel.say("SUBSCRIBED");
  const typing = (userId: unknown) => channel.hear("broadcast", "typing", { type: "broadcast", event: "typing", payload: { conversationId: TALK, userId } });
  typing(BOB);
  await one.clock.pass(4_000);
  typing(BOB);
  await one.clock.pass(5_999);
  assert.deepEqual(open.typingUsers(), [BOB]);
  await one.clock.pass(1);
  assert.deepEqual(open.typingUsers(), []);
  typing(BOB);
  one.event(created(20, 10, message(3)));
  assert.deepEqual(open.typingUsers(), []);
  assert.deepEqual(one.typing, [[TALK, [BOB]], [TALK, []], [TALK, [BOB]], [TALK, []]]);
  // Oneself on another device, somebody who is not a member, and what is no name.
  for (const odd of [ME, EVE, 7, undefined]) typing(odd);
  channel.hear("broadcast", "typing", { event: "typing" });
  assert.deepEqual(open.typingUsers(), []);
  typing(BOB);
  open.close();
  assert.deepEqual(one.typing.at(-1), [TALK, []]);
  closesClean(one);
});

test("presence: by key, and empty while the topic is not joined", async () => {
  const one = await lively();
  const open = one.live.openConversation(TALK);
  await settle();
  const channel = one.supabase.of("conversation:");
  channel.say("SUBSCRIBED");
  channel.presence = { [ME]: [{}], [BOB]: [{}, {}] };
  channel.hear("presence", "sync", undefined);
  assert.deepEqual(open.presentUsers(), [ME, BOB]);
  channel.say("CHANNEL_ERROR", "socket closed");
  assert.deepEqual(open.presentUsers(), []);
  assert.deepEqual(one.presence, [[TALK, [ME, BOB]], [TALK, []]]);
  closesClean(one);
});

test("send: shown at once, replaced by the answer; a failure stays until the same key arrives", async () => {
  const one = await lively();
  const { store } = one.live;
  let answer = (_: any) => {};
  one.answers.sendMessage = () => new Promise((resolve) => (answer = resolve));
  const sending = one.live.send({ conversationId: TALK, body: "hello" });
  const [bubble] = store.pending(TALK);
  assert.deepEqual([bubble?.body, bubble?.state], ["hello", "pending"]);
  const mine = message(3, { fromUserId: ME, body: "hello", clientMessageId: bubble!.clientMessageId });
  answer({ message: mine, conversation: conversation(3, { lastMessage: mine }) });
  await sending;
  assert.deepEqual(store.pending(TALK), []);
  assert.equal(bodies(one).at(-1), "hello");

  one.answers.sendMessage = () => Promise.reject(unreachable());
  await assert.rejects(one.live.send({ conversationId: TALK, body: "lost?" }), MessagingError);
  const [failed] = store.pending(TALK);
  assert.equal(failed?.state, "failed");
  one.event(created(20, 10, message(4, { fromUserId: ME, body: "lost?", clientMessageId: failed!.clientMessageId })));
  assert.deepEqual(store.pending(TALK), []);
  closesClean(one);
});

test("send: the event overtakes an answer that never comes", async () => {
  const one = await lively();
  let fail = (_: any) => {};
  one.answers.sendMessage = () => new Promise((_, reject) => (fail = reject));
  const sending = one.live.send({ conversationId: TALK, body: "hi", clientMessageId: "key" });
  one.event(created(20, 10, message(3, { fromUserId: ME, clientMessageId: "key" })));
  fail(unreachable());
  await assert.rejects(sending);
  assert.deepEqual(one.live.store.pending(TALK), []);
  closesClean(one);
});

test("closed: whatever still comes changes nothing and calls nobody", async () => {
  let end = (_: any) => {};
  let changes = 0;
  const one = world({ onChange: () => changes++ }, () => new Promise((resolve) => (end = resolve)));
  await settle();
  const channel = one.supabase.of("user:");
  one.live.close();
  end(page({ conversations: [conversation(1)] }));
  channel.say("SUBSCRIBED");
  channel.hear("broadcast", "message.created", { payload: created(10, 0, message(2)) });
  await one.clock.pass(600_000);
  assert.deepEqual([one.states, one.seen, changes, one.count("sync")], [[], [], 0, 1]);
  assert.deepEqual(one.live.store.conversations(), []);
  assert.throws(() => one.live.openConversation(conversation(1)), /closed/);
  closesClean(one);
});

test("closed before the token was there: no channel is made", async () => {
  const one = world();
  one.live.close();
  await settle();
  assert.deepEqual(one.supabase.made, []);
  closesClean(one);
});

test("a second page of the same person gets on with what the first one has saved", async () => {
  const one = await lively();
  const saved = JSON.parse(JSON.stringify(one.live.store.save()));
  closesClean(one);
  const again = world({ store: createStore(ME, saved) });
  await settle();
  assert.equal(again.calls[0]?.[1].cursor, saved.cursor);
  assert.deepEqual(bodies(again), ["body 1", "body 2"]);
  closesClean(again);
  assert.deepEqual(createStore(BOB, saved).conversations(), []);
});

test("profile.updated and people of groups", async () => {
  const one = await lively();
  const card = { ...profile(BOB), displayName: "Robert" };
  one.event({ id: "e", type: "profile.updated", position: 20, previousPosition: 10, unreadTotal: 0, profile: card });
  assert.equal(one.live.store.messages(TALK)[0]?.sender.displayName, "Robert");
  assert.equal(one.live.store.conversation(TALK)?.members[1]?.displayName, "Robert");
  const group = { kind: "group", title: "Crew", id: OTHER_TALK } as const;
  one.live.store.merge({ conversation: conversation(1, group) });
  const before = one.count("sync");
  const updated = (position: number, more: object) =>
    one.event({
      id: "e", type: "conversation.updated", position, previousPosition: position - 10, unreadTotal: 0, conversationId: OTHER_TALK,
      conversation: facts(1, { ...group, eventSeq: position, ...more }),
    });
  updated(30, { pinnedAt: "2026-03-01T09:30:00.000000Z" });
  await settle();
  assert.equal(one.count("sync"), before);
  updated(40, { pinnedAt: "2026-03-01T09:30:00.000000Z" });
  await settle();
  assert.equal(one.count("sync"), before + 1);
  closesClean(one);
});

test("what the database sends: one of each, and what a store makes of it", async () => {
  const events = JSON.parse(await readFile(new URL("../events.json", import.meta.url), "utf8")) as LiveEvent[];
  assert(events.every(isLiveEvent));
  const [first] = events as [MessageEvent];
  const ann = first.message.fromUserId;
  const bob = first.message.toUserId!;
  const talk = first.conversationId;
  const store = createStore(bob);
  const known = conversation(0, { ...first.conversation, members: [profile(ann), profile(bob)], eventSeq: 0, lastSeq: 0 });
  store.merge({ conversation: known });
  const said = (n: number) => [store.apply(events[n]!), store.messages(talk)[0]?.body, store.unreadTotal];
  assert.deepEqual(said(0), [true, "Tuesday?", 1]);
  assert.deepEqual(said(1), [true, "Wednesday?", 1]);
  assert.deepEqual(said(2), [true, "Wednesday?", 1]);
  assert.equal(store.receipts(talk)[0]?.lastDeliveredSeq, 1);
  assert.deepEqual(said(3), [true, "Wednesday?", 0]);
  assert.deepEqual(said(4), [true, null, 0]);
  assert.equal(store.conversation(talk)?.lastMessage?.state, "deleted");
  // A group nobody has told us of has no people yet: sync.
  const crew = (events[5] as ConversationEvent).conversation;
  assert.equal(store.apply(events[5]!), false);
  store.merge({ conversation: conversation(0, crew) });
  assert.equal(store.apply(events[6]!), true);
  assert.equal(store.conversation(crew.id)?.title, "Movers");
  assert.equal(store.apply(events[7]!), true);
  assert.equal(store.conversation(crew.id), undefined);
  assert.equal(store.apply(events[8]!), true);
  assert.equal(store.messages(talk)[0]?.sender.displayName, "Anna");
});

test("out of a group and back: what is below firstSeq is not ours any more, and the window begins there", () => {
  const store = createStore(ME);
  store.merge({ conversation: conversation(3, { lastMessage: message(3) }), messages: [1, 2, 3].map((seq) => message(seq)) });
  assert.equal(store.messages(TALK).length, 3);
  store.merge({ conversation: conversation(9, { firstSeq: 9, lastMessage: message(9) }), messages: [message(9)] });
  assert.deepEqual(store.messages(TALK).map((shown) => shown.seq), [9]);
  assert.equal(store.hasOlder(TALK), false);
});

test("the window: an old edit does not open it, a page of history that joins does", () => {
  const store = createStore(ME);
  store.merge({ conversation: conversation(10, { lastMessage: message(10) }), messages: [message(4, { eventSeq: 11 })] });
  assert.deepEqual(store.messages(TALK).map((shown) => shown.seq), [10]);
  assert.equal(store.hasOlder(TALK), true);
  const seen = store.messages(TALK);
  assert.equal(store.messages(TALK), seen);
  store.merge({ messages: [5, 6, 7, 8, 9].map((seq) => message(seq)) });
  assert.deepEqual(store.messages(TALK).map((shown) => shown.seq), [4, 5, 6, 7, 8, 9, 10]);
  store.merge({ messages: [message(4, { body: "older" })] });
  assert.equal(store.messages(TALK)[0]?.eventSeq, 11);
});
