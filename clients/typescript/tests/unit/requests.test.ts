import assert from "node:assert/strict";
import { mock, test } from "node:test";
import * as module from "../../lib/api/messages.ts";
import { createClient, MessagingError, type Client } from "../../src/index.ts";
import { ID, ok, page, problem, serving } from "./fake.ts";

const OTHER = "00000000-0000-4000-8000-000000000002";
const BASE = "https://service.example/api";

/** Every function, and the request it makes. */
const CALLS: Record<keyof Client, [(client: Client) => Promise<unknown>, string, unknown?]> = {
  listConversations: [(c) => c.listConversations({ userId: ID, limit: 5 }), "POST /messages/conversations", { userId: ID, limit: 5 }],
  getConversation: [(c) => c.getConversation(ID), `GET /messages/conversations/${ID}`],
  sendMessage: [
    (c) => c.sendMessage({ toUserId: ID, gigId: OTHER, body: "Hi", clientMessageId: OTHER }),
    "POST /messages/send",
    { toUserId: ID, gigId: OTHER, body: "Hi", clientMessageId: OTHER },
  ],
  markRead: [(c) => c.markRead(ID), `PATCH /messages/${ID}/read`],
  markAllRead: [(c) => c.markAllRead(ID, { upToSeq: 7 }), `PATCH /messages/conversations/${ID}/read-all`, { upToSeq: 7 }],
  listInbox: [
    (c) => c.listInbox({ q: "café & co", unread: true, cursor: null, limit: 10 }),
    "GET /messages/conversations?q=caf%C3%A9+%26+co&unread=true&limit=10",
  ],
  listMessages: [(c) => c.listMessages(ID, { before: 0 }), `GET /messages/conversations/${ID}/messages?before=0`],
  updateConversation: [(c) => c.updateConversation(ID, { mutedUntil: null }), `PATCH /messages/conversations/${ID}`, { mutedUntil: null }],
  createGroup: [(c) => c.createGroup({ title: "T", memberIds: [ID] }), "POST /messages/conversations/group", { title: "T", memberIds: [ID] }],
  listMembers: [(c) => c.listMembers(ID, { cursor: "abc" }), `GET /messages/conversations/${ID}/members?cursor=abc`],
  addMembers: [(c) => c.addMembers(ID, { userIds: [OTHER] }), `POST /messages/conversations/${ID}/members`, { userIds: [OTHER] }],
  removeMember: [(c) => c.removeMember(ID, OTHER), `DELETE /messages/conversations/${ID}/members/${OTHER}`],
  editMessage: [(c) => c.editMessage(ID, { body: "Ho" }), `PATCH /messages/${ID}`, { body: "Ho" }],
  deleteMessage: [(c) => c.deleteMessage(ID), `DELETE /messages/${ID}`],
  messageHistory: [(c) => c.messageHistory(ID), `GET /messages/${ID}/history`],
  sync: [(c) => c.sync({ cursor: "abc" }), "POST /messages/sync", { cursor: "abc" }],
  markDelivered: [
    (c) => c.markDelivered({ receipts: [{ conversationId: ID, seq: 3 }] }),
    "PATCH /messages/delivered",
    { receipts: [{ conversationId: ID, seq: 3 }] },
  ],
  setTyping: [(c) => c.setTyping(ID), `POST /messages/conversations/${ID}/typing`],
  unreadCounts: [(c) => c.unreadCounts(), "GET /messages/unread"],
  getLimits: [(c) => c.getLimits(), "GET /messages/limits"],
  blockUser: [(c) => c.blockUser(ID), `POST /users/${ID}/block`],
  unblockUser: [(c) => c.unblockUser(ID), `DELETE /users/${ID}/block`],
  listBlocked: [(c) => c.listBlocked({ limit: 5 }), "GET /users/blocked?limit=5"],
  reportMessage: [(c) => c.reportMessage(ID, { reason: "scam" }), `POST /messages/${ID}/report`, { reason: "scam" }],
  reportUser: [(c) => c.reportUser(ID, { reason: "spam", note: "x" }), `POST /users/${ID}/report`, { reason: "spam", note: "x" }],
  listModerationQueue: [
    (c) => c.listModerationQueue({ status: "decided", userId: ID, cursor: null }),
    `GET /moderation/queue?status=decided&userId=${ID}`,
  ],
  getModerationItem: [(c) => c.getModerationItem(ID), `GET /moderation/items/${ID}`],
  decideModerationItem: [
    (c) => c.decideModerationItem(ID, { decision: "hide" }),
    `POST /moderation/items/${ID}/decide`,
    { decision: "hide" },
  ],
  sanctionUser: [
    (c) => c.sanctionUser(ID, { kind: "mute", durationS: null, reason: "x" }),
    `POST /moderation/users/${ID}/sanctions`,
    { kind: "mute", durationS: null, reason: "x" },
  ],
  liftSanction: [(c) => c.liftSanction(ID), `DELETE /moderation/sanctions/${ID}`, {}],
  moderateHideMessage: [(c) => c.moderateHideMessage(ID, { note: "x" }), `POST /moderation/messages/${ID}/hide`, { note: "x" }],
  moderateRestoreMessage: [
    (c) => c.moderateRestoreMessage(ID, { note: "x" }),
    `POST /moderation/messages/${ID}/restore`,
    { note: "x" },
  ],
  undoModerationAction: [(c) => c.undoModerationAction(ID, { note: "x" }), `POST /moderation/actions/${ID}/undo`, { note: "x" }],
  listModerationActions: [(c) => c.listModerationActions({ itemId: ID }), `GET /moderation/actions?itemId=${ID}`],
  getProfile: [(c) => c.getProfile(), "GET /profile"],
  updateProfile: [(c) => c.updateProfile({ locale: "de" }), "PATCH /profile", { locale: "de" }],
};

for (const [name, [call, line, body]] of Object.entries(CALLS)) {
  test(`${name} makes its request`, async () => {
    const { client, seen } = serving([ok({ answer: name })]);
    assert.deepEqual(await call(client), { answer: name });
    const request = seen[0]!;
    assert.equal(`${request.method} ${request.url.replace(BASE, "")}`, line);
    assert.deepEqual(request.body, body);
    assert.equal(request.headers.get("Authorization"), "Bearer a-token");
    assert.equal(request.headers.has("Content-Type"), body !== undefined);
  });
}

test("lib/api/messages.ts has every function, for the configured client", async () => {
  assert.throws(() => module.unreadCounts(), /call configure/);
  const urls: string[] = [];
  module.configure({ baseUrl: "", getToken: () => "t", fetch: async (url) => (urls.push(String(url)), Response.json({})) });
  for (const [call] of Object.values(CALLS)) await call(module as unknown as Client);
  assert.equal(urls.length, Object.keys(CALLS).length);
  assert.equal(urls.at(-1), "/api/profile");
  assert.deepEqual(Object.keys(createClient({ baseUrl: "", getToken: () => "t" })).sort(), Object.keys(CALLS).sort());
});

test("the global fetch is looked up when it is needed", async () => {
  const fetched = mock.method(globalThis, "fetch", async () => Response.json({ messages: 0 }));
  await createClient({ baseUrl: "https://service.example", getToken: () => "t" }).unreadCounts();
  assert.equal(fetched.mock.callCount(), 1);
  fetched.mock.restore();
});

for (const id of ["", "..", "a/b", "a?b", undefined as unknown as string]) {
  test(`an id cannot be ${JSON.stringify(id)}`, async () => {
    const { client, seen } = serving([ok()]);
    await assert.rejects(client.deleteMessage(id), TypeError);
    assert.equal(seen.length, 0);
  });
}

test("an answer without a body is undefined", async () => {
  const { client } = serving([async () => new Response(null, { status: 204 })]);
  assert.equal(await client.setTyping(ID), undefined);
});

test("a problem becomes a typed error", async () => {
  const errors = [{ pointer: "/body", detail: "It is empty." }];
  const { client } = serving([problem(400, "validation_failed", { errors })]);
  await assert.rejects(client.sendMessage({ toUserId: ID, body: "" }), (error) => {
    assert(error instanceof MessagingError);
    assert.deepEqual(
      { ...error, message: error.message },
      { name: "MessagingError", code: "validation_failed", status: 400, retry: "never", retryAfterS: undefined, errors,
        requestId: "r-1", message: "D." },
    );
    return true;
  });
});

test("a refusal of somebody in between has a code too", async () => {
  const { client } = serving([page(403, { "X-Request-Id": "from-a-proxy" })]);
  await assert.rejects(client.getProfile(), { code: "unknown", status: 403, retry: "never", requestId: "from-a-proxy" });
});

test("a code that is also a name of Object.prototype is nothing special", async () => {
  const { client } = serving([problem(400, "constructor")]);
  await assert.rejects(client.getProfile(), { code: "constructor", retry: "never" });
});

// Checked by tsc alone: what must not compile.
export function refusedByTheCompiler(client: Client): void {
  // @ts-expect-error Neither a conversation nor a person.
  void client.sendMessage({ body: "Hello" });
  // @ts-expect-error There is no such member.
  void client.sendMessage({ toUserId: ID, body: "Hello", attachment: 1 });
  // @ts-expect-error Two places at once.
  void client.listMessages(ID, { before: 1, after: 1 });
  // @ts-expect-error A role that does not exist.
  void client.addMembers(ID, { userIds: [ID], role: "king" });
  // @ts-expect-error A deleted message has no body.
  void client.deleteMessage(ID).then(({ message }) => message.body.length);
  // @ts-expect-error No such member in the answer.
  void client.unreadCounts().then((badge) => badge.total);
}
