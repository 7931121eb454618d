"""PATCH /api/messages/{id}/read and PATCH /api/messages/conversations/{id}/read-all on the real stack."""

import uuid
from typing import Any


def test_reading_up_to_a_message(person: Any, send: Any, http: Any) -> None:
    ada, ben = person(), person()
    messages = [send(ada, f"{n}", toUserId=ben.id).json()["message"] for n in range(3)]
    answer = http.patch(f"/api/messages/{messages[1]['id']}/read", headers=ben.headers)
    assert answer.status_code == 200
    assert answer.json() == {
        "receipt": {
            "userId": ben.id,
            "lastReadSeq": 2,
            "lastDeliveredSeq": answer.json()["receipt"]["lastDeliveredSeq"],
        },
        "unreadCount": 1,
        "unreadTotal": 1,
    }
    backwards = http.patch(f"/api/messages/{messages[0]['id']}/read", headers=ben.headers)
    assert backwards.json()["receipt"]["lastReadSeq"] == 2
    path = f"/api/messages/conversations/{messages[0]['conversationId']}"
    seen = http.get(path, headers=ada.headers).json()["conversation"]["messages"]
    assert [message["status"] for message in seen][:2] == ["read", "read"]


def test_reading_everything(person: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben = person(), person()
    for number in range(4):
        conversation = send(ada, f"{number}", toUserId=ben.id).json()["conversation"]["id"]
    path = f"/api/messages/conversations/{conversation}/read-all"
    assert http.patch(path, headers=ben.headers, json={"upToSeq": 1}).json()["unreadCount"] == 3
    assert http.patch(path, headers=ben.headers, json={}).json()["unreadCount"] == 0
    assert http.patch(path, headers=ben.headers).json()["receipt"]["lastReadSeq"] == 4
    for wrong in (-1, 1.5, "1", 2**53):
        refused(http.patch(path, headers=ben.headers, json={"upToSeq": wrong}), 400, "validation_failed", "/upToSeq")


def test_outsider_reads_nothing(person: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben, eve = person(), person(), person()
    sent = send(ada, "Hello", toUserId=ben.id).json()
    read = f"/api/messages/{sent['message']['id']}/read"
    read_all = f"/api/messages/conversations/{sent['conversation']['id']}/read-all"
    for path in (
        read,
        read_all,
        f"/api/messages/{uuid.uuid4()}/read",
        f"/api/messages/conversations/{uuid.uuid4()}/read-all",
    ):
        refused(http.patch(path, headers=eve.headers), 404, "not_found")
    assert http.patch(read, headers=ben.headers).status_code == 200
    assert http.patch(read_all, headers=ben.headers).status_code == 200
    refused(http.patch("/api/messages/x/read", headers=ben.headers), 400, "validation_failed", "/id")
    refused(http.patch("/api/messages/conversations/x/read-all", headers=ben.headers), 400, "validation_failed", "/id")
