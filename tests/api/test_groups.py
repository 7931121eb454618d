"""POST .../conversations/group, GET and POST .../{id}/members, DELETE .../{id}/members/{userId} on the real stack."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

LIST = "/api/messages/conversations"
GROUP = f"{LIST}/group"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"


@pytest.fixture
def make(http: Any) -> Any:
    """`make(person, title, *members, key=None, **more)`: the answer to making a group."""

    def post(person: Any, title: Any, *members: Any, key: str | None = None, **more: Any) -> Any:
        body = {"title": title, "memberIds": [getattr(m, "id", m) for m in members], **more}
        headers = person.headers | ({} if key is None else {"Idempotency-Key": key})
        return http.post(GROUP, headers=headers, json=body)

    return post


@pytest.fixture
def add(http: Any) -> Any:
    """`add(person, room, *others, role=...)`: the answer to adding people."""

    def post(person: Any, room: str, *others: Any, **more: Any) -> Any:
        body = {"userIds": [getattr(other, "id", other) for other in others], **more}
        return http.post(f"{LIST}/{room}/members", headers=person.headers, json=body)

    return post


@pytest.fixture
def remove(http: Any) -> Any:
    """`remove(person, room, other)`: the answer to removing somebody."""

    def delete(person: Any, room: str, other: Any) -> Any:
        return http.delete(f"{LIST}/{room}/members/{getattr(other, 'id', other)}", headers=person.headers)

    return delete


def roles(http: Any, person: Any, room: str) -> dict[str, str]:
    """Who is in it, in order, by id."""
    answer = http.get(f"{LIST}/{room}/members", headers=person.headers, params={"limit": 100})
    assert answer.status_code == 200, answer.text
    return {member["id"]: member["role"] for member in answer.json()["members"]}


def test_making_a_group(person: Any, make: Any, send: Any, http: Any) -> None:
    ada, ben, cyd, gig = person("Ada"), person("Ben"), person("Cyd"), str(uuid.uuid4())
    answer = make(ada, " Movers\n&\x00 Co ", ben, cyd.id.upper(), ben, ada, gigId=gig.upper())
    assert answer.status_code == 201
    crew = answer.json()["conversation"]
    assert (crew["kind"], crew["title"], crew["gigId"], crew["myRole"]) == ("group", "Movers & Co", gig, "owner")
    assert (crew["memberCount"], crew["lastMessage"], crew["lastSeq"], crew["canSend"]) == (3, None, 0, True)
    assert {member["displayName"] for member in crew["members"]} == {"Ada", "Ben", "Cyd"}
    for other in (ben, cyd):
        row = http.get(LIST, headers=other.headers).json()["conversations"][0]
        assert (row["id"], row["myRole"], row["unreadCount"]) == (crew["id"], "member", 0)
    message = send(cyd, "Hello all", conversationId=crew["id"]).json()["message"]
    assert (message["seq"], message["toUserId"], message["gigId"]) == (1, None, gig)
    assert http.get("/api/messages/unread", headers=ben.headers).json() == {"messages": 1, "conversations": 1}
    assert make(ada, "Only me").json()["conversation"]["memberCount"] == 1


def test_same_key_is_never_a_second_group(person: Any, make: Any, http: Any, refused: Any, remove: Any) -> None:
    ada, ben, key = person(), person(), str(uuid.uuid4())
    first = make(ada, "Crew", ben, key=key)
    again = make(ada, " Crew ", ben, ada, ben, key=key.upper())
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    room = first.json()["conversation"]["id"]
    http.patch(f"{LIST}/{room}", headers=ada.headers, json={"title": "Renamed"})
    assert make(ada, "Crew", ben, key=key).json()["conversation"]["title"] == "Renamed"
    for changed in (("Other", ben), ("Crew",), ("Crew", ben, person())):
        refused(make(ada, *changed, key=key), 409, "idempotency_conflict")
    refused(make(ada, "Crew", ben, key=key, gigId=str(uuid.uuid4())), 409, "idempotency_conflict")
    assert make(ben, "Crew", ben, key=key).status_code == 201  # the key is the maker's own
    assert make(ada, "Crew", ben).json()["conversation"]["id"] != room  # without a key it is another one
    assert remove(ada, room, ada).status_code == 200
    refused(make(ada, "Crew", ben, key=key), 404, "not_found")


def test_same_key_at_the_same_time(person: Any, make: Any) -> None:
    ada, ben, key = person(), person(), str(uuid.uuid4())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: make(ada, "Crew", ben, key=key), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["conversation"]["id"] for answer in answers}) == 1


@pytest.mark.parametrize("key", ["", "x", "null", SOMETHING + "0", f"{SOMETHING}, {SOMETHING}", "{" + SOMETHING + "}"])
def test_malformed_key(person: Any, make: Any, refused: Any, key: str) -> None:
    refused(make(person(), "Crew", key=key), 400, "validation_failed", "/Idempotency-Key")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"title": ""}, "/title"), ({"title": "\u3000\n"}, "/title"), ({"title": "\x00\u202e"}, "/title"),
        ({"title": "x" * 121}, "/title"), ({"title": None}, "/title"), ({"title": ["x"]}, "/title"),
        ({"memberIds": None}, "/memberIds"), ({"memberIds": SOMETHING}, "/memberIds"),
        ({"memberIds": ["ben"]}, "/memberIds/0"), ({"memberIds": [SOMETHING, None]}, "/memberIds/1"),
        ({"memberIds": [SOMETHING] * 1001}, "/memberIds"), ({"gigId": "sofa"}, "/gigId"), ({"role": "x"}, "/role"),
        ({"ownerId": SOMETHING}, "/ownerId"),
    ],
)  # fmt: skip
def test_wrong_shape_is_pointed_at(person: Any, http: Any, refused: Any, members: Any, pointer: str) -> None:
    answer = http.post(GROUP, headers=person().headers, json={"title": "Crew", "memberIds": [], **members})
    refused(answer, 400, "validation_failed", pointer)


def test_people_who_cannot_be_added(person: Any, make: Any, add: Any, refused: Any, db: Any) -> None:
    ada, ben, gone = person(), person(), person()
    db.execute("delete from auth.users where id = %s", [gone.id])
    crew = make(ada, "Crew", ben).json()["conversation"]["id"]
    for nobody in (uuid.uuid4(), gone.id):
        refused(make(ada, "Crew", ben, str(nobody)), 403, "recipient_unavailable")
        refused(add(ada, crew, ben, str(nobody)), 403, "recipient_unavailable")
    refused(make(gone, "Crew", ben), 403, "account_unavailable")


def test_a_group_has_at_most_64_members(person: Any, make: Any, add: Any, remove: Any, refused: Any, http: Any) -> None:
    ada, others = person(), [person() for _ in range(64)]
    refused(make(ada, "Crowd", *others), 422, "group_full")
    refused(make(ada, "Crowd", *[str(uuid.uuid4()) for _ in range(1000)]), 422, "group_full")
    crowd = make(ada, "Crowd", *others[:63]).json()["conversation"]
    assert (crowd["memberCount"], len(crowd["members"])) == (64, 8)
    refused(add(ada, crowd["id"], others[63]), 422, "group_full")
    assert add(ada, crowd["id"], *others[:63]).status_code == 200  # they are there already
    assert remove(others[0], crowd["id"], others[0]).status_code == 200
    assert add(ada, crowd["id"], others[63]).status_code == 200
    seen, cursor = [], None
    while True:
        query = {"limit": 10} if cursor is None else {"limit": 10, "cursor": cursor}
        page = http.get(f"{LIST}/{crowd['id']}/members", headers=others[9].headers, params=query).json()
        seen += [member["id"] for member in page["members"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        assert len(page["members"]) == 10
    assert len(seen) == 64
    assert set(seen) == {ada.id, *(other.id for other in others[1:])}
    assert seen[-1] == others[63].id  # by time of joining


def test_members_of_a_direct_conversation(
    person: Any, send: Any, http: Any, add: Any, remove: Any, refused: Any
) -> None:
    ada, ben = person("Ada"), person("Ben")
    room = send(ada, "Hello", toUserId=ben.id).json()["conversation"]["id"]
    assert set(roles(http, ben, room)) == {ada.id, ben.id}
    refused(add(ada, room, person()), 422, "not_a_group")
    refused(remove(ada, room, ben), 422, "not_a_group")
    refused(remove(ada, room, ada), 422, "not_a_group")


def test_adding_and_promoting(person: Any, group: Any, add: Any, http: Any, refused: Any) -> None:
    ada, ben, cyd, dan = person(), person(), person("Cyd"), person()
    crew = group(ada, ben)["id"]
    answer = add(ada, crew, cyd.id.upper(), cyd)
    assert answer.status_code == 200
    (member,) = answer.json()["members"]
    assert (member["id"], member["displayName"], member["role"]) == (cyd.id, "Cyd", "member")
    assert add(ada, crew, cyd).json() == answer.json()
    refused(add(ben, crew, dan), 403, "forbidden")
    refused(add(ben, crew, ben, role="admin"), 403, "forbidden")
    assert add(ada, crew, ben, role="admin").json()["members"][0]["role"] == "admin"
    assert add(ben, crew, dan).json()["members"][0]["role"] == "member"
    refused(add(ben, crew, dan, role="admin"), 403, "forbidden")
    refused(add(ben, crew, dan, role="owner"), 403, "forbidden")
    assert add(ben, crew, ada, role="member").status_code == 200
    assert add(ada, crew, cyd, role="owner").json()["members"][0]["role"] == "owner"
    assert add(cyd, crew, ada, role="member").json()["members"][0]["role"] == "member"
    assert roles(http, dan, crew) == {ada.id: "member", ben.id: "admin", cyd.id: "owner", dan.id: "member"}


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"userIds": []}, "/userIds"), ({"userIds": [SOMETHING] * 101}, "/userIds"), ({"userIds": ["x"]}, "/userIds/0"),
        ({"userIds": None}, "/userIds"), ({"role": "god"}, "/role"), ({"role": ""}, "/role"), ({"role": 1}, "/role"),
        ({"userId": SOMETHING}, "/userId"),
    ],
)  # fmt: skip
def test_wrong_shape_of_members(person: Any, add: Any, group: Any, refused: Any, members: Any, pointer: str) -> None:
    ada = person()
    refused(add(ada, group(ada)["id"], **{"userIds": [SOMETHING], **members}), 400, "validation_failed", pointer)


def test_removing_and_leaving(person: Any, group: Any, add: Any, remove: Any, send: Any, http: Any, refused: Any,
                              alike: Any) -> None:  # fmt: skip
    ada, ben, cyd, dan = person(), person(), person(), person()
    conversation = group(ada, ben, cyd, dan)
    crew = conversation["id"]
    add(ada, crew, ben, role="admin")
    refused(remove(cyd, crew, dan), 403, "forbidden")
    refused(remove(ben, crew, ada), 403, "forbidden")
    assert remove(ben, crew, dan.id.upper()).json() == {"conversationId": crew, "userId": dan.id}
    alike(remove(ben, crew, dan), remove(ben, crew, str(uuid.uuid4())))
    topic = http.get(f"{LIST}/{crew}", headers=ada.headers).json()["conversation"]["liveTopic"]
    assert topic != conversation["liveTopic"]
    for method, path, body in (
        ("GET", "", None), ("GET", "/messages", None), ("GET", "/members", None),
        ("PATCH", "", {"archived": True}),
        ("POST", "/members", {"userIds": [dan.id]}), ("DELETE", f"/members/{dan.id}", None),
        ("PATCH", "/read-all", {}),
    ):  # fmt: skip
        alike(
            http.request(method, f"{LIST}/{crew}{path}", headers=dan.headers, json=body),
            http.request(method, f"{LIST}/{uuid.uuid4()}{path}", headers=dan.headers, json=body),
        )
    refused(send(dan, "Let me in", conversationId=crew), 404, "not_found")
    assert http.get(LIST, headers=dan.headers).json()["conversations"] == []
    # Who leaves as the last owner leaves the group to the longest-standing admin, then member.
    assert remove(ada, crew, ada).status_code == 200
    assert roles(http, cyd, crew) == {ben.id: "owner", cyd.id: "member"}
    assert remove(ben, crew, ben).status_code == 200
    assert roles(http, cyd, crew) == {cyd.id: "owner"}
    assert remove(cyd, crew, cyd).status_code == 200
    refused(remove(cyd, crew, cyd), 404, "not_found")


def test_coming_back_begins_anew(person: Any, group: Any, add: Any, remove: Any, send: Any, http: Any) -> None:
    ada, ben = person(), person()
    crew = group(ada, ben)["id"]
    send(ada, "Before", conversationId=crew)
    remove(ada, crew, ben)
    send(ada, "Meanwhile", conversationId=crew)
    assert add(ada, crew, ben).status_code == 200
    row = http.get(LIST, headers=ben.headers).json()["conversations"][0]
    assert (row["unreadCount"], row["lastMessage"], row["myRole"]) == (0, None, "member")
    send(ada, "After", conversationId=crew)
    opened = http.get(f"{LIST}/{crew}", headers=ben.headers).json()["conversation"]
    assert ([m["body"] for m in opened["messages"]], opened["unreadCount"]) == (["After"], 1)


def test_cursors_of_member_lists(person: Any, group: Any, http: Any, refused: Any, alike: Any) -> None:
    ada, ben, eve = person(), person(), person()
    members = f"{LIST}/{group(ada, ben)['id']}/members"
    cursor = http.get(members, headers=ada.headers, params={"limit": 1}).json()["nextCursor"]
    rest = http.get(members, headers=ben.headers, params={"cursor": cursor}).json()
    assert ([member["id"] for member in rest["members"]], rest["nextCursor"]) == ([ben.id], None)
    for wrong in ("", "x", "null", cursor + "A", cursor[1:], "\x00"):
        refused(http.get(members, headers=ada.headers, params={"cursor": wrong}), 400, "cursor_invalid")
    alike(
        http.get(members, headers=eve.headers, params={"cursor": cursor}),
        http.get(f"{LIST}/{uuid.uuid4()}/members", headers=eve.headers, params={"cursor": cursor}),
    )


def test_pace_of_new_groups(person: Any, make: Any, refused: Any) -> None:
    ada, key = person(), str(uuid.uuid4())
    assert make(ada, "First", key=key).status_code == 201
    assert {make(ada, f"{n}").status_code for n in range(29)} == {201}
    late = make(ada, "One more")
    assert 60 < refused(late, 429, "rate_limited")["retryAfterS"] <= 3600
    assert make(ada, "First", key=key).status_code == 200  # a replay costs nothing
