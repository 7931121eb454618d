"""One connection of the server, fed by hand: where one message ends and the next begins."""

import asyncio
from typing import Any

import pytest
from uvicorn.config import Config

from app.connection import HEAD_BYTES_MAX, Connection, State


class Transport(asyncio.Transport):
    """Keeps what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 40000), "sockname": ("192.0.2.2", 80)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    """Answers from the head alone, as a body that is too long is answered."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def connected() -> tuple[Connection, Transport]:
    config = Config(refusing, http=Connection, ws="none", log_config=None, access_log=False)
    config.load()
    made, transport = Connection(config, State(), {}), Transport()
    made.connection_made(transport)
    return made, transport


@pytest.mark.parametrize("pieces", [1, 7])
async def test_the_body_of_a_refused_request_is_not_counted_as_a_head(pieces: int) -> None:
    connection, transport = connected()
    body = b" " * (HEAD_BYTES_MAX + 50_000)
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    await asyncio.gather(*connection.tasks)
    assert transport.written.startswith(b"HTTP/1.1 413 ")
    size = -(-len(body) // pieces)
    for start in range(0, len(body), size):
        connection.data_received(body[start : start + size])
    assert transport.written.count(b"HTTP/1.1") == 1 and not transport.closed
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.gather(*connection.tasks)
    assert transport.written.count(b"HTTP/1.1 413 ") == 2 and not transport.closed
    connection.connection_lost(None)


async def test_only_a_head_that_has_begun_must_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between requests a connection is kept as long as the settings say, whatever time has passed."""
    connection, transport = connected()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.gather(*connection.tasks)
    monkeypatch.setattr("app.connection.WAIT_S", -1.0)
    connection._look()
    assert not transport.closed
    connection.data_received(b"GET")
    connection._look()
    assert transport.closed
    connection.connection_lost(None)
