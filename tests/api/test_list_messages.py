"""GET /api/messages/conversations/{id}/messages on the real stack."""

import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LIST = "/api/messages/conversations"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"


@pytest.fixture
def talk(person: Any, send: Any) -> tuple[Any, Any, str]:
    """Two people and their 23 messages, whose texts are their places."""
    ada, ben = person(), person()
    for seq in range(1, 24):
        room = send((ada, ben)[seq % 2], f"{seq}", toUserId=(ben, ada)[seq % 2].id).json()["conversation"]["id"]
    return ada, ben, room


def page(http: Any, person: Any, room: str, **query: Any) -> tuple[list[int], bool, bool]:
    """The places on one page, and whether there are more on either side."""
    answer = http.get(f"{LIST}/{room}/messages", headers=person.headers, params=query)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [m["body"] for m in told["messages"]] == [f"{m['seq']}" for m in told["messages"]]
    return [m["seq"] for m in told["messages"]], told["hasMoreBefore"], told["hasMoreAfter"]


def through(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (through(1, 23), False, False)), ({"limit": 5}, (through(19, 23), True, False)),
        ({"before": 19, "limit": 5}, (through(14, 18), True, True)),
        ({"before": 3, "limit": 5}, (through(1, 2), False, True)),
        ({"before": 1}, ([], False, True)), ({"before": 0}, ([], False, True)),
        ({"before": 2**53 - 1, "limit": 1}, ([23], True, False)),
        ({"after": 0, "limit": 5}, (through(1, 5), False, True)), ({"after": 21}, ([22, 23], True, False)),
        ({"after": 23}, ([], True, False)), ({"after": 2**53 - 1}, ([], True, False)),
        ({"around": 10, "limit": 5}, (through(8, 12), True, True)), ({"around": 10, "limit": 1}, ([10], True, True)),
        ({"around": 1, "limit": 5}, (through(1, 5), False, True)),
        ({"around": 0, "limit": 2}, ([1, 2], False, True)),
        ({"around": 2**53 - 1, "limit": 2}, ([22, 23], True, False)),
    ],
)  # fmt: skip
def test_places(talk: Any, http: Any, query: Any, expected: Any) -> None:
    assert page(http, talk[1], talk[2], **query) == expected


def test_walking_both_ways_is_contiguous(talk: Any, send: Any, http: Any, db: Any) -> None:
    ada, ben, room = talk
    last, reader = 23, ada

    # Few, because a walk in small pages is many requests of one person.
    @settings(max_examples=12, deadline=None)
    @given(st.integers(0, 30), st.integers(2, 9), st.booleans())
    def example(around: int, limit: int, writes: bool) -> None:
        nonlocal last
        first = db.execute("select first_seq from public.conversations where id = %s", [room]).fetchone()[0]
        seen, before, after = page(http, reader, room, around=around, limit=limit)
        assert len(seen) == min(limit, last - first + 1)
        assert min(max(around, first), last) in seen
        while before:
            older, before, more = page(http, reader, room, before=seen[0], limit=limit)
            assert more is True
            assert older or not before
            seen = older + seen
        if writes and last < 60:
            last += 1
            assert send(ben, f"{last}", conversationId=room).json()["message"]["seq"] == last
            after = True
        while after:
            newer, more, after = page(http, reader, room, after=seen[-1], limit=limit)
            assert more is True
            assert newer or not after
            seen += newer
        assert seen == through(first, last)

    example()
    # Retention removes a prefix; both walks end at what is left.
    db.execute("delete from public.messages where conversation_id = %s and seq < 8", [room])
    db.execute("update public.conversations set first_seq = 8 where id = %s", [room])
    reader = ben
    example()
    assert page(http, ada, room, before=8) == ([], False, True)
    assert page(http, ada, room, after=0, limit=2) == ([8, 9], False, True)


def test_conversations_of_none_and_one(person: Any, send: Any, group: Any, http: Any) -> None:
    ada, ben = person(), person()
    room = send(ada, "1", toUserId=ben.id).json()["conversation"]["id"]
    for query in ({}, {"around": 1, "limit": 1}, {"before": 2}, {"after": 0}):
        assert page(http, ben, room, **query) == ([1], False, False)
    assert page(http, ben, room, before=1) == ([], False, True)
    assert page(http, ben, room, after=1) == ([], True, False)
    silent = group(ada, ben)["id"]
    for query in ({}, {"around": 1}, {"before": 1}, {"after": 0}):
        assert page(http, ben, silent, **query) == ([], False, False)


def test_members_see_from_where_they_joined(person: Any, send: Any, group: Any, http: Any) -> None:
    ada, ben, cyd = person(), person(), person()
    crew = group(ada, ben)["id"]
    for seq in (1, 2):
        send(ada, f"{seq}", conversationId=crew)
    http.post(f"{LIST}/{crew}/members", headers=ada.headers, json={"userIds": [cyd.id]})
    assert page(http, cyd, crew) == ([], False, False)
    send(ben, "3", conversationId=crew)
    for query in ({}, {"around": 1}, {"after": 0}, {"before": 9}):
        assert page(http, cyd, crew, **query) == ([3], False, False)
    assert page(http, ada, crew) == ([1, 2, 3], False, False)


def test_outsiders_and_former_members(person: Any, send: Any, group: Any, http: Any, alike: Any) -> None:
    ada, ben, eve = person(), person(), person()
    crew = group(ada, ben, eve)["id"]
    send(ada, "1", conversationId=crew)
    http.delete(f"{LIST}/{crew}/members/{eve.id}", headers=eve.headers)
    for room in (crew, send(ada, "1", toUserId=ben.id).json()["conversation"]["id"]):
        alike(
            http.get(f"{LIST}/{room}/messages", headers=eve.headers),
            http.get(f"{LIST}/{uuid.uuid4()}/messages", headers=eve.headers),
        )


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("before=5&after=5", "/before"), ("around=5&after=5", "/before"), ("before=1&after=1&around=1", "/before"),
        ("before=-1", "/before"), ("after=9007199254740992", "/after"), ("around=1.5", "/around"),
        ("around=x", "/around"), ("before=", "/before"), ("before=null", "/before"), ("after=1&after=1", "/after"),
        ("after=99999999999999999999999", "/after"), ("limit=0", "/limit"), ("limit=101", "/limit"),
    ],
)  # fmt: skip
def test_malformed_places(person: Any, http: Any, refused: Any, query: str, pointer: str) -> None:
    answer = http.get(f"{LIST}/{SOMETHING}/messages?{query}", headers=person().headers)
    refused(answer, 400, "validation_failed", pointer)
