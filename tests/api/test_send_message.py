"""POST /api/messages/send on the real stack."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

SEND = "/api/messages/send"
SOMEBODY = "0198c0de-0000-7000-8000-000000000001"


def test_first_message_makes_the_conversation(person: Any, send: Any) -> None:
    ada, ben, gig, key = person("Ada"), person("Ben"), str(uuid.uuid4()), str(uuid.uuid4())
    answer = send(ada, "  Hello\r\nBen \u202e", toUserId=ben.id, gigId=gig, clientMessageId=key.upper())
    assert answer.status_code == 201
    message, conversation = answer.json()["message"], answer.json()["conversation"]
    assert message["body"] == "Hello\nBen"
    assert (message["seq"], message["fromUserId"], message["toUserId"], message["gigId"]) == (1, ada.id, ben.id, gig)
    assert (message["clientMessageId"], message["status"], message["state"]) == (key, "sent", "visible")
    assert message["sender"] == {"id": ada.id, "displayName": "Ada", "avatarUrl": None, "isFallback": False}
    assert (conversation["kind"], conversation["gigId"], conversation["lastSeq"]) == ("direct", gig, 1)
    assert conversation["lastMessage"] == message
    assert {member["id"] for member in conversation["members"]} == {ada.id, ben.id}
    assert answer.headers["ratelimit-policy"] == '"send";q=100;w=60'
    assert answer.headers["ratelimit"].startswith('"send";r=99;t=')
    answered = send(ben, "Hello Ada", conversationId=conversation["id"])
    assert (answered.status_code, answered.json()["message"]["seq"]) == (201, 2)


def test_replayed_key_returns_first_message_with_200(person: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben, key = person(), person(), str(uuid.uuid4())
    first = send(ada, "Hello", toUserId=ben.id, clientMessageId=key)
    again = send(ada, " Hello ", toUserId=ben.id, clientMessageId=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["message"] == first.json()["message"]
    body = {"body": "Hello", "conversationId": first.json()["conversation"]["id"]}
    alias = http.post(SEND, headers=ada.headers | {"Idempotency-Key": key}, json=body)
    assert (alias.status_code, alias.json()["message"]["id"]) == (200, first.json()["message"]["id"])
    refused(send(ada, "Something else", toUserId=ben.id, clientMessageId=key), 409, "idempotency_conflict")
    assert send(ben, "Hello", toUserId=ada.id, clientMessageId=key).status_code == 201  # the key is the sender's own


def test_same_key_at_the_same_time_is_one_message(person: Any, send: Any) -> None:
    ada, ben, key = person(), person(), str(uuid.uuid4())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(ada, "Hello", toUserId=ben.id, clientMessageId=key), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.json()["message"]["id"] for answer in answers}) == 1


def test_one_cannot_write_to_everybody(person: Any, send: Any, refused: Any) -> None:
    ada = person()
    unknown = refused(send(ada, "Hello", toUserId=str(uuid.uuid4())), 403, "recipient_unavailable")
    oneself = refused(send(ada, "Hello", toUserId=ada.id), 403, "recipient_unavailable")
    assert unknown["detail"] == oneself["detail"]


def test_outsider_cannot_write_into_a_conversation(person: Any, send: Any, refused: Any) -> None:
    ada, ben, eve = person(), person(), person()
    conversation = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    assert send(ben, "Hello", conversationId=conversation).status_code == 201
    foreign = refused(send(eve, "Hello", conversationId=conversation), 404, "not_found")
    imaginary = refused(send(eve, "Hello", conversationId=str(uuid.uuid4())), 404, "not_found")
    own = ("requestId", "instance")
    assert {k: v for k, v in foreign.items() if k not in own} == {k: v for k, v in imaginary.items() if k not in own}


def test_conversation_and_person_must_match(person: Any, send: Any, refused: Any) -> None:
    ada, ben, eve = person(), person(), person()
    conversation = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    assert send(ada, "Hello", conversationId=conversation, toUserId=ben.id).status_code == 201
    refused(send(ada, "Hello", conversationId=conversation, toUserId=eve.id), 422, "recipient_mismatch")
    refused(send(ada, "Hello", conversationId=conversation, gigId=str(uuid.uuid4())), 422, "recipient_mismatch")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"body": "x"}, "/conversationId"),
        ({"body": "x", "gigId": SOMEBODY}, "/conversationId"),
        ({"body": " \n\u3000", "toUserId": SOMEBODY}, "/body"),
        ({"body": "x" * 4001, "toUserId": SOMEBODY}, "/body"),
        ({"body": "e" + "\u0301" * 300, "toUserId": SOMEBODY}, "/body"),
        ({"body": 7, "toUserId": SOMEBODY}, "/body"),
        ({"body": "x", "toUserId": "ben"}, "/toUserId"),
        ({"body": "x", "clientMessageId": "1", "toUserId": SOMEBODY}, "/clientMessageId"),
        ({"body": "x", "toUserId": SOMEBODY, "fromUserId": SOMEBODY}, "/fromUserId"),
    ],
)
def test_wrong_shape_is_pointed_at(person: Any, http: Any, refused: Any, members: Any, pointer: str) -> None:
    refused(http.post(SEND, headers=person().headers, json=members), 400, "validation_failed", pointer)


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d👩\u200d👧\ufe0f", "שלום سلام", "\u200bx", "'; drop table messages; --", "<script>alert(1)</script>",
        "\\u0000",
        '{"a": "b"}', "a\tb\nc", "𝒳" * 4000, "\u0958" * 2000, "ﷺ", "\ufffd\uffff", "%s %d {0}",
        "\x00ok\x00", "x" * 4000,
    ],
)  # fmt: skip
def test_text_arrives_as_it_was_written(person: Any, send: Any, http: Any, text: str) -> None:
    from app.text import normalize

    ada, ben = person(), person()
    message = send(ada, text, toUserId=ben.id).json()["message"]
    assert message["body"] == normalize(text)
    path = f"/api/messages/conversations/{message['conversationId']}"
    assert http.get(path, headers=ben.headers).json()["conversation"]["messages"][0]["body"] == message["body"]


def test_pace_is_exact_and_a_replay_costs_nothing(person: Any, send: Any, refused: Any) -> None:
    ada, ben, key = person(), person(), str(uuid.uuid4())
    assert send(ada, "Hello", toUserId=ben.id, clientMessageId=key).status_code == 201
    with ThreadPoolExecutor(4) as pool:
        statuses = [a.status_code for a in pool.map(lambda n: send(ada, f"{n}", toUserId=ben.id), range(105))]
    assert (statuses.count(201), statuses.count(429)) == (99, 6)
    late = send(ada, "one more", toUserId=ben.id)
    document = refused(late, 429, "rate_limited")
    assert 1 <= document["retryAfterS"] <= 60
    assert late.headers["ratelimit"] == f'"send";r=0;t={document["retryAfterS"]}'
    assert send(ada, "Hello", toUserId=ben.id, clientMessageId=key).status_code == 200
    assert send(ben, "Slow down", toUserId=ada.id).status_code == 201
