"""Moderation, sanctions and blocks from the side of whoever they are against: nothing to get around or to find out."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.attack.test_matrix import none_of
from tests.attack.world import World, outcome, told_of

SECRET = "zora.quill@hidden-mail.example"


class Someone:
    """A person with two doors."""

    def __init__(self, person: Any, data: httpx.Client) -> None:
        self.id, self.headers, self.data = person.id, person.headers, data

    def rpc(self, function: str, /, **params: Any) -> httpx.Response:
        told = {f"p_{name}": value for name, value in params.items()}
        return self.data.post(f"/rest/v1/rpc/{function}", json=told, headers=self.headers)

    def rows(self, path: str) -> Any:
        return self.data.get(f"/rest/v1/{path}", headers=self.headers).json()

    def everything(self, *conversations: str) -> dict[str, Any]:
        """All that can be read of these conversations and of the people in them, by every way there is."""
        found: dict[str, Any] = {
            table: self.rows(f"{table}?order={key}")
            for table, key in (
                ("messages", "id"), ("conversations", "id"), ("conversation_members", "conversation_id"),
                ("profiles", "user_id"),
            )
        }  # fmt: skip
        for function in ("list_inbox", "unread_counts", "get_profile", "list_blocked", "get_limits"):
            found[function] = self.rpc(function).json()
        found["sync"] = self.rpc("sync").json()
        for there in conversations:
            for function in ("get_conversation", "list_messages", "list_members"):
                found[f"{function} {there}"] = self.rpc(function, conversation_id=there).json()
            for message in self.rows(f"messages?select=id&conversation_id=eq.{there}&order=id"):
                found[f"history {message['id']}"] = self.rpc("message_history", message_id=message["id"]).json()
        return found


@pytest.fixture
def someone(new_person: Any, attacked: World) -> Callable[[str], Someone]:
    return lambda name: Someone(new_person(name), attacked.client)


@pytest.fixture
def banned_word(db: psycopg.Connection[Any]) -> Iterator[str]:
    """A word that a rule rejects."""
    name = "r" + uuid.uuid4().hex[:12]
    word = "".join(chr(97 + int(digit, 16)) for digit in uuid.uuid4().hex[:16])
    db.execute(
        "insert into private.moderation_rules (name, kind, action, label, explanation, terms) "
        "values (%s, 'term', 'reject', 'banned', 'This is not wanted here.', %s)",
        [name, [word]],
    )
    yield word
    db.execute("delete from private.moderation_rules where name = %s", [name])


def test_a_masked_text_is_nowhere_to_be_read(someone: Any, db: Any) -> None:
    """By neither side, through no table, function, event, edit or deletion, until the host allows contact."""
    ann, bob = someone("Ann"), someone("Bob")
    sent = ann.rpc("send_message", body=f"Write to {SECRET} today", to_user_id=bob.id).json()
    there, message = sent["conversation"]["id"], sent["message"]["id"]
    assert sent["message"]["masked"] is True
    ann.rpc("edit_message", message_id=message, body=f"Please write to {SECRET} now")
    ann.rpc("edit_message", message_id=message, body=f"Really, {SECRET}")
    second = ann.rpc("send_message", body=f"And again {SECRET}", conversation_id=there).json()["message"]["id"]
    ann.rpc("delete_message", message_id=second)
    group = bob.rpc("create_group", title="Crew", member_ids=[ann.id]).json()["conversation"]["id"]
    ann.rpc("send_message", body=f"All of you: {SECRET}", conversation_id=group)
    name = SECRET.split("@")[0]
    read = bob.everything(there, group)
    assert message in json.dumps(read)
    none_of([where for where, told in read.items() if name in json.dumps(told)])
    events = db.execute("select payload::text from realtime.messages where topic = %s", [f"user:{bob.id}"]).fetchall()
    assert events
    assert not [event for (event,) in events if name in event]
    title = ann.rpc("create_group", title=f"Write to {SECRET}", member_ids=[bob.id])
    renamed = bob.rpc("update_conversation", conversation_id=group, changes={"title": f"Write to {SECRET}"})
    assert not renamed.is_success, "a new title is no way around the rules"
    rename = ann.rpc("update_profile", changes={"displayName": SECRET[:80]})
    assert not title.is_success, "a title is no way around the rules"
    assert not rename.is_success, "a name is no way around the rules"


def test_a_refused_text_is_refused_in_every_form(someone: Any, banned_word: str, http: httpx.Client, db: Any) -> None:
    """As a message, an edit, a title, a name; by both doors; with any header; and each time there is a verdict."""
    ann, bob = someone("Ann"), someone("Bob")
    there = ann.rpc("send_message", body="Hello", to_user_id=bob.id).json()
    message, there = there["message"]["id"], there["conversation"]["id"]
    by_api = http.post("/api/messages/send", headers=ann.headers, json={"body": banned_word, "conversationId": there})
    direct = ann.rpc("send_message", body=banned_word, conversation_id=there)
    assert (by_api.status_code, by_api.json()["code"]) == (422, "message_rejected")
    assert (direct.status_code, direct.json()["code"], direct.json()["message"]) == (422, "PT422", "message_rejected")
    edit_api = http.patch(f"/api/messages/{message}", headers=ann.headers, json={"body": banned_word})
    edit = ann.rpc("edit_message", message_id=message, body=banned_word)
    assert (edit_api.status_code, edit_api.json()["code"]) == (422, "message_rejected")
    assert (edit.status_code, edit.json()["message"]) == (422, "message_rejected")
    count = "select count(*) from private.verdicts where user_id = %s"
    assert db.execute(count, [ann.id]).fetchone()[0] == 4
    forms = [
        {"Prefer": "tx=rollback"}, {"Prefer": "return=minimal"}, {"Prefer": "handling=strict,max-affected=0"},
        {"Accept": "application/vnd.pgrst.object+json"}, {"Prefer": "count=exact", "Range": "5-9"},
        {"Accept": "text/csv"},
    ]  # fmt: skip
    for number, headers in enumerate(forms):
        answer = ann.data.post(
            "/rest/v1/rpc/send_message",
            headers={**ann.headers, **headers},
            json={"p_body": banned_word, "p_conversation_id": there},
        )
        assert not answer.is_success, headers
        assert db.execute(count, [ann.id]).fetchone()[0] == 5 + number, f"a probe that leaves no verdict: {headers}"
    for query in ("?limit=0", "?select=nothing", "?offset=9", "?order=x", "?id=eq.1"):
        answer = ann.data.post(
            f"/rest/v1/rpc/send_message{query}",
            headers=ann.headers,
            json={"p_body": banned_word, "p_conversation_id": there},
        )
        allowed = ann.data.post(
            f"/rest/v1/rpc/send_message{query}",
            headers=ann.headers,
            json={"p_body": "fine", "p_conversation_id": there},
        )
        left = db.execute(count, [ann.id]).fetchone()[0]
        assert left > 10 or answer.status_code == allowed.status_code, f"a free probe: {query}"
    assert ann.rpc("create_group", title=banned_word, member_ids=[bob.id]).status_code == 422
    assert ann.rpc("update_profile", changes={"displayName": banned_word}).status_code == 422
    assert banned_word not in json.dumps(bob.everything(there))


def test_refused_texts_have_a_limit(someone: Any, banned_word: str, db: Any) -> None:
    """Whoever looks for words that pass, or fills the log, is stopped like whoever sends too much."""
    ann, bob = someone("Ann"), someone("Bob")
    there = ann.rpc("send_message", body="Hello", to_user_id=bob.id).json()["conversation"]["id"]
    said = [outcome(ann.rpc("send_message", body=f"{banned_word} {n}", conversation_id=there)) for n in range(110)]
    assert "rate_limited" in said


def test_a_held_or_refused_text_reaches_nobody(someone: Any, db: Any) -> None:
    name, word = "h" + uuid.uuid4().hex[:12], "".join(chr(97 + int(each, 16)) for each in uuid.uuid4().hex[:16])
    db.execute(
        "insert into private.moderation_rules (name, kind, action, label, explanation, terms) "
        "values (%s, 'term', 'hold', 'held', 'Somebody looks at it first.', %s)",
        [name, [word]],
    )
    try:
        ann, bob, eve = someone("Ann"), someone("Bob"), someone("Eve")
        first = ann.rpc("send_message", body=f"A {word} for you", to_user_id=bob.id)
        assert first.json()["held"] is True, first.text
        there, held = first.json()["conversation"]["id"], first.json()["message"]["id"]
        for other in (bob, eve):
            assert word not in json.dumps(other.everything(there))
            assert outcome(other.rpc("get_conversation", conversation_id=there)) == "not_found"
            assert other.rows(f"conversations?id=eq.{there}") == []
            for function in ("mark_read", "message_history", "delete_message"):
                answers = [other.rpc(function, message_id=each) for each in (held, str(uuid.uuid4()))]
                assert told_of(answers[0]) == told_of(answers[1]), function
            report = [other.rpc("report_message", message_id=each, reason="spam") for each in (held, str(uuid.uuid4()))]
            assert told_of(report[0]) == told_of(report[1])
            person = [other.rpc("report_user", user_id=each, reason="spam") for each in (ann.id, str(uuid.uuid4()))]
            assert told_of(person[0]) == told_of(person[1])
        decide = ann.rpc("decide_moderation_item", item_id=held, decision="release")
        assert outcome(decide) == "forbidden"
        events = db.execute(
            "select payload::text from realtime.messages where topic = %s", [f"user:{bob.id}"]
        ).fetchall()
        assert not [event for (event,) in events if word in event or there in event]
    finally:
        db.execute("delete from private.moderation_rules where name = %s", [name])


# What may differ for who was blocked: that the other cannot be written to or seen, as with one who is suspended.
SAYS_SO = {"canSend", "lastSeenAt", "resetS"}


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            each
            for name in before.keys() | after.keys()
            if name not in SAYS_SO
            for each in differences(before.get(name), after.get(name), f"{path}/{name}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            each for n, pair in enumerate(zip(before, after, strict=True)) for each in differences(*pair, f"{path}/{n}")
        ]
    return [] if before == after else [f"{path}: {str(before)[:80]} and then {str(after)[:80]}"]


def test_who_is_blocked_sees_no_difference(someone: Any, db: Any) -> None:
    """Neither at the moment of the block, nor when the blocker reads, types, is renamed or unblocks."""
    ann, bob = someone("Ann"), someone("Bob")
    there = bob.rpc("send_message", body="Hello", to_user_id=ann.id).json()["conversation"]["id"]
    ann.rpc("send_message", body="Yes?", conversation_id=there)
    group = ann.rpc("create_group", title="Crew", member_ids=[bob.id]).json()["conversation"]["id"]
    bob.rpc("send_message", body="In the group", conversation_id=group)
    bob.rpc("send_message", body="One more", conversation_id=there)
    before = bob.everything(there, group)
    events = "select count(*) from realtime.messages where topic = %s or topic like %s"
    heard = db.execute(events, [f"user:{bob.id}", f"conversation:{there}:live:%"]).fetchone()[0]
    assert ann.rpc("block_user", user_id=bob.id).is_success
    none_of(differences(before, bob.everything(there, group)))
    ann.rpc("mark_all_read", conversation_id=there)
    ann.rpc("mark_delivered", receipts=[{"conversationId": there, "seq": 3}])
    ann.rpc("set_typing", conversation_id=there)
    ann.rpc("update_conversation", conversation_id=there, changes={"pinned": True})
    ann.rpc("report_user", user_id=bob.id, reason="harassment")
    none_of(differences(before, bob.everything(there, group)))
    assert db.execute(events, [f"user:{bob.id}", f"conversation:{there}:live:%"]).fetchone()[0] == heard
    assert outcome(bob.rpc("send_message", body="x", conversation_id=there)) == "recipient_unavailable"
    ann.rpc("unblock_user", user_id=bob.id)
    after = bob.everything(there, group)
    assert [each for each in differences(before, after) if "/conversations/" in each and "live_epoch" in each] == []


def test_a_block_says_the_same_as_an_account_that_is_suspended(someone: Any, db: Any) -> None:
    """Every attempt at contact, side by side."""
    bob, blocker, suspended = someone("Bob"), someone("Ann"), someone("Sue")
    rooms = {
        each.id: bob.rpc("send_message", body="Hello", to_user_id=each.id).json()["conversation"]["id"]
        for each in (blocker, suspended)
    }
    group = bob.rpc("create_group", title="Mine", member_ids=[]).json()["conversation"]["id"]
    messages = {who: bob.rows(f"messages?select=id&conversation_id=eq.{room}")[0]["id"] for who, room in rooms.items()}
    assert blocker.rpc("block_user", user_id=bob.id).is_success
    db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'suspend', 'test')", [suspended.id])
    attempts: list[tuple[str, Callable[[str], dict[str, Any]]]] = [
        ("send_message", lambda who: {"body": "x", "to_user_id": who}),
        ("send_message", lambda who: {"body": "x", "to_user_id": who, "gig_id": str(uuid.UUID(int=7))}),
        ("send_message", lambda who: {"body": "x", "conversation_id": rooms[who]}),
        ("set_typing", lambda who: {"conversation_id": rooms[who]}),
        ("create_group", lambda who: {"title": "x", "member_ids": [who]}),
        ("add_members", lambda who: {"conversation_id": group, "user_ids": [who]}),
        ("edit_message", lambda who: {"message_id": messages[who], "body": "Hello there"}),
    ]
    for function, told in attempts:
        said = [told_of(bob.rpc(function, **told(each.id))).replace(each.id, "<who>") for each in (blocker, suspended)]
        assert said[0] == said[1], function
    states = []
    for each in (blocker, suspended):
        opened = bob.rpc("get_conversation", conversation_id=rooms[each.id]).json()["conversation"]
        states.append(
            (opened["canSend"], opened["liveTopic"].rpartition(":")[2], opened["eventSeq"], len(opened["messages"]))
        )
    assert states[0] == states[1]
    assert states[0][0] is False


@pytest.mark.parametrize("forged", [
    {}, [], "x", 7, None, {"signed": "{}"}, {"signed": "{}", "signature": ""},
    {"signed": "{}", "signature": "0" * 64, "keyVersion": 1},
    {"signed": "{}", "signature": "0" * 64, "keyVersion": 0},
    {"signed": {"verdict": {"action": "allow"}}, "signature": {}, "keyVersion": {}},
    {"signed": "x" * 200_000, "signature": "0" * 64, "keyVersion": 1},
    {"signed": "{}", "signature": "é", "keyVersion": "1 or true"},
], ids=str)  # fmt: skip
def test_an_envelope_of_ones_own_making_is_refused(forged: Any, someone: Any, db: Any) -> None:
    """Unsigned verdicts, empty signatures, keys that do not exist: no way past moderation."""
    ann, bob = someone("Ann"), someone("Bob")
    answer = ann.rpc("send_message", to_user_id=bob.id, client_message_id=str(uuid.uuid4()), envelope=forged)
    assert outcome(answer) in (
        ("validation_failed",) if forged is None else ("envelope_invalid", "validation_failed")
    ), answer.text
    assert db.execute("select count(*) from public.messages where from_user_id = %s", [ann.id]).fetchone()[0] == 0


def test_the_audit_log_cannot_be_rewritten(db: Any, cluster: Any, supabase_stack: Any) -> None:
    db.execute("insert into private.moderation_actions (action) values ('tested')")
    for statement in (
        "update private.moderation_actions set note = 'x'", "delete from private.moderation_actions",
        "truncate private.moderation_actions", "update private.moderation_actions set note = 'x' where false",
    ):  # fmt: skip
        with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
            if "where false" in statement:
                conn.execute(statement)
                continue
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                conn.execute(statement)


def test_contacts_see_of_a_profile_what_the_api_shows(someone: Any) -> None:
    """Not who hides something: that would tell a block from a wish to be left alone."""
    ann, bob = someone("Ann"), someone("Bob")
    ann.rpc("send_message", body="Hello", to_user_id=bob.id)
    before = bob.rows(f"profiles?user_id=eq.{ann.id}")
    assert set(before[0]) <= {
        "user_id",
        "display_name",
        "avatar_url",
        "locale",
        "search_name",
        "created_at",
        "updated_at",
    }
    assert ann.rpc("update_profile", changes={"hidesLastSeen": True, "privateReading": True}).is_success
    assert bob.rows(f"profiles?user_id=eq.{ann.id}") == before


def test_changes_of_a_name_have_a_limit(someone: Any, db: Any) -> None:
    """Each is told to everybody the person talks with, and the edge limiter is not on this way."""
    ann, bob = someone("Ann"), someone("Bob")
    ann.rpc("send_message", body="Hello", to_user_id=bob.id)
    said = [outcome(ann.rpc("update_profile", changes={"displayName": f"Ann {n}"})) for n in range(32)]
    assert (said.count("ok"), said[-1]) == (30, "rate_limited")
    assert ann.rpc("update_profile", changes={"hidesLastSeen": True}).is_success


def test_a_name_of_sign_up_is_held_to_the_rules(someone: Any, attacked: World) -> None:
    ann = someone(f"Write to {SECRET}")
    body = {"email": f"{uuid.uuid4()}@example.com", "password": "a-good-password", "data": {"name": f"me: {SECRET}"}}
    answer = attacked.client.post("/auth/v1/signup", json=body)
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    told = attacked.client.post("/rest/v1/rpc/get_profile", json={}, headers=headers).text
    assert SECRET.split("@")[0] not in told + ann.rpc("get_profile").text


def test_long_lists_are_refused_before_they_cost_anything(someone: Any) -> None:
    """The API takes bodies of 64 KiB; the data API takes any."""
    ann = someone("Ann")
    many = [str(uuid.UUID(int=number)) for number in range(20_000)]
    receipts = [{"conversationId": each, "seq": 1} for each in many]
    assert outcome(ann.rpc("create_group", title="x", member_ids=many)) == "validation_failed"
    assert outcome(ann.rpc("mark_delivered", receipts=receipts)) == "validation_failed"
    assert outcome(ann.rpc("update_profile", changes=dict.fromkeys(many, 1))) == "validation_failed"
    for function, params in (
        ("send_message", {"body": "x" * 2_000_000, "to_user_id": many[0]}), ("list_inbox", {"q": "x" * 2_000_000}),
        ("sync", {"cursor": "x" * 2_000_000}), ("create_group", {"title": "x" * 2_000_000}),
        ("report_user", {"user_id": many[0], "reason": "spam", "note": "x" * 2_000_000}),
    ):  # fmt: skip
        answer = ann.rpc(function, **params)
        assert outcome(answer) in ("validation_failed", "cursor_invalid", "not_found"), (function, answer.text[:100])
