"""What SQL parses itself, called as the data API calls it: refused with PT400, never with an error of Postgres."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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


def asked(db: psycopg.Connection[Any], who: str, function: str, /, **params: Any) -> Any:
    """The answer, or None for a refusal, which must be PT400 with a pointer."""
    try:
        return call(db, who, function, **params)
    except psycopg.Error as error:
        diag = error.diag
        assert diag.sqlstate == "PT400", (diag.sqlstate, diag.message_primary, params)
        assert diag.message_primary in ("cursor_invalid", "validation_failed")
        assert diag.message_hint is not None
        return None


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
    members = call(db, me, "list_members", conversation_id=group, limit=1)["nextCursor"]
    sync = call(db, me, "sync")["cursor"]
    # With a place to resume at, as a long conversation leaves it.
    longer = f"{sync}.{group}.5"
    cursor = data.draw(st.sampled_from([members, sync, longer]).flatmap(changed))
    for function, params in (
        ("list_inbox", {}), ("list_members", {"conversation_id": group}), ("sync", {}), ("sync", {"limit": 1}),
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
    answer = asked(db, me, "update_conversation", conversation_id=group, changes=Jsonb(value))
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
def test_changes_of_a_profile(db: psycopg.Connection[Any], room: tuple[str, str], value: Any) -> None:
    answer = asked(db, room[0], "update_profile", changes=Jsonb(value))
    if answer is not None:
        profile = answer["profile"]
        assert len(profile["displayName"]) in range(1, 81)
        assert profile["avatarUrl"] is None or profile["avatarUrl"].isascii()


@quick
@given(texts | odd)
def test_texts_and_searches(db: psycopg.Connection[Any], room: tuple[str, str], value: str) -> None:
    me, group = room
    asked(db, me, "list_inbox", q=value)
    db.execute("delete from private.paces")
    sent = asked(db, me, "send_message", conversation_id=group, body=value)
    if sent is not None:
        assert len(sent["message"]["body"]) in range(1, 4001)
    asked(db, me, "create_group", title=value, member_ids=[])
