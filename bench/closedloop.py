"""A load generator that asks again as soon as it is answered, and reads every answer.

Raw connections and one parser, so that it costs less than what it measures. The first answer is compared as JSON with
what was meant; a later one that is byte for byte the same needs no second look.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools


class Wrong(Exception):
    """An answer that is not what was meant, or none."""


class Asker(asyncio.Protocol):
    """One connection that asks the same again and again until its time is over."""

    def __init__(self, request: bytes, status: int, meant: Any) -> None:
        self._request, self._status, self._meant = request, status, meant
        self._known = b""
        self._parser: Any = None
        self._body = b""
        self._began_s = 0.0
        self._until_s = 0.0
        self.took_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `start`."""
        self._transport: Any = transport
        self._parser = httptools.HttpResponseParser(self)

    def start(self, until_s: float) -> None:
        """Ask until then; `done` is set with the last answer. Units: monotonic seconds; in the past for one request."""
        self._until_s = until_s
        self.took_s = []
        self.done = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self.done.set_exception(Wrong("the connection is closed"))
        else:
            self._ask()

    async def once(self, request: bytes, status: int) -> tuple[float, Any]:
        """Ask something else, one time: milliseconds, and the JSON of the answer. Errors: Wrong."""
        self._request, self._status, self._meant = request, status, None
        self.start(0.0)
        await self.done
        return self.took_s[0] * 1000, json.loads(self._body)

    def _ask(self) -> None:
        self._body = b""
        self._began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(str(error))

    def on_body(self, piece: bytes) -> None:
        """Take a part of a body."""
        self._body = self._body + piece if self._body else piece

    def on_message_complete(self) -> None:
        """Check, note and ask again."""
        now_s = time.perf_counter()
        self.took_s.append(now_s - self._began_s)
        if self._parser.get_status_code() != self._status:
            self._fail(f"status {self._parser.get_status_code()}: {self._body[:300]!r}")
        elif self._meant is not None and self._body != self._known and not self._means_the_same():
            self._fail(f"not what was meant: {self._body[:300]!r}")
        elif now_s < self._until_s:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)

    def _means_the_same(self) -> bool:
        try:
            same: bool = json.loads(self._body) == self._meant
        except ValueError:
            return False
        self._known = self._body if same else b""
        return same

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(Wrong(why))
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever still waits is told."""
        self._fail(f"the connection was closed ({error})")

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()


def request(url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """The bytes of one request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(url).netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def connect(url: str, requests: Sequence[bytes], status: int, meant: Any) -> list[Asker]:
    """One connection for each request."""
    where = urlsplit(url)
    made = []
    for one in requests:
        _, asker = await asyncio.get_running_loop().create_connection(
            functools.partial(Asker, one, status, meant), where.hostname or "", where.port or 80
        )
        made.append(asker)
    return made


async def ask_for(askers: Sequence[Asker], seconds: float) -> list[float]:
    """All of them at once, that long: how long each answer took, in seconds. Errors: Wrong."""
    until_s = time.perf_counter() + seconds
    for asker in askers:
        asker.start(until_s)
    await asyncio.gather(*(asker.done for asker in askers))
    return [took_s for asker in askers for took_s in asker.took_s]
