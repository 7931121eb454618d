"""Committed rows of one publication as they happen: logical replication through a temporary pgoutput slot.

psycopg has no replication API, but its wrapper of libpq speaks COPY BOTH, which is all that START_REPLICATION needs.
So the stand-in reads the same stream as hosted Realtime: nothing before commit, everything in commit order, no trigger
on anybody's table and no NOTIFY (whose lock would make commits queue), and what happens without a listener is lost.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import psycopg
from psycopg import pq

log = logging.getLogger("realtime")

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
STATUS_EVERY_S = 10.0  # wal_sender_timeout is 60 s
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)
CONNECT_TIMEOUT_S = 5
YIELD_EVERY = 50

Kind = Literal["INSERT", "UPDATE", "DELETE"]
Row = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the stream describes it, before its first change and after each DDL."""

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Change:
    """One row change, values as Postgres' text. An unchanged TOASTed column is missing from `new`.

    `old` holds the replica identity: the key, or the whole row with `replica identity full`; None when not sent.
    """

    relation: Relation
    kind: Kind
    new: Row
    old: Row | None
    committed_at: datetime


class Decoder:
    """pgoutput, protocol version 1."""

    def __init__(self) -> None:
        self.relations: dict[int, Relation] = {}
        self.committed_at = POSTGRES_EPOCH

    def feed(self, data: bytes) -> Iterator[Change]:
        """The changes in one message of the stream."""
        kind = data[:1]
        if kind == b"B":
            self.committed_at = POSTGRES_EPOCH + timedelta(microseconds=struct.unpack_from("!q", data, 9)[0])
        elif kind == b"R":
            relation = _relation(data)
            self.relations[relation.oid] = relation
        elif kind in b"IUD":
            relation = self.relations[struct.unpack_from("!I", data, 1)[0]]
            new: Row = {}
            old: Row | None = None
            at = 5
            while at < len(data):
                part = data[at : at + 1]
                row, at = _row(relation, data, at + 1)
                if part == b"N":
                    new = row
                else:  # K: only the key counts; the other columns are sent as null
                    old = row if part == b"O" else {name: row[name] for name in row if name in relation.keys}
            names: dict[bytes, Kind] = {b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}
            yield Change(relation, names[kind], new, old, self.committed_at)


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def _relation(data: bytes) -> Relation:
    oid = struct.unpack_from("!I", data, 1)[0]
    schema, at = _string(data, 5)
    name, at = _string(data, at)
    count = struct.unpack_from("!H", data, at + 1)[0]
    at += 3
    columns, keys = [], set()
    for _ in range(count):
        is_key = data[at] & 1
        column, at = _string(data, at + 1)
        at += 8  # type and modifier: the catalogue knows them by name
        columns.append(column)
        if is_key:
            keys.add(column)
    return Relation(oid, schema or "pg_catalog", name, tuple(columns), frozenset(keys))


def _row(relation: Relation, data: bytes, at: int) -> tuple[Row, int]:
    count = struct.unpack_from("!H", data, at)[0]
    at += 2
    row: Row = {}
    for name in relation.columns[:count]:
        how = data[at : at + 1]
        at += 1
        if how == b"n":
            row[name] = None
        elif how == b"t":
            size = struct.unpack_from("!I", data, at)[0]
            at += 4
            row[name] = data[at : at + size].decode()
            at += size
    return row, at


class Stream:
    """Hands every change of one publication to `handle`, in commit order, while it is started.

    When the connection is lost it makes a new slot and goes on; what was committed in between is lost, as on hosted.
    """

    def __init__(self, url: str, publication: str, handle: Callable[[Change], Awaitable[None]]) -> None:
        self.url, self.publication, self.handle = url, publication, handle
        self.ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"stream {self.publication}")

    async def stop(self) -> None:
        """Drops the slot with its connection."""
        task, self._task = self._task, None
        if task:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._follow()
                reason = "the server ended it"
            except (psycopg.Error, OSError) as error:
                reason = str(error).strip()
            except Exception:
                log.exception("replication of %s crashed", self.publication)
                reason = "an error of ours"
            finally:
                was_ready = self.ready.is_set()
                self.ready.clear()
            failures = 0 if was_ready else failures + 1
            log.warning("replication of %s was interrupted: %s", self.publication, reason)
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])

    async def _follow(self) -> None:
        slot = f"stand_in_realtime_{uuid.uuid4().hex[:12]}"
        connection = await psycopg.AsyncConnection.connect(
            self.url,
            autocommit=True,
            replication="database",
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="realtime",
        )
        try:
            link = connection.pgconn
            await _command(link, f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')")
            await _command(
                link,
                f"START_REPLICATION SLOT {slot} LOGICAL 0/0 "
                f"(proto_version '1', publication_names '{self.publication}')",
            )
            self.ready.set()
            await self._read(link)
        finally:
            await connection.close()

    async def _read(self, link: pq.abc.PGconn) -> None:
        decoder = Decoder()
        loop = asyncio.get_running_loop()
        seen, told_at, handled = 0, loop.time(), 0
        while True:
            handled += 1
            if handled % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # a flood must not keep the loop from everybody else
            size, view = link.get_copy_data(1)
            if size < 0:
                return
            must_tell = loop.time() - told_at > STATUS_EVERY_S
            if size:
                data = bytes(view)
                if data[:1] == b"w":
                    seen = max(seen, struct.unpack_from("!Q", data, 1)[0])
                    for change in decoder.feed(data[25:]):
                        await self.handle(change)
                else:  # a keep-alive: up to here everything was handled
                    seen = max(seen, struct.unpack_from("!Q", data, 1)[0])
                    must_tell = must_tell or data[17] == 1
            if must_tell:
                link.put_copy_data(b"r" + struct.pack("!QQQQB", seen, seen, seen, 0, 0))
                link.flush()
                told_at = loop.time()
            if not size:
                await _readable(link, STATUS_EVERY_S)
                link.consume_input()


async def _command(link: pq.abc.PGconn, command: str) -> None:
    """Run a replication command. Raises psycopg.OperationalError with what Postgres said."""
    link.send_query(command.encode())
    link.flush()
    while True:
        while link.is_busy():
            await _readable(link, None)
            link.consume_input()
        result = link.get_result()
        if result is None:
            return
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        if result.status == pq.ExecStatus.COPY_BOTH:
            return


def _done(some: asyncio.Future[None]) -> None:
    if not some.done():
        some.set_result(None)


async def _readable(link: pq.abc.PGconn, within_s: float | None) -> None:
    """Wait until the connection has something to read, or for so long."""
    loop = asyncio.get_running_loop()
    some: asyncio.Future[None] = loop.create_future()
    descriptor = link.socket
    loop.add_reader(descriptor, _done, some)
    try:
        await asyncio.wait([some], timeout=within_s)
    finally:
        loop.remove_reader(descriptor)
