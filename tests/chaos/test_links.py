"""A link passes everything on, and does what it is told to do to it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import pytest

from chaos.links import HOST, Link

BIG = bytes(range(256)) * 8192  # more than any buffer on the way


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """To a server that says back what it hears."""
    heard: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                heard.append(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    there = Link("test", server.sockets[0].getsockname()[1])
    there.heard = heard  # type: ignore[attr-defined]
    await there.open()
    yield there
    there.close()
    server.close()
    await asyncio.sleep(0.01)  # both sides learn that it is over


async def ask(link: Link, data: bytes) -> bytes:
    """Say it and read as much."""
    reader, writer = await asyncio.open_connection(HOST, link.port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.readexactly(len(data))
    finally:
        writer.close()


async def test_passes_on(link):
    assert await ask(link, b"hello") == b"hello"


async def test_passes_on_more_than_fits(link):
    assert hashlib.sha256(await ask(link, BIG)).digest() == hashlib.sha256(BIG).digest()


async def test_slow_and_narrow_keep_the_order(link):
    link.delay_s, link.bytes_per_s = 0.02, 20_000_000
    began = time.monotonic()
    assert await ask(link, BIG) == BIG
    assert time.monotonic() - began > 0.04


async def test_what_is_mended_while_late_keeps_the_order(link):
    link.delay_s = 0.1
    asking = asyncio.create_task(ask(link, BIG))
    await asyncio.sleep(0.05)
    await link.mend()
    assert await asking == BIG


async def test_refuses_and_listens_again(link):
    link.refuse()
    with pytest.raises(ConnectionRefusedError):
        await ask(link, b"hello")
    await link.mend()
    assert await ask(link, b"hello") == b"hello"


async def test_cuts(link):
    reader, writer = await asyncio.open_connection(HOST, link.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    link.cut()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()


async def test_loses_answers_to_what_was_heard(link):
    link.loses_answers = True
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await ask(link, b"hello")
    assert link.heard == [b"hello"]


async def test_freezes_and_thaws(link):
    reader, writer = await asyncio.open_connection(HOST, link.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    link.freeze()
    writer.write(b"b")
    new_reader, new_writer = await asyncio.open_connection(HOST, link.port)
    new_writer.write(b"c")
    reading = [asyncio.create_task(each.readexactly(1)) for each in (reader, new_reader)]
    done, _ = await asyncio.wait(reading, timeout=0.1)
    assert not done
    await link.mend()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*reading) == [b"b", b"c"]
    writer.close()
    new_writer.close()


async def test_part_that_is_away(link):
    link.to = 1
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await ask(link, b"hello")
