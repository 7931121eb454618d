"""POST /api/messages/conversations on the real stack."""

from typing import Any

import pytest

LIST = "/api/messages/conversations"


def test_inbox_is_newest_first_and_one_s_own(person: Any, send: Any, http: Any) -> None:
    ada, ben, cyd = person("Ada"), person("Ben"), person("Cyd")
    send(ada, "to Ben", toUserId=ben.id)
    send(cyd, "from Cyd", toUserId=ada.id)
    answer = http.post(LIST, headers=ada.headers, json={"userId": ada.id.upper()})
    assert (answer.status_code, answer.json()["total"]) == (200, 2)
    rows = answer.json()["conversations"]
    assert [row["lastMessage"]["body"] for row in rows] == ["from Cyd", "to Ben"]
    assert [row["unreadCount"] for row in rows] == [1, 0]
    assert http.post(LIST, headers=ben.headers, json={"userId": ben.id}).json()["total"] == 1


def test_pages(person: Any, send: Any, http: Any) -> None:
    ada = person()
    for _ in range(3):
        send(person(), "Hello", toUserId=ada.id)
    pages = [
        http.post(LIST, headers=ada.headers, json={"userId": ada.id, "limit": 2, "offset": offset}).json()
        for offset in (0, 2, 4)
    ]
    assert [len(page["conversations"]) for page in pages] == [2, 1, 0]
    assert {page["total"] for page in pages} == {3}
    assert len({row["id"] for page in pages for row in page["conversations"]}) == 3


def test_empty_inbox(person: Any, http: Any) -> None:
    ada = person()
    assert http.post(LIST, headers=ada.headers, json={"userId": ada.id}).json() == {"conversations": [], "total": 0}


def test_somebody_else_s_inbox(person: Any, http: Any, refused: Any) -> None:
    ada, eve = person(), person()
    refused(http.post(LIST, headers=eve.headers, json={"userId": ada.id}), 403, "forbidden")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"limit": 0}, "/limit"), ({"limit": 101}, "/limit"), ({"limit": "10"}, "/limit"), ({"limit": None}, "/limit"),
        ({"offset": -1}, "/offset"), ({"offset": 10**6 + 1}, "/offset"), ({"offset": 10**40}, "/offset"),
        ({"page": 1}, "/page"), ({"userId": "me"}, "/userId"),
    ],
)  # fmt: skip
def test_limits_of_a_page(person: Any, http: Any, refused: Any, members: Any, pointer: str) -> None:
    ada = person()
    answer = http.post(LIST, headers=ada.headers, json={"userId": ada.id, **members})
    refused(answer, 400, "validation_failed", pointer)
    refused(http.post(LIST, headers=ada.headers, json={}), 400, "validation_failed", "/userId")
