"""GET /api/messages/conversations/{id} on the real stack."""

import uuid
from typing import Any

LIST = "/api/messages/conversations"


def test_newest_thirty_ascending(person: Any, send: Any, http: Any) -> None:
    ada, ben = person(), person()
    for number in range(32):
        sent = send(ada, f"{number}", toUserId=ben.id).json()
    path = f"{LIST}/{sent['conversation']['id']}"
    opened = http.get(path.replace(sent["conversation"]["id"], sent["conversation"]["id"].upper()), headers=ben.headers)
    conversation = opened.json()["conversation"]
    assert [message["body"] for message in conversation["messages"]] == [f"{n}" for n in range(2, 32)]
    assert (conversation["hasMore"], conversation["unreadCount"], conversation["lastSeq"]) == (True, 32, 32)
    assert {receipt["userId"] for receipt in conversation["receipts"]} == {ada.id, ben.id}
    assert conversation["pending"] == []


def test_foreign_and_imaginary_look_alike(person: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben, eve = person(), person(), person()
    conversation = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    assert http.get(f"{LIST}/{conversation}", headers=ben.headers).status_code == 200
    foreign = refused(http.get(f"{LIST}/{conversation}", headers=eve.headers), 404, "not_found")
    imaginary = refused(http.get(f"{LIST}/{uuid.uuid4()}", headers=eve.headers), 404, "not_found")
    assert (foreign["detail"], foreign["title"]) == (imaginary["detail"], imaginary["title"])


def test_malformed_id(person: Any, http: Any, refused: Any) -> None:
    headers = person().headers
    for wrong in ("nonsense", "null", uuid.uuid4().hex, f"{uuid.uuid4()}x", "%00", "%F0%9F%98%80"):
        refused(http.get(f"{LIST}/{wrong}", headers=headers), 400, "validation_failed", "/id")
