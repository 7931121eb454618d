"""Connections to one origin, kept alive: HTTP/1.1 on asyncio, parsed by httptools as in the server on our other side.

Why not a client from the shelf: docs/decisions/0005. We need one origin, small answers, and no redirects, proxies,
cookies, compression or HTTP/2, whatever the environment says; without these a client is this file.
"""

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import certifi
import httptools

from app import __version__

# A connection that takes longer than this is not going to be one; the deadline of the request covers the rest.
_CONNECT_TIMEOUT_S = 3.0
# Shorter than the 60 s after which common gateways hang up on us.
_IDLE_S = 30.0
# Above any honest head of an answer; a body has its own limit.
_HEAD_BYTES_MAX = 64 * 1024


class Lost(Exception):
    """There was no connection, or it ended before anything of an answer came; its cause, if any, says why."""


class Unreadable(Exception):
    """What came is not HTTP, or was cut off."""


class TooLarge(Unreadable):
    """More came than anybody wants to read."""


class Answer(NamedTuple):
    """A complete answer; header names are in lower case, of a repeated one the last value counts."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection; it carries one request at a time."""

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        # Of uvloop's own class, with the same methods.
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Answer] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = self._came_bytes = 0
        self._in_body = False
        self.idle_since_s = 0.0

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._waiting is None and not self._transport.is_closing()

    def ask(self, loop: asyncio.AbstractEventLoop, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future is its answer, Lost or Unreadable."""
        waiting = self._waiting = loop.create_future()
        self._came_bytes = 0
        if self._transport.is_closing():
            self._fail(Lost())
        else:
            self._transport.write(request)
        return waiting

    def give_up(self) -> None:
        """Stop waiting: TimeoutError."""
        self._fail(TimeoutError())

    def abort(self) -> None:
        """End the connection now; nothing that may still come is of use."""
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.abort()

    def _finish(self, reusable: bool) -> None:
        waiting, self._waiting = self._waiting, None
        self._in_body, self._came_bytes = False, 0
        if waiting is None or waiting.done():  # nobody asked, or nobody waits any more
            self.abort()
            return
        status = self._parser.get_status_code()
        if status == 408:
            # A server that tires of an idle connection may say so while we write; it has not read the request.
            waiting.set_exception(Lost())
        else:
            waiting.set_result(Answer(status, self._headers, b"".join(self._body)))
        if status == 408 or not reusable:
            self.abort()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._came_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Unreadable())
        # In a body what frames it counts too, so that nothing can come for ever: chunks of a byte are nobody's.
        if self._came_bytes > _HEAD_BYTES_MAX + (2 * self._body_bytes_max if self._in_body else 0):
            self._fail(TooLarge())

    def connection_lost(self, error: Exception | None) -> None:
        # Without a length the end of the connection is the end of the body; otherwise it came too early.
        unbounded = not self._headers.keys() & {b"content-length", b"transfer-encoding"}
        if self._in_body and unbounded and error is None:
            self._finish(reusable=False)
        else:
            self._fail(Unreadable() if self._came_bytes else Lost())

    # what the parser calls

    def on_message_begin(self) -> None:
        self._headers, self._body, self._body_bytes, self._in_body = {}, [], 0, False
        if self._waiting is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        # Below 200 it is an interim answer, such as 100 Continue, and the real one follows.
        self._in_body = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._body_bytes_max:
            self._fail(TooLarge())
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._finish(self._parser.should_keep_alive())


class Pool:
    """All connections to one origin. `headers` go with every request, `body_bytes_max` bounds every answer."""

    def __init__(self, origin: str, headers: Mapping[str, str], body_bytes_max: int) -> None:
        parts = urlsplit(origin)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = verifying() if parts.scheme == "https" else None
        self._head = _lines({"host": parts.netloc, "user-agent": f"gig-messaging/{__version__}", **headers})
        self._body_bytes_max = body_bytes_max
        self._idle: deque[_Connection] = deque()
        self._address = ""
        self._closed = False

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        *,
        fresh: bool = False,
    ) -> Answer:
        """One request and its complete answer, whatever its status; with `fresh` on a connection of its own.

        Shape:  target is path and query, as in the request line. HEAD cannot be asked, the parser has no notion of it.
        Units:  timeout_s covers everything from connecting to the last byte.
        Errors: Lost, Unreadable, TimeoutError; ValueError when this cannot be a request.
        """
        if method == "HEAD" or not target.startswith("/") or " " in target or not _is_plain(target):
            raise ValueError("this cannot be asked")
        head = f"{method} {target} HTTP/1.1\r\n{self._head}{_lines(headers)}"
        if body is None:
            request = f"{head}\r\n".encode()
        else:
            request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        connection = None if fresh else self._take(loop.time())
        if connection is None:
            async with asyncio.timeout_at(ends_s):
                connection = await self._connect(loop)
        # asyncio.timeout costs several times as much.
        timer = loop.call_at(ends_s, connection.give_up)
        try:
            answer = await connection.ask(loop, request)
        except BaseException:
            connection.abort()
            raise
        finally:
            timer.cancel()
        if self._closed:
            connection.abort()
        elif connection.usable:
            connection.idle_since_s = loop.time()
            self._idle.append(connection)
        return answer

    def _take(self, now_s: float) -> _Connection | None:
        """The connection used last, so that those not needed grow old and are closed."""
        oldest_s = now_s - _IDLE_S
        while self._idle and (not self._idle[0].usable or self._idle[0].idle_since_s < oldest_s):
            self._idle.popleft().abort()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        """A new connection: to the address that worked last, or to each in turn with its share of the time."""
        ends_s = loop.time() + _CONNECT_TIMEOUT_S
        try:
            async with asyncio.timeout_at(ends_s):
                # uvloop would give one dead address, such as IPv6 without a way out, all the time there is.
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            addresses = sorted(dict.fromkeys(str(info[4][0]) for info in found), key=lambda a: a != self._address)
            for left in range(len(addresses), 0, -1):
                address = addresses[-left]
                try:
                    async with asyncio.timeout((ends_s - loop.time()) / left):
                        _, connection = await loop.create_connection(
                            lambda: _Connection(self._body_bytes_max),
                            address,
                            self._port,
                            ssl=self._tls,
                            server_hostname=self._host if self._tls is not None else None,
                        )
                except (OSError, TimeoutError):
                    if left == 1:
                        raise
                else:
                    self._address = address
                    return connection
        except (OSError, TimeoutError, UnicodeError) as error:
            raise Lost from error
        raise Lost

    def close(self) -> None:
        """End the connections nobody uses; those in use end with their request."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()


def secret_key_headers(key: str) -> dict[str, str]:
    """How Supabase is shown a secret key: the older kind is a token, and then has to be shown as one, too."""
    return {"apikey": key} | ({"authorization": f"Bearer {key}"} if key.count(".") == 2 else {})


def origin_and_target(url: str) -> tuple[str, str]:
    """An address as the two things a pool wants; what a request line cannot hold is percent-encoded."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}", quote(target, safe="%/?:@!$&'()*+,;=~[]")


def verifying() -> ssl.SSLContext:
    """TLS that trusts the authorities of certifi, or those in SSL_CERT_FILE."""
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_plain(text: str) -> bool:
    """Whether all of it is between space and tilde: nothing that could end a line."""
    return text.isascii() and text.isprintable()


def _lines(headers: Mapping[str, str]) -> str:
    lines = ""
    for name, value in headers.items():
        if not _is_plain(value):
            raise ValueError(f"{name} cannot be sent")
        lines += f"{name}: {value}\r\n"
    return lines
