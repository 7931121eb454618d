"""Logging: one line per request in JSON, without anything a client could write into it."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from app import log
from app.log import Exchange


@pytest.fixture
def lines() -> Iterator[Any]:
    """Our log as a function that reads it; other tests' logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level, logger = root.handlers[:], root.level, log._logger
    stream = io.BytesIO()
    log.configure(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], log._logger = handlers, logger
    root.setLevel(level)


@pytest.mark.parametrize("wished", [b"12345678", b"client-id_1:2.3", b"x" * 128])
def test_harmless_request_id_is_kept(wished: bytes) -> None:
    assert Exchange("GET", [(b"x-request-id", wished)]).request_id == wished.decode()


@pytest.mark.parametrize(
    "wished", [b"", b"short", b"x" * 129, b"a b c d e f", b"id\r\nSet-Cookie: x", b"<script>alert", b"caf\xc3\xa9-123",
               b'"quoted-id"'],
)  # fmt: skip
def test_other_request_id_is_replaced(wished: bytes) -> None:
    ids = {Exchange("GET", [(b"x-request-id", wished)]).request_id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(made) == 24 and made.isalnum() for made in ids)


def test_repeated_headers_are_one_list() -> None:
    exchange = Exchange("GET", [(b"x-request-id", b"request-one"), (b"x-request-id", b"request-two"), (b"a", b"1")])
    assert exchange.headers == {b"x-request-id": b"request-one, request-two", b"a": b"1"}
    assert exchange.request_id not in ("request-one", "request-two")


GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (GOOD, True),
        (GOOD.upper(), False),
        (b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", False),
        (b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01", False),
        (GOOD + b"\r\nx: y", False),
        (b"01" + GOOD[2:], False),
        (b"", False),
    ],
)
def test_trace_is_passed_on_when_well_formed(given: bytes, kept: bool) -> None:
    assert (Exchange("GET", [(b"traceparent", given)]).traceparent is not None) == kept


@pytest.mark.parametrize(("status", "level"), [(200, "info"), (404, "info"), (500, "error"), (503, "warning")])
def test_request_line(lines: Any, status: int, level: str) -> None:
    exchange = Exchange("POST", [(b"authorization", b"Bearer secret"), (b"x-request-id", b"request-one")])
    exchange.route, exchange.code, exchange.caller_id, exchange.upstream_s = "/api/x", "not_found", "ada", 0.0123
    log.request_line(exchange, status, 0.02)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request", "level": level, "request_id": "request-one", "route": "/api/x", "method": "POST",
        "status": status, "code": "not_found", "caller_id": "ada", "total_ms": 20.0, "upstream_ms": 12.3,
    }  # fmt: skip


def test_unexpected_says_where_but_not_what(lines: Any) -> None:
    log.begin(Exchange("POST", [(b"x-request-id", b"request-one")]))
    try:
        try:
            raise KeyError("secret words")
        except KeyError as error:
            raise ValueError("secret words") from error
    except ValueError as error:
        log.unexpected(error)
    (line,) = lines()
    assert (line["error"], line["cause"], line["request_id"]) == ("ValueError", "KeyError", "request-one")
    assert line["at"][-1].startswith("test_log.py:")
    assert "secret" not in json.dumps(line)


def test_other_loggers_write_the_same_form(lines: Any) -> None:
    try:
        raise ValueError("secret words")
    except ValueError:
        logging.getLogger("library").exception("it failed\nbadly")
    logging.getLogger("library").info("chatter")
    (line,) = lines()
    assert line == {"event": "it failed\nbadly", "logger": "library", "level": "error", "error": "ValueError"}


def test_warning_outside_of_a_request(lines: Any) -> None:
    log.warning("key_set_unavailable", error="Problem")
    assert lines()[0]["event"] == "key_set_unavailable"
