"""What Realtime asks Postgres: may this person read or write this topic, and what was sent there lately.

The answers come from the policies themselves: probe rows are written and looked for as the person, then rolled back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import pq

from stack.places import STACK
from stack.realtime_tokens import Claims, Refused

log = logging.getLogger("realtime")
T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

POOL_SIZE = 5  # what hosted gives Small to Large computes
POOL_WAIT_S = 5.0
STATEMENT_TIMEOUT_MS = 5000
CONNECT_TIMEOUT_S = 5
REPLAY_MAX = 25
SESSION_SQL = (STACK / "sql" / "realtime_session.sql").read_bytes()
PARTITIONS_SQL = (STACK / "sql" / "realtime_partitions.sql").read_bytes()

PROBE = """
    insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
    select p.id, %(topic)s, p.extension, now() at time zone 'utc', now() at time zone 'utc'
    from unnest(%(ids)s::uuid[], %(extensions)s::text[]) as p (id, extension)
"""
# All of it lasts until the end of the transaction. `role` comes last: from there on the rest would be refused.
ACT_AS = """
    select
      set_config('realtime.topic', %(topic)s, true), set_config('request.jwt.claims', %(claims)s, true),
      set_config('request.jwt.claim.sub', %(sub)s, true), set_config('request.jwt.claim.role', %(role)s, true),
      set_config('request.headers', %(headers)s, true), set_config('role', %(role)s, true)
"""
REPLAY = """
    select id::text, event, payload::text, binary_payload
    from realtime.messages
    where topic = %(topic)s and private and extension = 'broadcast' and event is not null
      and inserted_at >= to_timestamp(%(since_ms)s / 1000.0) at time zone 'utc'
      and (payload is not null or binary_payload is not null)
    order by inserted_at desc limit %(limit)s
"""


class Database:
    """A few connections as the superuser, opened when needed and again after a restart of Postgres."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._free = asyncio.Semaphore(POOL_SIZE)
        self._idle: list[Connection] = []

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """`work` on a connection in autocommit. Raises Refused when there is none, and psycopg's errors of the work."""
        try:
            async with asyncio.timeout(POOL_WAIT_S):
                await self._free.acquire()
        except TimeoutError as error:
            raise Refused("IncreaseConnectionPool", "Please increase your connection pool size") from error
        try:
            while self._idle:
                connection = self._idle.pop()
                try:
                    return await self._use(connection, work)
                except psycopg.OperationalError:
                    if not connection.closed:
                        raise  # it answered; only a connection that a restart broke is worth a second one
            return await self._use(await self._open(), work)
        finally:
            self._free.release()

    async def _use(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await work(connection)
        finally:
            if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await connection.close()

    async def _open(self) -> Connection:
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="realtime",
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
            )
            await connection.execute(SESSION_SQL)
        except psycopg.OperationalError as error:
            text = "Realtime was unable to connect to the project database"
            raise Refused("UnableToConnectToProject", text) from error
        return connection

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def make_partitions(self) -> None:
        """As hosted does when a client connects to a project. Fails silently: a send would say it in a warning."""
        with suppress(psycopg.Error, Refused):
            await self.run(lambda connection: connection.execute(PARTITIONS_SQL))

    # ----- policies -----

    async def readable(self, claims: Claims, topic: str, extensions: Iterable[str], headers: str) -> set[str]:
        """Which of the extensions `claims` may read on `topic` (without `realtime:`). Raises Refused."""
        ids = {str(uuid.uuid4()): extension for extension in extensions}

        async def probe(connection: Connection) -> set[str]:
            async with connection.transaction(force_rollback=True):
                rows = {"topic": topic, "ids": list(ids), "extensions": list(ids.values())}
                await connection.execute(PROBE, rows)
                await _act_as(connection, claims, topic, headers)
                seen = await connection.execute(
                    "select id::text from realtime.messages where id = any(%s::uuid[])", (list(ids),)
                )
                return {ids[row[0]] for row in await seen.fetchall()}

        return await self._checked(probe)

    async def writable(self, claims: Claims, topic: str, headers: str) -> set[str]:
        """Which of broadcast and presence `claims` may write on `topic`. Raises Refused."""

        async def probe(connection: Connection) -> set[str]:
            allowed = set()
            async with connection.transaction(force_rollback=True):
                await _act_as(connection, claims, topic, headers)
                for extension in ("broadcast", "presence"):
                    with suppress(psycopg.errors.InsufficientPrivilege):
                        async with connection.transaction():
                            rows = {"topic": topic, "ids": [str(uuid.uuid4())], "extensions": [extension]}
                            await connection.execute(PROBE, rows)
                            allowed.add(extension)
            return allowed

        return await self._checked(probe)

    async def _checked(self, probe: Callable[[Connection], Awaitable[set[str]]]) -> set[str]:
        """The probe's answer; an error inside any policy means nothing is allowed, as on hosted."""
        try:
            return await self.run(probe)
        except psycopg.errors.QueryCanceled as error:
            raise Refused("QueryCanceled", str(error).strip()) from error
        except psycopg.errors.CheckViolation as error:
            raise Refused("MissingPartition", str(error).strip()) from error
        except psycopg.OperationalError as error:
            raise Refused("DatabaseLackOfConnections", "Database can't accept more connections") from error
        except (psycopg.Error, ValueError) as error:  # ValueError: a NUL in the topic
            log.warning("RlsPolicyError: %s", str(error).strip())
            return set()

    # ----- replay -----

    async def replay(self, topic: str, since_ms: int, limit: int) -> list[tuple[str, str, str | None, bytes | None]]:
        """(id, event, payload, binary payload) of the newest `limit` messages since then, oldest first."""

        async def read(connection: Connection) -> list[Any]:
            told = {"topic": topic, "since_ms": since_ms, "limit": min(limit, REPLAY_MAX)}
            return await (await connection.execute(REPLAY, told)).fetchall()

        return list(reversed(await self.run(read)))


async def _act_as(connection: Connection, claims: Claims, topic: str, headers: str) -> None:
    told = {"topic": topic, "claims": json.dumps(claims), "sub": str(claims.get("sub") or ""), "headers": headers}
    await connection.execute(ACT_AS, {**told, "role": claims["role"]})
