"""POST and DELETE /api/users/{id}/block, GET /api/users/blocked on the real stack."""

import uuid
from typing import Any

import httpx
import pytest

BLOCKED = "/api/users/blocked"
LIST = "/api/messages/conversations"


def path(user_id: Any) -> str:
    return f"/api/users/{user_id}/block"


def blocked(http: httpx.Client, person: Any, **query: Any) -> Any:
    answer = http.get(BLOCKED, headers=person.headers, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_block_and_unblock(person: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben = person("Ada"), person("Ben")
    room = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    first = http.post(path(ben.id.upper()), headers=ada.headers)
    assert first.status_code == 200
    user = first.json()["user"]
    assert (user["id"], user["displayName"], user["isFallback"]) == (ben.id, "Ben", False)
    assert http.post(path(ben.id), headers=ada.headers).json() == first.json(), "a repeat changes nothing"
    assert blocked(http, ada) == {"users": [user], "nextCursor": None}
    assert blocked(http, ben) == {"users": [], "nextCursor": None}
    for me, other in ((ada, ben), (ben, ada)):
        refused(send(me, "More", conversationId=room), 403, "recipient_unavailable")
        refused(send(me, "More", toUserId=other.id), 403, "recipient_unavailable")
        refused(send(me, "More", toUserId=other.id, gigId=str(uuid.uuid4())), 403, "recipient_unavailable")
        refused(http.post(f"{LIST}/{room}/typing", headers=me.headers), 403, "recipient_unavailable")
        conversation = http.get(f"{LIST}/{room}", headers=me.headers).json()["conversation"]
        assert (conversation["canSend"], [m["body"] for m in conversation["messages"]]) == (False, ["Hello"])
    for _ in range(2):
        answer = http.delete(path(ben.id), headers=ada.headers)
        assert (answer.status_code, answer.json()) == (200, {"userId": ben.id})
    assert blocked(http, ada)["users"] == []
    assert send(ben, "Hello again", conversationId=room).status_code == 201


def test_the_blocked_person_reads_the_same_rows_before_and_after(
    person: Any, send: Any, group: Any, http: Any, supabase_stack: Any
) -> None:
    ada, ben = person("Ada"), person("Ben")
    room = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    crew = group(person(), ada, ben)
    send(ben, "Hello all", conversationId=crew["id"])

    def rows() -> dict[str, bytes]:
        found = {}
        with httpx.Client(base_url=f"{supabase_stack.url}/rest/v1", timeout=30) as data_api:
            for table, key in (("conversations", "id"), ("conversation_members", "conversation_id"),
                               ("messages", "id"), ("profiles", "user_id")):  # fmt: skip
                answer = data_api.get(
                    f"/{table}",
                    params={"order": key},
                    headers={**ben.headers, "apikey": supabase_stack.publishable_key},
                )
                assert answer.status_code == 200, answer.text
                found[table] = answer.content
        return found

    def asked() -> dict[str, Any]:
        shown = http.get(f"{LIST}/{room}", headers=ben.headers).json()["conversation"]
        inbox = http.get(LIST, headers=ben.headers).json()["conversations"]
        return {"shown": shown, **{row["id"]: row for row in inbox}}

    before, seen = rows(), asked()
    http.post(path(ben.id), headers=ada.headers)
    http.patch(f"{LIST}/{room}/read-all", headers=ada.headers)
    assert rows() == before
    after = asked()
    for told in ("shown", room):
        assert (seen[told].pop("canSend"), after[told].pop("canSend")) == (True, False)
    assert after == seen, "canSend is the one visible consequence"
    http.delete(path(ben.id), headers=ada.headers)
    assert rows() == before


def test_hidden_in_groups_for_the_blocker(person: Any, send: Any, group: Any, http: Any) -> None:
    ada, ben, cyd = person(), person(), person()
    crew = group(cyd, ada, ben)["id"]
    message = send(ben, "Words", conversationId=crew).json()["message"]["id"]
    assert http.get("/api/messages/unread", headers=ada.headers).json()["messages"] == 1
    http.post(path(ben.id), headers=ada.headers)
    for me, expected in ((ada, ("hidden", None)), (cyd, ("visible", "Words"))):
        (shown,) = http.get(f"{LIST}/{crew}/messages", headers=me.headers).json()["messages"]
        assert (shown["state"], shown["body"]) == expected
        versions = http.get(f"/api/messages/{message}/history", headers=me.headers).json()["versions"]
        assert len(versions) == (0 if me is ada else 1)
    assert http.get("/api/messages/unread", headers=ada.headers).json()["messages"] == 0
    assert send(ben, "More words", conversationId=crew).status_code == 201


def test_no_way_round_through_a_group(person: Any, group: Any, http: Any, refused: Any) -> None:
    ada, ben = person(), person()
    crew = group(ben)["id"]
    http.post(path(ben.id), headers=ada.headers)
    unknown = str(uuid.uuid4())
    people = (ada.id, unknown)
    for made in (
        [http.post(f"{LIST}/group", headers=ben.headers, json={"title": "x", "memberIds": [who]}) for who in people],
        [http.post(f"{LIST}/{crew}/members", headers=ben.headers, json={"userIds": [who]}) for who in people],
    ):
        said = [refused(answer, 403, "recipient_unavailable") for answer in made]
        for document in said:
            del document["requestId"], document["instance"]
        assert said[0] == said[1]


def test_page_by_page(person: Any, http: Any) -> None:
    ada, others = person(), [person() for _ in range(5)]
    for other in others:
        http.post(path(other.id), headers=ada.headers)
    found, cursor = [], None
    while True:
        page = blocked(http, ada, limit=2, **({"cursor": cursor} if cursor else {}))
        found += [user["id"] for user in page["users"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert found == [other.id for other in reversed(others)]


def test_nobody_and_somebody_look_the_same(person: Any, http: Any) -> None:
    ada, stranger, nobody = person(), person("Stranger"), str(uuid.uuid4())
    cards = [http.post(path(who), headers=ada.headers).json()["user"] for who in (stranger.id, nobody)]
    assert [card.pop("id") for card in cards] == [stranger.id, nobody]
    assert all(card.pop("blockedAt") for card in cards)
    assert cards[0] == cards[1] == {"displayName": "Member", "avatarUrl": None, "isFallback": True}


def test_oneself(person: Any, http: Any, refused: Any) -> None:
    ada = person()
    for answer in (http.post(path(ada.id), headers=ada.headers), http.delete(path(ada.id), headers=ada.headers)):
        refused(answer, 400, "validation_failed", "/id")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_shape_and_token(person: Any, http: Any, refused: Any, method: str) -> None:
    refused(http.request(method, path("x"), headers=person().headers), 400, "validation_failed", "/id")
    refused(http.request(method, path(uuid.uuid4())), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("query", "code"),
    [("limit=0", "validation_failed"), ("limit=101", "validation_failed"), ("limit=x", "validation_failed"),
     ("cursor=x", "cursor_invalid")],
)  # fmt: skip
def test_shape_of_the_list(person: Any, http: Any, refused: Any, query: str, code: str) -> None:
    refused(http.get(f"{BLOCKED}?{query}", headers=person().headers), 400, code)


def test_the_list_is_full(person: Any, http: Any, refused: Any, db: Any) -> None:
    ada = person()
    db.execute("update private.settings set block_count_max = 2")
    try:
        for _ in range(2):
            assert http.post(path(uuid.uuid4()), headers=ada.headers).status_code == 200
        problem = refused(http.post(path(uuid.uuid4()), headers=ada.headers), 422, "block_list_full")
        assert "2" in problem["detail"]
    finally:
        db.execute("update private.settings set block_count_max = 1000")
