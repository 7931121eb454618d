"""Query strings and path ids that clients, links and strangers send: never a 500, always a pointer."""

import uuid
from typing import Any

import pytest

from tests.api.test_problems import talk

LIST = "/api/messages/conversations"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"
MEMBERS = f"{LIST}/{SOMETHING}/members"


@pytest.mark.parametrize("path", [LIST, f"{LIST}/{SOMETHING}/messages", MEMBERS])
@pytest.mark.parametrize(
    "limit",
    ["abc", "0", "-1", "101", "", "null", "1.5", "+5", "%205", "0x10", "%EF%BC%95", "true", "5_0", "9" * 400, "NaN",
     "Infinity", "1e999", "[5]", "5,6"],
)  # fmt: skip
def test_limit(person: Any, http: Any, refused: Any, path: str, limit: str) -> None:
    refused(http.get(f"{path}?limit={limit}", headers=person().headers), 400, "validation_failed", "/limit")


@pytest.mark.parametrize("name", ["unread", "archived"])
def test_booleans(person: Any, http: Any, refused: Any, name: str) -> None:
    headers = person().headers
    for good in ("true", "false", "1", "0", "True", "FALSE"):
        assert http.get(f"{LIST}?{name}={good}", headers=headers).status_code == 200
    for wrong in ("", "yes", "no", "on", "t", "2", "-1", "null", "%00x", "truefalse"):
        refused(http.get(f"{LIST}?{name}={wrong}", headers=headers), 400, "validation_failed", f"/{name}")
    refused(http.get(f"{LIST}?{name}", headers=headers), 400, "validation_failed", f"/{name}")


@pytest.mark.parametrize("name", ["gigId", "withUserId"])
def test_ids(person: Any, http: Any, refused: Any, name: str) -> None:
    headers = person().headers
    assert http.get(f"{LIST}?{name}={SOMETHING.upper()}", headers=headers).status_code == 200
    for wrong in (
        "",
        "x",
        "null",
        SOMETHING.replace("-", ""),
        f"{SOMETHING}%0A",
        f"%7B{SOMETHING}%7D",
        f"{SOMETHING}0",
    ):
        refused(http.get(f"{LIST}?{name}={wrong}", headers=headers), 400, "validation_failed", f"/{name}")


@pytest.mark.parametrize(
    ("path", "query", "pointer"),
    [
        (LIST, "limit=1&limit=1", "/limit"), (LIST, "q=a&limit=1&q=b", "/q"), (LIST, "unread=1&unread=x", "/unread"),
        (MEMBERS, "cursor=a&cursor=a", "/cursor"), (LIST, "q=" + "x" * 101, "/q"), (LIST, "q=" + "x" * 60_000, "/q"),
        (LIST, "q=" + "%F0%9F%98%80" * 101, "/q"),
        (LIST, "q=%ff", ""), (LIST, "q=%c3%28", ""), (LIST, "q=%ed%a0%80", ""), (LIST, "utm=%ff", ""),
        (LIST, "%ff=1", ""), (MEMBERS, "limit=%ff", ""), (LIST, "&".join(f"a{n}=" for n in range(101)), ""),
    ],
)  # fmt: skip
def test_given_twice_too_long_or_not_utf_8(person: Any, http: Any, refused: Any, path: str, query: str,
                                           pointer: str) -> None:  # fmt: skip
    refused(http.get(f"{path}?{query}", headers=person().headers), 400, "validation_failed", pointer)


@pytest.mark.parametrize(
    "query",
    ["", "&&&", "=", "utm_source=mail", "x=1&x=2", "Limit=0", "limit%00=0", "user_id=x", "with_user_id=x", "offset=x",
     "before=x", "q=a;limit=0", "%F0%9F%98%80=1", "q=%F0%9F%91%A9%E2%80%8D", "limit=%31%30"],
)  # fmt: skip
def test_what_nobody_asked_for_is_ignored(person: Any, http: Any, query: str) -> None:
    answer = http.get(f"{LIST}?{query}", headers=person().headers)
    assert (answer.status_code, answer.json()) == (200, {"conversations": [], "nextCursor": None})


def test_routes_without_parameters_do_not_read_the_query(person: Any, http: Any) -> None:
    ada = person()
    for path in ("/api/profile", "/api/messages/unread"):
        assert http.get(f"{path}?limit=x&%ff=%ff", headers=ada.headers).status_code == 200


@pytest.mark.parametrize("size", [70_000, 1_000_000])
def test_huge_address(service_url: str, person: Any, http: Any, size: int) -> None:
    head = f"GET {LIST}?q={'x' * size} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person().token}\r\n\r\n"
    answer = talk(service_url, head.encode())
    assert answer.startswith(b"HTTP/1.1 4")
    assert http.get("/health/live").status_code == 200


ID_PATHS = [
    ("GET", LIST + "/{}/messages", "/id"), ("PATCH", LIST + "/{}", "/id"), ("GET", LIST + "/{}/members", "/id"),
    ("POST", LIST + "/{}/members", "/id"), ("DELETE", LIST + "/{}/members/" + SOMETHING, "/id"),
    ("DELETE", LIST + "/" + SOMETHING + "/members/{}", "/userId"), ("PATCH", "/api/messages/{}", "/id"),
    ("DELETE", "/api/messages/{}", "/id"), ("GET", "/api/messages/{}/history", "/id"),
]  # fmt: skip
BODIES = {LIST + "/{}": {"archived": True}, LIST + "/{}/members": {"userIds": [SOMETHING]}}


@pytest.mark.parametrize(("method", "path", "pointer"), ID_PATHS)
def test_malformed_ids(person: Any, http: Any, refused: Any, method: str, path: str, pointer: str) -> None:
    headers, body = person().headers, BODIES.get(path, {"body": "x"}) if method in ("PATCH", "POST") else None
    for wrong in ("x", "null", "0", uuid.uuid4().hex, f"{uuid.uuid4()}x", "%00", "%F0%9F%98%80", f"{SOMETHING}%0A",
                  "%7B" + SOMETHING + "%7D", SOMETHING + "," + SOMETHING, "*", "x" * 5000):  # fmt: skip
        answer = http.request(method, path.format(wrong), headers=headers, json=body)
        refused(answer, 400, "validation_failed", pointer)
    assert http.request(method, path.format(str(uuid.uuid4()).upper()), headers=headers, json=body).status_code == 404


def test_every_route_needs_a_token(http: Any, refused: Any) -> None:
    others = [("GET", LIST), ("POST", f"{LIST}/group"), ("GET", "/api/messages/unread"), ("GET", "/api/profile"),
              ("PATCH", "/api/profile")]  # fmt: skip
    for method, path in [(method, path.format("x")) for method, path, _ in ID_PATHS] + others:
        answer = http.request(method, path, json={})
        refused(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="messages"'


def test_head_and_options(person: Any, send: Any, http: Any) -> None:
    ada = person()
    sent = send(ada, "Hello", toUserId=person().id).json()["message"]
    room = f"{LIST}/{sent['conversationId']}"
    for path in (LIST, f"{room}/messages?limit=1", f"{room}/members", room, f"/api/messages/{sent['id']}/history",
                 "/api/messages/unread", "/api/profile"):  # fmt: skip
        answer = http.head(path, headers=ada.headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == http.get(path, headers=ada.headers).headers["content-length"]
        assert http.head(path).status_code == 401
        assert http.options(path).status_code == 204
    assert http.head(f"{LIST}/{uuid.uuid4()}/messages", headers=ada.headers).status_code == 404
    assert http.head(f"/api/messages/{sent['id']}", headers=ada.headers).status_code == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", f"{LIST}/{SOMETHING}"), ("POST", f"{LIST}/group"), ("POST", MEMBERS), ("PATCH", "/api/profile"),
     ("PATCH", f"/api/messages/{SOMETHING}")],
)  # fmt: skip
def test_bodies_left_out_or_of_another_kind(person: Any, http: Any, refused: Any, method: str, path: str) -> None:
    headers = person().headers
    nothing = refused(http.request(method, path, headers=headers), 400, "validation_failed", "")
    assert nothing["detail"] == "The body is missing."
    for body in (b"null", b"[]", b'"x"', b"{", b"\xff"):
        answer = http.request(method, path, headers=headers | {"Content-Type": "application/json"}, content=body)
        refused(answer, 400, "validation_failed", "")
    unknown = http.request(method, path, headers=headers, json={"isAdmin": True})
    assert refused(unknown, 400, "validation_failed")["errors"][0]["pointer"] in (
        "/isAdmin",
        "/title",
        "/userIds",
        "/body",
    )
    form = http.request(method, path, headers=headers, data={"title": "x"})
    refused(form, 415, "unsupported_media_type")
    large = http.request(method, path, headers=headers | {"Content-Type": "application/json"}, content=b" " * 65_537)
    refused(large, 413, "payload_too_large")
