"""`make bench-realtime`: how long a committed broadcast takes to its subscriber, beside raw LISTEN/NOTIFY.

A throw-away cluster with the migrations, the data API as the one origin, and Realtime behind it. PEOPLE unmodified
Python clients join their own private `user:<uuid>`; RATE_PER_S times a second a transaction sends to a random pair, and
between two of those another one notifies a raw listener of the same Postgres. The clock starts when COMMIT is sent, so
both include the commit. Then, separately, one transaction sends to all members of a group of GROUP.

Last, end to end with our service in front: the clock starts before `POST /api/messages/send` and stops when the other
person's client has the message, for random pairs at the same rate and for one group. Those clients, the senders and the
clock share one process, so what it costs is in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import psycopg
from realtime import AsyncRealtimeClient

from bench.report import cpu_s, finish, summary
from stack import dataapi
from stack.console import say, step
from stack.processes import free_port
from stack.scratch import TEMPLATE, Scratch

PEOPLE = 200
RATE_PER_S = 20
SECONDS = 30
GROUP = 64
GROUP_ROUNDS = 30
JOINING_AT_ONCE = 20
LATE_S = 5.0  # how long the last broadcasts may still take before they count as lost
P50_MS, P99_MS = 10.0, 100.0
BODY = "Is it still free on Saturday? " * 10  # the size of an event that carries its message


class Bench:
    """The subscribers, the sender and what they measured."""

    def __init__(self, scratch: Scratch, url: str, people: int) -> None:
        self.scratch, self.url = scratch, url
        self.ids = [str(uuid.uuid4()) for _ in range(people)]
        self.sent_at: dict[str, float] = {}
        self.answered_ms: list[float] = []
        self.heard_at: dict[tuple[str, str], float] = {}
        self.heard = asyncio.Event()
        self.twice = 0

    def token(self, person: str) -> str:
        claims = {
            "iss": f"{self.url}/auth/v1",
            "sub": person,
            "role": "authenticated",
            "aud": "authenticated",
            "exp": int(time.time()) + 3600,
        }
        return self.scratch.keys.sign(claims)

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[list[float]]:
        """Everybody on their own topic; yields how long each join took, in milliseconds."""
        clients = []
        gate = asyncio.Semaphore(JOINING_AT_ONCE)

        async def join(person: str) -> float:
            async with gate:
                began = time.perf_counter()
                client = AsyncRealtimeClient(f"{self.url}/realtime/v1", self.scratch.keys.publishable_key)
                clients.append(client)
                await client.set_auth(self.token(person))
                channel = client.channel(
                    f"user:{person}",
                    {"config": {"private": True, "broadcast": {"replication_ready": True}, "presence": None}},
                )
                channel.on_broadcast("probe", lambda told: self.hear(person, told["payload"]["n"]))
                channel.on_broadcast("message.created", lambda told: self.read(person, told["payload"]["message"]))
                states: list[str] = []
                await channel.subscribe(lambda state, error: states.append(f"{state.value} {error or ''}"))
                if states != ["SUBSCRIBED "]:
                    raise SystemExit(f"bench: {person} could not join: {states}")
                return (time.perf_counter() - began) * 1000

        try:
            yield list(await asyncio.gather(*map(join, self.ids)))
        finally:
            for client in clients:
                await client.close()

    def read(self, person: str, message: dict[str, Any]) -> None:
        """A message on somebody's screen; one's own is no news."""
        if message["fromUserId"] != person:
            self.hear(person, message["body"].partition(" ")[0])

    def hear(self, person: str, number: str) -> None:
        key = (number, person)
        self.twice += key in self.heard_at
        self.heard_at[key] = time.perf_counter()
        self.heard.set()

    async def send(self, connection: psycopg.AsyncConnection[Any], number: str, people: list[str]) -> None:
        """One transaction that broadcasts to these people's topics."""
        payload = json.dumps({"n": number, "type": "message.created", "message": {"body": BODY}})
        for person in people:
            await connection.execute("select realtime.send(%s, 'probe', %s)", (payload, f"user:{person}"))
        self.sent_at[number] = time.perf_counter()
        await connection.commit()

    def latencies_ms(self, kind: str) -> list[float]:
        return [
            (heard - self.sent_at[number]) * 1000
            for (number, _), heard in self.heard_at.items()
            if number.startswith(kind)
        ]

    async def pairs(self, sender: psycopg.AsyncConnection[Any], seconds: float) -> tuple[int, list[float]]:
        """Broadcasts to random pairs, and notifications in between: (deliveries owed, latencies of NOTIFY in ms)."""
        notified_ms: list[float] = []
        began_at: dict[str, float] = {}
        url = self.scratch.cluster.url(TEMPLATE)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listener:
            await listener.execute("listen bench")

            async def listen() -> None:
                async for notice in listener.notifies():
                    notified_ms.append((time.perf_counter() - began_at[notice.payload.partition(" ")[0]]) * 1000)

            listening = asyncio.create_task(listen())
            count, start = int(seconds * RATE_PER_S), time.perf_counter()
            for number in range(count):
                await asyncio.sleep(max(0.0, start + number / RATE_PER_S - time.perf_counter()))
                await self.send(sender, f"pair-{number}", random.sample(self.ids, 2))
                await asyncio.sleep(max(0.0, start + (number + 0.5) / RATE_PER_S - time.perf_counter()))
                await sender.execute("select pg_notify('bench', %s)", (f"{number} {BODY}",))
                began_at[str(number)] = time.perf_counter()
                await sender.commit()
            await self.settled("pair", 2 * count)
            listening.cancel()
        return 2 * count, notified_ms

    async def group(self, sender: psycopg.AsyncConnection[Any]) -> tuple[int, list[float]]:
        """One send to a group, again and again: (deliveries owed, time to the last member in ms)."""
        members, last_ms = self.ids[:GROUP], []
        for number in range(GROUP_ROUNDS):
            name = f"group-{number}"
            await self.send(sender, name, members)
            await self.settled(name, len(members))
            heard = [at for (each, _), at in self.heard_at.items() if each == name]
            last_ms.append((max(heard, default=float("inf")) - self.sent_at[name]) * 1000)
        return GROUP_ROUNDS * len(members), last_ms

    async def settled(self, kind: str, owed: int) -> None:
        """Wait until all of a kind was heard, or until it is too late for that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                while sum(number.startswith(kind) for number, _ in self.heard_at) < owed:
                    self.heard.clear()
                    await self.heard.wait()

    async def say(self, client: httpx.AsyncClient, number: str, person: str, **to: str) -> dict[str, Any]:
        """One message through our API; the clock starts before the request."""
        self.sent_at[number] = time.perf_counter()
        answer = await client.post(
            "/api/messages/send",
            headers={"Authorization": f"Bearer {self.token(person)}"},
            json={"body": f"{number} {BODY}", "clientMessageId": str(uuid.uuid4()), **to},
        )
        self.answered_ms.append((time.perf_counter() - self.sent_at[number]) * 1000)
        answer.raise_for_status()
        sent: dict[str, Any] = answer.json()
        return sent

    async def screens(self, client: httpx.AsyncClient, seconds: float) -> int:
        """Messages of random people to random people, however long each takes: deliveries owed."""
        count, start = int(seconds * RATE_PER_S), time.perf_counter()
        async with asyncio.TaskGroup() as sends:
            for number in range(count):
                await asyncio.sleep(max(0.0, start + number / RATE_PER_S - time.perf_counter()))
                one, other = random.sample(self.ids, 2)
                sends.create_task(self.say(client, f"screen-{number}", one, toUserId=other))
        await self.settled("screen", count)
        return count

    async def group_screens(self, client: httpx.AsyncClient) -> tuple[int, list[float]]:
        """Messages to a group, one after the other: (deliveries owed, time to the last member's screen in ms)."""
        owner, *members = self.ids[:GROUP]
        answer = await client.post(
            "/api/messages/conversations/group",
            headers={"Authorization": f"Bearer {self.token(owner)}"},
            json={"title": "Everybody", "memberIds": members},
        )
        answer.raise_for_status()
        there, last_ms = answer.json()["conversation"]["id"], []
        for number in range(GROUP_ROUNDS):
            name = f"crowd-{number}"
            await self.say(client, name, owner, conversationId=there)
            await self.settled(f"{name}", len(members))
            last_ms.append(max(self.latencies_ms(name), default=float("inf")))
        return GROUP_ROUNDS * len(members), last_ms


def sign_up(database: psycopg.Connection[Any], people: list[str]) -> None:
    """Accounts for everybody; the sign-up trigger makes the profiles. Limits of first contacts off."""
    database.execute(
        "insert into auth.users (id, aud, role, email)"
        " select u.id, 'authenticated', 'authenticated', u.id || '@example.com' from unnest(%s::uuid[]) as u (id)",
        (people,),
    )
    database.execute("update private.settings set new_conversation_count_max = 500, first_contact_count_max = 500")


async def measure(bench: Bench, service_url: str, realtime_pid: int, seconds: float) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        with step(f"{len(bench.ids)} people join their own topics"):
            joins_ms = await stack.enter_async_context(bench.subscribed())
        sender = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(bench.scratch.cluster.url(TEMPLATE))
        )
        for round_ in range(10):
            await bench.send(sender, f"warm-{round_}", bench.ids[:2])
        await bench.settled("warm", 20)
        began, used_s = time.perf_counter(), cpu_s(realtime_pid)
        with step(f"{RATE_PER_S} broadcasts/s to random pairs for {seconds:.0f} s"):
            owed, notified_ms = await bench.pairs(sender, seconds)
        busy = (cpu_s(realtime_pid) - used_s) / (time.perf_counter() - began)
        with step(f"{GROUP_ROUNDS} broadcasts to a group of {GROUP}"):
            group_owed, last_ms = await bench.group(sender)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=service_url, timeout=30))
        for round_ in range(10):
            await bench.say(client, f"warm-say-{round_}", bench.ids[0], toUserId=bench.ids[1])
        await bench.settled("warm-say", 10)
        bench.answered_ms.clear()
        with step(f"{RATE_PER_S} sends/s through our API to random people for {seconds:.0f} s"):
            screen_owed = await bench.screens(client, seconds)
        answered_ms = list(bench.answered_ms)
        with step(f"{GROUP_ROUNDS} sends through our API to a group of {GROUP}"):
            crowd_owed, crowd_last_ms = await bench.group_screens(client)
    pair_ms, group_ms, screen_ms, crowd_ms = map(bench.latencies_ms, ("pair", "group", "screen", "crowd"))
    owed += group_owed + screen_owed + crowd_owed
    delivered = len(pair_ms) + len(group_ms) + len(screen_ms) + len(crowd_ms)
    broadcast = summary(pair_ms)
    return {
        "bench": "realtime",
        "people": len(bench.ids),
        "broadcasts_per_s": RATE_PER_S,
        "commit_to_subscriber_ms": broadcast,
        "notify_ms": summary(notified_ms),
        "join_ms": summary(joins_ms),
        "group": GROUP,
        "group_commit_to_subscriber_ms": summary(group_ms),
        "group_commit_to_last_ms": summary(last_ms),
        "send_to_answer_ms": summary(answered_ms),
        "send_to_screen_ms": summary(screen_ms),
        "group_send_to_screen_ms": summary(crowd_ms),
        "group_send_to_last_ms": summary(crowd_last_ms),
        "delivered": delivered,
        "lost": owed - delivered,
        "twice": bench.twice,
        "realtime_cpu_share": round(busy, 3),
        "within_budget": broadcast["p50"] <= P50_MS and broadcast["p99"] <= P99_MS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    chosen = parser.parse_args()
    with step("Starting a throw-away stack"):
        scratch = Scratch().__enter__()
    port, realtime_port, service_port = free_port(), free_port(), free_port()
    url, service_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{service_port}"
    keys, logs = scratch.keys, scratch.directory / "log"
    api = dataapi.data_api(
        scratch.cluster, TEMPLATE, scratch.project, keys, port, logs / "api.log", scratch.ledger, realtime_port
    )
    realtime = dataapi.realtime(scratch.cluster, TEMPLATE, keys, realtime_port, logs / "realtime.log", scratch.ledger)
    told = dataapi.client_environment(url, service_url, scratch.cluster.url(TEMPLATE), keys)
    service = dataapi.service(told, service_port, logs / "service.log", scratch.ledger)
    processes = (realtime, api, service)
    try:
        for process in processes:
            process.start()
        api.wait_until(lambda: dataapi.answers(f"{url}/realtime/v1/health"), dataapi.READY_S)
        service.wait_until(lambda: dataapi.answers(f"{service_url}/health/ready"), dataapi.READY_S)
        bench = Bench(scratch, url, chosen.people)
        with psycopg.connect(scratch.cluster.url(TEMPLATE), autocommit=True) as database:
            sign_up(database, bench.ids)
        found = asyncio.run(measure(bench, service_url, realtime.pid or 0, chosen.seconds))
    finally:
        for process in reversed(processes):
            process.stop()
        scratch.close()
    for name in found:
        if name.endswith("_ms"):
            say(f"{name:<32} " + "  ".join(f"{key} {value:>7.2f}" for key, value in found[name].items()))
    say(f"lost {found['lost']} of {found['delivered'] + found['lost']}")
    finish(found)
    sys.exit(1 if found["lost"] or found["twice"] else 0)


if __name__ == "__main__":
    main()
