// Unmodified @supabase/supabase-js against Realtime: what two people see of each other, and what is refused.
// Usage: node realtime.mjs URL PUBLISHABLE_KEY. Standard input: JSON {tokens: {ann, bob, eve}, ids, topic}, where `topic`
// is private, open to ann and bob, closed to eve. Prints one JSON line; exits 1 on the first surprise.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(new URL("../../stack/package.json", import.meta.url));
const { createClient } = require("@supabase/supabase-js");
const [url, key] = process.argv.slice(2);
const { tokens, ids, topic } = JSON.parse(readFileSync(0, "utf8"));

const person = (name, options = {}) =>
  createClient(url, key, { accessToken: async () => tokens[name], realtime: { ...options } });

async function until(true_, what) {
  const deadline = Date.now() + 8000;
  while (!true_()) {
    assert.ok(Date.now() < deadline, `never: ${what}`);
    await sleep(10);
  }
}

/** Join; resolves with the first status and its error. */
const joined = (channel) =>
  new Promise((resolve) => channel.subscribe((status, error) => resolve([status, error?.message ?? ""])));

const ann = person("ann");
const bob = person("bob");
const oldBob = person("bob", { vsn: "1.0.0" });
const eve = person("eve");

// Public: text, bytes, both serializers, self and ack.
const heard = [];
const hear = (client, name, config = {}) =>
  client.channel("room", { config }).on("broadcast", { event: "*" }, ({ event, payload }) => heard.push([name, event, payload]));
const annRoom = hear(ann, "ann", { broadcast: { ack: true, self: true } });
for (const channel of [annRoom, hear(bob, "bob"), hear(oldBob, "old")]) assert.deepEqual(await joined(channel), ["SUBSCRIBED", ""]);
const words = { text: "é😀", n: 1.5, deep: [null, true] };
assert.equal(await annRoom.send({ type: "broadcast", event: "hi", payload: words }), "ok");
await until(() => heard.length === 3, "a broadcast to all three");
assert.deepEqual(heard.map(([name]) => name).sort(), ["ann", "bob", "old"]);
for (const [, event, payload] of heard) assert.deepEqual([event, payload], ["hi", words]);
heard.length = 0;
assert.equal(await annRoom.send({ type: "broadcast", event: "raw", payload: new Uint8Array([0, 255, 7]).buffer }), "ok");
await until(() => heard.length === 2, "bytes to both new clients");
for (const [name, , payload] of heard) {
  assert.notEqual(name, "old");
  assert.deepEqual([...new Uint8Array(payload)], [0, 255, 7]);
}

// REST while not joined, and explicitly.
heard.length = 0;
assert.deepEqual(await bob.channel("room").httpSend("rest", { n: 1 }), { success: true });
console.warn = () => {};
assert.equal(await eve.channel("room").send({ type: "broadcast", event: "fallback", payload: { n: 2 } }), "ok");
await until(() => heard.length === 6, "two broadcasts over REST to all three");
await assert.rejects(eve.channel(topic, { config: { private: true } }).httpSend("x", {}), /Unauthorized/);
await eve.removeAllChannels();

// Private: members in, others out, again and again.
const priv = { config: { private: true, broadcast: { ack: true }, presence: { key: ids.ann } } };
await ann.realtime.setAuth();
await eve.realtime.setAuth();
await bob.realtime.setAuth();
const diffs = [];
const annTopic = ann.channel(topic, priv);
annTopic.on("presence", { event: "sync" }, () => diffs.push(annTopic.presenceState()));
annTopic.on("broadcast", { event: "secret" }, ({ payload, meta }) => heard.push(["private", meta ?? null, payload]));
assert.deepEqual(await joined(annTopic), ["SUBSCRIBED", ""]);
const [status, reason] = await joined(eve.channel(topic, { config: { private: true } }));
assert.equal(status, "CHANNEL_ERROR");
assert.match(reason, /Unauthorized: You do not have permissions to read from this Channel topic/);
await eve.removeAllChannels();

// Presence: two tabs of one person under one key, a change, and a tab that is closed.
const bobTopic = bob.channel(topic, { config: { private: true, broadcast: { ack: true }, presence: { key: ids.bob } } });
assert.deepEqual(await joined(bobTopic), ["SUBSCRIBED", ""]);
const secondTab = person("bob");
await secondTab.realtime.setAuth();
const tabTopic = secondTab.channel(topic, { config: { private: true, presence: { key: ids.bob } } });
assert.deepEqual(await joined(tabTopic), ["SUBSCRIBED", ""]);
assert.equal(await bobTopic.track({ tab: 1 }), "ok");
assert.equal(await tabTopic.track({ tab: 2 }), "ok");
const tabs = () => (annTopic.presenceState()[ids.bob] ?? []).map(({ tab }) => tab).sort();
await until(() => tabs().length === 2, "two tabs");
assert.deepEqual(tabs(), [1, 2]);
assert.equal(await tabTopic.track({ tab: 3 }), "ok");
await until(() => tabs().join() === "1,3", "a changed tab");
assert.equal(await bobTopic.untrack(), "ok");
await until(() => tabs().join() === "3", "an untracked tab");
secondTab.realtime.disconnect();
await until(() => tabs().length === 0, "a closed tab");

// The private world is another one than the public one of the same name.
heard.length = 0;
assert.equal(await bobTopic.send({ type: "broadcast", event: "secret", payload: { n: 3 } }), "ok");
assert.deepEqual(await bob.channel(`${topic}`).httpSend("secret", { n: 4 }), { success: true });
await until(() => heard.some(([, , payload]) => payload.n === 4), "httpSend on a private channel");
assert.deepEqual(heard, [["private", null, { n: 3 }], ["private", null, { n: 4 }]]);

await Promise.all([ann, bob, oldBob, eve].map((client) => client.removeAllChannels()));
console.log(JSON.stringify({ ok: true }));
process.exit(0);
