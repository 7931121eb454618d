"""Bytes straight at the server: broken, endless, slow, nested, packed, in crowds. It goes on serving others."""

import gzip
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.connection import HEAD_BYTES_MAX, PIPELINED_COUNT_MAX, TICK_S, WAIT_S
from app.wire import BODY_TIMEOUT_S
from tests.fuzz.conftest import Fuzzed

SEND = "/api/messages/send"
# A machine that is busy with other tests; what is asserted is that it ends, not how fast.
PATIENCE_S = 15.0


@contextmanager
def connected(fuzzed: Fuzzed, timeout_s: float = PATIENCE_S) -> Iterator[socket.socket]:
    place = urlsplit(fuzzed.url)
    with socket.create_connection((place.hostname, place.port), timeout=timeout_s) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server hangs up."""
    parts = b""
    try:
        while part := connection.recv(65536):
            parts += part
    except (ConnectionError, TimeoutError):
        pass
    return parts


def talk(fuzzed: Fuzzed, raw: bytes, waits_s: float = PATIENCE_S) -> bytes:
    """Send this and nothing more; everything that comes back until the server hangs up, or is silent for so long."""
    with connected(fuzzed) as connection:
        with suppress(ConnectionError):
            connection.sendall(raw)
        connection.settimeout(waits_s)
        return read_all(connection)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


def statuses(answer: bytes) -> list[int]:
    """The statuses of all answers in a row, each of which must be whole."""
    found = []
    while answer:
        line = re.match(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", answer)
        assert line, answer[:200]
        top, _, rest = answer.partition(b"\r\n\r\n")
        assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]", top)
        status = int(line[1])
        found.append(status)
        length = re.search(rb"\r\ncontent-length: (\d+)", top)
        size = int(length[1]) if length and status not in (100, 204) else 0
        if status >= 400:
            assert b"\r\ncontent-type: application/problem+json" in top
            assert json.loads(rest[:size])["status"] == status
        answer = rest[size:]
    return found


def alive(fuzzed: Fuzzed) -> bool:
    return statuses(talk(fuzzed, head("GET", "/health/live", "Connection: close"))) == [200]


def memory_mib(fuzzed: Fuzzed) -> float:
    told = Path(f"/proc/{fuzzed.process.pid}/status")
    if not told.exists():
        pytest.skip("memory is read from /proc")
    found = re.search(r"VmRSS:\s+(\d+)", told.read_text())
    assert found
    return int(found[1]) / 1024


@pytest.fixture
def bearer(known: Any) -> str:
    return f"Authorization: Bearer {known.token}"


# ----- not HTTP, or two readings of it -----

JSON = "Content-Type: application/json"
BODY = '{"body":"x"}'


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: 5", "Content-Length: 6"], b"{}   "),
        (["Content-Length: 5, 5"], b"{}   "),
        (["Content-Length: -1"], b"{}"),
        (["Content-Length: +2"], b"{}"),
        (["Content-Length: 0x2"], b"{}"),
        (["Content-Length: 2 2"], b"{}"),
        (["Content-Length: 99999999999999999999999"], b"{}"),
        (["Content-Length: 2", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked", "Content-Length: 2"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n"),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n"),
        (["Transfer-Encoding : chunked"], b"0\r\n\r\n"),
        ([" Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding:\x0bchunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"xyz\r\n{}\r\n0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"2\n{}\n0\n\n"),
        (["Transfer-Encoding: chunked"], b"-2\r\n{}\r\n0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        (["X: a\x00b"], b""), (["X: a\rb"], b""), (["X\x00: a"], b""), ([": a"], b""), (["no colon"], b""),
        (["Upgrade: h2c", "Connection: Upgrade, close"], b""),
        (["Upgrade: websocket", "Connection: Upgrade, close"], b""),
    ],
    ids=range(26),
)  # fmt: skip
def test_no_second_request_is_smuggled_in(fuzzed: Fuzzed, lines: list[str], body: bytes) -> None:
    """However a head is broken, what follows it is never taken for a request of its own after an answer of success."""
    hidden = head("GET", "/schema/openapi.json", "Connection: close")
    seen = statuses(talk(fuzzed, head("POST", SEND, JSON, *lines) + body + hidden))
    assert seen
    assert seen[0] in (400, 401)
    assert 200 not in seen, seen
    assert alive(fuzzed)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda method, path, lines, body: b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, path, b"\r\n".join(lines), body),
        st.sampled_from([b"GET", b"POST", b"BREW", b"CONNECT", b"TRACE", b"PRI", b"get", b"OPTIONS", b"\xf0"]),
        st.sampled_from([b"*", b"/", b"//", b"http://x/health/live", b"http://", b"x:443", b"/%", b"/%zz", b"/%ff%fe",
                         b"/api/messages/%2e%2e/%2f", b"/a\x7f", b"/caf\xc3\xa9", b"/?%00=\xff", b"/#x", b"",
                         b"/docs/..", b"/api/messages/%0d%0aSet-Cookie:%20x/read", b"/health/live?" + b"&" * 2000]),
        st.lists(
            st.sampled_from([b"Host: x", b"Host: \xff", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"A:\xfe",
                             b"Expect: 100-continue", b"Connection: close", b"Content-Type: application/json", b"A",
                             b"Cookie: \x80=;;"]),
            max_size=5, unique=True,
        ),
        st.binary(max_size=20),
    )
)  # fmt: skip
@example(b"\r\n" * 100)
@example(b"GET /health/live HTTP/1.0\r\n\r\n")
@example(b"GET /health/live\r\n")
def test_any_bytes(fuzzed: Fuzzed, raw: bytes) -> None:
    for status in statuses(talk(fuzzed, raw, waits_s=0.1)):
        assert status < 500
    assert alive(fuzzed)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW", "PUT", "SEARCH", "M-SEARCH"])
def test_methods_nobody_offers(fuzzed: Fuzzed, method: str) -> None:
    for path in ("/health/live", SEND, "/api/messages/conversations"):
        answer = talk(fuzzed, head(method, path, "Connection: close"))
        status = statuses(answer)[0]
        # What the server does not know as a method it does not take for HTTP.
        assert status in (400, 405)
        if status == 405:
            assert b"\r\nallow: " in answer
        assert b"Via-Test" not in talk(fuzzed, head(method, path, "Connection: close", "Via-Test: secret"))


# ----- injection -----


@pytest.mark.parametrize(
    "evil",
    [
        "%0d%0aSet-Cookie:%20a=b",
        "%0a%0aHTTP/1.1%20200%20OK",
        "%00",
        "%1b[31m",
        "%e2%80%a8",
        "%22,%22level%22:%22error",
        "\xff",
    ],
)
def test_nothing_of_a_request_becomes_a_header_or_a_log_line(fuzzed: Fuzzed, bearer: str, evil: str) -> None:
    raw = (
        evil.replace("%0d", "\r").replace("%0a", "\n").replace("%00", "\x00").replace("%1b", "\x1b").replace("%22", '"')
    )
    before = len(fuzzed.lines())
    for path in (f"/api/messages/{evil}/read", f"/{evil}", f"/api/messages/conversations?q={evil}&{evil}=1"):
        answer = talk(fuzzed, head("PATCH", path, bearer, "Connection: close"))
        assert statuses(answer)[0] in (400, 404, 405)
        assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
    for name in (
        "X-Request-Id",
        "traceparent",
        "User-Agent",
        "Idempotency-Key",
        "Origin",
        "X-Forwarded-For",
        "Referer",
    ):
        answer = talk(fuzzed, head("POST", SEND, bearer, JSON, f"{name}: request-1{raw}", "Connection: close"))
        assert set(statuses(answer)) <= {400}
        assert b"a=b" not in answer.partition(b"\r\n\r\n")[0]
    log = fuzzed.log.read_text()
    assert "\x1b" not in log
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", log)
    lines = fuzzed.lines()[before:]
    assert not [line for line in lines if line.get("level") == "error" or "forged" in line]
    told = [line for line in lines if line["event"] == "request"]
    assert all(re.fullmatch(r"unmatched|[A-Za-z/{}-]+", line["route"]) for line in told)
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{8,128}", line["request_id"]) for line in told)


# ----- too much -----


def test_a_head_has_an_end(fuzzed: Fuzzed) -> None:
    """One endless header, endlessly many, an endless line; in one piece and dripping; refused by what has arrived."""
    start = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
    for piece, first in ((b"a" * 4096, start + b"X: "), (b"X: y\r\n" * 500, start), (b"a" * 4096, b"GET /"),
                         (b"\r\n" * 2048, b""), (b"a" * 4096, start)):  # fmt: skip
        before = memory_mib(fuzzed)
        with connected(fuzzed) as connection:
            sent = 0
            try:
                connection.sendall(first)
                while sent < 64 * HEAD_BYTES_MAX:
                    connection.sendall(piece)
                    sent += len(piece)
            except ConnectionError:
                pass
            answer = read_all(connection)
        assert sent < 64 * HEAD_BYTES_MAX, "it went on reading"
        assert not answer or statuses(answer)[0] in (400, 413)
        assert memory_mib(fuzzed) < before + 8
    assert statuses(
        talk(fuzzed, start + b"X: " + b"a" * (HEAD_BYTES_MAX - 100) + b"\r\nConnection: close\r\n\r\n")
    ) == [200]
    assert statuses(talk(fuzzed, start + b"X: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n")) == [413]
    assert statuses(talk(fuzzed, head("GET", "/" + "a" * (HEAD_BYTES_MAX - 100), "Connection: close"))) == [404]
    assert alive(fuzzed)


def test_long_paths_are_not_remembered(fuzzed: Fuzzed) -> None:
    """The router keeps the last 1,024 paths."""
    before = memory_mib(fuzzed)
    for block in range(15):
        paths = (f"/api/messages/{block}-{n}{'x' * 60_000}/read" for n in range(PIPELINED_COUNT_MAX))
        raw = b"".join(head("OPTIONS", path) for path in paths)
        assert set(statuses(talk(fuzzed, raw + head("GET", "/health/live", "Connection: close")))) == {404, 200}
    assert memory_mib(fuzzed) < before + 8


def packed(body: bytes) -> list[tuple[str, bytes]]:
    once = gzip.compress(body)
    twice = gzip.compress(once)
    return [("gzip", once), ("deflate", zlib.compress(body)), ("br", b"\x8b\x02\x80{}\x03"), ("zstd", b"(\xb5/\xfd"),
            ("gzip, gzip", twice), ("identity, gzip", once), ("x", body)]  # fmt: skip


def test_nothing_is_unpacked(fuzzed: Fuzzed, bearer: str) -> None:
    before = memory_mib(fuzzed)
    for encoding, body in packed(b"[" * 50_000_000):
        raw = body[:60_000]
        lines = (bearer, JSON, f"Content-Encoding: {encoding}", f"Content-Length: {len(raw)}", "Connection: close")
        assert statuses(talk(fuzzed, head("POST", SEND, *lines) + raw)) == [415]
    assert memory_mib(fuzzed) < before + 16


def test_deep_nesting(fuzzed: Fuzzed, bearer: str) -> None:
    for body in (b"[" * 60_000, b'{"a":' * 12_000, b'{"body":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
                 b'{"limit":1.0,"x":' + b"[" * 60_000):  # fmt: skip
        for path in (SEND, "/api/messages/conversations", "/api/messages/sync"):
            lines = (bearer, JSON, f"Content-Length: {len(body)}", "Connection: close")
            assert statuses(talk(fuzzed, head("POST", path, *lines) + body)) == [400]
    # 100,000 brackets are beyond the size.
    body = b"[" * 100_000
    lines = (bearer, JSON, f"Content-Length: {len(body)}", "Connection: close")
    assert statuses(talk(fuzzed, head("POST", SEND, *lines) + body)) == [413]


def test_pipelines_are_answered_in_order(fuzzed: Fuzzed) -> None:
    few = head("GET", "/health/live") * 5 + head("GET", "/nope") + head("GET", "/health/live", "Connection: close")
    assert statuses(talk(fuzzed, few)) == [200] * 5 + [404, 200]


def test_the_end_of_a_refused_body_is_not_taken_for_a_head(fuzzed: Fuzzed, bearer: str) -> None:
    body = b" " * 200_000
    with connected(fuzzed) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(head("POST", SEND, bearer, JSON, f"Content-Length: {len(body)}"))
        told = b""
        while b"payload_too_large" not in told:
            told += connection.recv(65536)
        connection.sendall(body)
        connection.sendall(head("GET", "/health/live", "Connection: close"))
        while more := connection.recv(65536):
            told += more
    assert statuses(told) == [413, 200]


# ----- too slow -----


def lasts_s(fuzzed: Fuzzed, first: bytes, piece: bytes, every_s: float) -> float:
    """Seconds until a client is left that sends `first` and then pieces, and reads no more than whether it ends."""
    began_s = time.monotonic()
    with connected(fuzzed) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            connection.sendall(first)
            while time.monotonic() < began_s + WAIT_S + 2 * TICK_S + PATIENCE_S:
                connection.settimeout(PATIENCE_S)
                connection.sendall(piece)
                if every_s:
                    connection.settimeout(every_s)
                    with suppress(TimeoutError):
                        if connection.recv(65536) == b"":
                            break
            else:
                pytest.fail("it was served for ever")
        except (ConnectionError, TimeoutError):
            pass
    return time.monotonic() - began_s


@pytest.mark.slow
def test_slow_and_endless_clients_are_left(fuzzed: Fuzzed, bearer: str) -> None:
    """Two hundred that never finish a head, bodies that drip or never end, answers nobody reads; others are served."""
    before = memory_mib(fuzzed)
    post = (bearer, JSON)
    one, chunked, endless = "Content-Length: 60000", "Transfer-Encoding: chunked", "Content-Length: 1000000000"
    live = head("GET", "/health/live")
    clients = {
        "lines": (b"", b"\r\n", 0.25),
        "head": (live[:-2] + b"X: ", b"a", 0.25),
        "body": (head("POST", SEND, *post, one), b" ", 0.25),
        "chunks": (head("POST", SEND, *post, chunked), b"1\r\n \r\n", 0.25),
        "a body nobody asked for": (head("GET", "/health/live", one), b" ", 0.25),
        "an endless body": (head("POST", SEND, *post, endless), b" " * 65536, 0.01),
        "endless chunks": (head("POST", SEND, *post, chunked), b"10000\r\n" + b" " * 65536 + b"\r\n", 0.01),
        "answers nobody reads": (b"", head("GET", "/docs/swagger-ui-bundle.js") * 4, 0),
    }
    ends: dict[str, float] = {}

    def note(name: str) -> None:
        ends[name] = lasts_s(fuzzed, *clients[name])

    threads = [threading.Thread(target=note, args=(name,)) for name in clients]
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected(fuzzed)) for _ in range(200)]
        for number, connection in enumerate(crowd):
            # Silent, before the head, in its first line, in its headers, between two requests.
            connection.sendall([b"", b"\r\n", b"GET /", live[:-2], live][number % 5])
        for thread in threads:
            thread.start()
        highest = 0.0
        while any(thread.is_alive() for thread in threads):
            assert alive(fuzzed)
            highest = max(highest, memory_mib(fuzzed))
            threads[0].join(0.5)
        assert highest < before + 32
        for connection in crowd:
            assert not [status for status in statuses(read_all(connection)) if status not in (200, 400)]
    assert ends.keys() == clients.keys()
    assert min(ends["body"], ends["chunks"]) > BODY_TIMEOUT_S - 1, "a slow phone has its time"


@pytest.mark.parametrize("gone_after", [0, 1, 30])
def test_a_client_that_goes_away_in_the_middle(fuzzed: Fuzzed, bearer: str, gone_after: int) -> None:
    for lines in (["Content-Length: 60000"], ["Transfer-Encoding: chunked"]):
        for _ in range(20):
            with connected(fuzzed) as connection:
                connection.sendall(head("POST", SEND, bearer, JSON, *lines) + b"ff\r\n{"[:gone_after])
    assert alive(fuzzed)
    assert not [line for line in fuzzed.lines() if line["level"] in ("error", "critical")]


def test_the_log_is_whole(fuzzed: Fuzzed) -> None:
    """After all that: every line is one JSON object, nothing was unexpected, nothing was our fault."""
    lines = fuzzed.lines()
    assert len(lines) > 5
    assert not [line for line in lines if line["level"] in ("error", "critical") or line.get("status", 0) >= 500]
