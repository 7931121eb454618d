"""A table of members, policies on it, and a raw client: what the tests of Realtime share."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from websockets.asyncio.client import ClientConnection, connect

# A slot starts when every transaction that was writing has ended, also those of the tests beside this one.
WITHIN_S = 25.0
SETUP_SQL = """
create table public.probe_members (topic text, user_id uuid, writes boolean, primary key (topic, user_id));
alter table public.probe_members enable row level security;
revoke all on public.probe_members from anon, authenticated, service_role;
grant select on public.probe_members to authenticated;
create policy probe_members_select on public.probe_members for select to authenticated
using (user_id = (select auth.uid()));
create policy probe_read on realtime.messages for select to authenticated
using (
  extension in ('broadcast', 'presence')
  and exists (select from public.probe_members as m where m.topic = (select realtime.topic()))
);
create policy probe_write on realtime.messages for insert to authenticated
with check (
  extension in ('broadcast', 'presence')
  and exists (select from public.probe_members as m where m.topic = (select realtime.topic()) and m.writes)
);
"""
TEARDOWN_SQL = """
drop policy probe_read on realtime.messages;
drop policy probe_write on realtime.messages;
drop table public.probe_members;
"""


async def until(true: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait for it, or fail."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "never"
        await asyncio.sleep(0.01)


class World:
    """A database in which members of a topic may read it, and writers among them may write."""

    def __init__(self, url: str, key: str, connection: psycopg.Connection[Any], mint: Callable[..., str]) -> None:
        self.url, self.key, self.connection, self.mint = url, key, connection, mint

    def topic(self, *members: str, readers: tuple[str, ...] = ()) -> str:
        """A new private topic."""
        name = f"probe:{uuid.uuid4()}"
        for user_id, writes in [*((each, True) for each in members), *((each, False) for each in readers)]:
            self.connection.execute("insert into public.probe_members values (%s, %s, %s)", (name, user_id, writes))
        return name

    def forget(self, topic: str, user_id: str) -> None:
        self.connection.execute("delete from public.probe_members where topic = %s and user_id = %s", (topic, user_id))

    def send(self, topic: str, event: str, payload: Any, *, private: bool = True) -> None:
        self.connection.execute("select realtime.send(%s, %s, %s, %s)", (json.dumps(payload), event, topic, private))

    @asynccontextmanager
    async def socket(self, token: str | None = None, vsn: str = "2.0.0", **options: Any) -> AsyncIterator[Raw]:
        """A raw WebSocket."""
        url = f"{self.url.replace('http', 'ws')}/realtime/v1/websocket?apikey={token or self.key}&vsn={vsn}"
        async with connect(url, proxy=None, **options) as connection:
            yield Raw(connection)


class Raw:
    """vsn 2.0.0 without a client library: says exactly what the test says."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.refs = 0

    async def say(self, topic: str, event: str, payload: Any, join_ref: str | None = None) -> str:
        """Send a frame; returns its ref."""
        self.refs += 1
        await self.connection.send(json.dumps([join_ref, str(self.refs), topic, event, payload]))
        return str(self.refs)

    async def next(self, event: str | None = None, within_s: float = WITHIN_S) -> list[Any]:
        """The next frame, or the next of that event; [join_ref, ref, topic, event, payload]."""
        async with asyncio.timeout(within_s):
            while True:
                frame = await self.connection.recv()
                told = json.loads(frame) if isinstance(frame, str) else _broadcast(frame)
                if event in (None, told[3]):
                    return told

    async def join(self, topic: str, token: str | None = None, **config: Any) -> dict[str, Any]:
        """The payload of the reply to a join."""
        told = {"config": config, **({"access_token": token} if token else {})}
        ref = await self.say(f"realtime:{topic}", "phx_join", told, join_ref=str(self.refs + 1))
        while (reply := await self.next("phx_reply"))[1] != ref:
            pass
        return reply[4]

    async def silent(self, for_s: float = 0.3) -> None:
        """Fails when anything arrives."""
        try:
            told = await self.next(within_s=for_s)
        except TimeoutError:
            return
        raise AssertionError(f"not silent: {told}")


def _broadcast(frame: bytes) -> list[Any]:
    """A binary broadcast as the array a text frame would be."""
    assert frame[0] == 4
    parts, at = [], 5
    for size in frame[1:4]:
        parts.append(frame[at : at + size].decode())
        at += size
    topic, event, meta = parts
    payload = json.loads(frame[at:]) if frame[4] == 1 else frame[at:]
    told = {"type": "broadcast", "event": event, "payload": payload}
    return [None, None, topic, "broadcast", told | ({"meta": json.loads(meta)} if meta else {})]
