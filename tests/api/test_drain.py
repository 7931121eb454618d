"""SIGTERM at a busy process: whatever has reached it is answered, whole and once, and it ends in time with code 0."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.server import SILENT_S
from stack.processes import free_port
from tests.unit.fakes import KEY, MESSAGE, READ, SENT, Asked, Upstream, bearer, http, refusal, upstream

WITHIN_S = 20.0
BODY = json.dumps({"toUserId": KEY, "body": "Hello", "clientMessageId": KEY}).encode()


@dataclass
class Served:
    """One process of the service, on an upstream that answers people once `gate` is open."""

    up: Upstream
    gate: asyncio.Event
    port: int
    log: Path
    process: subprocess.Popen[bytes]
    authorization: str = ""
    arrived: int = 0
    connections: "list[Connection]" = field(default_factory=list)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", self.authorization, *lines, "", ""]).encode()

    @property
    def read(self) -> bytes:
        return self.head("PATCH", f"/api/messages/{MESSAGE}/read")

    @property
    def post(self) -> bytes:
        return self.head("POST", "/api/messages/send", "Content-Type: application/json", f"Content-Length: {len(BODY)}")

    async def connect(self, *first: bytes) -> "Connection":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        connection = Connection(reader, writer)
        self.connections.append(connection)
        for piece in first:
            await connection.send(piece)
        return connection

    async def is_listening(self) -> bool:
        with suppress(OSError):
            (await self.connect()).writer.close()
            return True
        return False

    async def exit_code(self, within_s: float = WITHIN_S) -> int:
        return await asyncio.to_thread(self.process.wait, within_s)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@dataclass
class Connection:
    """A client's side, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    said: list[tuple[int, bytes]] = field(default_factory=list)

    async def send(self, piece: bytes) -> None:
        self.writer.write(piece)
        await self.writer.drain()

    async def answer(self) -> int:
        """Read one whole answer; its status. IncompleteReadError when there is none."""
        top = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", top)
        assert length, top
        json.loads(await self.reader.readexactly(int(length[1])))
        self.said.append((int(top[9:12]), top))
        return self.said[-1][0]

    async def rest(self) -> list[int]:
        """The statuses of all answers until the server hangs up."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    await self.answer()
                except asyncio.IncompleteReadError as end:
                    assert end.partial == b""  # noqa: PT017
                    self.writer.close()
                    return [status for status, _ in self.said]

    @property
    def said_close(self) -> list[bool]:
        return [b"\r\nconnection: close\r\n" in top for _, top in self.said]


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool], within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        answer = true()
        if answer is True or (not isinstance(answer, bool) and await answer):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"did not happen within {within_s} s")


@asynccontextmanager
async def serving(log: Path, **settings: str) -> AsyncIterator[Served]:
    """`python -m app serve` on an upstream in this process."""
    gate = asyncio.Event()

    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        if "authorization" not in asked.headers:
            return refusal("42501", "denied")
        served.arrived += 1
        await gate.wait()
        return http(200, SENT if asked.path.endswith("send_message") else READ)

    async with upstream(script) as up:
        port = free_port()
        told = {
            "SUPABASE_URL": up.url, "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x", "PORT": str(port),
            "SUPABASE_JWT_SECRET": "a-secret-for-tests-of-at-least-32-bytes",
            "PERSON_REQUESTS_PER_MINUTE": "1000000", "UPSTREAM_CONCURRENCY_MAX": "1000", **settings,
        }  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "app", "serve"], env={**os.environ, **told}, stdout=out, stderr=out
            )
        authorization = f"Authorization: {bearer(up.url)['Authorization']}"
        served = Served(up, gate, port, log, process, authorization)
        try:
            await until(served.is_listening)
            yield served
        finally:
            gate.set()
            for connection in served.connections:
                connection.writer.close()
            if process.poll() is None:
                process.kill()
            process.wait()


async def test_everything_that_was_sent_is_answered(tmp_path: Path) -> None:
    """Waiting for Supabase, in the middle of a head, of a body, in a pipeline, kept alive, only connected."""
    async with serving(tmp_path / "log") as served:
        few = range(8)
        waiting = [await served.connect(served.read) for _ in few]
        pipelined = [await served.connect(served.read * 5) for _ in few]
        in_body = [await served.connect(served.post, BODY[:10]) for _ in few]
        in_head = [await served.connect(served.read[:30]) for _ in few]
        kept = [await served.connect(served.head("GET", "/health/live")) for _ in few]
        silent = [await served.connect(served.head("GET", "/health/live")) for _ in few]
        for connection in kept + silent:
            assert await connection.answer() == 200
        new = [await served.connect() for _ in few]
        # All that wait for Supabase, of each pipeline the first.
        await until(lambda: served.arrived == len(waiting) + len(pipelined))
        served.process.send_signal(signal.SIGTERM)
        await until(lambda: not_listening(served))
        for connections, rest in ((in_body, BODY[10:]), (in_head, served.read[30:]), (kept + new, served.read)):
            for connection in connections:
                await connection.send(rest)
        served.gate.set()
        for connections, expected in (
            (waiting, [200]), (pipelined, [200] * 5), (in_body, [201]), (in_head, [200]), (kept, [200, 200]),
            (new, [200]), (silent, [200]),
        ):  # fmt: skip
            for connection in connections:
                assert await connection.rest() == expected
                if connection not in silent:
                    assert connection.said_close == [False] * (len(expected) - 1) + [True]
        assert await served.exit_code() == 0
        assert not [line for line in served.lines() if line["level"] in ("warning", "error", "critical")]


async def not_listening(served: Served) -> bool:
    return not await served.is_listening()


async def test_a_load_balancer_has_time_to_notice(tmp_path: Path) -> None:
    """With DRAIN_DELAY_S, readiness says so at once, and everything is served until then, on new connections too."""
    async with serving(tmp_path / "log", DRAIN_DELAY_S="2") as served:
        served.gate.set()
        kept = await served.connect(served.head("GET", "/health/ready"))
        assert await kept.answer() == 200
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)

        async def drains() -> bool:
            ready = await served.connect(served.head("GET", "/health/ready"))
            return await ready.answer() == 503

        await until(drains)
        for _ in range(5):
            assert await (await served.connect(served.read)).rest() == [200]
        assert await (await served.connect(served.head("GET", "/health/live"))).rest() == [200]
        await kept.send(served.read)
        assert await kept.rest() == [200, 200]
        assert kept.said_close == [False, True]
        assert await served.exit_code() == 0
        assert time.monotonic() - began < 2 + SILENT_S + 4


@pytest.mark.slow
async def test_what_hangs_beyond_every_deadline_is_cut_short_with_an_error(tmp_path: Path) -> None:
    """A second Ctrl-C does not wait; who still waits is told that the outcome is not known."""
    async with serving(tmp_path / "log") as served:
        hanging = [await served.connect(served.read) for _ in range(3)]
        await until(lambda: served.arrived == 3)
        served.process.send_signal(signal.SIGINT)
        await until(lambda: not_listening(served))
        with pytest.raises(subprocess.TimeoutExpired):
            await served.exit_code(2 * SILENT_S)
        served.process.send_signal(signal.SIGINT)
        for connection in hanging:
            assert await connection.rest() == [504]
            assert connection.said_close == [True]
        assert await served.exit_code(5) == 0
        lines = served.lines()
        assert [line["count"] for line in lines if line["event"] == "requests_cut_short"] == [3]
        assert [line["code"] for line in lines if line["event"] == "request"] == ["upstream_timeout"] * 3
        assert not [line for line in lines if line["level"] in ("error", "critical")]


@pytest.mark.slow
async def test_the_end_has_a_bound(tmp_path: Path) -> None:
    """A client that never reads its answers and one that never sends its body end with it."""
    async with serving(tmp_path / "log", UPSTREAM_TIMEOUT_S="1") as served:
        await served.connect(served.post, b"{")
        deaf = await served.connect()
        deaf.writer.write(served.head("GET", "/docs/swagger-ui-bundle.js") * 10)
        served.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert await served.exit_code(40) == 0
        assert time.monotonic() - began < 20


@pytest.mark.slow
async def test_nobody_who_connected_is_dropped(tmp_path: Path) -> None:
    """New connections and kept ones in a storm; each client is refused on connecting, or gets a whole answer."""
    for _ in range(3):
        async with serving(tmp_path / "log") as served:
            served.gate.set()
            counts = {"answered": 0, "refused": 0}

            async def storm(keeps: bool, served: Served = served, counts: dict[str, int] = counts) -> None:
                while True:
                    try:
                        connection = await served.connect()
                    except ConnectionError:
                        counts["refused"] += 1
                        return
                    while True:
                        await connection.send(served.read)
                        assert await connection.answer() == 200
                        counts["answered"] += 1
                        if not keeps or connection.said_close[-1]:
                            connection.writer.close()
                            break

            clients = [asyncio.create_task(storm(number % 2 == 0)) for number in range(64)]
            await until(lambda: counts["answered"] > 500)  # noqa: B023
            served.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WITHIN_S):
                await asyncio.gather(*clients)
            assert counts["refused"] == len(clients)
            assert await served.exit_code() == 0
