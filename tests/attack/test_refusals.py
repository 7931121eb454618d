"""What the API refuses, the function refuses with the same status and code when it is called directly."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from tests.attack.test_matrix import none_of
from tests.attack.world import World

LIST = "/api/messages/conversations"
LONG = "x" * 4001
# who | request of the API | call of the function | status and code of both
Case = tuple[str, tuple[str, str, Any], tuple[str, dict[str, Any]], tuple[int, str]]


def sends(role: str, expected: tuple[int, str], body: str = "Hello", **to: Any) -> Case:
    """One send, both ways; members named as the API names them."""
    snake = {"conversationId": "conversation_id", "toUserId": "to_user_id", "gigId": "gig_id",
             "clientMessageId": "client_message_id"}  # fmt: skip
    told = {snake[name]: value for name, value in to.items()}
    return (
        role,
        ("POST", "/api/messages/send", {"body": body, **to}),
        ("send_message", {"body": body, **told}),
        expected,
    )


INVALID, UNKNOWN, FORBIDDEN = (400, "validation_failed"), (404, "not_found"), (403, "forbidden")
UNREACHABLE, GONE = (403, "recipient_unavailable"), (403, "account_unavailable")
MUTED, MISMATCH, NO_GROUP = (403, "account_muted"), (422, "recipient_mismatch"), (422, "not_a_group")
BAD_CURSOR = (400, "cursor_invalid")
NONE = "$nobody"

CASES: list[Case] = [
    sends("member", INVALID, "", conversationId="$group"),
    sends("member", INVALID, " \n\t ", conversationId="$group"),
    sends("member", INVALID, LONG, conversationId="$group"),
    sends("member", INVALID, "a\u0301" * 4001, conversationId="$group"),
    sends("member", INVALID, "\u202e\u2066", conversationId="$group"),
    sends("member", INVALID),
    sends("member", UNKNOWN, conversationId=NONE),
    sends("outsider", UNKNOWN, conversationId="$group"),
    sends("former", UNKNOWN, conversationId="$group"),
    sends("moderator", UNKNOWN, conversationId="$group"),
    sends("member", MISMATCH, conversationId="$direct", toUserId="$outsider"),
    sends("member", MISMATCH, conversationId="$direct", toUserId="$me"),
    sends("member", MISMATCH, conversationId="$group", toUserId="$owner"),
    sends("member", MISMATCH, conversationId="$direct", gigId=NONE),
    sends("outsider", UNKNOWN, conversationId="$direct", toUserId="$owner"),
    sends("member", UNREACHABLE, toUserId=NONE),
    sends("member", UNREACHABLE, toUserId="$me"),
    sends("member", UNREACHABLE, toUserId="$suspended"),
    sends("member", UNREACHABLE, toUserId="$deleted"),
    sends("member", UNREACHABLE, toUserId=NONE, gigId=NONE),
    sends("blocked", UNREACHABLE, toUserId="$owner"),
    sends("blocked", UNREACHABLE, conversationId="$blockedtalk"),
    sends("owner", UNREACHABLE, conversationId="$blockedtalk"),
    sends("owner", UNREACHABLE, conversationId="$deletedtalk"),
    sends("anonymous", GONE, toUserId="$owner"),
    sends("suspended", GONE, conversationId="$group"),
    sends("deleted", GONE, toUserId="$owner"),
    sends("muted", MUTED, conversationId="$group"),
    ("member", ("PATCH", "/api/messages/$message", {"body": "x"}), ("edit_message", {"message_id": "$message", "body": "x"}), FORBIDDEN),
    ("outsider", ("PATCH", "/api/messages/$message", {"body": "x"}), ("edit_message", {"message_id": "$message", "body": "x"}), UNKNOWN),
    ("owner", ("PATCH", "/api/messages/$message", {"body": ""}), ("edit_message", {"message_id": "$message", "body": ""}), INVALID),
    ("owner", ("PATCH", "/api/messages/$message", {"body": LONG}), ("edit_message", {"message_id": "$message", "body": LONG}), INVALID),
    ("suspended", ("PATCH", "/api/messages/$message", {"body": "x"}), ("edit_message", {"message_id": "$message", "body": "x"}), GONE),
    ("member", ("DELETE", "/api/messages/$message", None), ("delete_message", {"message_id": "$message"}), FORBIDDEN),
    ("former", ("DELETE", "/api/messages/$message", None), ("delete_message", {"message_id": "$message"}), UNKNOWN),
    ("deleted", ("DELETE", "/api/messages/$message", None), ("delete_message", {"message_id": "$message"}), GONE),
    ("outsider", ("GET", "/api/messages/$message/history", None), ("message_history", {"message_id": "$message"}), UNKNOWN),
    ("outsider", ("PATCH", "/api/messages/$message/read", None), ("mark_read", {"message_id": "$message"}), UNKNOWN),
    ("suspended", ("PATCH", "/api/messages/$message/read", None), ("mark_read", {"message_id": "$message"}), GONE),
    ("outsider", ("PATCH", LIST + "/$group/read-all", {}), ("mark_all_read", {"conversation_id": "$group"}), UNKNOWN),
    ("member", ("PATCH", LIST + "/$group/read-all", {"upToSeq": -1}), ("mark_all_read", {"conversation_id": "$group", "up_to_seq": -1}), INVALID),
    ("deleted", ("PATCH", LIST + "/$deletedtalk/read-all", {}), ("mark_all_read", {"conversation_id": "$deletedtalk"}), GONE),
    ("outsider", ("GET", LIST + "/$group", None), ("get_conversation", {"conversation_id": "$group"}), UNKNOWN),
    ("moderator", ("GET", LIST + "/$group", None), ("get_conversation", {"conversation_id": "$group"}), UNKNOWN),
    ("former", ("GET", LIST + "/$group/messages", None), ("list_messages", {"conversation_id": "$group"}), UNKNOWN),
    ("member", ("GET", LIST + "/$group/messages?limit=0", None), ("list_messages", {"conversation_id": "$group", "limit": 0}), INVALID),
    ("member", ("GET", LIST + "/$group/messages?limit=101", None), ("list_messages", {"conversation_id": "$group", "limit": 101}), INVALID),
    ("member", ("GET", LIST + "/$group/messages?before=1&after=1", None), ("list_messages", {"conversation_id": "$group", "before": 1, "after": 1}), INVALID),
    ("outsider", ("GET", LIST + "/$group/members", None), ("list_members", {"conversation_id": "$group"}), UNKNOWN),
    ("member", ("GET", LIST + "/$group/members?limit=0", None), ("list_members", {"conversation_id": "$group", "limit": 0}), INVALID),
    ("member", ("GET", LIST + "/$group/members?cursor=x", None), ("list_members", {"conversation_id": "$group", "cursor": "x"}), BAD_CURSOR),
    ("member", ("GET", LIST + "?limit=101", None), ("list_inbox", {"limit": 101}), INVALID),
    ("member", ("GET", LIST + "?cursor=AAAA", None), ("list_inbox", {"cursor": "AAAA"}), BAD_CURSOR),
    ("member", ("GET", LIST + f"?q={'x' * 101}", None), ("list_inbox", {"q": "x" * 101}), INVALID),
    ("member", ("POST", LIST, {"userId": "$me", "limit": 0}), ("list_conversations", {"limit": 0, "offset": 0}), INVALID),
    ("member", ("POST", LIST, {"userId": "$me", "offset": -1}), ("list_conversations", {"limit": 1, "offset": -1}), INVALID),
    ("member", ("POST", LIST + "/group", {"title": " ", "memberIds": ["$owner"]}), ("create_group", {"title": " ", "member_ids": ["$owner"]}), INVALID),
    ("member", ("POST", LIST + "/group", {"title": "x" * 121, "memberIds": ["$owner"]}), ("create_group", {"title": "x" * 121, "member_ids": ["$owner"]}), INVALID),
    ("member", ("POST", LIST + "/group", {"title": "x", "memberIds": [NONE] * 1001}), ("create_group", {"title": "x", "member_ids": [NONE] * 1001}), INVALID),
    ("member", ("POST", LIST + "/$group/members", {"userIds": [NONE] * 101}), ("add_members", {"conversation_id": "$group", "user_ids": [NONE] * 101}), INVALID),
    ("member", ("POST", "/api/messages/sync", {"limit": 501}), ("sync", {"limit": 501}), INVALID),
    ("member", ("POST", LIST, {"userId": "$me", "offset": 1_000_001}), ("list_conversations", {"limit": 1, "offset": 1_000_001}), INVALID),
    ("member", ("POST", LIST + "/group", {"title": "x", "memberIds": [NONE]}), ("create_group", {"title": "x", "member_ids": [NONE]}), UNREACHABLE),
    ("member", ("POST", LIST + "/group", {"title": "x", "memberIds": ["$deleted"]}), ("create_group", {"title": "x", "member_ids": ["$deleted"]}), UNREACHABLE),
    ("suspended", ("POST", LIST + "/group", {"title": "x", "memberIds": ["$owner"]}), ("create_group", {"title": "x", "member_ids": ["$owner"]}), GONE),
    ("muted", ("POST", LIST + "/group", {"title": "x", "memberIds": ["$owner"]}), ("create_group", {"title": "x", "member_ids": ["$owner"]}), MUTED),
    ("member", ("POST", LIST + "/$group/members", {"userIds": ["$outsider"]}), ("add_members", {"conversation_id": "$group", "user_ids": ["$outsider"]}), FORBIDDEN),
    ("outsider", ("POST", LIST + "/$group/members", {"userIds": ["$me"]}), ("add_members", {"conversation_id": "$group", "user_ids": ["$me"]}), UNKNOWN),
    ("owner", ("POST", LIST + "/$group/members", {"userIds": []}), ("add_members", {"conversation_id": "$group", "user_ids": []}), INVALID),
    ("owner", ("POST", LIST + "/$group/members", {"userIds": ["$member"], "role": "god"}), ("add_members", {"conversation_id": "$group", "user_ids": ["$member"], "role": "god"}), INVALID),
    ("owner", ("POST", LIST + "/$direct/members", {"userIds": ["$outsider"]}), ("add_members", {"conversation_id": "$direct", "user_ids": ["$outsider"]}), NO_GROUP),
    ("owner", ("POST", LIST + "/$group/members", {"userIds": [NONE]}), ("add_members", {"conversation_id": "$group", "user_ids": [NONE]}), UNREACHABLE),
    ("member", ("DELETE", LIST + "/$group/members/$owner", None), ("remove_member", {"conversation_id": "$group", "user_id": "$owner"}), FORBIDDEN),
    ("owner", ("DELETE", LIST + "/$group/members/$nobody", None), ("remove_member", {"conversation_id": "$group", "user_id": NONE}), UNKNOWN),
    ("member", ("DELETE", LIST + "/$direct/members/$owner", None), ("remove_member", {"conversation_id": "$direct", "user_id": "$owner"}), NO_GROUP),
    ("suspended", ("DELETE", LIST + "/$group/members/$me", None), ("remove_member", {"conversation_id": "$group", "user_id": "$me"}), GONE),
    ("member", ("PATCH", LIST + "/$group", {"title": "Mine"}), ("update_conversation", {"conversation_id": "$group", "changes": {"title": "Mine"}}), FORBIDDEN),
    ("owner", ("PATCH", LIST + "/$direct", {"title": "Mine"}), ("update_conversation", {"conversation_id": "$direct", "changes": {"title": "Mine"}}), NO_GROUP),
    ("member", ("PATCH", LIST + "/$group", {"role": "owner"}), ("update_conversation", {"conversation_id": "$group", "changes": {"role": "owner"}}), INVALID),
    ("member", ("PATCH", LIST + "/$group", {"pinned": "yes"}), ("update_conversation", {"conversation_id": "$group", "changes": {"pinned": "yes"}}), INVALID),
    ("member", ("PATCH", LIST + "/$group", {"mutedUntil": "soon"}), ("update_conversation", {"conversation_id": "$group", "changes": {"mutedUntil": "soon"}}), INVALID),
    ("outsider", ("PATCH", LIST + "/$group", {"pinned": True}), ("update_conversation", {"conversation_id": "$group", "changes": {"pinned": True}}), UNKNOWN),
    ("suspended", ("PATCH", LIST + "/$group", {"pinned": True}), ("update_conversation", {"conversation_id": "$group", "changes": {"pinned": True}}), GONE),
    ("member", ("PATCH", "/api/profile", {"displayName": " "}), ("update_profile", {"changes": {"displayName": " "}}), INVALID),
    ("member", ("PATCH", "/api/profile", {"avatarUrl": "javascript:x"}), ("update_profile", {"changes": {"avatarUrl": "javascript:x"}}), INVALID),
    ("member", ("PATCH", "/api/profile", {"locale": "<b>"}), ("update_profile", {"changes": {"locale": "<b>"}}), INVALID),
    ("member", ("PATCH", "/api/profile", {"userId": "$owner"}), ("update_profile", {"changes": {"userId": "$owner"}}), INVALID),
    ("deleted", ("PATCH", "/api/profile", {"locale": "en"}), ("update_profile", {"changes": {"locale": "en"}}), GONE),
    ("member", ("PATCH", "/api/messages/delivered", {"receipts": []}), ("mark_delivered", {"receipts": []}), INVALID),
    ("member", ("PATCH", "/api/messages/delivered", {"receipts": [{"conversationId": "$group", "seq": -1}]}), ("mark_delivered", {"receipts": [{"conversationId": "$group", "seq": -1}]}), INVALID),
    ("suspended", ("PATCH", "/api/messages/delivered", {"receipts": [{"conversationId": "$group", "seq": 1}]}), ("mark_delivered", {"receipts": [{"conversationId": "$group", "seq": 1}]}), GONE),
    ("outsider", ("POST", LIST + "/$group/typing", None), ("set_typing", {"conversation_id": "$group"}), UNKNOWN),
    ("suspended", ("POST", LIST + "/$group/typing", None), ("set_typing", {"conversation_id": "$group"}), GONE),
    ("muted", ("POST", LIST + "/$group/typing", None), ("set_typing", {"conversation_id": "$group"}), MUTED),
    ("member", ("POST", "/api/messages/sync", {"limit": 0}), ("sync", {"limit": 0}), INVALID),
    ("member", ("POST", "/api/messages/sync", {"cursor": "x"}), ("sync", {"cursor": "x"}), BAD_CURSOR),
    ("member", ("POST", "/api/users/$me/block", None), ("block_user", {"user_id": "$me"}), INVALID),
    ("suspended", ("POST", "/api/users/$owner/block", None), ("block_user", {"user_id": "$owner"}), GONE),
    ("deleted", ("DELETE", "/api/users/$owner/block", None), ("unblock_user", {"user_id": "$owner"}), GONE),
    ("member", ("GET", "/api/users/blocked?limit=0", None), ("list_blocked", {"limit": 0}), INVALID),
    ("member", ("GET", "/api/users/blocked?cursor=x", None), ("list_blocked", {"cursor": "x"}), BAD_CURSOR),
    ("outsider", ("POST", "/api/messages/$message/report", {"reason": "spam"}), ("report_message", {"message_id": "$message", "reason": "spam"}), UNKNOWN),
    ("owner", ("POST", "/api/messages/$message/report", {"reason": "spam"}), ("report_message", {"message_id": "$message", "reason": "spam"}), FORBIDDEN),
    ("member", ("POST", "/api/messages/$message/report", {"reason": "boring"}), ("report_message", {"message_id": "$message", "reason": "boring"}), INVALID),
    ("member", ("POST", "/api/messages/$message/report", {"reason": "spam", "note": LONG}), ("report_message", {"message_id": "$message", "reason": "spam", "note": LONG}), INVALID),
    ("outsider", ("POST", "/api/users/$muted/report", {"reason": "spam"}), ("report_user", {"user_id": "$muted", "reason": "spam"}), UNKNOWN),
    ("member", ("POST", "/api/users/$me/report", {"reason": "spam"}), ("report_user", {"user_id": "$me", "reason": "spam"}), INVALID),
    ("member", ("POST", "/api/users/$nobody/report", {"reason": "spam"}), ("report_user", {"user_id": NONE, "reason": "spam"}), UNKNOWN),
    ("suspended", ("POST", "/api/messages/$message/report", {"reason": "spam"}), ("report_message", {"message_id": "$message", "reason": "spam"}), GONE),
    ("member", ("GET", "/api/moderation/queue", None), ("list_moderation_queue", {}), FORBIDDEN),
    ("deleted", ("GET", "/api/moderation/queue", None), ("list_moderation_queue", {}), GONE),
    ("moderator", ("GET", "/api/moderation/queue?limit=0", None), ("list_moderation_queue", {"limit": 0}), INVALID),
    ("moderator", ("GET", "/api/moderation/queue?cursor=x", None), ("list_moderation_queue", {"cursor": "x"}), BAD_CURSOR),
    ("member", ("GET", "/api/moderation/items/$nobody", None), ("get_moderation_item", {"item_id": NONE}), FORBIDDEN),
    ("moderator", ("GET", "/api/moderation/items/$nobody", None), ("get_moderation_item", {"item_id": NONE}), UNKNOWN),
    ("member", ("POST", "/api/moderation/items/$nobody/decide", {"decision": "hide"}), ("decide_moderation_item", {"item_id": NONE, "decision": "hide"}), FORBIDDEN),
    ("moderator", ("POST", "/api/moderation/items/$nobody/decide", {"decision": "like"}), ("decide_moderation_item", {"item_id": NONE, "decision": "like"}), INVALID),
    ("member", ("POST", "/api/moderation/users/$owner/sanctions", {"kind": "suspend", "durationS": 60, "reason": "x"}), ("sanction_user", {"user_id": "$owner", "kind": "suspend", "duration_s": 60, "reason": "x"}), FORBIDDEN),
    ("moderator", ("POST", "/api/moderation/users/$me/sanctions", {"kind": "mute", "durationS": 60, "reason": "x"}), ("sanction_user", {"user_id": "$me", "kind": "mute", "duration_s": 60, "reason": "x"}), FORBIDDEN),
    ("moderator", ("POST", "/api/moderation/users/$owner/sanctions", {"kind": "mute", "durationS": 0, "reason": "x"}), ("sanction_user", {"user_id": "$owner", "kind": "mute", "duration_s": 0, "reason": "x"}), INVALID),
    ("member", ("POST", "/api/moderation/messages/$message/hide", {"note": "x"}), ("moderate_hide_message", {"message_id": "$message", "note": "x"}), FORBIDDEN),
    ("moderator", ("POST", "/api/moderation/messages/$nobody/hide", {"note": "x"}), ("moderate_hide_message", {"message_id": NONE, "note": "x"}), UNKNOWN),
    ("muted", ("POST", "/api/moderation/actions/$nobody/undo", {}), ("undo_moderation_action", {"action_id": NONE}), FORBIDDEN),
    ("member", ("GET", "/api/moderation/actions", None), ("list_moderation_actions", {}), FORBIDDEN),
]  # fmt: skip


def test_direct_calls_are_refused_like_requests_of_the_api(http: httpx.Client, attacked: World) -> None:
    problems = []
    for role, (method, path, body), (function, arguments), expected in CASES:
        answer = http.request(
            method, attacked.fill(path, role), headers=attacked.headers(role), json=attacked.fill(body, role)
        )
        direct = attacked.rpc(role, function, **attacked.fill(arguments, role))
        by_api = (answer.status_code, answer.json().get("code") if answer.content else None)
        by_rpc = (direct.status_code, direct.json().get("message"))
        if not by_api == by_rpc == expected:
            problems.append(f"{role}: {function} {str(arguments)[:120]}: API {by_api}, RPC {by_rpc}, not {expected}")
    none_of(problems)


def test_a_key_used_twice_is_refused_alike(http: httpx.Client, attacked: World) -> None:
    key = str(uuid.uuid4())
    first = attacked.rpc(
        "member", "send_message", body="One", conversation_id=attacked.ids["group"], client_message_id=key
    )
    assert first.status_code == 200, first.text
    direct = attacked.rpc(
        "member", "send_message", body="Two", conversation_id=attacked.ids["group"], client_message_id=key
    )
    told = {"body": "Two", "conversationId": attacked.ids["group"], "clientMessageId": key}
    answer = http.post("/api/messages/send", headers=attacked.headers("member"), json=told)
    assert (direct.status_code, direct.json()["message"]) == (409, "idempotency_conflict")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


def test_the_send_limit_holds_for_direct_calls(http: httpx.Client, attacked: World, new_person: Any) -> None:
    """The edge limiter is the API's own; the limit that counts is in the database, for both ways together."""
    eager, friend = new_person("Eager"), new_person("Friend")
    sent = 0
    for number in range(110):
        answer = attacked.client.post(
            "/rest/v1/rpc/send_message",
            headers=eager.headers,
            json={"p_body": f"Message {number}", "p_to_user_id": friend.id},
        )
        if answer.status_code != 200:
            break
        sent += 1
    assert sent == 100
    assert (answer.status_code, answer.json()["message"]) == (429, "rate_limited")
    told = {"body": "One more", "toUserId": friend.id}
    by_api = http.post("/api/messages/send", headers=eager.headers, json=told)
    assert (by_api.status_code, by_api.json()["code"]) == (429, "rate_limited")


@pytest.mark.parametrize("role", ["anon", "service"])
def test_without_a_person_nothing_is_done(http: httpx.Client, attacked: World, role: str) -> None:
    token = attacked.token(role)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = http.post("/api/messages/send", headers=headers, json={"body": "x", "toUserId": attacked.ids["owner"]})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    direct = attacked.rpc(role, "send_message", body="x", to_user_id=attacked.ids["owner"])
    assert direct.status_code in (401, 403)
    assert direct.json()["code"] == "42501"
