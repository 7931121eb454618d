"""POST /api/messages/{id}/report and POST /api/users/{id}/report on the real stack."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

MESSAGE = "/api/messages/{}/report"
USER = "/api/users/{}/report"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"


@pytest.fixture
def report(http: Any) -> Any:
    """`report(person, path, id, **body)`: one report."""

    def post(person: Any, path: str, thing: str, **body: Any) -> Any:
        return http.post(path.format(thing), headers=person.headers, json={"reason": "scam", **body})

    return post


@pytest.fixture
def talk(person: Any, send: Any) -> tuple[Any, Any, dict[str, Any]]:
    ada, ben = person("Ada"), person("Ben")
    return ada, ben, send(ada, "See you on Friday", toUserId=ben.id).json()["message"]


def test_a_message_and_a_person(talk: Any, report: Any) -> None:
    ada, ben, message = talk
    answer = report(ben, MESSAGE, message["id"].upper(), note=" Wants my\x00 card\r\n")
    assert answer.status_code == 201
    filed = answer.json()["report"]
    assert {name: filed[name] for name in ("kind", "messageId", "userId", "reason", "note", "status")} == {
        "kind": "message", "messageId": message["id"], "userId": ada.id, "reason": "scam", "note": "Wants my card",
        "status": "open",
    }  # fmt: skip
    assert "evidence" not in filed and "itemId" not in filed
    again = report(ben, MESSAGE, message["id"], reason="spam")
    assert (again.status_code, again.json()) == (200, answer.json())
    assert report(ben, USER, ada.id, reason="impersonation").status_code == 201
    assert report(ben, USER, ada.id).status_code == 200


def test_at_once_from_several_tabs(talk: Any, report: Any) -> None:
    ada, ben, _ = talk
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: report(ben, USER, ada.id), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.json()["report"]["id"] for answer in answers}) == 1


def test_what_one_cannot_see_does_not_exist(talk: Any, report: Any, person: Any, alike: Any) -> None:
    ada, _, message = talk
    eve = person()
    alike(report(eve, MESSAGE, message["id"]), report(eve, MESSAGE, str(uuid.uuid4())))
    alike(report(eve, USER, ada.id), report(eve, USER, str(uuid.uuid4())))


def test_not_oneself(talk: Any, report: Any, refused: Any) -> None:
    ada, _, message = talk
    refused(report(ada, MESSAGE, message["id"]), 403, "forbidden")
    refused(report(ada, USER, ada.id), 400, "validation_failed", "/id")


def test_who_may(talk: Any, http: Any, report: Any, refused: Any, db: Any) -> None:
    _, ben, message = talk
    for path in (MESSAGE, USER):
        refused(http.post(path.format(SOMETHING), json={"reason": "spam"}), 401, "unauthenticated")
    db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'suspend', 'x')", [ben.id])
    refused(report(ben, MESSAGE, message["id"]), 403, "account_unavailable")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/reason"), ({"reason": None}, "/reason"), ({"reason": "boring"}, "/reason"), ({"reason": 5}, "/reason"),
        ({"reason": ["spam"]}, "/reason"), ({"reason": "spam", "note": 5}, "/note"),
        ({"reason": "spam", "note": "x" * 1001}, "/note"), ({"reason": "spam", "note": "a" + "\u0301" * 300}, "/note"),
        ({"reason": "spam", "more": 1}, "/more"), ([], ""), ("spam", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [MESSAGE, USER])
def test_malformed(talk: Any, http: Any, refused: Any, path: str, body: Any, pointer: str) -> None:
    ada, ben, message = talk
    thing = message["id"] if path == MESSAGE else ada.id
    refused(http.post(path.format(thing), headers=ben.headers, json=body), 400, "validation_failed", pointer)


@pytest.mark.parametrize("path", [MESSAGE, USER])
def test_malformed_ids_and_bodies(person: Any, http: Any, refused: Any, path: str) -> None:
    headers = person().headers
    refused(http.post(path.format("x"), headers=headers, json={"reason": "spam"}), 400, "validation_failed", "/id")
    refused(http.post(path.format(SOMETHING), headers=headers), 400, "validation_failed", "")
    refused(
        http.post(path.format(SOMETHING), headers=headers, json={"reason": "spam", "note": "x" * 70_000}),
        413, "payload_too_large",
    )  # fmt: skip
    refused(http.post(path.format(SOMETHING), headers=headers, data={"reason": "spam"}), 415, "unsupported_media_type")
    refused(http.get(path.format(SOMETHING), headers=headers), 405, "method_not_allowed")


def test_at_a_pace(talk: Any, report: Any, send: Any, refused: Any) -> None:
    ada, ben, message = talk
    room = message["conversationId"]
    messages = [send(ada, f"{n}", conversationId=room).json()["message"]["id"] for n in range(21)]
    assert {report(ben, MESSAGE, each).status_code for each in messages[:20]} == {201}
    answer = report(ben, MESSAGE, messages[20])
    assert refused(answer, 429, "rate_limited")["retryAfterS"] > 3000
    assert report(ben, MESSAGE, messages[0]).status_code == 200
