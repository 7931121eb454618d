"""Logging: one JSON line per request, and what one request remembers about itself until that line is written.

Never in a line: bodies, tokens, query strings, addresses. Request ids are ours unless the client's are harmless.
"""

import io
import itertools
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

# Letters, digits and four marks: nothing that could end a header or a log line, or be read as markup.
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:\-]{8,128}")
# W3C trace context, version 00: what we pass on must be well-formed, or some collector refuses the whole trace.
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# Our own ids: unique by process and number. They name a request and protect nothing.
_PROCESS = secrets.token_hex(8)
_COUNT = itertools.count(1)


class Exchange:
    """One request and its answer: what the layers tell each other and the log about it."""

    __slots__ = (
        "caller_id", "code", "headers", "method", "pace", "request_id", "route", "started_s", "traceparent",
        "upstream_s",
    )  # fmt: skip

    def __init__(self, method: str, raw_headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.started_s = time.perf_counter()
        self.method = method
        self.headers: dict[bytes, bytes] = {}
        for name, value in raw_headers:
            # A repeated header is one list, as HTTP says; where only one value makes sense, the list is not valid.
            self.headers[name] = value if name not in self.headers else self.headers[name] + b", " + value
        wished = self.headers.get(b"x-request-id")
        self.request_id = (
            wished.decode() if wished is not None and _SAFE_ID.fullmatch(wished) else f"{_PROCESS}{next(_COUNT):08x}"
        )
        trace = self.headers.get(b"traceparent")
        self.traceparent = trace.decode() if trace is not None and _TRACEPARENT.fullmatch(trace) else None
        self.route = "unmatched"
        self.code: str | None = None
        self.caller_id: str | None = None
        # RateLimit-Policy and RateLimit of the answer, as structured fields.
        self.pace: tuple[str, str] | None = None
        self.upstream_s = 0.0


_current: ContextVar[Exchange] = ContextVar("exchange")


def begin(exchange: Exchange) -> None:
    """Make `exchange` the one that `current()` answers for the rest of this task."""
    _current.set(exchange)


def current() -> Exchange:
    """The exchange this task is serving; LookupError outside of one."""
    return _current.get()


_encode = msgspec.json.Encoder().encode
_logger: Any = structlog.get_logger()


def configure(stream: BinaryIO | None = None) -> None:
    """Send our lines, and those of the server and libraries, to standard output as JSON."""
    global _logger
    _logger = writing_to(stream or sys.stdout.buffer)
    handler = logging.StreamHandler(io.TextIOWrapper(stream, write_through=True) if stream else sys.stdout)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)


def writing_to(stream: BinaryIO) -> Any:
    """A logger of ours. It is bound once, so that a line costs its three processors and nothing else."""
    return structlog.wrap_logger(
        structlog.BytesLogger(stream),
        processors=[structlog.processors.add_log_level, _add_timestamp, _to_json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    ).bind()


def _add_timestamp(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # structlog's own makes a text of it, which the encoder does in a fraction of the time.
    line["timestamp"] = datetime.now(UTC)
    return line


def _to_json(_: Any, __: str, line: structlog.typing.EventDict) -> bytes:
    return _encode(line)


class _JsonLines(logging.Formatter):
    """Lines of other people's loggers, in the same form; without tracebacks, whose messages may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        line = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower(), "error": kind}
        return _encode(line).decode()


def request_line(exchange: Exchange, status: int, total_s: float) -> None:
    """Write the one line of a request; 5xx that Supabase caused are warnings, our own are errors."""
    write = _logger.info if status < 500 else _logger.error if status == 500 else _logger.warning
    write(
        "request",
        request_id=exchange.request_id,
        route=exchange.route,
        method=exchange.method,
        status=status,
        code=exchange.code,
        caller_id=exchange.caller_id,
        total_ms=round(total_s * 1000, 2),
        upstream_ms=round(exchange.upstream_s * 1000, 2),
    )


def info(event: str, **fields: Any) -> None:
    """Note something that went as it should, outside of any request."""
    _logger.info(event, **fields)


def warning(event: str, **fields: Any) -> None:
    """Note something an operator should know, with the id of the request it happened in."""
    exchange = _current.get(None)
    _logger.warning(event, request_id=exchange.request_id if exchange else None, **fields)


def unexpected(error: BaseException) -> None:
    """Say where an exception came from: types, files and lines, never its message, which may quote a request."""
    exchange = _current.get(None)
    _logger.error(
        "unexpected",
        request_id=exchange.request_id if exchange else None,
        error=type(error).__name__,
        cause=type(error.__cause__).__name__ if error.__cause__ else None,
        at=[f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:]],
    )
