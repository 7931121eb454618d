"""One connection of a client: uvicorn's, with limits that it does not have.

uvicorn waits for ever for a head that never ends, keeps all of it, and queues pipelined requests without a bound: some
hundred connections that drip would take every file descriptor, and one could take the memory. Bodies have their limits
in `app/wire.py`, where a request is known.
"""

import asyncio
import resource
from contextlib import suppress

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app import log, problems
from app.edge import everywhere
from app.problems import Problem

# Request line and headers: a token has at most 8 KiB, gateways in front of us take 8 to 32 KiB in all.
HEAD_BYTES_MAX = 64 * 1024
# From the connection, or the first byte after an answer, to the end of the next head (and of a body nobody wanted); a
# phone on a bad line needs two round trips. How long a connection is kept between requests is a setting.
WAIT_S = 15.0
# How often a connection is looked at, and what a client must take of an answer meanwhile: less than any modem did.
TICK_S = 5.0
TAKEN_BYTES_MIN = 2 * 1024
# A browser does not pipeline, other clients send a few; each waiting one costs about 3 KiB.
PIPELINED_COUNT_MAX = 16
# A kept connection costs about 12 KiB here, and the buffers of the kernel.
CONNECTIONS_COUNT_MAX = 10_000
# One too many is told so and has this long to take it, if no more than so many are being told.
TURNED_AWAY_S, TURNED_AWAY_COUNT_MAX = 1.0, 100
# Log, listeners, event loop, name lookups, a Redis.
_FILES_OF_OUR_OWN = 60


class _Refused(Exception):
    """Ends the parsing of a request; the parser reports it to `data_received`."""


class State(ServerState):
    """What all connections know."""

    ends = False


class Connection(HttpToolsProtocol):
    """One connection, with a bound on the size of a head, the wait for it, the queue behind it and unread answers."""

    # How many there may be at a time; `connections_count_max` knows.
    count_max = CONNECTIONS_COUNT_MAX
    server_state: State

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._too_large = self._begins = False
        self._head_bytes = self._partial_bytes = 0
        self._in_head, self._has_head_begun = True, False
        self._last: RequestResponseCycle | None = None
        self._waits_since_s = self.loop.time()
        self._unread_bytes = 0
        self._tick = self.loop.call_later(TICK_S, self._look)
        self._is_turned_away = len(self.connections) > self.count_max
        if self._is_turned_away:
            self._turn_away()

    def _turn_away(self) -> None:
        self._tick.cancel()
        if len(self.connections) > self.count_max + TURNED_AWAY_COUNT_MAX:
            self.transport.abort()
            return
        self.transport.write(
            _refusal(Problem("upstream_unavailable", "There are too many connections.", retry_after_s=1))
        )
        # To close at once would reset the connection under a request that is on its way, and take back the answer.
        self.transport.write_eof()
        self._tick = self.loop.call_later(TURNED_AWAY_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._tick.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a head that is still not complete counts by what was received of it."""
        if self._is_turned_away:
            return
        self._begins = False
        if self.timeout_keep_alive_task is not None:
            self._waits_since_s = self.loop.time()
        # What a head begins in may hold the end of a body before it, and the end of a body may come alone.
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head and not self._begins and not self.transport.is_closing():
            self._partial_bytes += len(data)
            if self._partial_bytes > HEAD_BYTES_MAX:
                self._too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._begins = self._has_head_begun = True
        self._head_bytes = self._partial_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        # Four more for the colon, the space and the line end.
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, received: int) -> None:
        self._head_bytes += received
        if self._head_bytes > HEAD_BYTES_MAX:
            self._too_large = True
            raise _Refused

    def on_headers_complete(self) -> None:
        """Serve the request, or queue it behind the one before."""
        if len(self.pipeline) >= PIPELINED_COUNT_MAX:
            raise _Refused
        self._in_head = self._has_head_begun = False
        super().on_headers_complete()
        if self.server_state.ends:
            self.say_last()

    def on_message_complete(self) -> None:
        """The next head may begin."""
        self._in_head, self._partial_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of this request, or the next one."""
        self._waits_since_s = self.loop.time()
        super().on_response_complete()

    def say_last(self) -> None:
        """Let the answer to the newest request, and to none before it, say that the connection ends there."""
        last, self._last = self._last, None
        if last is not None and not last.response_started:
            last.keep_alive = True
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.keep_alive:
            self.cycle.keep_alive, self._last = False, self.cycle

    def shutdown(self) -> None:
        """Hang up, unless a request is being served or has begun to arrive."""
        is_served = self.cycle is not None and not self.cycle.response_complete
        if not is_served and self._in_head and not self._has_head_begun:
            self.transport.close()

    def _look(self) -> None:
        unread_before, self._unread_bytes = self._unread_bytes, self.transport.get_write_buffer_size()
        stalls = 0 < unread_before < self._unread_bytes + TAKEN_BYTES_MIN and self._unread_bytes > 0
        is_served = self.cycle is not None and not self.cycle.response_complete
        is_kept = self.timeout_keep_alive_task is not None
        is_late = self.loop.time() - self._waits_since_s > WAIT_S
        waits = not (is_served or is_kept or self._unread_bytes) and is_late
        if stalls or waits:
            # Not `close`, which would wait until the client has read the rest.
            self.transport.abort()
        else:
            self._tick = self.loop.call_later(TICK_S, self._look)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is not HTTP, or too much of it, in the form of every problem, and hang up."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.write(_refusal(_not_http(self._too_large)))
        elif not (self._in_head or self.pipeline or cycle.response_started):
            # Its own body is broken: this is the answer, and whoever waits for the rest is told that there is none.
            cycle.disconnected = True
            cycle.message_event.set()
            self.transport.write(_refusal(_not_http(self._too_large)))
        # Otherwise it would be taken for the answer to a request before.
        self.transport.close()


def connections_count_max(upstream_count_max: int) -> int:
    """How many clients may be connected, so that calls to Supabase always find a file descriptor.

    Raises the soft limit on descriptors as far as it is needed and allowed.
    """
    ours = upstream_count_max + TURNED_AWAY_COUNT_MAX + _FILES_OF_OUR_OWN
    wanted = CONNECTIONS_COUNT_MAX + ours
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:
        soft = wanted if hard < 0 else min(hard, wanted)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CONNECTIONS_COUNT_MAX if soft < 0 else max(1, min(CONNECTIONS_COUNT_MAX, soft - ours))


def _not_http(too_large: bool) -> Problem:
    if too_large:
        return Problem("payload_too_large", f"The head of a request has at most {HEAD_BYTES_MAX // 1024} KiB.")
    return Problem("validation_failed", "This is not valid HTTP/1.1.", pointer="")


def _refusal(problem: Problem) -> bytes:
    exchange = log.Exchange("", ())
    status, headers, body = problems.render(problem, exchange.request_id)
    lines = [
        STATUS_LINE[status].removesuffix(b"\r\n"),
        *(b"%b: %b" % header for header in everywhere(exchange)),
        *(f"{name}: {value}".encode() for name, value in headers.items()),
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", body])
