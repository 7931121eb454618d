"""Where two parts of the stack talk: a TCP port passed on to another, on which things go wrong on demand."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import cast

HOST = "127.0.0.1"
AT_ONCE = struct.pack("ii", 1, 0)  # no lingering: a reset instead of an orderly end


def lasting_port() -> int:
    """A port to come back to: below those the system gives to outgoing connections, which would take it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class Link:
    """Passes connections to `port` on to `to`. Its attributes say what is wrong right now; all of it can be undone.

    delay_s:      every piece takes so much longer, in each direction
    bytes_per_s:  and no more than this passes, per connection and direction
    loses_answers: what was asked arrives, and the connection breaks in the place of the answer
    """

    def __init__(self, name: str, to: int) -> None:
        self.name, self.to, self.port = name, to, lasting_port()
        self.delay_s = 0.0
        self.bytes_per_s = math.inf
        self.loses_answers = False
        self.is_frozen = False
        self.ends: set[_End] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen (again)."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _End(self), HOST, self.port)

    def refuse(self) -> None:
        """Let nobody connect. Connections that are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Break all connections, both sides at once."""
        for end in list(self.ends):
            end.abort()

    def freeze(self) -> None:
        """Nothing passes, nothing breaks, new connections hang: the other side seems to have gone silent."""
        self.is_frozen = True
        for end in self.ends:
            end.pause()

    async def mend(self) -> None:
        """All as it should be."""
        self.delay_s, self.bytes_per_s, self.loses_answers, self.is_frozen = 0.0, math.inf, False, False
        for end in list(self.ends):
            end.resume()
        await self.open()

    def close(self) -> None:
        """For good."""
        self.refuse()
        self.cut()


class _End(asyncio.Protocol):
    """One side of a connection that is passed on, and what it said that has not been passed on yet."""

    def __init__(self, link: Link, other: _End | None = None) -> None:
        self.link, self.other = link, other
        self.answers = other is not None
        self.transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._early: list[bytes] = []
        self._late: deque[bytes | None] = deque()
        self._due_s = 0.0  # of the last piece that is late
        self._sent_s = 0.0  # when the last piece has gone through a narrow place
        self._is_full = False  # the other side does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the part itself, or begin to pass on."""
        self.transport = cast(asyncio.Transport, transport)
        self.link.ends.add(self)
        if self.other is None:
            self.pause()
            self._connecting = self._loop.create_task(self._connect())
        elif self.link.is_frozen:
            self.pause()

    async def _connect(self) -> None:
        try:
            _, other = await self._loop.create_connection(lambda: _End(self.link, self), HOST, self.link.to)
        except OSError:
            self.abort()
            return
        if self.transport is None or self.transport.is_closing():
            other.abort()
            return
        self.other = other
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)
        self.resume()

    def data_received(self, data: bytes) -> None:
        """Pass it on, now or later."""
        link = self.link
        if self.other is None:
            self._early.append(data)  # a loop may begin to read in spite of the pause
        elif self.answers and link.loses_answers:
            self.abort()
            self.other.abort()
        elif not self._late and not link.delay_s and link.bytes_per_s == math.inf:
            self._pass_on(data)
        else:
            self._sent_s = max(self._sent_s, self._loop.time()) + len(data) / link.bytes_per_s
            self._pass_late(data, self._sent_s + link.delay_s)

    def _pass_late(self, data: bytes | None, due_s: float) -> None:
        # Timers of the same instant may fire in any order; the queue keeps that of the pieces.
        self._due_s = max(self._due_s, due_s)
        self._late.append(data)
        self._loop.call_at(self._due_s, lambda: self._pass_on(self._late.popleft()))

    def _pass_on(self, data: bytes | None) -> None:
        other = self.other.transport if self.other else None
        if other is None or other.is_closing():
            return
        if data is None:
            other.close()
        else:
            other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Close the other side, after what is still to be said."""
        self.link.ends.discard(self)
        if self._late:
            self._pass_late(None, self._due_s)
        else:
            self._pass_on(None)

    def pause_writing(self) -> None:
        """The other side must not say more than this one takes."""
        self._is_full = True
        if self.other:
            self.other.pause()

    def resume_writing(self) -> None:
        """It may go on."""
        self._is_full = False
        if self.other:
            self.other.resume()

    def pause(self) -> None:
        """Do not read."""
        if self.transport and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read, unless there is still a reason not to."""
        may = self.other is not None and not self.other._is_full and not self.link.is_frozen
        if may and self.transport and not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Reset the connection, as a part that is gone would."""
        if self.transport and not self.transport.is_closing():
            if there := self.transport.get_extra_info("socket"):
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.transport.abort()
