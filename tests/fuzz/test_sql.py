"""What SQL parses itself, called as the data API calls it: refused with PT400, never with an error of Postgres."""

import json
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.sql.rpc import call, make_group

# The connection and the people are made once; every example is its own transaction.
quick = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# JSON cannot bring NUL or half a surrogate into Postgres: the data API refuses those before any function runs.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
numbers = (
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([10**400, -(10**30), 2**63])
)
odd = st.sampled_from(["", " ", "0", "true", "null", "infinity", "-infinity", "epoch", "now", "\u0663", "1e5",
                       "x" * 5000, "0198c0de-0000-7000-8000-000000000001", "{}", "[]", "'; --",
                       "\u0316\u0300" * 300])  # fmt: skip
scalars = st.none() | st.booleans() | numbers | texts | odd
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
times = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.from_regex(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)\n?", fullmatch=True
)


def asked(db: psycopg.Connection[Any], who: str, function: str, /, *codes: str, **params: Any) -> Any:
    """The answer, or None for a refusal: PT400 with a pointer, or one of these other codes."""
    try:
        return call(db, who, function, **params)
    except psycopg.Error as error:
        diag = error.diag
        if diag.message_primary in codes:
            assert str(diag.sqlstate).startswith("PT4")
            return None
        assert diag.sqlstate == "PT400", (diag.sqlstate, diag.message_primary, params)
        assert diag.message_primary in ("cursor_invalid", "validation_failed")
        assert diag.message_hint is not None
        return None


def asked_by_the_service(db: psycopg.Connection[Any], function: str, **params: Any) -> Any:
    """The same for what only the service may call."""
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder()) for name in params
    )
    query = sql.SQL("select public.{}({})").format(sql.Identifier(function), arguments)
    try:
        with db.transaction():
            db.execute("set local role service_role")
            db.execute("select set_config('request.jwt.claims', '{\"role\": \"service_role\"}', true)")
            row = db.execute(query, list(params.values())).fetchone()
    except psycopg.Error as error:
        diag = error.diag
        assert (diag.sqlstate, diag.message_primary) == ("PT400", "validation_failed"), (diag.message_primary, params)
        return None
    assert row is not None
    return row[0]


@pytest.fixture
def room(db: psycopg.Connection[Any], person: Any) -> tuple[str, str]:
    """Somebody, and a group of which they are the owner and which has a second page of members."""
    people = [person() for _ in range(3)]
    made = make_group(db, [who.id for who in people])
    db.execute(
        "update public.conversation_members set role = 'owner' where conversation_id = %s and user_id = %s",
        [made, people[0].id],
    )
    return people[0].id, made


def changed(cursor: str) -> st.SearchStrategy[str]:
    """A real cursor with a character replaced, doubled or left out, and other texts."""
    return texts | odd | st.builds(
        lambda at, length, other: cursor[: at % len(cursor)] + other + cursor[at % len(cursor) + length :],
        st.integers(0, 200), st.integers(0, 3), st.text("0123456789abcdef.-_=+/ \u0663\u096a\n", max_size=20),
    )  # fmt: skip


@quick
@given(st.data())
def test_cursors(db: psycopg.Connection[Any], room: tuple[str, str], data: st.DataObject) -> None:
    me, group = room
    db.execute("insert into private.moderators (user_id, role) values (%s, 'moderator') on conflict do nothing", [me])
    members = call(db, me, "list_members", conversation_id=group, limit=1)["nextCursor"]
    sync = call(db, me, "sync")["cursor"]
    # With a place to resume at, as a long conversation leaves it.
    longer = f"{sync}.{group}.5"
    cursor = data.draw(st.sampled_from([members, sync, longer]).flatmap(changed))
    for function, params in (
        ("list_inbox", {}), ("list_members", {"conversation_id": group}), ("sync", {}), ("sync", {"limit": 1}),
        ("list_blocked", {}), ("list_moderation_queue", {}), ("list_moderation_queue", {"status": "decided"}),
        ("list_moderation_actions", {}),
    ):  # fmt: skip
        answer = asked(db, me, function, cursor=cursor, **params)
        assert answer is None or isinstance(answer, dict)


@quick
@given(st.sampled_from([0, 10**15, 10**16 - 1]), st.sampled_from([0, 10**16 - 1]), st.sampled_from([0, 10**16 - 1]))
def test_sync_cursors_of_the_right_form(
    db: psycopg.Connection[Any], room: tuple[str, str], base: int, through: int, at: int
) -> None:
    me, group = room
    digest = call(db, me, "sync")["cursor"].partition(".")[0]
    for cursor in (f"{digest}.{base}.{through}", f"{digest}.{base}.{through}.{group}.{at}"):
        assert asked(db, me, "sync", cursor=cursor) is not None


receipts = st.lists(
    st.fixed_dictionaries({}, optional={"conversationId": scalars, "seq": scalars, "x": anything}) | anything,
    max_size=3,
)


@quick
@given(anything | receipts)
@example([{"conversationId": "0198c0de-0000-7000-8000-000000000001", "seq": "9" * 17}])
@example([{"conversationId": "0198c0de-0000-7000-8000-000000000001\n", "seq": 1}])
@example([{"conversationId": "0198c0de-0000-7000-8000-000000000001", "seq": "\u0663"}])
@example([{"conversationId": "0198c0de-0000-7000-8000-000000000001", "seq": "1\n"}])
@example([{}] * 101)
def test_delivered(db: psycopg.Connection[Any], room: tuple[str, str], value: Any) -> None:
    me, group = room
    asked(db, me, "mark_delivered", receipts=Jsonb(value))
    for seq in (0, 10**16 - 1):
        told = asked(db, me, "mark_delivered", receipts=Jsonb([{"conversationId": group.upper(), "seq": str(seq)}]))
        assert told["receipts"][0]["lastDeliveredSeq"] == 0


@quick
@given(
    anything
    | st.fixed_dictionaries({}, optional={"archived": scalars, "pinned": scalars, "markedUnread": scalars,
                                          "title": scalars, "mutedUntil": scalars | times, "constructor": scalars})
)  # fmt: skip
@example({"mutedUntil": "2026-02-30T00:00:00Z"})
@example({"mutedUntil": "0000-01-01T00:00:00Z"})
@example({"mutedUntil": "9999-12-31T23:59:60+99:99"})
@example({"mutedUntil": "\u0662\u0660\u0662\u0666-01-01T00:00:00Z"})
@example({"title": "\u0316\u0300" * 300})
@example({"title": "\u202e\u2066\t"})
def test_changes_of_a_conversation(db: psycopg.Connection[Any], room: tuple[str, str], value: Any) -> None:
    me, group = room
    answer = asked(db, me, "update_conversation", "text_rejected", conversation_id=group, changes=Jsonb(value))
    if answer is not None:
        assert isinstance(value, dict)
        assert len(answer["conversation"]["title"]) in range(1, 121)
        json.dumps(answer)


@quick
@given(
    anything
    | st.fixed_dictionaries({}, optional={
        "displayName": scalars, "locale": scalars, "privateReading": scalars, "hidesLastSeen": scalars,
        "avatarUrl": scalars | texts.map("https://".__add__) | texts.map("https://example.com/".__add__)
        | texts.map("https://x/storage/v1/object/public/avatars/".__add__),
    })
)  # fmt: skip
@example({"avatarUrl": "https://x/storage/v1/object/public/avatars/%zz?#"})
@example({"avatarUrl": "https://x\ny/"})
@example({"avatarUrl": "https://[x/"})
@example({"avatarUrl": "https://:1/"})
def test_changes_of_a_profile(db: psycopg.Connection[Any], room: tuple[str, str], value: Any) -> None:
    answer = asked(db, room[0], "update_profile", "text_rejected", changes=Jsonb(value))
    if answer is not None:
        profile = answer["profile"]
        assert len(profile["displayName"]) in range(1, 81)
        assert profile["avatarUrl"] is None or (
            profile["avatarUrl"].isascii() and urlsplit(profile["avatarUrl"]).hostname
        )


@quick
@given(texts | odd)
def test_texts_and_searches(db: psycopg.Connection[Any], room: tuple[str, str], value: str) -> None:
    me, group = room
    asked(db, me, "list_inbox", q=value)
    db.execute("delete from private.paces")
    sent = asked(db, me, "send_message", "message_rejected", conversation_id=group, body=value)
    if sent is not None:
        assert len(sent["message"]["body"]) in range(1, 4001)
    asked(db, me, "create_group", "text_rejected", title=value, member_ids=[])


@quick
@given(
    anything
    | st.fixed_dictionaries({}, optional={
        "keyVersion": scalars | st.just(1) | st.just("1"), "signed": scalars | anything.map(json.dumps),
        "signature": scalars | st.just("0" * 64),
    })
)  # fmt: skip
@example({"keyVersion": 1, "signed": "{" * 200_000, "signature": "0"})
def test_envelopes(db: psycopg.Connection[Any], room: tuple[str, str], value: Any) -> None:
    me, group = room
    db.execute(
        "insert into private.envelope_keys (version, signing_key) values (1, %s) on conflict do nothing", [b"k" * 32]
    )
    params = {"conversation_id": group, "client_message_id": "0198c0de-0000-7000-8000-00000000004e"}
    sent = asked(db, me, "send_message", "envelope_invalid", envelope=Jsonb(value), **params)
    assert sent is None
    # Without a text and without an envelope nothing is sent.
    assert asked(db, me, "send_message", envelope=None, **params) is None


@quick
@given(texts | odd, texts | odd, st.integers(-(2**31), 2**31 - 1))
def test_words_of_moderators_and_reporters(
    db: psycopg.Connection[Any], room: tuple[str, str], word: str, note: str, seconds: int
) -> None:
    me, group = room
    db.execute("insert into private.moderators (user_id, role) values (%s, 'admin') on conflict do nothing", [me])
    found = db.execute(
        "select user_id::text from public.conversation_members where conversation_id = %s and user_id <> %s",
        [group, me],
    ).fetchone()
    assert found is not None
    other, nobody = found[0], "0198c0de-0000-7000-8000-000000000001"
    known = ("not_found", "already_decided", "rate_limited", "decision_not_possible", "undo_not_possible")
    for reason in (word, "spam", "other"):
        asked(db, me, "report_user", *known, user_id=other, reason=reason, note=note)
        asked(db, me, "report_message", *known, message_id=nobody, reason=reason, note=note)
    for kind in (word, "mute"):
        asked(db, me, "sanction_user", *known, user_id=other, kind=kind, duration_s=seconds, reason=note)
    for decision in (word, "dismiss"):
        asked(db, me, "decide_moderation_item", *known, item_id=nobody, decision=decision, note=note)
    for function, name in (
        ("lift_sanction", "sanction_id"), ("undo_moderation_action", "action_id"),
        ("moderate_hide_message", "message_id"), ("moderate_restore_message", "message_id"),
    ):  # fmt: skip
        asked(db, me, function, *known, note=note, **{name: nobody})
    asked(db, me, "list_moderation_queue", status=word, kind=note)


@quick
@given(
    anything
    | st.fixed_dictionaries({}, optional={
        "action": scalars | st.sampled_from(["allow", "warn", "hide", "review"]), "label": scalars, "score": scalars,
        "model": scalars,
    })
)  # fmt: skip
def test_outcomes_of_the_classifier(db: psycopg.Connection[Any], value: Any) -> None:
    nobody = "0198c0de-0000-7000-8000-000000000001"
    told = asked_by_the_service(db, "finish_classification", message_id=nobody, lease=nobody, outcome=Jsonb(value))
    assert told in (None, {"result": "outdated"}, {"result": "off"})


envelopes = st.lists(
    anything
    | st.fixed_dictionaries({}, optional={
        "messageId": scalars | st.just("0198c0de-0000-7000-8000-000000000001"), "fromVersion": scalars | st.just(1),
        "keyVersion": scalars | st.just(1), "wrappedKey": scalars | st.just("AAAA"), "oldDigest": scalars,
        "digest": scalars,
    }),
    max_size=3,
)  # fmt: skip


@quick
@given(anything | envelopes)
@example([{"messageId": "0198c0de-0000-7000-8000-000000000001", "fromVersion": 1, "keyVersion": 1, "wrappedKey": "%"}])
@example([1])
@example([{"keyVersion": "x"}])
@example([{"keyVersion": 1, "messageId": "x"}])
def test_rewrapped_envelopes(db: psycopg.Connection[Any], value: Any) -> None:
    db.execute(
        "insert into private.envelope_keys (version, signing_key) values (1, %s) on conflict do nothing", [b"k" * 32]
    )
    told = asked_by_the_service(db, "rewrap_envelopes", envelopes=Jsonb(value))
    assert told in (None, {"rewrapped": 0})
