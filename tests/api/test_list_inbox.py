"""GET /api/messages/conversations and GET /api/messages/unread on the real stack."""

import base64
import threading
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LIST = "/api/messages/conversations"
UNREAD = "/api/messages/unread"


def page(http: Any, person: Any, **query: Any) -> tuple[list[str], str | None]:
    """The ids of one page, and its cursor."""
    answer = http.get(LIST, headers=person.headers, params=query)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["conversations"]], answer.json()["nextCursor"]


def walk(http: Any, person: Any, between: Any = lambda: None, **query: Any) -> list[str]:
    """The ids of all pages; only the last page may be short."""
    seen, cursor = page(http, person, **query)
    while cursor is not None:
        between()
        more, cursor = page(http, person, cursor=cursor, **query)
        assert cursor is None or len(more) == query["limit"]
        seen += more
    return seen


@pytest.fixture
def crowd(person: Any, send: Any) -> tuple[Any, dict[str, Any]]:
    """Somebody with twelve conversations, and who writes in each, newest first."""
    me, rooms = person("Me"), {}
    for number in range(12):
        other = person(f"Other {number}")
        rooms[send(other, "Hello", toUserId=me.id).json()["conversation"]["id"]] = other
    return me, dict(reversed(rooms.items()))


def test_pages_and_order(crowd: Any, http: Any) -> None:
    me, rooms = crowd
    order = list(rooms)
    for limit in (1, 5, 12, 13):
        assert walk(http, me, limit=limit) == order
    pin = http.patch(f"{LIST}/{order[7]}", headers=me.headers, json={"pinned": True})
    assert pin.json()["conversation"]["pinnedAt"] is not None
    assert walk(http, me, limit=4) == [order[7], *order[:7], *order[8:]]
    rows = http.get(LIST, headers=me.headers, params={"limit": 100}).json()["conversations"]
    by_offset = http.post(LIST, headers=me.headers, json={"userId": me.id, "limit": 100}).json()["conversations"]
    assert rows == by_offset
    assert page(http, crowd[1][order[0]], limit=100) == ([order[0]], None)


def test_empty_inbox(http: Any, person: Any) -> None:
    ada = person()
    assert http.get(LIST, headers=ada.headers).json() == {"conversations": [], "nextCursor": None}
    assert http.get(UNREAD, headers=ada.headers).json() == {"messages": 0, "conversations": 0}


def test_walking_while_others_write_misses_and_repeats_nothing(crowd: Any, send: Any, http: Any) -> None:
    me, rooms = crowd

    @settings(max_examples=12, deadline=None)
    @given(st.integers(1, 5), st.lists(st.integers(0, 11), max_size=8))
    def example(limit: int, writers: list[int]) -> None:
        before, turns, moved = walk(http, me, limit=100), iter(writers), set()

        def between() -> None:
            for writer in (next(turns, None), next(turns, None)):
                if writer is not None:
                    room = before[writer]
                    assert send(rooms[room], "Up", conversationId=room).status_code == 201
                    moved.add(room)

        seen = walk(http, me, between, limit=limit)
        assert len(seen) == len(set(seen))
        assert [room for room in seen if room not in moved] == [room for room in before if room not in moved]

    example()


def test_walking_while_others_write_at_the_same_time(crowd: Any, send: Any, http: Any) -> None:
    me, rooms = crowd
    lively, done = list(rooms)[::3], threading.Event()

    def write() -> None:
        for number in range(60):
            room = lively[number % len(lively)]
            if done.is_set() or send(rooms[room], "Up", conversationId=room).status_code != 201:
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            seen = walk(http, me, limit=2)
            assert len(seen) == len(set(seen))
            assert [room for room in seen if room not in lively] == [room for room in rooms if room not in lively]
    finally:
        done.set()
        writer.join()


def test_archive_and_unread(crowd: Any, send: Any, http: Any) -> None:
    me, rooms = crowd
    order = list(rooms)
    for room in order[:3]:
        assert http.patch(f"{LIST}/{room}", headers=me.headers, json={"archived": True}).status_code == 200
    assert walk(http, me, limit=2, archived="true") == order[:3]
    assert walk(http, me, limit=2, archived="false") == order[3:]
    for room in order[3:]:
        http.patch(f"{LIST}/{room}/read-all", headers=me.headers)
    assert walk(http, me, limit=2, unread="1") == []
    http.patch(f"{LIST}/{order[5]}", headers=me.headers, json={"markedUnread": True})
    send(rooms[order[8]], "New", conversationId=order[8])
    assert walk(http, me, limit=1, unread="true") == [order[8], order[5]]
    assert walk(http, me, limit=2, unread="true", archived="true") == order[:3]
    send(rooms[order[1]], "Back again", conversationId=order[1])
    assert walk(http, me, limit=10)[0] == order[1]
    assert http.get(UNREAD, headers=me.headers).json() == {"messages": 3, "conversations": 3}


def test_badge_leaves_out_muted_and_archived(crowd: Any, http: Any) -> None:
    me, rooms = crowd
    order = list(rooms)
    assert http.get(UNREAD, headers=me.headers).json() == {"messages": 12, "conversations": 12}
    http.patch(f"{LIST}/{order[0]}", headers=me.headers, json={"archived": True})
    http.patch(f"{LIST}/{order[1]}", headers=me.headers, json={"mutedUntil": "2999-01-01T00:00:00Z"})
    assert http.get(UNREAD, headers=me.headers).json() == {"messages": 10, "conversations": 10}
    http.patch(f"{LIST}/{order[1]}", headers=me.headers, json={"mutedUntil": None})
    assert http.get(UNREAD, headers=me.headers).json() == {"messages": 11, "conversations": 11}


def test_person_and_gig(person: Any, send: Any, http: Any) -> None:
    ada, ben, cyd, gig = person(), person(), person(), str(uuid.uuid4())
    plain, with_gig, other = (
        send(ada, "Hello", toUserId=to.id, gigId=about).json()["conversation"]["id"]
        for to, about in ((ben, None), (ben, gig), (cyd, gig))
    )
    assert page(http, ada, withUserId=ben.id.upper())[0] == [with_gig, plain]
    assert page(http, ada, gigId=gig.upper())[0] == [other, with_gig]
    assert page(http, ada, gigId=gig, withUserId=ben.id)[0] == [with_gig]
    assert page(http, ada, gigId=str(uuid.uuid4()))[0] == page(http, ada, withUserId=str(uuid.uuid4()))[0] == []
    assert page(http, cyd, gigId=gig)[0] == [other]
    assert walk(http, ada, limit=1, gigId=gig) == [other, with_gig]


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("Emil Sørensen", ["emil", "SORENSEN", "sørensen", "il s"]),
        ("Дмитрий Ёлкин", ["дмитр", "ЕЛКИН"]), ("مُحَمَّد", ["محمد"]), ("이영희", ["영희"]), ("陈 Chloé", ["陈", "CHLOE"]),
        ("👩\u200d👧 Mum", ["👩\u200d👧", "mum"]), ("100% & more?", ["100% &", "e?", "%"]), ("a_b", ["a_b"]),
        ("null", ["null"]), ("true", ["true"]),
    ],
)  # fmt: skip
def test_search_in_any_script(person: Any, send: Any, http: Any, name: str, queries: list[str]) -> None:
    ada, found = person("Searcher"), person(name)
    there = send(found, "Hello", toUserId=ada.id).json()["conversation"]["id"]
    send(person("Somebody else"), "Hello", toUserId=ada.id)
    for query in queries:
        assert page(http, ada, q=query)[0] == [there], query


def test_search_takes_every_character_as_itself(person: Any, send: Any, http: Any) -> None:
    ada, ben = person("Searcher"), person("Ben Bold")
    there = send(ben, "Hello", toUserId=ada.id).json()["conversation"]["id"]
    for nobody in ("%", "_", "\\", ".", "Searcher", "x" * 100, "\ufffd", "B.n", "' or true --"):
        assert page(http, ada, q=nobody)[0] == []
    for query in ("n+b", "n%20b", "N%20%42", "be%6E"):  # as forms and as scripts write it
        rows = http.get(f"{LIST}?q={query}", headers=ada.headers).json()["conversations"]
        assert [row["id"] for row in rows] == [there]


def test_search_in_titles_and_what_counts_as_nothing(person: Any, group: Any, http: Any) -> None:
    ada = person()
    crew = group(ada, title="Équipe déménagement")["id"]
    group(ada, title="Other")
    assert page(http, ada, q="equipe DEM")[0] == [crew]
    assert page(http, ada, q="\x00equipe\x00")[0] == [crew]
    for everything in ("", " ", "\u3000", "\x00", "\u202e"):
        assert len(page(http, ada, q=everything)[0]) == 2


def test_cursors_of_others_open_nothing(crowd: Any, http: Any, person: Any, send: Any, group: Any) -> None:
    me, _ = crowd
    eve = person()
    own = send(eve, "Hello", toUserId=person().id).json()["conversation"]["id"]
    cursor = page(http, me, limit=3)[1]
    assert set(page(http, eve, cursor=cursor)[0]) <= {own}
    # Places in other lists look the same; at worst they are another place in one's own inbox.
    members = http.get(f"{LIST}/{group(me, eve)['id']}/members", headers=me.headers, params={"limit": 1}).json()
    assert set(page(http, eve, cursor=members["nextCursor"])[0]) <= {own, *page(http, eve)[0]}
    # A cursor stays good when its conversation is gone from the list.
    last = page(http, me, limit=3)[0][-1]
    http.patch(f"{LIST}/{last}", headers=me.headers, json={"archived": True})
    assert last not in walk(http, me, limit=3) + page(http, me, cursor=cursor)[0]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "null", "AAAA", "MSAxIDE", "é", "a b", "../..", "x" * 200, "MCAxIDAxOThjMGRlLTAwMDAtNzAwMC04MDAw", "=",
     "MSA5OTk5OTk5OTk5OTk5OTk5OTk5IDAxOThjMGRlLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMQ"],
)  # fmt: skip
def test_cursors_that_are_not_ours(http: Any, person: Any, refused: Any, cursor: str) -> None:
    refused(http.get(LIST, headers=person().headers, params={"cursor": cursor}), 400, "cursor_invalid")


def test_cursor_at_either_end_of_time(crowd: Any, http: Any) -> None:
    me, _ = crowd
    for place, found in (("1 99999999999999999", 12), ("0 0", 0)):
        raw = f"{place} 0198c0de-0000-7000-8000-000000000001".encode()
        cursor = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        assert len(page(http, me, cursor=cursor)[0]) == found
