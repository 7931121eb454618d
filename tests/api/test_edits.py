"""PATCH and DELETE /api/messages/{id}, GET /api/messages/{id}/history on the real stack."""

import uuid
from typing import Any

import pytest

LIST = "/api/messages/conversations"
UNREAD = "/api/messages/unread"


@pytest.fixture
def edit(http: Any) -> Any:
    """`edit(person, message, body)`: the answer."""

    def patch(person: Any, message: Any, body: Any, **more: Any) -> Any:
        message_id = message if isinstance(message, str) else message["id"]
        return http.patch(f"/api/messages/{message_id}", headers=person.headers, json={"body": body, **more})

    return patch


@pytest.fixture
def delete(http: Any) -> Any:
    """`delete(person, message_id)`: the answer."""

    def ask(person: Any, message_id: str) -> Any:
        return http.delete(f"/api/messages/{message_id}", headers=person.headers)

    return ask


@pytest.fixture
def said(http: Any) -> Any:
    """`said(person, message_id)`: the answer to asking what it has said."""

    def ask(person: Any, message_id: str) -> Any:
        return http.get(f"/api/messages/{message_id}/history", headers=person.headers)

    return ask


@pytest.fixture
def talk(person: Any, send: Any) -> tuple[Any, Any, dict[str, Any]]:
    ada, ben = person("Ada"), person("Ben")
    return ada, ben, send(ada, "one", toUserId=ben.id).json()["message"]


def test_editing_keeps_what_it_said(talk: Any, edit: Any, said: Any, http: Any) -> None:
    ada, ben, message = talk
    answer = edit(ada, message["id"].upper(), "  two\x00\r\n ")
    assert answer.status_code == 200
    now = answer.json()["message"]
    assert {name for name in now if now[name] != message[name]} == {"body", "editedAt", "eventSeq"}
    assert (now["body"], now["eventSeq"] > message["eventSeq"]) == ("two", True)
    assert edit(ada, message, "two").json() == answer.json()  # a retry changes nothing
    last = edit(ada, message, "three").json()["message"]
    versions = said(ben, message["id"]).json()["versions"]
    assert [(version["version"], version["body"]) for version in versions] == [(1, "one"), (2, "two"), (3, "three")]
    assert [v["createdAt"] for v in versions] == [message["createdAt"], now["editedAt"], last["editedAt"]]
    opened = http.get(f"{LIST}/{message['conversationId']}", headers=ben.headers).json()["conversation"]
    assert opened["messages"] == [last] == [opened["lastMessage"]]
    assert http.get(UNREAD, headers=ben.headers).json() == {"messages": 1, "conversations": 1}


def test_never_edited(talk: Any, said: Any) -> None:
    ada, ben, message = talk
    only = {"version": 1, "body": "one", "createdAt": message["createdAt"]}
    for reader in (ada, ben):
        assert said(reader, message["id"]).json() == {"versions": [only]}


@pytest.mark.parametrize(
    "text",
    ["<b>bold</b>", "'; drop table messages; --", "שלום\u200dسلام", "👩\u200d👩\u200d👧\ufe0f", "\\u0000", "𝒳" * 4000,
     "%s {0}", "a\tb\n\nc", "\ufffd\uffff"],
)  # fmt: skip
def test_text_arrives_as_it_was_written(talk: Any, edit: Any, said: Any, text: str) -> None:
    ada, ben, message = talk
    assert edit(ada, message, text).json()["message"]["body"] == text
    assert said(ben, message["id"]).json()["versions"][-1]["body"] == text


@pytest.mark.parametrize("body", ["", " \n\u3000", "\x00", "x" * 4001, "e" + "\u0301" * 300, None, 7, ["x"]])
def test_texts_that_are_none(talk: Any, edit: Any, said: Any, refused: Any, body: Any) -> None:
    ada, _, message = talk
    refused(edit(ada, message, body), 400, "validation_failed", "/body")
    refused(edit(ada, message, "x", state="hidden"), 400, "validation_failed", "/state")
    assert len(said(ada, message["id"]).json()["versions"]) == 1


def test_deleting_leaves_a_tombstone(talk: Any, send: Any, edit: Any, delete: Any, said: Any, http: Any,
                                     refused: Any) -> None:  # fmt: skip
    ada, ben, message = talk
    room = message["conversationId"]
    secret = send(ada, "secret", conversationId=room).json()["message"]
    edit(ada, secret, "still secret")
    answer = delete(ada, secret["id"])
    assert answer.status_code == 200
    tombstone = answer.json()["message"]
    assert (tombstone["body"], tombstone["state"], tombstone["seq"]) == (None, "deleted", 2)
    assert tombstone["deletedAt"] is not None
    assert delete(ada, secret["id"]).json() == answer.json()  # a retry changes nothing
    assert said(ben, secret["id"]).json() == {"versions": []}
    refused(edit(ada, secret, "back"), 409, "message_deleted")
    page = http.get(f"{LIST}/{room}/messages", headers=ben.headers).json()["messages"]
    assert [m["seq"] for m in page] == [1, 2]
    assert page[1] == tombstone
    assert http.get(UNREAD, headers=ben.headers).json() == {"messages": 1, "conversations": 1}
    row = http.get(LIST, headers=ben.headers).json()["conversations"][0]
    assert (row["unreadCount"], row["lastSeq"]) == (1, 2)
    assert "secret" not in http.get(f"{LIST}/{room}", headers=ben.headers).text
    assert send(ben, "What was it?", conversationId=room).json()["message"]["seq"] == 3


def test_a_replay_of_the_send_answers_what_is_there_now(person: Any, send: Any, edit: Any, delete: Any) -> None:
    ada, ben, key = person(), person(), str(uuid.uuid4())
    message = send(ada, "one", toUserId=ben.id, clientMessageId=key).json()["message"]
    edit(ada, message, "two")
    again = send(ada, "one", toUserId=ben.id, clientMessageId=key)
    assert (again.status_code, again.json()["message"]["body"]) == (200, "two")
    delete(ada, message["id"])
    again = send(ada, "one", toUserId=ben.id, clientMessageId=key)
    assert (again.status_code, again.json()["message"]["state"]) == (200, "deleted")


def test_only_the_author(talk: Any, edit: Any, delete: Any, said: Any, refused: Any) -> None:
    ada, ben, message = talk
    refused(edit(ben, message, "forged"), 403, "forbidden")
    refused(delete(ben, message["id"]), 403, "forbidden")
    assert said(ada, message["id"]).json()["versions"][-1]["body"] == "one"


def test_foreign_imaginary_and_former(talk: Any, person: Any, group: Any, send: Any, edit: Any, delete: Any, said: Any,
                                      http: Any, alike: Any) -> None:  # fmt: skip
    ada, _, message = talk
    eve = person()
    crew = group(ada, eve)["id"]
    own = send(eve, "mine", conversationId=crew).json()["message"]
    http.delete(f"{LIST}/{crew}/members/{eve.id}", headers=eve.headers)
    for foreign in (message["id"], own["id"]):
        imaginary = str(uuid.uuid4())
        alike(edit(eve, foreign, "x"), edit(eve, imaginary, "x"))
        alike(delete(eve, foreign), delete(eve, imaginary))
        alike(said(eve, foreign), said(eve, imaginary))
    newcomer = person()
    http.post(f"{LIST}/{crew}/members", headers=ada.headers, json={"userIds": [newcomer.id]})
    alike(said(newcomer, own["id"]), said(newcomer, str(uuid.uuid4())))


def test_the_window_closes(talk: Any, edit: Any, delete: Any, refused: Any, db: Any) -> None:
    ada, _, message = talk
    db.execute("update public.messages set created_at = created_at - interval '2 days' where id = %s", [message["id"]])
    refused(edit(ada, message, "late"), 422, "edit_window_closed")
    assert edit(ada, message, "one").status_code == 200  # nothing to change
    assert delete(ada, message["id"]).status_code == 200  # taking back is possible for ever
