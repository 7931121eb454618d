// Two people through unmodified @supabase/supabase-js: sign up, sign in, write, read, and what must be refused.
// Usage: node smoke.mjs URL PUBLISHABLE_KEY. Prints one JSON line; exits 1 on the first surprise.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../stack/package.json", import.meta.url));
const { createClient } = require("@supabase/supabase-js");
const [url, key] = process.argv.slice(2);

async function signedIn(name) {
  const client = createClient(url, key, { auth: { persistSession: false, autoRefreshToken: false } });
  const email = `${randomUUID()}@example.com`;
  const password = randomUUID();
  const up = await client.auth.signUp({ email, password, options: { data: { display_name: name } } });
  assert.equal(up.error, null);
  const session = await client.auth.signInWithPassword({ email, password });
  assert.equal(session.error, null);
  const told = await client.auth.getUser();
  assert.equal(told.data.user.email, email);
  return { client, id: session.data.user.id };
}

async function call(person, name, args) {
  const { data, error } = await person.client.rpc(name, args);
  assert.equal(error, null, JSON.stringify(error));
  return data;
}

const ann = await signedIn("Ann");
const bob = await signedIn("Bob");
const gig = randomUUID();

const sent = await call(ann, "send_message", { p_body: "Is it free?", p_to_user_id: bob.id, p_gig_id: gig });
assert.equal(sent.created, true);
const inbox = await call(bob, "list_conversations", {});
assert.equal(inbox.conversations[0].unreadCount, 1);
assert.equal(inbox.conversations[0].lastMessage.sender.displayName, "Ann");

const conversationId = sent.conversation.id;
await call(bob, "send_message", { p_body: "Yes.", p_conversation_id: conversationId });
const read = await call(bob, "mark_read", { p_message_id: sent.message.id });
assert.equal(read.unreadCount, 0);
const opened = await call(ann, "get_conversation", { p_conversation_id: conversationId });
assert.deepEqual(opened.conversation.messages.map((message) => message.body), ["Is it free?", "Yes."]);

// Plain REST under RLS: members read, nobody writes.
const rows = await ann.client.from("messages").select("seq, body, created_at").order("seq");
assert.equal(rows.error, null);
assert.deepEqual(rows.data.map((row) => row.seq), [1, 2]);
const eve = await signedIn("Eve");
assert.deepEqual((await eve.client.from("messages").select()).data, []);
const forged = await ann.client.from("messages").insert({ conversation_id: conversationId, from_user_id: bob.id, body: "x" });
assert.equal(forged.error.code, "42501");

// Refusals arrive with our code as the message.
const self = await ann.client.rpc("send_message", { p_body: "x", p_to_user_id: ann.id });
assert.equal(self.error.message, "recipient_unavailable");
const nobody = await createClient(url, key).rpc("list_conversations", {});
assert.equal(nobody.error.code, "42501");

console.log(JSON.stringify({ ok: true }));
process.exit(0);
