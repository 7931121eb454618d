"""PATCH /api/messages/conversations/{id} on the real stack."""

import uuid
from typing import Any

import pytest

LIST = "/api/messages/conversations"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"
OWN = {"archivedAt", "pinnedAt", "mutedUntil", "markedUnread"}


@pytest.fixture
def change(http: Any) -> Any:
    """`change(person, room, **members)`: what is answered, or the problem."""

    def patch(person: Any, room: str, **members: Any) -> Any:
        return http.patch(f"{LIST}/{room}", headers=person.headers, json=members)

    return patch


@pytest.fixture
def pair(person: Any, send: Any) -> tuple[Any, Any, str]:
    ada, ben = person(), person()
    return ada, ben, send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]


def seen(http: Any, person: Any, room: str) -> dict[str, Any]:
    """The conversation as this person opens it, in the shape of a row."""
    opened: dict[str, Any] = http.get(f"{LIST}/{room}", headers=person.headers).json()["conversation"]
    for member in ("messages", "receipts", "hasMore", "pending"):
        del opened[member]
    return opened


def test_each_for_oneself_and_back(pair: Any, change: Any, http: Any) -> None:
    ada, ben, room = pair
    before, others = seen(http, ben, room), seen(http, ada, room)
    for members, back, changed in (
        ({"archived": True}, {"archived": False}, {"archivedAt"}),
        ({"pinned": True}, {"pinned": False}, {"pinnedAt"}),
        ({"markedUnread": True}, {"markedUnread": False}, {"markedUnread"}),
        ({"mutedUntil": "2999-01-01T00:00:00Z"}, {"mutedUntil": None}, {"mutedUntil"}),
        (
            {"archived": True, "pinned": True, "markedUnread": True, "mutedUntil": "2999-01-01T00:00:00.5+01:00"},
            {"archived": False, "pinned": False, "markedUnread": False, "mutedUntil": "2001-01-01T00:00:00Z"},
            OWN,
        ),
    ):
        answer = change(ben, room, **members)
        assert answer.status_code == 200
        now = answer.json()["conversation"]
        assert {name for name in now if now[name] != before[name]} == changed
        assert now == seen(http, ben, room)
        assert change(ben, room, **members).json() == answer.json()  # set, not toggled
        assert change(ben, room, **back).json()["conversation"] == before
    assert seen(http, ada, room) == others


def test_nothing_to_change(pair: Any, change: Any, http: Any) -> None:
    ada, _, room = pair
    before = seen(http, ada, room)
    assert change(ada, room).json()["conversation"] == before
    assert seen(http, ada, room) == before


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2999-03-01T09:30:00Z", "2999-03-01T09:30:00.000000Z"),
        ("2999-03-01t09:30:00.25z", "2999-03-01T09:30:00.250000Z"),
        ("2999-03-01T09:30:00.123456+05:30", "2999-03-01T04:00:00.123456Z"),
        ("2999-03-01T00:30:00-23:59", "2999-03-02T00:29:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("2001-01-01T00:00:00Z", None), ("0001-01-01T00:00:00Z", None), (None, None),
    ],
)  # fmt: skip
def test_times(pair: Any, change: Any, given: Any, stored: Any) -> None:
    assert change(pair[0], pair[2], mutedUntil=given).json()["conversation"]["mutedUntil"] == stored


@pytest.mark.parametrize(
    "given",
    ["", "infinity", "tomorrow", "2999-03-01", "2999-03-01T09:30:00", "2999-02-30T09:30:00Z", "2999-03-01T25:00:00Z",
     "2999-03-01T09:30:60Z", "2999-03-01T09:30:00+24:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00",
     "12999-03-01T09:30:00Z", "2999-03-01T09:30:00 Europe/Berlin", "2999-03-01T09:30:00Z\x00", 1893456000, True, {}],
)  # fmt: skip
def test_times_that_are_none(pair: Any, change: Any, refused: Any, given: Any) -> None:
    refused(change(pair[0], pair[2], mutedUntil=given), 400, "validation_failed", "/mutedUntil")


def test_new_message_brings_it_back_unless_muted(pair: Any, change: Any, send: Any, http: Any) -> None:
    ada, ben, room = pair
    change(ben, room, archived=True)
    send(ada, "Are you there?", conversationId=room)
    assert seen(http, ben, room)["archivedAt"] is None
    change(ben, room, archived=True, mutedUntil="2999-01-01T00:00:00Z")
    send(ada, "Hello?", conversationId=room)
    assert seen(http, ben, room)["archivedAt"] is not None


def test_reading_clears_the_mark(pair: Any, change: Any, http: Any) -> None:
    _, ben, room = pair
    http.patch(f"{LIST}/{room}/read-all", headers=ben.headers)
    change(ben, room, markedUnread=True)
    assert http.get("/api/messages/unread", headers=ben.headers).json() == {"messages": 0, "conversations": 1}
    http.patch(f"{LIST}/{room}/read-all", headers=ben.headers)
    assert seen(http, ben, room)["markedUnread"] is False


def test_title_is_for_all(person: Any, group: Any, change: Any, http: Any, refused: Any) -> None:
    ada, ben, cyd = person(), person(), person()
    crew = group(ada, ben, cyd)
    renamed = change(ada, crew["id"], title=" Movers\r\n &\x00 Co\u202e ", pinned=True).json()["conversation"]
    assert (renamed["title"], renamed["eventSeq"] > crew["eventSeq"]) == ("Movers & Co", True)
    assert (seen(http, cyd, crew["id"])["title"], seen(http, cyd, crew["id"])["pinnedAt"]) == ("Movers & Co", None)
    refused(change(ben, crew["id"], title="Mine"), 403, "forbidden")
    http.post(f"{LIST}/{crew['id']}/members", headers=ada.headers, json={"userIds": [ben.id], "role": "admin"})
    assert change(ben, crew["id"], title="Ours").json()["conversation"]["title"] == "Ours"


@pytest.mark.parametrize(
    "title",
    ["<script>alert(1)</script>", "'; drop table messages; --", "שלום سلام", "👩\u200d👩\u200d👧\ufe0f", "\\u0000",
     "𝒳" * 120, '{"a": 1}', "null", "\u200b"],
)  # fmt: skip
def test_titles_arrive_as_they_were_written(person: Any, group: Any, change: Any, http: Any, title: str) -> None:
    ada, ben = person(), person()
    crew = group(ada, ben)["id"]
    assert change(ada, crew, title=title).json()["conversation"]["title"] == title
    assert seen(http, ben, crew)["title"] == title


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"title": ""}, "/title"), ({"title": " \n\u3000"}, "/title"), ({"title": "\x00"}, "/title"),
        ({"title": "x" * 121}, "/title"), ({"title": None}, "/title"), ({"title": 7}, "/title"),
        ({"title": "e" + "\u0301" * 300}, "/title"), ({"title": "é" * 60_000}, ""),
        ({"archived": None}, "/archived"), ({"archived": 1}, "/archived"), ({"archived": "true"}, "/archived"),
        ({"pinned": []}, "/pinned"), ({"markedUnread": {}}, "/markedUnread"), ({"muted_until": None}, "/muted_until"),
        ({"archivedAt": None}, "/archivedAt"), ({"myRole": "owner"}, "/myRole"), ({"": 1}, "/"), ({"a/b": 1}, "/a~1b"),
    ],
)  # fmt: skip
def test_wrong_shape_is_pointed_at(
    person: Any, group: Any, change: Any, refused: Any, members: Any, pointer: str
) -> None:
    ada = person()
    answer = change(ada, group(ada)["id"], **members)
    if pointer:
        refused(answer, 400, "validation_failed", pointer)
    else:
        refused(answer, 413, "payload_too_large")


def test_foreign_imaginary_and_left(person: Any, group: Any, pair: Any, change: Any, http: Any, alike: Any,
                                    refused: Any) -> None:  # fmt: skip
    ada, ben, room = pair
    eve = person()
    crew = group(ada, eve)["id"]
    http.delete(f"{LIST}/{crew}/members/{eve.id}", headers=ada.headers)
    for members in ({}, {"archived": True}, {"title": "Mine"}):
        for foreign in (room, crew):
            alike(change(eve, foreign, **members), change(eve, str(uuid.uuid4()), **members))
    refused(change(ben, room, title="Ours"), 422, "not_a_group")
    refused(change(ben, room, title="Ours", archived=True), 422, "not_a_group")
    assert seen(http, ben, room)["archivedAt"] is None
