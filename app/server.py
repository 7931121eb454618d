"""The server: uvicorn, with an end that drops no request.

When it is told to stop, uvicorn resets the connections that nobody has accepted yet and hangs up on those that are
about to send; here what has reached us is answered first (docs/operations.md).
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from app import log
from app.connection import Connection, State

# At the end, how long a silent connection may still begin a request: whoever is just sending one has sent it by then.
SILENT_S = 1.0
# How often the end looks at what is left, and what a request that was cut short may take to say so.
_END_TICK_S, _END_ANSWERS_S = 0.05, 1.0


def bound(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses of `host`, on which nobody listens before the server is ready. Errors: OSError."""
    sockets = []
    for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        sockets.append(made)
    return sockets


class Server(uvicorn.Server):
    """uvicorn's server, with an end in this order:

    1. `on_end` is called, and every connection's next answer says that it is the last; everything is still served
       for `delay_s`, so that a load balancer learns of it (SIGTERM only: who presses Ctrl-C waits for nobody).
    2. No connection is accepted any more, but those that were made are.
    3. Silent connections are closed a moment later, the others after their answer.
    4. What is left after `patience_s`, or at another Ctrl-C, is cut short with an error.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: Sequence[socket.socket],
        *,
        delay_s: float,
        patience_s: float,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.server_state: State = State()
        # The event loop closes its own; with these, what waits to be accepted survives that.
        self._listeners = [listener.dup() for listener in listeners]
        self._delay_s, self._patience_s, self._on_end = delay_s, patience_s, on_end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin the end; another Ctrl-C hurries it. A second SIGTERM changes nothing, as some send it twice."""
        # Not remembered, as uvicorn does: it would end the process by that signal after all was done.
        if sig == signal.SIGINT:
            self._delay_s, self.force_exit = 0.0, self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Answer what has reached us, then end."""
        tasks = self.server_state.tasks
        self.server_state.ends = True
        self._on_end()
        for connection in self.server_state.connections:
            connection.say_last()  # type: ignore[union-attr]
        await self._wait(self._delay_s, lambda: False)
        await self._stop_listening()
        await self._wait(SILENT_S, self._is_idle)
        await self._wait(self._patience_s, self._hang_up)
        if tasks:
            log.warning("requests_cut_short", count=len(tasks))
            for task in tasks:
                task.cancel()
            await asyncio.wait([*tasks], timeout=_END_ANSWERS_S)
        await self.lifespan.shutdown()

    async def _wait(self, at_most_s: float, is_over: Callable[[], bool]) -> None:
        until_s = time.monotonic() + at_most_s
        while time.monotonic() < until_s and not self.force_exit and not is_over():  # noqa: ASYNC110
            await asyncio.sleep(_END_TICK_S)

    def _is_idle(self) -> bool:
        return not (self.server_state.connections or self.server_state.tasks)

    def _hang_up(self) -> bool:
        for connection in [*self.server_state.connections]:
            connection.shutdown()
        return self._is_idle()

    async def _stop_listening(self) -> None:
        for server in self.servers:
            server.close()
        for listener in self._listeners:
            listener.setblocking(False)
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:  # nobody waits any more
                    break
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: Connection(self.config, self.server_state, self.lifespan.state), accepted
                )
            listener.close()
