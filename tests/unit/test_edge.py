"""The whole application in this process, on a scripted upstream: what every answer has, and what edges do."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app import auth, log, main, wire
from app.edge import Edge
from app.routes.health import Readiness
from tests.unit.fakes import (
    ADA,
    BEN,
    CONVERSATION,
    INBOX_ROW,
    KEY,
    MESSAGE,
    READ,
    SENT,
    SENT_MESSAGE,
    Asked,
    Upstream,
    always,
    bearer,
    config,
    http,
    refusal,
    serving,
    token,
    upstream,
)  # fmt: skip

SEND = "/api/messages/send"
LIST = "/api/messages/conversations"


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[Any]:
    """The log as a function that reads it."""
    root = logging.getLogger()
    handlers, level, logger = root.handlers[:], root.level, log._logger
    stream = io.BytesIO()
    log.configure(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], log._logger = handlers, logger
    root.setLevel(level)


@asynccontextmanager
async def service(answer: bytes, **changes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Upstream]]:
    async with upstream(always(answer)) as up, serving(config(up.url, **changes)) as client:
        client.headers.update(bearer(up.url))
        yield client, up


def problem(response: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """Check that this is a problem of that code, with everything a problem has."""
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert document["requestId"] == response.headers["x-request-id"]
    if pointer is not None:
        assert document["errors"][0]["pointer"] == pointer
    return document


# ----- the five routes -----


async def test_send() -> None:
    async with service(http(200, SENT)) as (client, up):
        answer = await client.post(SEND, json={"toUserId": BEN, "body": "a\x00b", "clientMessageId": KEY.upper()})
    assert answer.status_code == 201
    assert answer.json() == {"message": SENT_MESSAGE, "conversation": INBOX_ROW}
    assert (answer.headers["ratelimit-policy"], answer.headers["ratelimit"]) == (
        '"send";q=100;w=60',
        '"send";r=99;t=60',
    )
    assert up.asked[0].path == "/rest/v1/rpc/send_message"
    assert up.asked[0].json == {
        "p_body": "ab", "p_conversation_id": None, "p_to_user_id": BEN, "p_gig_id": None,
        "p_client_message_id": KEY.upper(),
    }  # fmt: skip


async def test_replay_is_200() -> None:
    async with service(http(200, {**SENT, "created": False})) as (client, _):
        answer = await client.post(SEND, json={"conversationId": CONVERSATION, "body": "Hello"})
    assert answer.status_code == 200


async def test_send_without_key_gets_one() -> None:
    async with service(http(200, SENT)) as (client, up):
        for _ in range(2):
            await client.post(SEND, json={"conversationId": CONVERSATION, "body": "Hello"})
    keys = {asked.json["p_client_message_id"] for asked in up.asked}
    assert len(keys) == 2


async def test_idempotency_key_is_an_alias() -> None:
    async with service(http(200, SENT)) as (client, up):
        body = {"toUserId": BEN, "body": "Hello"}
        await client.post(SEND, json=body, headers={"Idempotency-Key": KEY})
        await client.post(SEND, json={**body, "clientMessageId": KEY}, headers={"Idempotency-Key": KEY.upper()})
        assert [asked.json["p_client_message_id"] for asked in up.asked] == [KEY, KEY]
        other = await client.post(SEND, json={**body, "clientMessageId": ADA}, headers={"Idempotency-Key": KEY})
        problem(other, 400, "validation_failed", "/clientMessageId")
        for wrong in ("", "abc", f"{KEY}, {KEY}"):
            answer = await client.post(SEND, json=body, headers={"Idempotency-Key": wrong})
            problem(answer, 400, "validation_failed", "/Idempotency-Key")
        assert len(up.asked) == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"body": "x"}, "/conversationId"), ({"body": "", "toUserId": BEN}, "/body"),
        ({"body": " \u202e", "toUserId": BEN}, "/body"), ({"body": "x" * 4001, "toUserId": BEN}, "/body"),
        ({"body": "x", "toUserId": "ben"}, "/toUserId"), ({"toUserId": BEN}, "/body"),
        ({"body": "x", "toUserId": BEN, "extra": 1}, "/extra"), ({"body": "x", "gigId": KEY}, "/conversationId"),
    ],
)  # fmt: skip
async def test_wrong_send_never_goes_out(body: Any, pointer: str) -> None:
    async with service(http(200, SENT)) as (client, up):
        problem(await client.post(SEND, json=body), 400, "validation_failed", pointer)
    assert up.asked == []


async def test_pace_of_sends() -> None:
    async with service(refusal("PT429", "rate_limited", "At most 100 in any 60 seconds.", "17")) as (client, _):
        answer = await client.post(SEND, json={"toUserId": BEN, "body": "Hello"})
    document = problem(answer, 429, "rate_limited")
    assert (document["retryAfterS"], answer.headers["retry-after"]) == (17, "17")
    assert answer.headers["ratelimit"] == '"send";r=0;t=17'


async def test_list() -> None:
    async with service(http(200, {"conversations": [INBOX_ROW], "total": 1})) as (client, up):
        answer = await client.post(LIST, json={"userId": ADA.upper()})
        assert answer.status_code == 200
        assert answer.json() == {"conversations": [INBOX_ROW], "total": 1}
        await client.post(LIST, json={"userId": ADA, "limit": 100, "offset": 1_000_000})
        problem(await client.post(LIST, json={"userId": BEN}), 403, "forbidden")
        for wrong in ({"limit": 0}, {"limit": 101}, {"offset": -1}, {"offset": 1_000_001}):
            answer = await client.post(LIST, json={"userId": ADA, **wrong})
            problem(answer, 400, "validation_failed", "/" + next(iter(wrong)))
    assert [asked.json for asked in up.asked] == [
        {"p_limit": 30, "p_offset": 0},
        {"p_limit": 100, "p_offset": 1_000_000},
    ]


async def test_open() -> None:
    receipt = {"userId": ADA, "lastReadSeq": 0, "lastDeliveredSeq": 0}
    opened = {**INBOX_ROW, "messages": [SENT_MESSAGE], "receipts": [receipt], "hasMore": False, "pending": []}
    async with service(http(200, {"conversation": opened})) as (client, up):
        answer = await client.get(f"{LIST}/{CONVERSATION.upper()}")
        assert answer.json() == {"conversation": opened}
        problem(await client.get(f"{LIST}/nonsense"), 400, "validation_failed", "/id")
    assert [asked.json for asked in up.asked] == [{"p_conversation_id": CONVERSATION}]


async def test_mark_read() -> None:
    async with service(http(200, READ)) as (client, up):
        answer = await client.patch(f"/api/messages/{MESSAGE}/read")
        assert (answer.status_code, answer.json()) == (200, READ)
        problem(await client.patch("/api/messages/x/read"), 400, "validation_failed", "/id")
    assert [(asked.path[-10:], asked.json) for asked in up.asked] == [("/mark_read", {"p_message_id": MESSAGE})]


async def test_mark_all_read() -> None:
    path = f"{LIST}/{CONVERSATION}/read-all"
    async with service(http(200, READ)) as (client, up):
        assert (await client.patch(path)).json() == READ
        assert (await client.patch(path, json={})).status_code == 200
        assert (await client.patch(path, json={"upToSeq": 7})).status_code == 200
        problem(await client.patch(path, json={"upToSeq": -1}), 400, "validation_failed", "/upToSeq")
        problem(await client.patch(path, content=b"null", headers=JSON), 400, "validation_failed", "")
    assert [asked.json["p_up_to_seq"] for asked in up.asked] == [None, None, 7]


JSON = {"content-type": "application/json"}


# ----- bodies -----


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "application/json; charset=latin-1"],
)
async def test_other_media_types(content_type: str) -> None:
    async with service(http(200, SENT)) as (client, up):
        answer = await client.post(SEND, content=b'{"body":"x"}', headers={"content-type": content_type})
        problem(answer, 415, "unsupported_media_type")
    assert up.asked == []


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"'])
async def test_json_in_utf8(content_type: str) -> None:
    async with service(http(200, SENT)) as (client, _):
        body = json.dumps({"body": "x", "toUserId": BEN}).encode()
        assert (await client.post(SEND, content=body, headers={"content-type": content_type})).status_code == 201


async def test_encoded_body() -> None:
    async with service(http(200, SENT)) as (client, _):
        answer = await client.post(SEND, content=b"x", headers={**JSON, "content-encoding": "gzip"})
        problem(answer, 415, "unsupported_media_type")


async def test_empty_body() -> None:
    async with service(http(200, SENT)) as (client, _):
        problem(await client.post(SEND, headers=JSON), 400, "validation_failed", "")
        problem(await client.post(SEND), 400, "validation_failed", "")


async def test_large_body() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 4096
            yield b" " * 4096

    async with service(http(200, SENT)) as (client, _):
        problem(await client.post(SEND, content=b" " * 65537, headers=JSON), 413, "payload_too_large")
        problem(await client.post(SEND, content=endless(), headers=JSON), 413, "payload_too_large")
        problem(
            await client.post(SEND, content=b"{}", headers={**JSON, "content-length": "9" * 30}),
            413,
            "payload_too_large",
        )
        fits = json.dumps({"body": "x", "toUserId": BEN}).encode().ljust(65536)
        assert (await client.post(SEND, content=fits, headers=JSON)).status_code == 201
    assert read < 200_000


async def asgi(edge: Edge, messages: list[Any], headers: dict[str, str], pause_s: float = 0) -> list[Any]:
    """One request by hand, for what a well-behaved client cannot do."""
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(pause_s)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": SEND, "raw_path": SEND.encode(), "root_path": "", "query_string": b"", "client": None,
        "server": ("service", 80), "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    await edge(scope, receive, send)
    return sent


async def test_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_TIMEOUT_S", 0.05)
    async with upstream(always(http(200, SENT))) as up:
        part = {"type": "http.request", "body": b" ", "more_body": True}
        sent = await asgi(main.create_app(config(up.url)), [part] * 50, {**JSON, **bearer(up.url)}, pause_s=0.02)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "request_timeout"


async def test_client_that_goes_away(log_lines: Any) -> None:
    async with upstream(always(http(200, SENT))) as up:
        part = {"type": "http.request", "body": b"{", "more_body": True}
        sent = await asgi(main.create_app(config(up.url)), [part], {**JSON, **bearer(up.url)})
        await asgi(main.create_app(config(up.url)), [], {**JSON, **bearer(up.url)})
    assert sent[0]["status"] == 408
    assert [line["code"] for line in log_lines()] == ["request_timeout", "request_timeout"]


# ----- every answer -----


async def test_headers_of_every_answer() -> None:
    async with service(http(200, {"conversations": [], "total": 0})) as (client, _):
        for answer in (
            await client.post(LIST, json={"userId": ADA}),
            await client.post(LIST, json={"userId": BEN}),
            await client.get("/nowhere"),
            await client.get("/health/live"),
            await client.get("/schema/openapi.json"),
            await client.options(LIST),
        ):
            assert answer.headers.get_list("cache-control") == ["private, no-store"]
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            assert len(answer.headers.get_list("x-request-id")) == 1
            assert answer.headers["server-timing"].startswith("upstream;dur=")
            assert not {"etag", "server", "set-cookie", "vary"} & answer.headers.keys()


async def test_request_id_travels(log_lines: Any) -> None:
    async with service(http(200, READ)) as (client, up):
        wished = {"X-Request-Id": "from-the-client-1"}
        answer = await client.patch(f"/api/messages/{MESSAGE}/read?secret=1", headers=wished)
    assert answer.headers["x-request-id"] == up.asked[0].headers["x-request-id"] == "from-the-client-1"
    (line,) = log_lines()
    assert line["request_id"] == "from-the-client-1"
    assert (line["route"], line["caller_id"], line["code"]) == ("/api/messages/{id}/read", ADA, None)
    assert "secret" not in json.dumps(line)


async def test_unknown_path_and_method() -> None:
    async with service(http(200, SENT)) as (client, up):
        for path in (
            "/",
            "/nowhere",
            "/api",
            "/api/messages",
            "/api/messages/send/more",
            "/docs/x",
            "/%00",
            "/%ff//..",
            "/" + "x" * 5000,
        ):
            problem(await client.get(path), 404, "not_found")
        answer = await client.get(SEND)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "OPTIONS, POST"
        answer = await client.request("BREW", "/health/live")
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert up.asked == []


async def test_invalid_host() -> None:
    async with service(http(200, SENT)) as (client, _):
        problem(await client.get("/health/live", headers={"host": "a b"}), 400, "validation_failed")


async def test_head_and_options() -> None:
    async with service(http(200, SENT)) as (client, _):
        answer = await client.head("/health/live")
        assert (answer.status_code, answer.headers["content-length"]) == (200, "17")
        assert (await client.head(SEND)).status_code == 405
        answer = await client.options(SEND)
        assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")
        assert (await client.options("/health/live")).headers["allow"] == "GET, HEAD, OPTIONS"
        # A path with several handlers names the methods of all of them.
        several = await client.options("/api/messages/conversations/x/members")
        assert several.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert "content-type" not in several.headers


async def test_crash_is_our_own_fault_and_says_nothing(monkeypatch: pytest.MonkeyPatch, log_lines: Any) -> None:
    def crash(_: Any) -> None:
        raise ZeroDivisionError("secret words")

    monkeypatch.setattr("app.text.refusal", crash)
    async with service(http(200, SENT)) as (client, _):
        answer = await client.post(SEND, json={"body": "x", "toUserId": BEN})
    problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    crashed, line = log_lines()
    assert (crashed["event"], crashed["error"], line["status"], line["level"]) == (
        "unexpected",
        "ZeroDivisionError",
        500,
        "error",
    )


async def test_crash_outside_of_the_framework(log_lines: Any) -> None:
    class Broken:
        async def __call__(self, *_: Any) -> None:
            raise ZeroDivisionError

    sent = await asgi(Edge(Broken(), []), [], {})  # type: ignore[arg-type]
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (500, "internal_error")
    assert log_lines()[1]["code"] == "internal_error"


async def test_crash_after_the_answer_began(log_lines: Any) -> None:
    class Broken:
        async def __call__(self, _: Any, __: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ZeroDivisionError

    sent = await asgi(Edge(Broken(), []), [], {})  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert [line["event"] for line in log_lines()] == ["unexpected", "request"]


async def test_problems_of_sql_arrive() -> None:
    async with service(refusal("PT403", "recipient_unavailable", "This person cannot be written to.")) as (client, _):
        answer = await client.post(SEND, json={"body": "x", "toUserId": BEN})
        assert problem(answer, 403, "recipient_unavailable")["detail"] == "This person cannot be written to."


# ----- tokens and limits -----


async def test_missing_wrong_and_expired_token() -> None:
    async with service(http(200, SENT)) as (client, up):
        issuer = f"{up.url}/auth/v1"
        del client.headers["Authorization"]
        answer = await client.post(SEND, json={})
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="messages"'
        for raw, code in ((token("https://evil.example"), "unauthenticated"), (token(issuer, exp=1), "token_expired")):
            answer = await client.post(SEND, json={}, headers={"Authorization": f"Bearer {raw}"})
            problem(answer, 401, code)
            assert answer.headers["www-authenticate"].startswith('Bearer realm="messages", error="invalid_token"')
            assert answer.headers["ratelimit-policy"] == '"address";q=60;w=60'
        twice = [("authorization", f"Bearer {token(issuer)}")] * 2
        problem(await client.post(SEND, json={}, headers=twice), 401, "unauthenticated")
    assert up.asked == []


async def test_limit_of_a_person_comes_before_everything_else() -> None:
    async with service(http(200, READ), person_requests_per_minute=2) as (client, up):
        path = f"/api/messages/{MESSAGE}/read"
        assert (await client.patch(path)).headers["ratelimit"] == '"person";r=1;t=30'
        assert (await client.patch(path)).headers["ratelimit"] == '"person";r=0;t=60'
        answer = await client.post(SEND, content=b"x" * 100_000)
        document = problem(answer, 429, "rate_limited")
        assert document["retryAfterS"] == int(answer.headers["retry-after"]) == 30
        assert answer.headers["ratelimit-policy"] == '"person";q=2;w=60'
        other = bearer(up.url, sub=BEN)
        assert (await client.patch(path, headers=other)).status_code == 200
        assert (await client.get("/health/live")).status_code == 200
    assert len(up.asked) == 3


async def test_limit_of_an_address() -> None:
    async with service(http(200, READ), anonymous_requests_per_minute=1, trusted_proxies=main.settings.load(
        {"SUPABASE_URL": "http://x", "SUPABASE_PUBLISHABLE_KEY": "xxxxxxxx", "TRUSTED_PROXIES": "192.0.2.0/24"}
    ).trusted_proxies) as (client, _):  # fmt: skip
        path = f"/api/messages/{MESSAGE}/read"
        assert (await client.patch(path)).status_code == 200
        for forwarded in ("198.51.100.1", "198.51.100.2", "8.8.8.8, 198.51.100.3"):
            headers = {"Authorization": "Bearer x", "X-Forwarded-For": forwarded}
            problem(await client.patch(path, headers=headers), 401, "unauthenticated")
            problem(await client.patch(path, headers=headers), 429, "rate_limited")
        problem(
            await client.patch(path, headers=headers | {"X-Forwarded-For": "1.1.1.1, 198.51.100.3"}),
            429,
            "rate_limited",
        )
        assert (await client.patch(path)).status_code == 200  # a valid token is counted for its person
        for free in ("/health/live", "/schema/openapi.json", "/nowhere"):
            assert (await client.get(free, headers=headers)).status_code in (200, 404)
        assert (await client.options(SEND, headers=headers)).status_code == 204


# ----- CORS -----


async def test_cors() -> None:
    origin = "https://market.example"
    async with service(http(200, READ), cors_origins=(origin,), anonymous_requests_per_minute=1) as (client, _):
        ask = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        for _ in range(3):
            answer = await client.options(SEND, headers=ask)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == origin
            assert "PATCH" in answer.headers["access-control-allow-methods"]
            allowed = answer.headers["access-control-allow-headers"]
            assert allowed == "Authorization, Content-Type, Idempotency-Key, X-Request-Id, traceparent"
            assert "access-control-allow-credentials" not in answer.headers
        for answer in (
            await client.patch(f"/api/messages/{MESSAGE}/read", headers={"Origin": origin}),
            await client.patch("/api/messages/x/read", headers={"Origin": origin}),
            await client.get("/nowhere", headers={"Origin": origin}),
        ):
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-expose-headers"] == (
                "RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, Server-Timing"
            )
            assert answer.headers["vary"] == "Origin"
        for stranger in ("https://evil.example", "null", origin + ".evil.example", "*"):
            answer = await client.options(SEND, headers={**ask, "Origin": stranger})
            assert not [name for name in answer.headers if name.startswith("access-control")]
            answer = await client.get("/health/live", headers={"Origin": stranger})
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"


# ----- health and documentation -----


async def test_ready_follows_the_upstream() -> None:
    answers = [refusal("42501", "permission denied"), refusal("PGRST202", "no function"), http(503, b"<html>")]

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
        return answers[0]

    async with upstream(script) as up, serving(config(up.url)) as client:
        Readiness.FRESH_S, fresh_s = 0.0, Readiness.FRESH_S
        try:
            answer = await client.get("/health/ready")
            assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
            for why in ("schema", "database"):
                answers.pop(0)
                answer = await client.get("/health/ready")
                assert problem(answer, 503, "not_ready")["detail"] == f"Not usable: {why}."
                assert answer.headers["retry-after"] == "2"
        finally:
            Readiness.FRESH_S = fresh_s


async def test_ready_needs_keys_when_there_is_no_secret() -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return refusal("42501", "denied") if "rpc" in asked.path else http(404, b"")

    async with upstream(script) as up, serving(config(up.url, supabase_jwt_secret=None)) as client:
        assert problem(await client.get("/health/ready"), 503, "not_ready")["detail"] == "Not usable: keys."


async def test_ready_waits_for_no_key_set_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_KEYS_WAIT_S", 0.1)
    monkeypatch.setattr(auth, "_KEYS_ASK_FIRST_S", 0.0)
    monkeypatch.setattr(auth, "_KEYS_ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(Readiness, "FRESH_S", 0.0)
    hangs = True

    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        if "rpc" in asked.path:
            return refusal("42501", "denied")
        if hangs:
            await asyncio.sleep(60)
        return http(200, {"keys": []})

    async with upstream(script) as up, serving(config(up.url, supabase_jwt_secret=None)) as client:
        async with asyncio.timeout(5):
            assert problem(await client.get("/health/ready"), 503, "not_ready")["detail"] == "Not usable: keys."
            hangs = False
            assert (await client.get("/health/ready")).status_code == 200
            hangs = True
            assert (await client.get("/health/ready")).status_code == 200, "those that were seen are kept"


async def test_starts_while_the_upstream_is_away_and_needs_no_restart() -> None:
    async with upstream(always(refusal("42501", "denied"))) as up:
        url = up.url
    async with serving(config(url)) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}
        problem(await client.get("/health/ready"), 503, "not_ready")
        problem(await client.patch(f"/api/messages/{MESSAGE}/read", headers=bearer(url)), 503, "upstream_unavailable")


async def test_readiness_is_asked_once_a_second() -> None:
    asked, now_s = 0, 100.0

    async def probe() -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return None

    readiness = Readiness(probe, lambda: now_s)
    await asyncio.gather(*(readiness.why_not() for _ in range(50)))
    assert asked == 1
    now_s += 0.9
    await readiness.why_not()
    now_s += 0.2
    await readiness.why_not()
    assert asked == 2


async def test_documentation_is_served_from_here() -> None:
    async with service(http(200, SENT)) as (client, up):
        answer = await client.get("/schema/openapi.json")
        assert (answer.headers["content-type"], answer.json()["openapi"]) == ("application/json", "3.1.0")
        answer = await client.get("/docs")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "//" not in answer.text.replace("<!doctype html>", "")
        for name, media_type in (
            ("swagger-ui-bundle.js", "text/javascript"),
            ("swagger-ui.css", "text/css"),
            ("start.js", "text/javascript"),
        ):
            asset = await client.get(f"/docs/{name}")
            assert asset.status_code == 200
            assert asset.headers["content-type"] == f"{media_type}; charset=utf-8"
            assert f"/docs/{name}" in answer.text
        problem(await client.get("/docs/..%2f..%2fpyproject.toml"), 404, "not_found")
    assert up.asked == []


def test_server_finds_the_application_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", "sb_publishable_x")
    monkeypatch.delitem(vars(main), "app", raising=False)
    assert isinstance(main.app, Edge)
    assert main.app is main.app
    monkeypatch.delitem(vars(main), "app", raising=False)
    with pytest.raises(AttributeError):
        _ = main.nothing_else


async def test_a_websocket_is_refused() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    edge = main.create_app(config("http://127.0.0.1:9"))
    scope: Any = {"type": "websocket", "path": "/realtime", "headers": [], "query_string": b"", "root_path": ""}
    await edge(scope, receive, send)
    assert sent[0]["type"] == "websocket.close"
