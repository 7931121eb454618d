"""A new version takes the place of the old one behind a load balancer, while people send without a pause."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import psycopg
import pytest

from stack import dataapi
from stack.processes import Process, free_port

ROUNDS, PEOPLE = 3, 12
ASKS_EVERY_S, DRAIN_DELAY_S = 0.2, 1.0
WITHIN_S = 60.0


class Balancer:
    """Passes each connection on to one process that was ready when last asked, and to another when that refuses."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.ready: list[int] = []
        self.turn = itertools.count()
        self.tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        asking = asyncio.create_task(self.ask())
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in (asking, *self.tasks):
            task.cancel()
        await asyncio.gather(asking, *self.tasks, return_exceptions=True)

    async def ask(self) -> None:
        async with httpx.AsyncClient(timeout=2) as client:
            while True:
                ready = []
                for port in self.ports:
                    with suppress(httpx.TransportError):
                        if (await client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200:
                            ready.append(port)
                self.ready = ready
                await asyncio.sleep(ASKS_EVERY_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        ports = [*self.ready]
        start = next(self.turn)
        for number in range(len(ports)):
            with suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", ports[(start + number) % len(ports)])
                await asyncio.gather(self.pass_on(reader, there[1]), self.pass_on(there[0], writer))
                return
        writer.close()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, f"not within {WITHIN_S:.0f} s"
        await asyncio.sleep(0.02)


@pytest.fixture
def unpaced(db: psycopg.Connection[Any]) -> Iterator[None]:
    before = db.execute("select send_count_max, send_window_s from private.settings").fetchone()
    db.execute("update private.settings set send_count_max = 500, send_window_s = 1")
    yield
    db.execute("update private.settings set send_count_max = %s, send_window_s = %s", before)


@pytest.mark.slow
@pytest.mark.parametrize("retries_refused", [False, True])
async def test_no_message_is_lost_or_doubled_and_nobody_notices(
    supabase_stack: Any, db: Any, person: Any, worker: str, unpaced: None, monkeypatch: Any, retries_refused: bool
) -> None:
    """With a drain delay not even a connection is refused; without one, clients that repeat a 503 notice nothing."""
    monkeypatch.setenv("PERSON_REQUESTS_PER_MINUTE", "1000000")
    monkeypatch.setenv("DRAIN_DELAY_S", "0" if retries_refused else str(DRAIN_DELAY_S))
    people = [person() for _ in range(PEOPLE)]
    balancer = Balancer()
    processes: list[Process] = []
    acknowledged: dict[str, dict[str, Any]] = {}
    stopping = asyncio.Event()

    async def start() -> Process:
        port = free_port()
        log = supabase_stack.attached.directory / "log" / f"rolling-{worker}-{port}.log"
        process = dataapi.service(supabase_stack.api_settings(), port, log, supabase_stack.attached.ledger)
        process.start()
        processes.append(process)
        balancer.ports.append(port)
        await until(lambda: port in balancer.ready)
        return process

    async def stop(process: Process) -> None:
        assert process.pid
        os.kill(process.pid, signal.SIGTERM)
        await until(lambda: process.exit_code() is not None)
        assert process.exit_code() == 0

    async def send(number: int, url: str) -> None:
        ada, ben = people[number], people[number - 1]
        async with httpx.AsyncClient(base_url=url, headers=ada.headers, timeout=30) as client:
            while not stopping.is_set():
                key = str(uuid.uuid4())
                body = {"toUserId": ben.id, "body": "Hello", "clientMessageId": key}
                while True:
                    answer = await client.post("/api/messages/send", json=body)
                    if answer.status_code != 503 or not retries_refused:
                        break
                assert answer.status_code == 201, answer.text
                acknowledged[key] = answer.json()["message"]

    async def more() -> None:
        """Every process that serves has been used for a while."""
        enough = len(acknowledged) + 10 * PEOPLE
        await until(lambda: len(acknowledged) >= enough or any(task.done() for task in sending))
        assert not (ended := [task for task in sending if task.done()]), ended

    try:
        async with balancer.listening() as url:
            old = await start()
            sending = [asyncio.create_task(send(number, url)) for number in range(PEOPLE)]
            for _ in range(ROUNDS):
                await more()
                new = await start()
                await more()
                await stop(old)
                await more()
                old = new
            stopping.set()
            await asyncio.gather(*sending)
    finally:
        for process in processes:
            process.stop()

    ids = [each.id for each in people]
    rows = db.execute(
        "select client_message_id::text, id::text, seq::int from public.messages where from_user_id = any(%s)", [ids]
    ).fetchall()
    assert len(rows) == len(acknowledged)
    assert {row[0]: row[1:] for row in rows} == {key: (m["id"], m["seq"]) for key, m in acknowledged.items()}
    gaps = db.execute(
        "select conversation_id from public.messages where from_user_id = any(%s) group by 1"
        " having max(seq) <> count(*) or min(seq) <> 1",
        [ids],
    ).fetchall()
    assert gaps == []
