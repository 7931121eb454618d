"""The door against an upstream on its bad days: a named problem, within the deadline, and nothing that leaks."""

import asyncio
import gc
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from app import log, supabase
from app.problems import CATALOGUE, Problem
from app.settings import MessageKey
from app.supabase import ANSWER_BYTES_MAX, Breaker, Caller, Supabase, problem_of
from app.vault import About, Text, Vault
from tests.unit.fakes import ADA, KEY, Asked, always, config, http, refusal, upstream

CALLER = Caller(ADA, "a.token", time.time() + 3600)


class Answer(msgspec.Struct):
    word: str


@pytest.fixture(autouse=True)
def exchange() -> log.Exchange:
    exchange = log.Exchange("POST", [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])
    log.begin(exchange)
    return exchange


@asynccontextmanager
async def door(url: str, **changes: Any) -> AsyncIterator[Supabase]:
    opened = Supabase(config(url, **changes))
    opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def refused(opened: Supabase, **options: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await opened.rpc("send_message", {"p_body": "secret words"}, CALLER, Answer, **options)
    assert "secret" not in caught.value.detail
    return caught.value


async def test_call_carries_key_token_and_trace(exchange: log.Exchange) -> None:
    async with upstream(always(http(200, {"word": "yes", "added": 1}))) as up, door(up.url) as opened:
        answer = await opened.rpc("send_message", {"p_body": "Zoë", "p_gig_id": None}, CALLER, Answer)
    asked = up.asked[0]
    assert answer == Answer("yes")
    assert (asked.method, asked.path) == ("POST", "/rest/v1/rpc/send_message")
    assert asked.json == {"p_body": "Zoë", "p_gig_id": None}
    assert asked.headers["apikey"] == "sb_publishable_test"
    assert asked.headers["authorization"] == "Bearer a.token"
    assert asked.headers["x-request-id"] == exchange.request_id
    assert asked.headers["traceparent"] == exchange.traceparent
    assert "cookie" not in asked.headers
    assert "accept-encoding" not in asked.headers
    assert exchange.upstream_s > 0


async def test_connections_are_kept(exchange: log.Exchange) -> None:
    async with upstream(always(http(200, {"word": "yes"}))) as up, door(up.url) as opened:
        for _ in range(20):
            await opened.rpc("f", {}, CALLER, Answer)
    assert up.connections == 1


async def test_environment_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with upstream(always(http(200, {"word": "yes"}))) as up, door(up.url) as opened:
        assert await opened.rpc("f", {}, CALLER, Answer) == Answer("yes")


async def test_refused_connection_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(always(b"")) as up:
        url = up.url
    stream = io.BytesIO()
    monkeypatch.setattr(log, "_logger", log.writing_to(stream))
    async with door(url) as opened:
        problem = await refused(opened, repeatable=True)
    assert (problem.code, problem.retry_after_s) == ("upstream_unavailable", 2)
    # An operator is told why, as a certificate that is not trusted looks the same from outside.
    line = json.loads(stream.getvalue())
    assert (line["event"], line["error"]) == ("upstream_lost", "ConnectionRefusedError")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http(200, b"<html>hello</html>", "text/html"), "upstream_invalid"),
        (http(200, b""), "upstream_invalid"),
        (http(200, b'{"word": 1}'), "upstream_invalid"),
        (http(200, b'{"word": "\xff"}'), "upstream_invalid"),
        (http(200, b"[" * 100_000), "upstream_invalid"),
        (http(200, b'{"word": "cut of'), "upstream_invalid"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "upstream_invalid"),
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "upstream_invalid"),
        (http(404, b"<html>not here</html>", "text/html"), "upstream_invalid"),
        (http(418, {"teapot": True}), "upstream_invalid"),
        (http(400, b"[" * 100_000), "upstream_invalid"),
        (http(400, {"code": 7, "message": ["x"]}), "upstream_invalid"),
        (b"this is not HTTP at all\r\n\r\n", "upstream_invalid"),
        (http(502, b"<html>Bad Gateway</html>", "text/html"), "upstream_unavailable"),
        (http(503, b"", "text/plain"), "upstream_unavailable"),
        (http(429, b"slow down", "text/plain"), "upstream_unavailable"),
        (http(504, b"<html>Gateway Timeout</html>", "text/html"), "upstream_timeout"),
        (http(401, {"message": "Invalid API key"}), "upstream_invalid"),
    ],
)
async def test_odd_answer_is_a_named_problem(answer: bytes, code: str) -> None:
    async with upstream(always(answer)) as up, door(up.url) as opened:
        problem = await refused(opened)
    assert problem.code == code
    assert problem.detail == CATALOGUE[code].meaning
    assert "elsewhere" not in [asked.path for asked in up.asked]


async def test_oversized_answer_is_cut_off() -> None:
    sent = 0

    async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        while sent < 40 * ANSWER_BYTES_MAX:
            writer.write(chunk)
            sent += 65536
            await writer.drain()

    async with upstream(endless) as up, door(up.url) as opened:
        problem = await refused(opened)
    assert problem.code == "upstream_invalid"
    assert sent < 10 * ANSWER_BYTES_MAX


async def test_announced_oversize_is_not_waited_for() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n"

    async def big(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b" " * (ANSWER_BYTES_MAX + 10))
        await writer.drain()
        await asyncio.sleep(5)

    async with upstream(big) as up, door(up.url) as opened:
        began = time.monotonic()
        assert (await refused(opened)).code == "upstream_invalid"
    assert time.monotonic() - began < 3


async def cut_off(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()


async def test_reset_in_mid_body() -> None:
    async with upstream(cut_off) as up, door(up.url) as opened:
        assert (await refused(opened)).code == "upstream_invalid"


async def slow_headers(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await writer.drain()
    await asyncio.sleep(5)


async def slow_body(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _tick in range(100):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silence(_: Asked, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


@pytest.mark.parametrize("script", [slow_headers, slow_body, silence])
async def test_deadline_holds(script: Any) -> None:
    async with upstream(script) as up, door(up.url, upstream_timeout_s=0.4) as opened:
        began = time.monotonic()
        problem = await refused(opened, repeatable=True)
    assert problem.code == "upstream_timeout"
    assert time.monotonic() - began < 1.5
    assert len(up.asked) == 1  # a time-out is not repeated: it may have been done


def dying(times: int) -> Any:
    """A script that hangs up on the first `times` requests and then answers."""
    died = 0

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes | None:
        nonlocal died
        died += 1
        return None if died <= times else http(200, {"word": "yes"})

    return script


async def test_repeatable_call_survives_one_lost_connection() -> None:
    async with upstream(dying(1)) as up, door(up.url) as opened:
        assert await opened.rpc("f", {}, CALLER, Answer, repeatable=True) == Answer("yes")
    assert len(up.asked) == 2


async def test_answer_that_was_begun_is_not_asked_for_again() -> None:
    async with upstream(cut_off) as up, door(up.url) as opened:
        assert (await refused(opened, repeatable=True)).code == "upstream_invalid"
    assert len(up.asked) == 1


async def test_second_try_is_made_on_a_new_connection() -> None:
    """Kept ones may all have died with the server."""
    dead = False

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes | None:
        return None if dead and up.connections == 3 else http(200, {"word": "yes"})

    async with upstream(script) as up, door(up.url) as opened:
        await asyncio.gather(*(opened.rpc("f", {}, CALLER, Answer) for _ in range(3)))
        dead = True
        assert await opened.rpc("f", {}, CALLER, Answer, repeatable=True) == Answer("yes")
    assert up.connections == 4


async def test_repeatable_call_is_made_at_most_twice() -> None:
    async with upstream(dying(9)) as up, door(up.url) as opened:
        assert (await refused(opened, repeatable=True)).code == "upstream_unavailable"
    assert len(up.asked) == 2


async def test_other_call_is_made_once() -> None:
    async with upstream(dying(1)) as up, door(up.url) as opened:
        assert (await refused(opened)).code == "upstream_unavailable"
    assert len(up.asked) == 1


async def test_kept_connection_that_was_closed_is_replaced() -> None:
    async def close_after_answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, {"word": "yes"}))
        await writer.drain()

    async with upstream(close_after_answer) as up, door(up.url) as opened:
        for _ in range(5):
            assert await opened.rpc("f", {}, CALLER, Answer, repeatable=True) == Answer("yes")
            await asyncio.sleep(0.01)


async def test_outage_is_answered_at_once_and_ends_without_a_restart() -> None:
    working = False

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes | None:
        return http(200, {"word": "yes"}) if working else http(503, b"")

    async with upstream(script) as up, door(up.url) as opened:
        opened.breaker = Breaker(failures_max=3, pause_s=0.2)
        for _ in range(10):
            assert (await refused(opened)).code == "upstream_unavailable"
        assert len(up.asked) == 3
        working = True
        await asyncio.sleep(0.25)
        assert await opened.rpc("f", {}, CALLER, Answer) == Answer("yes")
        assert await opened.rpc("f", {}, CALLER, Answer) == Answer("yes")


def test_breaker_lets_one_call_try_at_a_time() -> None:
    breaker = Breaker(failures_max=2, pause_s=10)
    for _ in range(2):
        assert breaker.admits(0)
        breaker.settle(False, 0)
    assert not breaker.admits(9.9)
    assert breaker.admits(10)
    assert not breaker.admits(10)
    breaker.settle(None, 10)  # the caller went away: nothing learnt
    assert breaker.admits(10)
    breaker.settle(False, 10)
    assert not breaker.admits(19)
    assert breaker.admits(20)
    breaker.settle(True, 20)
    assert breaker.admits(20)
    assert breaker.admits(20)


async def test_too_many_at_once_are_turned_away() -> None:
    release, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
        arrived.release()
        await release.wait()
        return http(200, {"word": "yes"})

    async with upstream(script) as up, door(up.url, upstream_concurrency_max=2) as opened:
        calls = [asyncio.create_task(opened.rpc("f", {}, CALLER, Answer)) for _ in range(2)]
        await arrived.acquire()
        await arrived.acquire()
        problem = await refused(opened)
        release.set()
        assert await asyncio.gather(*calls) == [Answer("yes")] * 2
        assert (problem.code, problem.retry_after_s) == ("upstream_unavailable", 1)
        assert await opened.rpc("f", {}, CALLER, Answer) == Answer("yes")


async def test_cancelled_caller_frees_its_place() -> None:
    hold, arrived = True, asyncio.Event()

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
        arrived.set()
        if hold:
            await asyncio.sleep(5)
        return http(200, {"word": "yes"})

    async with upstream(script) as up, door(up.url, upstream_concurrency_max=1) as opened:
        call = asyncio.create_task(opened.rpc("f", {}, CALLER, Answer))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        hold = False
        assert await opened.rpc("f", {}, CALLER, Answer) == Answer("yes")


async def test_closed_door_says_so() -> None:
    closed = Supabase(config("http://127.0.0.1:9"))
    with pytest.raises(RuntimeError):
        await closed.rpc("f", {}, CALLER, Answer)
    with pytest.raises(RuntimeError):
        await closed.why_not()
    await closed.close()


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [
        ("22P02", "validation_failed"), ("22021", "validation_failed"), ("23502", "validation_failed"),
        ("23514", "validation_failed"), ("PGRST301", "unauthenticated"), ("PGRST302", "unauthenticated"),
        ("PGRST303", "unauthenticated"), ("42501", "forbidden"), ("PGRST116", "not_found"), ("23503", "conflict"),
        ("23505", "conflict"), ("08006", "upstream_unavailable"), ("53300", "upstream_unavailable"),
        ("57P01", "upstream_unavailable"), ("57P03", "upstream_unavailable"), ("PGRST000", "upstream_unavailable"),
        ("PGRST002", "upstream_unavailable"), ("40001", "upstream_unavailable"), ("40P01", "upstream_unavailable"),
        ("55P03", "upstream_unavailable"), ("57014", "upstream_timeout"), ("PGRST003", "upstream_timeout"),
        ("42P01", "internal_error"), ("42883", "internal_error"), ("PGRST202", "internal_error"),
        ("P0001", "internal_error"), ("XX000", "internal_error"), ("PT200", "internal_error"), ("", "upstream_invalid"),
    ],
)  # fmt: skip
def test_sqlstate_maps_to_code(sqlstate: str, code: str) -> None:
    body = {"code": sqlstate, "message": "secret", "details": "secret", "hint": "secret"}
    problem = problem_of(400, json.dumps(body).encode(), CALLER)
    assert problem.code == code
    assert "secret" not in problem.detail
    assert (problem.retry_after_s is not None) == (code == "upstream_unavailable")


@pytest.mark.parametrize("code", [code for code, kind in CATALOGUE.items() if kind.status < 500])
def test_own_refusal_passes_with_its_sentence(code: str) -> None:
    kind = CATALOGUE[code]
    body = {"code": f"PT{kind.status}", "message": code, "details": "Because.", "hint": "17"}
    problem = problem_of(kind.status, json.dumps(body).encode(), CALLER)
    assert (problem.code, problem.detail) == (code, "Because.")
    assert problem.retry_after_s == (17 if kind.retry == "after" else None)


@pytest.mark.parametrize(
    ("code", "message"), [("PT403", "surprise"), ("PT409", "forbidden"), ("PT400", None), ("PT500", "forbidden")]
)
def test_own_refusal_outside_the_catalogue_is_our_fault(code: str, message: str | None) -> None:
    body = {"code": code, "message": message, "details": "secret", "hint": None}
    assert problem_of(403, json.dumps(body).encode(), CALLER).code == "internal_error"


@pytest.mark.parametrize(("hint", "seconds"), [("7", 7), (None, 1), ("0", 1), ("-3", 1), ("soon", 1), ("9" * 5000, 1)])
def test_hint_of_a_pace_is_whole_seconds(hint: str | None, seconds: int) -> None:
    body = {"code": "PT429", "message": "rate_limited", "details": None, "hint": hint}
    assert problem_of(429, json.dumps(body).encode(), CALLER).retry_after_s == seconds


@pytest.mark.parametrize(("hint", "pointer"), [("/body", "/body"), ("body", ""), (None, "")])
def test_hint_of_a_shape_is_a_pointer(hint: str | None, pointer: str) -> None:
    body = {"code": "PT400", "message": "validation_failed", "details": "Too long.", "hint": hint}
    problem = problem_of(400, json.dumps(body).encode(), CALLER)
    assert problem.errors is not None
    assert (problem.errors[0].pointer, problem.errors[0].detail) == (pointer, "Too long.")


def test_token_that_expired_on_the_way_is_told_apart() -> None:
    late = Caller(ADA, "a.token", time.time() - 1)
    assert problem_of(401, b'{"code": "PGRST303", "message": "JWT expired"}', late).code == "token_expired"


async def test_key_set() -> None:
    async with upstream(always(http(200, {"keys": []}))) as up, door(up.url) as opened:
        assert json.loads(await opened.key_set()) == {"keys": []}
    assert up.asked[0].path == "/auth/v1/.well-known/jwks.json"
    assert "authorization" not in up.asked[0].headers


async def test_key_set_that_is_away() -> None:
    async with upstream(always(http(500, b"oops"))) as up, door(up.url) as opened:
        with pytest.raises(Problem, match="upstream_unavailable"):
            await opened.key_set()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http(401, {"code": "42501", "message": "permission denied for function"}), None),
        (http(200, {"conversations": []}), None),
        (http(200, b"<html>welcome to our wifi</html>"), "database"),
        (http(404, {"code": "PGRST202", "message": "no function"}), "schema"),
        (http(503, {"code": "PGRST001", "message": "no connection"}), "database"),
        (http(502, b"<html>"), "database"),
        (b"not HTTP\r\n\r\n", "unreachable"),
        (None, "unreachable"),
    ],
)
async def test_readiness_reads_the_answer_to_anon(answer: bytes | None, why: str | None) -> None:
    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes | None:
        return answer

    async with upstream(script) as up, door(up.url) as opened:
        assert await opened.why_not() == why
    assert len(up.asked) == 1


async def test_readiness_uses_the_same_pool_with_the_publishable_key_only() -> None:
    async with upstream(always(refusal("42501", "permission denied"))) as up, door(up.url) as opened:
        assert await opened.why_not() is None
    assert up.asked[0].path == "/rest/v1/rpc/list_conversations"
    assert up.asked[0].headers["apikey"] == "sb_publishable_test"
    assert "authorization" not in up.asked[0].headers


async def test_readiness_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supabase, "_PROBE_TIMEOUT_S", 0.2)
    async with upstream(silence) as up, door(up.url) as opened:
        assert await opened.why_not() == "unreachable"


async def test_ten_thousand_calls_leave_nothing_behind() -> None:
    async with upstream(always(http(200, {"word": "yes"}))) as up, door(up.url) as opened:
        for _ in range(500):
            await opened.rpc("f", {}, CALLER, Answer)
        up.asked.clear()
        gc.collect()
        before = len(gc.get_objects())
        await asyncio.gather(*(burst(opened, 594) for _ in range(16)))
        up.asked.clear()
        gc.collect()
        # New connections have some; a leak of one object a call would be 9,504.
        assert len(gc.get_objects()) - before < 2000
        assert up.connections <= 20


async def burst(opened: Supabase, count: int) -> None:
    log.begin(log.Exchange("POST", []))
    for _ in range(count):
        await opened.rpc("f", {}, CALLER, Answer)


SEALING = (MessageKey(1, b"\x01" * 32),)


class Sealed(msgspec.Struct):
    body: str | None
    unreadable: bool = False


def sealed_answer(**members: Any) -> bytes:
    envelope = msgspec.to_builtins(Vault(SEALING).seal(Text("Grüße"), About(ADA, KEY)))
    return http(200, {"body": None, "sensitive": True, "envelope": envelope, **members})


async def test_envelopes_in_an_answer_are_opened() -> None:
    async with upstream(always(sealed_answer())) as up, door(up.url, message_keys=SEALING) as opened:
        assert await opened.rpc("f", {}, CALLER, Sealed) == Sealed("Grüße")


async def test_without_the_key_a_message_is_unreadable_and_the_request_succeeds() -> None:
    async with upstream(always(sealed_answer())) as up, door(up.url) as opened:
        assert await opened.rpc("f", {}, CALLER, Sealed) == Sealed(None, unreadable=True)


@pytest.mark.parametrize("body", ["envelope", '"envelope"', '{"envelope": {}}'])
async def test_a_text_about_envelopes_stays_as_it_is(body: str) -> None:
    async with upstream(always(http(200, {"body": body}))) as up, door(up.url, message_keys=SEALING) as opened:
        assert await opened.rpc("f", {}, CALLER, Sealed) == Sealed(body)


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b'{"envelope": ' + b"[" * 100_000),
        http(200, b'{"envelope": {}, "body": '),
        http(200, {"envelope": {}, "unreadable": 7, "more": [[[]]]} | {"body": 1}),
        http(200, b'{"x": "\xff", "envelope": 1}'),
        http(200, ["envelope"]),
    ],
)
async def test_odd_answer_with_envelopes_is_a_named_problem(answer: bytes) -> None:
    async with upstream(always(answer)) as up, door(up.url, message_keys=SEALING) as opened:
        if b'"more"' in answer:  # whatever stood in the place of the text is replaced
            assert await opened.rpc("f", {}, CALLER, Sealed) == Sealed(None, unreadable=True)
        else:
            assert (await refused(opened)).code == "upstream_invalid"


@pytest.mark.parametrize(
    ("key", "authorization"), [("sb_secret_test", None), ("eyJh.eyJy.c2ln", "Bearer eyJh.eyJy.c2ln")]
)
async def test_service_role_has_its_own_key(key: str, authorization: str | None) -> None:
    async with upstream(always(http(200, {"word": "yes"}))) as up, door(up.url, supabase_secret_key=key) as opened:
        assert await opened.rpc_as_service("list_envelopes", {"p_limit": 1}, Answer) == Answer("yes")
    headers = up.asked[0].headers
    assert (headers["apikey"], headers.get("authorization")) == (key, authorization)


async def test_service_role_without_a_key_calls_nobody() -> None:
    async with upstream(always(http(200, {"word": "yes"}))) as up, door(up.url) as opened:
        with pytest.raises(RuntimeError):
            await opened.rpc_as_service("list_envelopes", {}, Answer)
    assert up.asked == []


async def test_refusal_of_the_service_role_is_a_problem() -> None:
    async with (
        upstream(always(refusal("42501", "permission denied"))) as up,
        door(up.url, supabase_secret_key="sb_secret_test") as opened,
    ):
        with pytest.raises(Problem, match="forbidden"):
            await opened.rpc_as_service("list_envelopes", {}, Answer)
