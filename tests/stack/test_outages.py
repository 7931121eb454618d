"""The service while what it stands on is away, slow or unfinished: it says why, and needs no restart."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from stack import dataapi, database
from stack.processes import Process, free_port
from stack.scratch import TEMPLATE, Scratch

# Asking readiness again (1 s), the breaker's pause (2 s), and a busy machine.
BACK_WITHIN_S = 8.0
WITHIN_S = 60.0
# What readiness may take to say no, and a person's request to be refused.
PROBE_S, REFUSED_S = 3.0, 10.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(params=["HS256", "ES256"])
def scratch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scratch]:
    """A cluster of our own, to be stopped at will; with a shared secret, or with a key set that has to be fetched."""
    monkeypatch.setenv("STACK_JWT_ALG", request.param)
    with Scratch() as made:
        yield made


class World:
    """A data API and our service on one database of the scratch cluster; started and stopped by the test."""

    def __init__(self, scratch: Scratch, name: str) -> None:
        self.scratch, self.database = scratch, name
        self.port, service_port = free_port(), free_port()
        log, keys = scratch.directory / "log", scratch.keys
        url = f"http://127.0.0.1:{self.port}"
        self.api = dataapi.data_api(
            scratch.cluster, name, scratch.project, keys, self.port, log / "data-api.log", scratch.ledger
        )
        told = dataapi.client_environment(url, f"http://127.0.0.1:{service_port}", "", keys)
        self.service = dataapi.service(told, service_port, log / "service.log", scratch.ledger)
        self.log: Path = self.service.log
        claims = {
            "iss": f"{url}/auth/v1", "sub": str(uuid.uuid4()), "role": "authenticated", "aud": "authenticated",
            "exp": int(time.time()) + 3600,
        }  # fmt: skip
        self.person, self.other = claims["sub"], str(uuid.uuid4())
        self.client = httpx.Client(
            base_url=told["API_URL"], headers={"Authorization": f"Bearer {keys.sign(claims)}"}, timeout=30
        )

    def add_people(self) -> None:
        with psycopg.connect(self.scratch.cluster.url(self.database)) as connection:
            for person in (self.person, self.other):
                connection.execute(
                    "insert into auth.users (id, aud, role, email)"
                    " values (%s, 'authenticated', 'authenticated', %s || '@example.com')",
                    [person, person],
                )

    def why_not(self) -> str | None:
        """What readiness says, None when it is well; liveness must say yes at any time, and at once."""
        began = time.monotonic()
        assert self.client.get("/health/live").status_code == 200
        assert time.monotonic() - began < 1
        began = time.monotonic()
        answer = self.client.get("/health/ready")
        assert time.monotonic() - began < PROBE_S + 1
        if answer.status_code == 200:
            return None
        told = answer.json()
        assert (answer.status_code, told["code"], answer.headers["retry-after"]) == (503, "not_ready", "2")
        found: str = told["detail"].removeprefix("Not usable: ").removesuffix(".")
        return found

    def send(self) -> httpx.Response:
        body = {"toUserId": self.other, "body": "Hello", "clientMessageId": str(uuid.uuid4())}
        began = time.monotonic()
        answer = self.client.post("/api/messages/send", json=body)
        assert time.monotonic() - began < REFUSED_S + 1
        return answer

    def is_refused(self, *codes: str) -> None:
        answer = self.send()
        assert answer.status_code in (503, 504) and answer.json()["code"] in codes, answer.text

    def is_back(self) -> None:
        """Ready, and a message is sent, both in seconds."""
        deadline = time.monotonic() + BACK_WITHIN_S
        until(lambda: self.why_not() is None, BACK_WITHIN_S)
        while (answer := self.send()).status_code != 201:
            assert answer.status_code >= 500 and time.monotonic() < deadline, answer.text
            # Refusals are quick: without a pause they would soon be a matter of pace.
            time.sleep(0.05)


def until(true: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s"
        time.sleep(0.05)


def is_live(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def living(scratch: Scratch, name: str = TEMPLATE) -> Iterator[World]:
    world = World(scratch, name)
    try:
        yield world
    finally:
        world.client.close()
        world.service.stop()
        world.api.stop()


@contextmanager
def gateway(port: int) -> Iterator[None]:
    """What stands in front of a data API that is away: 503 to everybody, in its own words."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<h1>Service Unavailable</h1>")

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """The process and its children, stopped and resumed: what a machine in trouble looks like from outside."""
    assert process.pid
    pids = [process.pid, *children(process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("child processes are found in /proc")
    return [int(word) for word in listed.read_text().split()]


def test_everything_is_away_and_comes_back(scratch: Scratch) -> None:
    postgres = scratch.cluster
    with living(scratch) as world:
        world.add_people()

        # Nothing is there when the service starts.
        postgres.stop()
        world.service.start()
        until(lambda: is_live(world.client))
        assert world.why_not() == "unreachable"
        world.is_refused("upstream_unavailable")

        with gateway(world.port):
            until(lambda: world.why_not() == "database", BACK_WITHIN_S)
            world.is_refused("upstream_unavailable")

        postgres.start()
        world.api.start()
        world.api.wait_until(lambda: dataapi.data_api_ready(world.port, scratch.keys), dataapi.READY_S)
        world.is_back()

        # The database goes while everything runs.
        postgres.stop()
        until(lambda: world.why_not() in ("database", "unreachable"), BACK_WITHIN_S)
        for _ in range(10):
            world.is_refused("upstream_unavailable", "upstream_timeout")
        postgres.start()
        if world.api.exit_code() is not None:
            pytest.fail("the data API did not outlive the database")
        world.is_back()

        # It does not answer, but its connections stay.
        assert postgres.process
        with frozen(postgres.process):
            until(lambda: world.why_not() == "unreachable", BACK_WITHIN_S)
            world.is_refused("upstream_unavailable", "upstream_timeout")
        world.is_back()

        # The data API is killed.
        os.kill(world.api.pid or 0, signal.SIGKILL)
        until(lambda: world.why_not() == "unreachable", BACK_WITHIN_S)
        world.api.stop()
        world.api.start()
        world.api.wait_until(lambda: dataapi.data_api_ready(world.port, scratch.keys), dataapi.READY_S)
        world.is_back()
        assert world.service.exit_code() is None
    lines = [json.loads(line) for line in world.log.read_text().splitlines()]
    assert not [line for line in lines if line["level"] in ("error", "critical")]


def test_migrations_come_after_the_service(scratch: Scratch) -> None:
    name = "unfinished"
    with scratch.cluster.connect() as connection:
        connection.execute(f"create database {name} owner postgres template template0")
    database.bootstrap_database(scratch.cluster, name, scratch.project, scratch.keys)
    with living(scratch, name) as world:
        world.api.start()
        world.api.wait_until(lambda: dataapi.data_api_ready(world.port, scratch.keys), dataapi.READY_S)
        world.service.start()
        until(lambda: is_live(world.client))
        assert world.why_not() == "schema"
        assert world.send().status_code in (500, 502, 503)
        database.migrate(scratch.cluster, name, scratch.project)
        world.add_people()
        world.is_back()
