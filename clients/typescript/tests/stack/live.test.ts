// Two people on unmodified supabase-js against the real stack: Realtime, the service and Postgres.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { createClient as createSupabase, type SupabaseClient } from "@supabase/supabase-js";
import type { Conversation, LiveEvent, LiveOptions, Message, Messaging } from "../../src/index.ts";
import { connectMessaging } from "../../src/live.ts";
import * as module from "../../lib/realtime.ts";
import { configure } from "../../lib/api/messages.ts";
import * as recipe from "../../recipes/live.ts";
import { API_URL, PUBLISHABLE_KEY, SUPABASE_URL, person, type Person } from "./people.ts";

const open: (() => void)[] = [];
afterEach(() => open.splice(0).reverse().forEach((close) => close()));

interface Device {
  supabase: SupabaseClient;
  live: Messaging;
  events: LiveEvent[];
  states: string[];
}

async function signedIn(who: Person, transport: typeof WebSocket = WebSocket): Promise<SupabaseClient> {
  const auth = { persistSession: false, autoRefreshToken: false };
  const supabase = createSupabase(SUPABASE_URL, PUBLISHABLE_KEY, { auth, realtime: { transport } });
  const { error } = await supabase.auth.signInWithPassword(who.account);
  assert.equal(error, null);
  open.push(() => void supabase.realtime.disconnect());
  return supabase;
}

/** A device of this person, live. */
async function device(who: Person, more: Partial<LiveOptions> = {}, transport?: typeof WebSocket): Promise<Device> {
  const supabase = await signedIn(who, transport);
  const events: LiveEvent[] = [];
  const states: string[] = [];
  const live = connectMessaging({
    supabase, api: who.client, userId: who.id, onEvent: (event) => events.push(event), onState: (state) => states.push(state), ...more,
  });
  open.push(() => live.close());
  await until(() => live.state === "live", "live");
  return { supabase, live, events, states };
}

/** Wait for what must become true, at most 15 s. */
async function until(isSo: () => unknown, what: string): Promise<void> {
  const began = performance.now();
  while (!isSo()) {
    assert(performance.now() - began < 15_000, `In vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const bodies = (one: Device, row: Conversation) => one.live.store.messages(row.id).map((message) => message.body);

let ann: Person, bob: Person, eve: Person;
before(async () => {
  [ann, bob, eve] = await Promise.all([person("Ann"), person("Bob"), person("Eve")]);
});

/** A conversation of Ann and somebody new, so that every test has its own. */
async function talkWith(name: string): Promise<{ other: Person; row: Conversation }> {
  const other = await person(name);
  const { conversation } = await ann.client.sendMessage({ toUserId: other.id, body: "first" });
  return { other, row: conversation };
}

test("a message arrives live, and its ticks go from sent to delivered to read", async () => {
  const { other, row } = await talkWith("Cat");
  const mine = await device(ann);
  const theirs = await device(other);
  const statuses: string[] = [];
  mine.live.store.subscribe(() => {
    const status = mine.live.store.messages(row.id)[1]?.status;
    if (status && status !== statuses.at(-1)) statuses.push(status);
  });
  await until(() => mine.live.store.messages(row.id)[0]?.status === "delivered", "the first one has been delivered");

  const { message } = await mine.live.send({ conversationId: row.id, body: "second" });
  await until(() => bodies(theirs, row).includes("second"), "the message");
  assert.deepEqual(mine.live.store.pending(row.id), []);
  assert.equal(theirs.live.store.unreadTotal, 2);
  await until(() => statuses.at(-1) === "delivered", "delivered");
  await other.client.markRead(message.id);
  await until(() => statuses.at(-1) === "read", "read");
  assert.deepEqual(statuses, ["sent", "delivered", "read"]);
  await until(() => theirs.live.store.unreadTotal === 0, "the badge");
  assert.deepEqual(bodies(mine, row), ["first", "second"]);

  await ann.client.editMessage(message.id, { body: "the second" });
  await until(() => bodies(theirs, row).includes("the second"), "the edit");
  await ann.client.deleteMessage(message.id);
  await until(() => bodies(theirs, row).at(-1) === null, "the tombstone");
  assert.equal(mine.live.store.messages(row.id).at(-1)?.status, "read");
});

test("somebody unknown writes, and the conversation appears with its people", async () => {
  const mine = await device(ann);
  const stranger = await person("Dan");
  const { conversation } = await stranger.client.sendMessage({ toUserId: ann.id, body: "you do not know me" });
  await until(() => mine.live.store.conversation(conversation.id), "the conversation");
  assert.equal(mine.live.store.conversations()[0]?.id, conversation.id);
  assert.deepEqual(mine.live.store.conversation(conversation.id)?.members.map((one) => one.displayName).sort(), ["Ann", "Dan"]);
  assert.deepEqual(bodies(mine, conversation), ["you do not know me"]);
});

test("typing both ways, directly and by the service, and gone when the message arrives", async () => {
  const { other, row } = await talkWith("Fay");
  const mine = await device(ann);
  const theirs = await device(other);
  const here = mine.live.openConversation(row.id);
  const there = theirs.live.openConversation(row.id);
  await until(() => here.presentUsers().length === 2 && there.presentUsers().length === 2, "both present");
  assert.deepEqual([...here.presentUsers()].sort(), [ann.id, other.id].sort());

  here.typing();
  await until(() => there.typingUsers().includes(ann.id), "Ann is typing");
  there.typing();
  await until(() => here.typingUsers().includes(other.id), "the other is typing");
  assert.deepEqual(here.typingUsers(), [other.id]);
  await other.client.sendMessage({ conversationId: row.id, body: "done typing" });
  await until(() => here.typingUsers().length === 0, "typing has ended");
  assert(bodies(mine, row).includes("done typing"));

  // A device without the live topic: the service tells the others.
  await other.client.setTyping(row.id);
  await until(() => here.typingUsers().includes(other.id), "typing by the service");

  there.close();
  await until(() => here.presentUsers().length === 1, "the other has left");
  assert.deepEqual(here.presentUsers(), [ann.id]);
});

test("a dropped socket: what was missed is repaired by sync, in order, and typing comes back", async () => {
  const { other, row } = await talkWith("Gus");
  const sockets: WebSocket[] = [];
  let isDown = false;
  class Wire extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(isDown ? "ws://127.0.0.1:9" : url, protocols);
      sockets.push(this);
    }
  }
  const mine = await device(ann, {}, Wire);
  const theirs = await device(other);
  const here = mine.live.openConversation(row.id);
  const there = theirs.live.openConversation(row.id);
  await until(() => here.presentUsers().length === 2, "both present");
  const before = await other.client.sendMessage({ conversationId: row.id, body: "before" });
  await until(() => bodies(mine, row).includes("before"), "before");
  // Its tick, which this device has asked for itself, is the last event before the silence.
  await until(() => mine.events.at(-1)?.type === "receipt.updated", "its tick");
  const seen = mine.events.length;

  isDown = true;
  sockets.at(-1)?.close(3000, "broken");
  await until(() => mine.live.state === "reconnecting", "reconnecting");
  for (let n = 1; n <= 5; n++) await other.client.sendMessage({ conversationId: row.id, body: `missed ${n}` });
  await other.client.editMessage(before.message.id, { body: "edited meanwhile" });
  await until(() => sockets.length >= 3, "it has been tried in vain");

  isDown = false;
  await until(() => mine.live.state === "live", "live again");
  assert.deepEqual(bodies(mine, row), ["first", "edited meanwhile", "missed 1", "missed 2", "missed 3", "missed 4", "missed 5"]);
  // No event brought a message; that this device has them now, and says so, may be heard already.
  assert(mine.events.slice(seen).every((event) => event.type === "receipt.updated"));
  assert.equal(mine.live.store.unreadTotal, (await ann.client.unreadCounts()).messages);

  await other.client.sendMessage({ conversationId: row.id, body: "after" });
  await until(() => bodies(mine, row).at(-1) === "after", "after");
  await until(() => here.presentUsers().length === 2, "present again");
  // Somebody who goes on typing: a sync still on its way may bring their message once more, and with it the end of typing.
  await until(() => (there.typing(), here.typingUsers().includes(other.id)), "typing after the repair");
});

test("an event that never arrives is noticed by the next one", async () => {
  const { other, row } = await talkWith("Hal");
  const supabase = await signedIn(ann);
  let isDeaf = false;
  const real = supabase.channel.bind(supabase);
  // Realtime loses what it should have brought.
  supabase.channel = (...given: Parameters<typeof real>) => {
    const channel = real(...given);
    const on = channel.on.bind(channel) as (...listener: any[]) => any;
    channel.on = ((type: string, filter: object, callback: (message: any) => void) =>
      on(type, filter, (message: any) => (isDeaf && type === "broadcast" ? undefined : callback(message)))) as any;
    return channel;
  };
  const live = connectMessaging({ supabase, api: ann.client, userId: ann.id });
  open.push(() => live.close());
  await until(() => live.state === "live", "live");
  const shown = () => live.store.messages(row.id).map((message) => message.body);
  await other.client.sendMessage({ conversationId: row.id, body: "1" });
  await until(() => shown().includes("1"), "1");
  isDeaf = true;
  await other.client.sendMessage({ conversationId: row.id, body: "2" });
  await other.client.sendMessage({ conversationId: row.id, body: "3" });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert(!shown().includes("3"));
  isDeaf = false;
  await other.client.sendMessage({ conversationId: row.id, body: "4" });
  await until(() => shown().length === 5, "all");
  assert.deepEqual(shown(), ["first", "1", "2", "3", "4"]);
});

test("membership lost: the conversation goes, the live topic is another one, and nothing is heard any more", async () => {
  const { conversation: group } = await ann.client.createGroup({ title: "Crew", memberIds: [bob.id, eve.id] });
  const mine = await device(bob);
  const theirs = await device(eve);
  await until(() => mine.live.store.conversation(group.id) && theirs.live.store.conversation(group.id), "the group");
  const here = mine.live.openConversation(group.id);
  const there = theirs.live.openConversation(group.id);
  await until(() => here.presentUsers().length === 2 && there.presentUsers().length === 2, "both present");
  const old = theirs.live.store.conversation(group.id)!.liveTopic;

  await ann.client.removeMember(group.id, eve.id);
  await until(() => theirs.live.store.conversation(group.id) === undefined, "the group is gone");
  assert.deepEqual(theirs.live.store.conversations(), []);
  await until(() => mine.live.store.conversation(group.id)?.memberCount === 2, "the others see who is left");
  const now = mine.live.store.conversation(group.id)!.liveTopic;
  assert.notEqual(now, old);
  await until(() => here.presentUsers().length === 1 && here.presentUsers()[0] === bob.id, "only Bob on the new topic");

  // Whoever still knows a topic gets nothing by it.
  const refused = async (topic: string) => {
    let said: string | undefined;
    const channel = theirs.supabase.channel(topic, { config: { private: true } });
    channel.subscribe((status) => (said ??= status));
    await until(() => said, `an answer for ${topic}`);
    await theirs.supabase.removeChannel(channel);
    return said;
  };
  assert.equal(await refused(old), "CHANNEL_ERROR");
  assert.equal(await refused(now), "CHANNEL_ERROR");
  assert.equal(await refused(`user:${bob.id}`), "CHANNEL_ERROR");
  const count = theirs.events.length;
  await ann.client.sendMessage({ conversationId: group.id, body: "without Eve" });
  await until(() => bodies(mine, group).includes("without Eve"), "the message");
  there.typing();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(theirs.events.length, count);
  assert.deepEqual(here.typingUsers(), []);

  await ann.client.addMembers(group.id, { userIds: [eve.id] });
  await until(() => theirs.live.store.conversation(group.id)?.memberCount === 3, "Eve is back");
});

test("a device that was away takes up with its own store; one of another life starts over", async () => {
  const { other, row } = await talkWith("Ivy");
  const first = await device(ann);
  await until(() => bodies(first, row).length === 1, "the first page");
  const saved = JSON.parse(JSON.stringify(first.live.store.save()));
  first.live.close();
  await other.client.sendMessage({ conversationId: row.id, body: "while you were out" });
  const again = await device(ann, { store: module.createStore(ann.id, saved) });
  assert.deepEqual(bodies(again, row), ["first", "while you were out"]);
  again.live.close();

  let resets = 0;
  const cursor = "0123456789abcdef" + saved.cursor.slice(16);
  const foreign = await device(ann, { store: module.createStore(ann.id, { ...saved, cursor }), onReset: () => resets++ });
  assert.equal(resets, 1);
  assert(foreign.live.store.conversation(row.id));
});

test("the recipe: a page goes live, shows a conversation, and starts anew with what it has kept", async () => {
  const { other, row } = await talkWith("Jon");
  configure({ baseUrl: API_URL, getToken: () => ann.token });
  const drawn: Record<string, unknown> = {};
  const screen: recipe.Screen = {
    inbox: (rows, unreadTotal) => Object.assign(drawn, { rows: rows.map((one) => one.id), unreadTotal }),
    connection: (state) => Object.assign(drawn, { state }),
    typing: (id, userIds) => Object.assign(drawn, { [id]: userIds }),
  };
  const live = recipe.goLive(await signedIn(ann), ann.id, screen);
  open.push(() => live.close());
  await until(() => drawn["state"] === "live", "live");
  assert((drawn["rows"] as string[]).includes(row.id));

  for (let n = 2; n <= 40; n++) await other.client.sendMessage({ conversationId: row.id, body: String(n) });
  let shown: readonly Message[] = [];
  const page = await recipe.openOnScreen(live, row.id, (messages) => (shown = messages));
  await until(() => shown.at(-1)?.body === "40", "the newest");
  while (live.store.hasOlder(row.id)) await page.older();
  assert.deepEqual(shown.map((message) => message.seq), Array.from({ length: 40 }, (_, n) => n + 1));
  await page.seen(shown.at(-1)!);
  await until(() => live.store.conversation(row.id)?.unreadCount === 0, "read");
  await other.client.setTyping(row.id);
  page.typing();
  await live.send({ conversationId: row.id, body: "from the page" });
  assert.equal(shown.at(-1)?.body, "from the page");
  page.close();
  const kept = recipe.keep(live);
  live.close();

  const again = recipe.goLive(await signedIn(ann), ann.id, screen, kept);
  open.push(() => again.close());
  assert.equal(again.store.messages(row.id).length, 41);
  await until(() => again.state === "live", "live again");
});

after(() => open.forEach((close) => close()));
