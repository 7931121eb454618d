"""POST /api/messages/sync, PATCH /api/messages/delivered and POST .../typing on the real stack."""

import uuid
from typing import Any

import pytest

SYNC = "/api/messages/sync"
DELIVERED = "/api/messages/delivered"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"


def typing(room: str) -> str:
    return f"/api/messages/conversations/{room}/typing"


def test_sync_begins_with_the_inbox_and_goes_on_from_its_cursor(person: Any, send: Any, http: Any) -> None:
    ada, ben = person("Ada"), person("Ben")
    send(ada, "Before", toUserId=ben.id)
    first = http.post(SYNC, headers=ben.headers).json()
    assert [c["unreadCount"] for c in first["conversations"]] == [1]
    assert (first["messages"], first["lost"], first["hasMore"]) == ([], [], False)
    for body in ({}, {"cursor": None}, {"limit": 500}):
        assert http.post(SYNC, headers=ben.headers, json=body).json()["cursor"] == first["cursor"]
    sent = [send(ada, str(n), toUserId=ben.id).json()["message"] for n in range(3)]
    page = http.post(SYNC, headers=ben.headers, json={"cursor": first["cursor"], "limit": 2}).json()
    rest = http.post(SYNC, headers=ben.headers, json={"cursor": page["cursor"]}).json()
    assert page["messages"] + rest["messages"] == sent
    assert (page["hasMore"], page["position"], rest["hasMore"]) == (True, None, False)
    assert {r["userId"] for r in rest["receipts"]} == {ada.id, ben.id}


@pytest.mark.parametrize("cursor", ["", "x", "0123456789abcdef.1.1", "\x00", "é" * 10, "a" * 60_000])
def test_foreign_cursors(person: Any, http: Any, refused: Any, cursor: str) -> None:
    refused(http.post(SYNC, headers=person().headers, json={"cursor": cursor}), 400, "cursor_invalid")


def test_a_cursor_of_somebody_else(person: Any, http: Any, refused: Any) -> None:
    cursor = http.post(SYNC, headers=person().headers).json()["cursor"]
    refused(http.post(SYNC, headers=person().headers, json={"cursor": cursor}), 400, "cursor_invalid")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"limit": 0}, "/limit"), ({"limit": 501}, "/limit"), ({"limit": "9"}, "/limit"), ({"cursor": 5}, "/cursor"),
     ({"since": "x"}, "/since"), ([], ""), ("text", "")],
)  # fmt: skip
def test_shape_of_sync(person: Any, http: Any, refused: Any, body: Any, pointer: str) -> None:
    refused(http.post(SYNC, headers=person().headers, json=body), 400, "validation_failed", pointer)


def test_delivered_ticks_once_and_leaves_out_what_is_not_mine(person: Any, send: Any, http: Any) -> None:
    ada, ben, eve = person(), person(), person()
    room = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    receipts = [{"conversationId": room, "seq": 1}, {"conversationId": str(uuid.uuid4()), "seq": 1}]
    mine = {"conversationId": room, "userId": ben.id, "lastReadSeq": 0, "lastDeliveredSeq": 1}
    for _ in range(2):
        answer = http.patch(DELIVERED, headers=ben.headers, json={"receipts": receipts})
        assert (answer.status_code, answer.json()) == (200, {"receipts": [mine]})
    assert http.patch(DELIVERED, headers=eve.headers, json={"receipts": receipts}).json() == {"receipts": []}
    seen = http.get(f"/api/messages/conversations/{room}", headers=ada.headers).json()["conversation"]
    assert seen["messages"][0]["status"] == "delivered"
    back = http.patch(DELIVERED, headers=ben.headers, json={"receipts": [{"conversationId": room, "seq": 0}]}).json()
    assert back["receipts"] == [mine]


@pytest.mark.parametrize(
    ("receipts", "pointer"),
    [([], "/receipts"), (None, "/receipts"), ([{"conversationId": SOMETHING}], "/receipts/0/seq"),
     ([{"conversationId": "x", "seq": 1}], "/receipts/0/conversationId"),
     ([{"conversationId": SOMETHING, "seq": -1}], "/receipts/0/seq"),
     ([{"conversationId": SOMETHING, "seq": 2**53}], "/receipts/0/seq"),
     ([{"conversationId": SOMETHING, "seq": 1}] * 101, "/receipts")],
)  # fmt: skip
def test_shape_of_delivered(person: Any, http: Any, refused: Any, receipts: Any, pointer: str) -> None:
    answer = http.patch(DELIVERED, headers=person().headers, json={"receipts": receipts})
    assert refused(answer, 400, "validation_failed")["errors"][0]["pointer"].startswith(pointer.rsplit("/", 1)[0])


def test_typing_is_for_members(person: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben, eve = person(), person(), person()
    room = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    answer = http.post(typing(room), headers=ben.headers)
    assert (answer.status_code, answer.content) == (204, b"")
    foreign = refused(http.post(typing(room), headers=eve.headers), 404, "not_found")
    imaginary = refused(http.post(typing(str(uuid.uuid4())), headers=eve.headers), 404, "not_found")
    assert foreign["detail"] == imaginary["detail"]
    refused(http.post(typing("x"), headers=eve.headers), 400, "validation_failed", "/id")
    refused(http.post(typing(room)), 401, "unauthenticated")


def test_private_reading_and_last_seen_are_ones_own_choice(person: Any, send: Any, http: Any) -> None:
    ada, ben = person(), person()
    room = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    own = http.patch("/api/profile", headers=ben.headers, json={"privateReading": True, "hidesLastSeen": True}).json()
    assert (own["profile"]["privateReading"], own["profile"]["hidesLastSeen"]) == (True, True)
    http.patch(f"/api/messages/conversations/{room}/read-all", headers=ben.headers)
    seen = http.get(f"/api/messages/conversations/{room}", headers=ada.headers).json()["conversation"]
    assert seen["messages"][0]["status"] == "sent"
    members = http.get(f"/api/messages/conversations/{room}/members", headers=ben.headers).json()["members"]
    assert {m["id"]: m["lastSeenAt"] for m in members}[ada.id] is None
