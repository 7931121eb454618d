"""Realtime through unmodified official clients, in Python (vsn 1.0.0) and Node (2.0.0 and 1.0.0)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from realtime import AsyncRealtimeClient
from realtime._async.channel import AsyncRealtimeChannel
from realtime.exceptions import RealtimeHTTPError

from stack.places import node
from tests.stack.realtime_world import SETUP_SQL, TEARDOWN_SQL, WITHIN_S, World, until

SLOTS = "select slot_name from pg_replication_slots where active and database = current_database()"


@pytest.fixture(scope="module")
def world(realtime_stack: Any, mint_token: Callable[..., str]) -> Iterator[World]:
    with psycopg.connect(realtime_stack.database_url, autocommit=True) as connection:
        connection.execute(SETUP_SQL)
        yield World(realtime_stack.url, realtime_stack.publishable_key, connection, mint_token)
        connection.execute(TEARDOWN_SQL)


@asynccontextmanager
async def client(world: World, token: str | None = None, **options: Any) -> AsyncIterator[AsyncRealtimeClient]:
    found = AsyncRealtimeClient(f"{world.url}/realtime/v1", world.key, max_retries=1000, **options)
    if token:
        await found.set_auth(token)
    try:
        yield found
    finally:
        await found.close()
        await asyncio.sleep(0)


def private(**broadcast: Any) -> dict[str, Any]:
    return {"config": {"private": True, "broadcast": {"ack": False, "self": False, **broadcast}, "presence": None}}


class States(list[str]):
    """The states of a subscription, newest last."""

    def hear(self, state: Any, error: Exception | None) -> None:
        self.append(state.value + (f" {error}" if error else ""))


async def joined(channel: AsyncRealtimeChannel) -> States:
    states = States()
    await channel.subscribe(states.hear)
    return states


async def test_supabase_js(world):
    ids = {name: str(uuid.uuid4()) for name in ("ann", "bob", "eve")}
    told = {
        "ids": ids,
        "tokens": {name: world.mint(each) for name, each in ids.items()},
        "topic": world.topic(ids["ann"], ids["bob"]),
    }
    script = Path(__file__).with_name("realtime.mjs")
    process = await asyncio.create_subprocess_exec(node(), script, world.url, world.key, stdin=-1, stdout=-1, stderr=-1)
    out, error = await asyncio.wait_for(process.communicate(json.dumps(told).encode()), 50)
    assert process.returncode == 0, error.decode()
    assert json.loads(out) == {"ok": True}


@asynccontextmanager
async def node_client(world: World, **first: Any) -> AsyncIterator[tuple[Callable[..., None], list[Any]]]:
    """supabase-js joined to a private topic: (a function that says a line to it, the lines it says)."""
    script = Path(__file__).with_name("realtime_life.mjs")
    process = await asyncio.create_subprocess_exec(node(), script, world.url, world.key, stdin=-1, stdout=-1)
    lines: list[Any] = []

    def say(**told: Any) -> None:
        assert process.stdin
        process.stdin.write(json.dumps(told).encode() + b"\n")

    async def read() -> None:
        assert process.stdout
        async for line in process.stdout:
            lines.append(json.loads(line))

    reading = asyncio.create_task(read())
    say(**first)
    try:
        yield say, lines
    finally:
        assert process.stdin
        process.stdin.close()
        await asyncio.wait_for(process.wait(), WITHIN_S)
        await reading


class TestNode:
    async def test_replay_database_broadcasts_refresh_and_the_end_of_a_token(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        for n in range(3):
            world.send(topic, "old", {"n": n})
        config = {"broadcast": {"replay": {"since": int((time.time() - 60) * 1000), "limit": 2}}}
        first = world.mint(ann, exp=int(time.time()) + 3)
        async with node_client(world, token=first, topic=topic, config=config) as (say, lines):
            await until(lambda: len(lines) == 3)
            assert lines[0] == {"state": "SUBSCRIBED", "error": ""}
            assert [line["n"] for line in lines[1:] if line["replayed"]] == [1, 2]
            say(token=world.mint(ann, exp=int(time.time()) + 6))
            for n in range(20):
                world.send(topic, "new", {"n": n})
            await until(lambda: len(lines) == 23)
            assert [line["n"] for line in lines[3:]] == list(range(20))
            await asyncio.sleep(3)  # past the end of the first token
            world.send(topic, "new", {"n": 20})
            await until(lambda: len(lines) == 24)
            await until(lambda: {"state": "CLOSED", "error": ""} in lines)
            assert "Token has expired" in next(line["system"] for line in lines if line.get("status") == "error")

    async def test_a_removed_member_is_closed_at_the_next_token(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        async with node_client(world, token=world.mint(ann), topic=topic) as (say, lines):
            await until(lambda: bool(lines))
            world.forget(topic, ann)
            say(token=world.mint(ann, session="another"))
            await until(lambda: {"state": "CLOSED", "error": ""} in lines)
            text = f"You do not have permissions to read from this Channel topic: {topic}"
            assert {"system": text, "status": "error"} in lines


class TestBroadcast:
    async def test_public(self, world):
        heard: list[Any] = []
        async with client(world) as ann, client(world) as bob:
            sends = ann.channel("lobby")
            sends.on_broadcast("hi", lambda told: heard.append(("ann", told)))
            hears = bob.channel("lobby").on_broadcast("hi", lambda told: heard.append(("bob", told)))
            assert await joined(sends) == await joined(hears) == ["SUBSCRIBED"]
            await sends.send_broadcast("hi", {"text": "é😀", "n": 1.5})
            await until(lambda: len(heard) == 1)
            await hears.http_send("hi", {"over": "rest"})
            await until(lambda: len(heard) == 3)
        assert heard[0] == ("bob", {"event": "hi", "payload": {"text": "é😀", "n": 1.5}})
        assert {name for name, told in heard[1:] if told["payload"] == {"over": "rest"}} == {"ann", "bob"}

    async def test_private_for_members_only(self, world):
        ann, eve = str(uuid.uuid4()), str(uuid.uuid4())
        topic = world.topic(ann)
        async with client(world, world.mint(ann)) as ours, client(world, world.mint(eve)) as theirs:
            assert await joined(ours.channel(topic, private())) == ["SUBSCRIBED"]
            refused = await joined(theirs.channel(topic, private()))
            assert refused[0].startswith("CHANNEL_ERROR")
            assert f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}" in refused[0]
            with pytest.raises(RealtimeHTTPError, match="Unauthorized"):
                await theirs.channel(topic, private()).http_send("hi", {})

    async def test_a_reader_writes_nothing(self, world):
        ann, bob = str(uuid.uuid4()), str(uuid.uuid4())
        topic = world.topic(ann, readers=(bob,))
        heard: list[Any] = []
        async with client(world, world.mint(ann)) as one, client(world, world.mint(bob)) as other:
            writes, reads = one.channel(topic, private()), other.channel(topic, private())
            for channel in (writes, reads):
                channel.on_broadcast("*", heard.append)
                assert await joined(channel) == ["SUBSCRIBED"]
            await reads.send_broadcast("forged", {})
            await writes.send_broadcast("true", {})
            await until(lambda: len(heard) == 1)
        assert [told["event"] for told in heard] == ["true"]

    async def test_from_the_database_in_commit_order(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        heard: list[Any] = []
        async with client(world, world.mint(ann)) as ours:
            channel = ours.channel(topic, private())
            channel.on_broadcast("*", heard.append)
            assert await joined(channel) == ["SUBSCRIBED"]
            url = world.connection.info.dsn + f" password={world.connection.info.password}"
            with psycopg.connect(url) as late, psycopg.connect(url) as undone:
                send = "select realtime.send(jsonb_build_object('n', %s::int), 'n', %s)"
                late.execute(send, (100, topic))  # sent first, committed last
                undone.execute(send, (-1, topic))
                undone.rollback()
                for n in range(100):
                    world.connection.execute(send, (n, topic))
                late.execute(send, (101, topic))
            world.send(topic, "wrong world", {}, private=False)
            world.send(topic, "own id", {"id": "mine"})
            await until(lambda: len(heard) == 103)
        assert [told["payload"].get("n") for told in heard] == [*range(102), None]
        for told in heard[:102]:
            assert told["meta"]["id"] == told["payload"]["id"]
        assert heard[102]["payload"] == {"id": "mine"}
        assert uuid.UUID(heard[102]["meta"]["id"])

    async def test_replay(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        for n in range(30):
            world.send(topic, "n", {"n": n})
        since = int((time.time() - 60) * 1000)
        heard: list[Any] = []
        async with client(world, world.mint(ann)) as ours:
            channel = ours.channel(topic, private(replay={"since": since, "limit": 5}))
            channel.on_broadcast("n", heard.append)
            assert await joined(channel) == ["SUBSCRIBED"]
            world.send(topic, "n", {"n": 30})
            await until(lambda: bool(heard) and heard[-1]["payload"]["n"] == 30)
            await asyncio.sleep(0.1)
        numbers = [told["payload"]["n"] for told in heard]  # 30 comes once: live, or replayed when it was quick
        assert numbers in ([25, 26, 27, 28, 29, 30], [26, 27, 28, 29, 30])
        assert [told["meta"].get("replayed") for told in heard[:5]] == [True] * 5


class TestTokens:
    async def test_a_removed_member_hears_until_the_next_token(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        heard: list[Any] = []
        async with client(world, world.mint(ann)) as ours:
            channel = ours.channel(topic, private())
            channel.on_broadcast("*", heard.append)
            states = await joined(channel)
            await ours.set_auth(world.mint(ann, session="refreshed"))
            # What is sent on one socket is done in order: once this is joined, the token before it has been looked at.
            await joined(ours.channel(world.topic(ann), private()))
            world.forget(topic, ann)
            world.send(topic, "still", {})
            await until(lambda: len(heard) == 1)
            await ours.set_auth(world.mint(ann, session="refreshed again"))
            await until(lambda: states[-1] == "CLOSED")
            world.send(topic, "no more", {})
            await asyncio.sleep(0.2)
        assert len(heard) == 1

    async def test_expiry_closes_the_channel(self, world):
        ann = str(uuid.uuid4())
        async with client(world, world.mint(ann, exp=int(time.time()) + 2)) as ours:
            states = await joined(ours.channel(world.topic(ann), private()))
            assert states == ["SUBSCRIBED"]
            await until(lambda: states[-1] == "CLOSED")
            assert "Token has expired" in " ".join(states)

    async def test_a_refresh_in_time_keeps_it_open(self, world):
        ann = str(uuid.uuid4())
        async with client(world, world.mint(ann, exp=int(time.time()) + 2)) as ours:
            states = await joined(ours.channel(world.topic(ann), private()))
            await ours.set_auth(world.mint(ann))
            await asyncio.sleep(2.5)
            assert states == ["SUBSCRIBED"]


class TestPresence:
    async def test_two_tabs_under_one_key(self, world):
        ann, bob = str(uuid.uuid4()), str(uuid.uuid4())
        topic = world.topic(ann, bob)
        at_bob = {"config": {"private": True, "presence": {"key": bob, "enabled": False}}}
        async with (
            client(world, world.mint(ann)) as sees,
            client(world, world.mint(bob)) as one,
            client(world, world.mint(bob)) as other,
        ):
            watcher = sees.channel(topic, {"config": {"private": True, "presence": {"key": ann, "enabled": True}}})
            watcher.on_presence_sync(lambda: None)
            await joined(watcher)
            tabs = [each.channel(topic, json.loads(json.dumps(at_bob))) for each in (one, other)]
            for number, tab in enumerate(tabs):
                assert await joined(tab) == ["SUBSCRIBED"]
                await tab.track({"tab": number})

            def seen() -> list[int]:
                return sorted(each["tab"] for each in watcher.presence_state().get(bob, []))

            await until(lambda: seen() == [0, 1])
            await tabs[0].untrack()
            await until(lambda: seen() == [1])
            await other.close()
            await until(lambda: bob not in watcher.presence_state())


# The Python client itself reads these; as an error the warning would end its reading task.
@pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")
class TestRestarts:
    async def test_clients_come_back_after_kill_9_of_realtime(self, world, realtime_stack):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        heard: list[Any] = []
        async with client(world, world.mint(ann), initial_backoff=0.05) as ours:
            channel = ours.channel(topic, private())
            channel.on_broadcast("*", heard.append)
            states = await joined(channel)
            os.kill(realtime_stack.realtime.pid, signal.SIGKILL)
            await until(lambda: states[-1].startswith("CHANNEL_ERROR"))
            realtime_stack.realtime.stop()
            realtime_stack.realtime.start()  # what the supervisor does
            await until(lambda: states[-1] == "SUBSCRIBED")
            await until(lambda: world.connection.execute(SLOTS).fetchone() is not None)
            world.send(topic, "after", {})
            await until(lambda: len(heard) == 1)

    async def test_supabase_js_comes_back_too(self, world, realtime_stack):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        config = {"broadcast": {"replication_ready": True}}
        ready = {"system": "Replication connection established", "status": "ok"}
        async with node_client(world, token=world.mint(ann), topic=topic, config=config) as (_, lines):
            await until(lambda: lines.count(ready) == 1)
            realtime_stack.realtime.stop()
            await until(lambda: any(line.get("state") == "CHANNEL_ERROR" for line in lines))
            for headers in ({}, {"Connection": "Upgrade", "Upgrade": "websocket"}):
                answer = await asyncio.to_thread(httpx.get, f"{world.url}/realtime/v1/websocket", headers=headers)
                assert (answer.status_code, answer.json()) == (503, {"error": "Realtime is not running"})
            realtime_stack.realtime.start()
            await until(lambda: lines.count(ready) == 2)
            world.send(topic, "after", {"n": 1})
            await until(lambda: lines[-1] == {"event": "after", "n": 1, "replayed": False})
            assert [line["state"] for line in lines if "state" in line][-1] == "SUBSCRIBED"

    async def test_a_lost_database_connection_costs_no_channel(self, world, realtime_stack):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        heard: list[Any] = []
        async with client(world, world.mint(ann)) as ours:
            channel = ours.channel(topic, private())
            channel.on_broadcast("*", heard.append)
            states = await joined(channel)
            before = world.connection.execute(SLOTS).fetchall()
            with realtime_stack.attached.cluster.connect(realtime_stack.database) as superuser:
                ended = superuser.execute(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    " where application_name = 'realtime' and datname = current_database()"
                ).fetchone()
            assert ended
            assert ended[0] >= 2

            def are_all_new() -> bool:
                now = world.connection.execute(SLOTS).fetchall()
                return len(now) == len(before) and not set(now) & set(before)

            # Broadcasts and changes have a slot each, and the one comes back before the other.
            await until(are_all_new)
            world.send(topic, "after", {})
            await until(lambda: len(heard) == 1)
            assert states == ["SUBSCRIBED"]
            assert await joined(ours.channel(world.topic(ann), private())) == ["SUBSCRIBED"]
