"""The server's connections: how many there may be, and what happens to the one that is too many."""

import asyncio
import json
import resource
from typing import Any

import pytest
import uvicorn

from app.connection import CONNECTIONS_COUNT_MAX, TURNED_AWAY_COUNT_MAX, Connection, State, connections_count_max

ASK = b"POST /api/messages/send HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def left(state: State, count: int) -> None:
    while len(state.connections) > count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_one_too_many_is_told_and_the_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "count_max", 3)
    monkeypatch.setattr("app.connection.TURNED_AWAY_S", 0.2)
    config, state = uvicorn.Config(hello, log_config=None, lifespan="off"), State()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def open_one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)

    async with asyncio.timeout(10):
        first = [await open_one() for _ in range(3)]
        reader, writer = await open_one()
        writer.write(ASK)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1" in head
        assert b"\r\nconnection: close" in head
        assert json.loads(body)["code"] == "upstream_unavailable"
        for mine, yours in first:
            yours.write(ASK)
            assert (await mine.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        # Whoever does not take the answer is not waited for, and when too many are being told, nobody is told.
        crowd = [await open_one() for _ in range(TURNED_AWAY_COUNT_MAX + 20)]
        answers = await asyncio.gather(*(mine.read() for mine, _ in crowd), return_exceptions=True)
        assert sum(isinstance(answer, bytes) and b" 503 " in answer for answer in answers) >= TURNED_AWAY_COUNT_MAX - 1
        await left(state, 3)
        first[0][1].close()
        await left(state, 2)
        mine, yours = await open_one()
        yours.write(ASK)
        assert (await mine.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        for _, each in [*first, *crowd, (reader, writer), (mine, yours)]:
            each.close()
        await left(state, 0)
    server.close()


@pytest.mark.parametrize(
    ("soft", "hard", "count", "raised"),
    [
        (1024, 1024, 764, None),
        (1024, 4096, 3836, 4096),
        (1024, 1_000_000, CONNECTIONS_COUNT_MAX, 10_260),
        (1024, -1, CONNECTIONS_COUNT_MAX, 10_260),
        (1_000_000, 1_000_000, CONNECTIONS_COUNT_MAX, None),
        (-1, -1, CONNECTIONS_COUNT_MAX, None),
        (100, 100, 1, None),
    ],
)
def test_as_many_as_there_are_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, count: int, raised: int | None
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    assert connections_count_max(100) == count
    assert limits[-1][0] == (raised or soft)


def test_a_limit_that_may_not_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuses)
    assert connections_count_max(100) == 764
