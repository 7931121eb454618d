// Held, rejected, sensitive and hidden messages: what the store makes of them, and what the live part asks for.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import type { LiveEvent, MessageEvent } from "../../src/events.ts";
import { createStore, type Message, type SavedStore, type Store } from "../../src/index.ts";
import { settle } from "./fake.ts";
import {
  BOB, EVE, ME, OTHER_TALK, TALK, conversation, created, detailed, facts, held, message, page, refusal, world, type World,
} from "./world.ts";

beforeEach(() => void mock.method(Math, "random", () => 0.5));
afterEach(() => mock.reset());

const bubbles = (store: Store, to = TALK) => store.pending(to).map((bubble) => [bubble.clientMessageId, bubble.state]);
const bodies = (store: Store) => store.messages(TALK).map((shown) => shown.body);
const asked = (one: World, name: string) => one.calls.filter(([called]) => called === name).map(([, given]) => given);
const through = (store: Store): SavedStore => JSON.parse(JSON.stringify(store.save()));

/** Joined, with a conversation of two messages and a chain whose last position is 10. */
async function lively(): Promise<World> {
  const one = world({}, page({ conversations: [conversation(1, { lastMessage: message(1) })] }));
  await one.join();
  one.event(created(10, 0, message(2)));
  await settle();
  assert.equal(one.live.state, "live");
  return one;
}

/** A store, and a message of one's own in it that is held. */
async function holding(key = "k"): Promise<World> {
  const one = await lively();
  one.answers.sendMessage = async () => ({ message: held(key), conversation: conversation(2, { lastMessage: message(2) }) });
  await one.live.send({ conversationId: TALK, body: `held ${key}`, clientMessageId: key });
  assert.deepEqual(bubbles(one.live.store), [[key, "held"]]);
  return one;
}

const updated = (position: number, more = {}): LiveEvent => ({
  id: `e-${position}`, type: "conversation.updated", position, previousPosition: position - 10, unreadTotal: 0, conversationId: TALK,
  conversation: facts(2, { eventSeq: position, ...more }),
});

/** An event's message: the text of a sensitive one is not in it. */
const sealed = (seq: number, more: Partial<Message> = {}) => message(seq, { body: null, sensitive: true, ...more });
const opened = (seq: number, more: Partial<Message> = {}) => message(seq, { sensitive: true, ...more });

test("held: it is a bubble below the messages, not a message, and its place is the conversation", async () => {
  const one = await lively();
  const { store } = one.live;
  one.answers.sendMessage = async () => ({ message: held("k"), conversation: conversation(2, { lastMessage: message(2) }) });
  await one.live.send({ toUserId: BOB, body: "held k", clientMessageId: "k" });
  assert.deepEqual(bodies(store), ["body 1", "body 2"]);
  assert.deepEqual(store.pending(BOB), []);
  const [bubble] = store.pending(TALK);
  assert.deepEqual([bubble?.state, bubble?.body, bubble?.messageId], ["held", "held k", "held-k"]);
  assert.equal(store.conversation(TALK)?.lastMessage?.body, "body 2");
  one.live.close();
});

test("held, then released: the message takes the place of the bubble, and an older answer does not bring that back", async () => {
  const one = await holding();
  const { store } = one.live;
  one.event(created(20, 10, message(3, { id: "held-k", fromUserId: ME, clientMessageId: "k", body: "held k" })));
  assert.deepEqual(bubbles(store), []);
  assert.deepEqual(bodies(store), ["body 1", "body 2", "held k"]);
  store.merge({ conversation: detailed(2, [held("k")]) });
  assert.deepEqual(bubbles(store), []);
  assert.deepEqual(bodies(store), ["body 1", "body 2", "held k"]);
  one.live.close();
});

test("held, then rejected: conversation.updated makes the live part look, and what waits no more is rejected", async () => {
  const one = await holding("a");
  const { store } = one.live;
  store.merge({ message: held("b") });
  one.answers.getConversation = async () => ({ conversation: detailed(2, [held("b")], { eventSeq: 20 }) });
  one.event(updated(20));
  await settle();
  assert.deepEqual(asked(one, "getConversation"), [TALK]);
  assert.deepEqual(bubbles(store), [["a", "rejected"], ["b", "held"]]);
  one.live.close();
});

test("without something held nobody looks", async () => {
  const one = await lively();
  one.event(updated(20));
  one.wake();
  await settle();
  assert.equal(one.count("getConversation"), 0);
  one.live.close();
});

test("rejected while away: sync speaks of the conversation, and the live part looks", async () => {
  const one = await holding();
  one.answers.getConversation = async () => ({ conversation: detailed(2, [], { eventSeq: 20 }) });
  one.pages.push(page({ conversations: [conversation(2, { eventSeq: 20 })] }));
  one.wake();
  await settle();
  assert.deepEqual(bubbles(one.live.store), [["k", "rejected"]]);
  one.live.close();
});

test("what came to be held while the question was on its way is not taken for rejected", async () => {
  const one = await holding();
  let answer = (_: any) => {};
  one.answers.getConversation = () => new Promise((resolve) => (answer = resolve));
  one.event(updated(20));
  await settle();
  one.live.store.merge({ message: held("later") });
  answer({ conversation: detailed(2, []) });
  await settle();
  assert.deepEqual(bubbles(one.live.store), [["k", "rejected"], ["later", "held"]]);
  one.live.close();
});

test("a look that fails is made again; one that is refused says so on the bubble", async () => {
  const one = await holding();
  one.event(updated(20));
  await settle();
  assert.deepEqual(bubbles(one.live.store), [["k", "held"]]);
  assert.equal(one.errors.length, 1);
  one.answers.getConversation = async () => Promise.reject(refusal(404, "not_found"));
  await one.clock.pass(30_000);
  assert.equal(one.count("getConversation"), 2);
  assert.deepEqual(bubbles(one.live.store), [["k", "failed"]]);
  one.live.close();
});

test("a conversation that is lost while one looks stays lost", async () => {
  const one = await holding();
  let answer = (_: any) => {};
  one.answers.getConversation = () => new Promise((resolve) => (answer = resolve));
  one.event(updated(20));
  await settle();
  one.event({ id: "e", type: "conversation.lost", position: 30, previousPosition: 20, unreadTotal: 0, conversationId: TALK });
  answer({ conversation: detailed(2, [held("k")]) });
  await settle();
  assert.equal(one.live.store.conversation(TALK), undefined);
  assert.deepEqual(bubbles(one.live.store), []);
  one.live.close();
});

test("held on another device: opening the conversation shows it here too", () => {
  const store = createStore(ME);
  store.merge({ conversation: detailed(2, [held("k")], { messages: [message(1), message(2)] }) });
  assert.deepEqual(bubbles(store), [["k", "held"]]);
  assert.deepEqual(bodies(store), ["body 1", "body 2"]);
  // Put back before a moderator after it was rejected.
  store.show({ ...store.pending(TALK)[0]!, state: "rejected" });
  store.merge({ conversation: detailed(2, [held("k")]) });
  assert.deepEqual(bubbles(store), [["k", "held"]]);
});

test("withdrawn: the bubble is gone, for good", async () => {
  const one = await holding();
  const { store } = one.live;
  store.merge({ message: held("k", { state: "deleted", body: null, deletedAt: message(1).createdAt }) });
  assert.deepEqual(bubbles(store), []);
  store.merge({ conversation: detailed(2, [held("k")]) });
  assert.deepEqual(bubbles(store), []);
  assert.deepEqual(bodies(store), ["body 1", "body 2"]);
  one.live.close();
});

test("a send that the rules refuse is rejected, not failed", async () => {
  const one = await lively();
  one.answers.sendMessage = async () => Promise.reject(refusal(422, "message_rejected"));
  await assert.rejects(one.live.send({ conversationId: TALK, body: "no", clientMessageId: "k" }), { code: "message_rejected" });
  const [bubble] = one.live.store.pending(TALK);
  assert.equal(bubble?.state, "rejected");
  assert.equal((bubble?.error as Error).message, "No.");
  one.live.close();
});

test("saved and restored: held stays held and is looked after, what was being sent has failed", async () => {
  const one = await holding();
  one.live.store.show({ clientMessageId: "x", to: TALK, body: "on its way", state: "pending" });
  one.live.store.show({ clientMessageId: "y", to: TALK, body: "refused", state: "rejected" });
  const saved = through(one.live.store);
  one.live.close();
  assert.deepEqual(bubbles(createStore(ME, saved)), [["k", "held"], ["x", "failed"], ["y", "rejected"]]);
  const again = world({ store: createStore(ME, saved) });
  again.answers.getConversation = async () => ({ conversation: detailed(2, []) });
  await settle();
  assert.deepEqual(bubbles(again.live.store), [["k", "rejected"], ["x", "failed"], ["y", "rejected"]]);
  again.live.close();
});

test("sensitive: the event brings no text, the API does", async () => {
  const one = await lively();
  one.answers.listMessages = async () => ({ messages: [opened(3)] });
  one.event(created(20, 10, sealed(3)));
  assert.deepEqual(bodies(one.live.store), ["body 1", "body 2", null]);
  await settle();
  assert.deepEqual(asked(one, "listMessages"), [[TALK, { around: 3, limit: 1 }]]);
  assert.deepEqual(bodies(one.live.store), ["body 1", "body 2", "body 3"]);
  assert.equal(one.live.store.conversation(TALK)?.lastMessage?.body, "body 3");
  one.live.close();
});

test("sensitive: an event or answer without the text does not take it away, a later state does", () => {
  const store = createStore(ME);
  store.merge({ conversation: conversation(3, { lastMessage: opened(3) }) });
  store.merge({ message: sealed(3), conversation: conversation(3, { lastMessage: sealed(3) }) });
  store.apply(created(20, 10, sealed(3)));
  store.merge({ message: sealed(3, { unreadable: true }) });
  const [known] = store.messages(TALK);
  assert.deepEqual([known?.body, known?.unreadable], ["body 3", false]);
  assert.equal(store.conversation(TALK)?.lastMessage?.body, "body 3");
  assert.deepEqual(store.sealed(), []);
  // Blocked meanwhile: the same eventSeq, but it is not to be seen.
  store.merge({ message: sealed(3, { state: "hidden" }) });
  assert.deepEqual([store.messages(TALK)[0]?.body, store.sealed().length], [null, 0]);
  store.merge({ message: opened(3) });
  store.merge({ message: sealed(3, { state: "deleted", eventSeq: 4 }) });
  assert.equal(store.messages(TALK)[0]?.body, null);
});

test("sensitive: a message that moderation hides and shows again is fetched again", async () => {
  const one = await lively();
  one.answers.listMessages = async () => ({ messages: [opened(3)] });
  const changed = (position: number, more: Partial<Message>): MessageEvent => ({
    ...(created(position, position - 10, sealed(3, { eventSeq: position, ...more })) as MessageEvent), type: "message.updated",
  });
  one.event(created(20, 10, sealed(3)));
  await settle();
  one.event(changed(30, { state: "hidden" }));
  await settle();
  assert.equal(one.count("listMessages"), 1);
  assert.equal(bodies(one.live.store).at(-1), null);
  one.answers.listMessages = async () => ({ messages: [opened(3, { eventSeq: 40 })] });
  one.event(changed(40, {}));
  await settle();
  assert.equal(one.count("listMessages"), 2);
  assert.equal(bodies(one.live.store).at(-1), "body 3");
  one.live.close();
});

test("sensitive: nothing is fetched for what is not visible or cannot be opened, and nothing twice in vain", async () => {
  const one = await lively();
  one.answers.listMessages = async () => ({ messages: [sealed(6, { unreadable: true })] });
  one.event(created(20, 10, sealed(3, { state: "hidden" })));
  one.event(created(30, 20, sealed(4, { state: "deleted" })));
  one.event(created(40, 30, sealed(5, { unreadable: true })));
  await settle();
  assert.equal(one.count("listMessages"), 0);
  one.event(created(50, 40, sealed(6)));
  await settle();
  one.event(created(60, 50, message(7)));
  one.event(created(70, 60, sealed(6)));
  one.wake();
  await settle();
  assert.equal(one.count("listMessages"), 1);
  assert.equal(one.live.store.messages(TALK).find((shown) => shown.seq === 6)?.unreadable, true);
  // An answer in which it is missing is an answer, too.
  one.answers.listMessages = async () => ({ messages: [] });
  one.event(created(80, 70, sealed(8)));
  await settle();
  one.wake();
  await settle();
  assert.equal(one.count("listMessages"), 2);
  one.live.close();
});

test("sensitive: few questions at a time, one for each conversation, and each for all that is missing", async () => {
  const ids = Array.from({ length: 5 }, (_, n) => `${TALK.slice(0, -3)}${100 + n}`);
  const one = world({}, page({ conversations: ids.map((id) => conversation(0, { id })) }));
  await one.join();
  const answers = new Map<string, (given: any) => void>();
  one.answers.listMessages = (id) => new Promise((resolve) => answers.set(id, resolve));
  let position = 0;
  for (const conversationId of ids) {
    for (const seq of [1, 2, 3]) one.event(created((position += 10), position - 10, sealed(seq, { conversationId })));
  }
  await settle();
  // The first event asks for what it has brought; the other two wait for the answer.
  assert.deepEqual(asked(one, "listMessages"), ids.slice(0, 3).map((id) => [id, { around: 1, limit: 1 }]));
  const first = ids[0]!;
  answers.get(first)!({ messages: [opened(1, { conversationId: first })] });
  await settle();
  assert.equal(one.count("listMessages"), 4);
  assert.deepEqual(asked(one, "listMessages")[3], [first, { before: 4, limit: 2 }]);
  one.live.close();
});

test("sensitive: a question that fails is asked again after a while, not with every event", async () => {
  const one = await lively();
  one.event(created(20, 10, sealed(3)));
  await settle();
  for (let seq = 4; seq < 10; seq++) one.event(created(seq * 10 - 10, seq * 10 - 20, sealed(seq)));
  await settle();
  assert.equal(one.count("listMessages"), 1);
  one.answers.listMessages = async () => ({ messages: [3, 4, 5, 6, 7, 8, 9].map((seq) => opened(seq)) });
  await one.clock.pass(30_000);
  assert.equal(one.count("listMessages"), 2);
  assert.deepEqual(one.live.store.sealed(), []);
  one.live.close();
});

test("sensitive: in a conversation that is not known yet, sync comes first", async () => {
  const one = await lively();
  const there = { conversationId: OTHER_TALK, fromUserId: EVE };
  one.answers.listMessages = async () => ({ messages: [opened(1, there), opened(2, there)] });
  let end = (_: any) => {};
  one.pages.push(() => new Promise((resolve) => (end = resolve)));
  one.event(created(20, 10, sealed(1, there)));
  await settle();
  assert.equal(one.count("listMessages"), 0);
  end(page({ conversations: [conversation(2, { id: OTHER_TALK, lastMessage: opened(2, there) })] }));
  await settle();
  assert.deepEqual(asked(one, "listMessages"), [[OTHER_TALK, { around: 1, limit: 1 }]]);
  assert.deepEqual(one.live.store.messages(OTHER_TALK).map((shown) => shown.body), ["body 1", "body 2"]);
  one.live.close();
});

test("another database: what is held is asked for anew, and so are texts", async () => {
  const one = await holding();
  // One on the first page of the other database, one not.
  one.live.store.merge({ message: held("l", { conversationId: OTHER_TALK }) });
  one.answers.listMessages = async () => ({ messages: [sealed(3)] });
  one.event(created(20, 10, sealed(3)));
  await settle();
  assert.equal(one.count("listMessages"), 1);
  one.answers.listMessages = async () => ({ messages: [opened(3)] });
  one.answers.getConversation = async () => Promise.reject(refusal(404, "not_found"));
  one.pages.push(refusal(400, "cursor_invalid"), page({ conversations: [conversation(3)], messages: [sealed(3)] }));
  one.wake();
  await settle();
  assert.deepEqual(bodies(one.live.store), ["body 3"]);
  assert.deepEqual([bubbles(one.live.store), bubbles(one.live.store, OTHER_TALK)], [[["k", "failed"]], [["l", "failed"]]]);
  one.live.close();
});

test("sensitive: an answer that comes after the conversation was lost brings nothing back", async () => {
  const one = await lively();
  let answer = (_: any) => {};
  one.answers.listMessages = () => new Promise((resolve) => (answer = resolve));
  one.event(created(20, 10, sealed(3)));
  await settle();
  one.event({ id: "e", type: "conversation.lost", position: 30, previousPosition: 20, unreadTotal: 0, conversationId: TALK });
  answer({ messages: [opened(3)] });
  await settle();
  assert.deepEqual(one.live.store.save().messages, []);
  one.live.close();
});

test("sensitive: texts are not saved, and come back when the store is used again", async () => {
  const one = await lively();
  const { store } = one.live;
  const mine = held("k", { sensitive: true, body: "held secret" });
  store.merge({ conversation: detailed(3, [mine], { lastMessage: opened(3, { body: "a secret" }) }) });
  store.show({ clientMessageId: "x", to: TALK, body: "an unsent secret", sensitive: true, state: "failed" });
  assert.equal(store.pending(TALK)[0]?.body, "held secret");
  const saved = through(store);
  one.live.close();
  assert(!JSON.stringify(saved).includes("secret"));
  const again = world({ store: createStore(ME, saved) });
  again.answers.listMessages = async () => ({ messages: [opened(3, { body: "a secret" })] });
  again.answers.getConversation = async () => ({ conversation: detailed(3, [mine]) });
  await settle();
  assert.deepEqual(bodies(again.live.store), ["body 1", "body 2", "a secret"]);
  assert.deepEqual(again.live.store.pending(TALK).map((bubble) => bubble.body), ["held secret"]);
  again.live.close();
});

test("masked, and unmasked later: the true text comes as an update", async () => {
  const one = await lively();
  one.event(created(20, 10, message(3, { body: "call •••", masked: true })));
  const event = created(30, 20, message(3, { body: "call 123", eventSeq: 30 })) as MessageEvent;
  one.event({ ...event, type: "message.updated" });
  const last = one.live.store.messages(TALK).at(-1);
  assert.deepEqual([last?.body, last?.masked, last?.editedAt], ["call 123", false, null]);
  one.live.close();
});

test("after a block: groups keep their newest message only, direct conversations everything", () => {
  const store = createStore(ME);
  const inGroup = (seq: number, more: Partial<Message> = {}) => message(seq, { conversationId: OTHER_TALK, fromUserId: EVE, toUserId: null, ...more });
  const row = conversation(3, { id: OTHER_TALK, kind: "group", title: "Crew", lastMessage: inGroup(3) });
  store.merge({ conversation: row, messages: [inGroup(1), inGroup(2)] });
  store.merge({ conversation: conversation(2, { lastMessage: message(2) }), messages: [message(1)] });
  store.unloadGroups();
  assert.deepEqual(store.messages(OTHER_TALK).map((shown) => shown.seq), [3]);
  assert.equal(store.hasOlder(OTHER_TALK), true);
  store.merge({ messages: [inGroup(1)] });
  assert.deepEqual(store.messages(OTHER_TALK).map((shown) => shown.seq), [3]);
  assert.deepEqual(bodies(store), ["body 1", "body 2"]);
  // The same eventSeq, read by somebody who blocks now.
  const hidden = [1, 2, 3].map((seq) => inGroup(seq, { state: "hidden", body: null }));
  store.merge({ conversation: { ...row, lastMessage: hidden[2]! }, messages: hidden });
  assert.deepEqual(store.messages(OTHER_TALK).map((shown) => [shown.seq, shown.body]), [[1, null], [2, null], [3, null]]);
  assert.equal(store.conversation(OTHER_TALK)?.lastMessage?.state, "hidden");
  // An event of before the block, late; and an answer of after its end.
  store.apply(created(20, 10, inGroup(3), { id: OTHER_TALK, kind: "group", title: "Crew" }));
  assert.equal(store.messages(OTHER_TALK).at(-1)?.body, null);
  store.merge({ messages: [inGroup(3)] });
  assert.equal(store.messages(OTHER_TALK).at(-1)?.body, "body 3");
});
