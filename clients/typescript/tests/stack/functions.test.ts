// Every function once against the service and the data API, with typed refusals.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { MessagingError, type Conversation, type Message } from "../../src/index.ts";
import { person, type Person } from "./people.ts";

let ann: Person, bob: Person, eve: Person;
let first: Message, talk: Conversation;

before(async () => {
  [ann, bob, eve] = await Promise.all([person("Ann"), person("Bob"), person("Eve")]);
  ({ message: first, conversation: talk } = await ann.client.sendMessage({ toUserId: bob.id, body: " Hello\r\n" }));
});

test("sendMessage, and its replay", async () => {
  assert.equal(first.body, "Hello");
  assert.deepEqual([first.seq, first.status, first.sender.displayName], [1, "sent", "Ann"]);
  const again = { toUserId: bob.id, body: "Hello", clientMessageId: first.clientMessageId };
  assert.equal((await ann.client.sendMessage(again)).message.id, first.id);
  await assert.rejects(ann.client.sendMessage({ ...again, body: "Other" }), { code: "idempotency_conflict", status: 409 });
});

test("listConversations and listInbox", async () => {
  const listed = await bob.client.listConversations({ userId: bob.id });
  assert.deepEqual([listed.total, listed.conversations[0]?.id, listed.conversations[0]?.unreadCount], [1, talk.id, 1]);
  await assert.rejects(bob.client.listConversations({ userId: ann.id }), { code: "forbidden", status: 403 });
  const inbox = await bob.client.listInbox({ q: "ANN", withUserId: ann.id, unread: true });
  assert.deepEqual([inbox.conversations[0]?.id, inbox.nextCursor], [talk.id, null]);
  await assert.rejects(bob.client.listInbox({ cursor: "nonsense" }), { code: "cursor_invalid" });
});

test("getConversation", async () => {
  const { conversation } = await bob.client.getConversation(talk.id);
  assert.deepEqual(conversation.messages.map((message) => message.id), [first.id]);
  await assert.rejects(eve.client.getConversation(talk.id), { code: "not_found", status: 404, retry: "never" });
});

test("unreadCounts, markRead and markAllRead", async () => {
  assert.deepEqual(await bob.client.unreadCounts(), { messages: 1, conversations: 1 });
  const read = await bob.client.markRead(first.id);
  assert.deepEqual([read.receipt.lastReadSeq, read.unreadCount, read.unreadTotal], [1, 0, 0]);
  await ann.client.sendMessage({ conversationId: talk.id, body: "Two" });
  assert.equal((await bob.client.markAllRead(talk.id, { upToSeq: 1 })).unreadCount, 1);
  assert.equal((await bob.client.markAllRead(talk.id)).unreadTotal, 0);
});

test("listMessages", async () => {
  const page = await bob.client.listMessages(talk.id, { after: 1 });
  assert.deepEqual(page.messages.map((message) => message.body), ["Two"]);
  assert.deepEqual([page.hasMoreBefore, page.hasMoreAfter], [true, false]);
});

test("updateConversation", async () => {
  const { conversation } = await bob.client.updateConversation(talk.id, { pinned: true, mutedUntil: "2099-01-01T00:00:00Z" });
  assert.notEqual(conversation.pinnedAt, null);
  assert.equal(conversation.mutedUntil, "2099-01-01T00:00:00.000000Z");
  await assert.rejects(bob.client.updateConversation(talk.id, { title: "No group" }), { code: "not_a_group", status: 422 });
});

test("createGroup, listMembers, addMembers and removeMember", async () => {
  const group = { title: "Movers", memberIds: [bob.id], idempotencyKey: crypto.randomUUID() };
  const { conversation } = await ann.client.createGroup(group);
  assert.equal((await ann.client.createGroup(group)).conversation.id, conversation.id);
  assert.equal((await ann.client.addMembers(conversation.id, { userIds: [eve.id], role: "admin" })).members[0]?.role, "admin");
  const page = await eve.client.listMembers(conversation.id, { limit: 2 });
  assert.deepEqual(page.members.map((member) => member.displayName), ["Ann", "Bob"]);
  const rest = await eve.client.listMembers(conversation.id, { limit: 2, cursor: page.nextCursor });
  assert.deepEqual([rest.members[0]?.id, rest.nextCursor], [eve.id, null]);
  assert.equal((await eve.client.removeMember(conversation.id, bob.id)).userId, bob.id);
  await assert.rejects(bob.client.listMembers(conversation.id), { code: "not_found" });
});

test("editMessage, messageHistory and deleteMessage", async () => {
  const { message } = await ann.client.editMessage(first.id, { body: "Hello!" });
  assert.deepEqual([message.body, message.editedAt !== null], ["Hello!", true]);
  const { versions } = await bob.client.messageHistory(first.id);
  assert.deepEqual(versions.map((version) => version.body), ["Hello", "Hello!"]);
  const { message: tombstone } = await ann.client.deleteMessage(first.id);
  assert.deepEqual([tombstone.state, tombstone.body], ["deleted", null]);
  await assert.rejects(ann.client.editMessage(first.id, { body: "?" }), { code: "message_deleted", status: 409 });
});

test("reportMessage and reportUser", async () => {
  const { message } = await bob.client.sendMessage({ conversationId: talk.id, body: "See you on Friday" });
  const { report } = await ann.client.reportMessage(message.id, { reason: "scam", note: "Wants my card" });
  assert.deepEqual([report.kind, report.userId, report.status], ["message", bob.id, "open"]);
  assert.equal((await ann.client.reportMessage(message.id, { reason: "spam" })).report.id, report.id);
  assert.equal((await ann.client.reportUser(bob.id, { reason: "other" })).report.kind, "user");
  await assert.rejects(bob.client.reportMessage(message.id, { reason: "spam" }), { code: "forbidden", status: 403 });
  await assert.rejects(ann.client.reportUser(ann.id, { reason: "spam" }), { code: "validation_failed" });
});

test("the desk is for moderators", async () => {
  const forbidden = { code: "forbidden", status: 403 };
  const something = crypto.randomUUID();
  await assert.rejects(ann.client.listModerationQueue(), forbidden);
  await assert.rejects(ann.client.getModerationItem(something), forbidden);
  await assert.rejects(ann.client.decideModerationItem(something, { decision: "dismiss" }), forbidden);
  await assert.rejects(ann.client.sanctionUser(bob.id, { kind: "mute", durationS: 60, reason: "x" }), forbidden);
  await assert.rejects(ann.client.liftSanction(something), forbidden);
  await assert.rejects(ann.client.moderateHideMessage(first.id, { note: "x" }), forbidden);
  await assert.rejects(ann.client.moderateRestoreMessage(first.id, { note: "x" }), forbidden);
  await assert.rejects(ann.client.undoModerationAction(something), forbidden);
  await assert.rejects(ann.client.listModerationActions(), forbidden);
});

test("getProfile and updateProfile", async () => {
  assert.equal((await eve.client.getProfile()).profile.displayName, "Eve");
  const { profile } = await eve.client.updateProfile({ displayName: "Eve B.", locale: "fr" });
  assert.deepEqual([profile.displayName, profile.locale], ["Eve B.", "fr"]);
});

test("a refusal is a MessagingError with all there is to know", async () => {
  await assert.rejects(ann.client.sendMessage({ toUserId: bob.id, body: " " }), (error) => {
    assert(error instanceof MessagingError);
    assert.deepEqual([error.code, error.status, error.retry, error.retryAfterS], ["validation_failed", 400, "never", undefined]);
    assert.equal(error.errors[0]?.pointer, "/body");
    assert(error.message.length > 0 && error.requestId);
    return true;
  });
  await assert.rejects(ann.client.sendMessage({ toUserId: ann.id, body: "Me" }), { code: "recipient_unavailable" });
  await assert.rejects(ann.with({ getToken: () => "x.y.z" }).unreadCounts(), { code: "unauthenticated", status: 401 });
});
