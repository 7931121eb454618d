"""A crowd of people on the whole stack, for measurements under load: what they ask, when, and what became of it.

An open model: requests fall due by a Poisson schedule whatever has been answered, and the latency of each counts from
the moment it was due, so a service that stalls cannot make the crowd wait with asking. The generator is one asyncio
protocol per kept connection and looks at no more of an answer than it needs, because it shares the machine.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bench.realtime import sign_up
from bench.report import cpu_s, memory_bytes, summary
from stack import dataapi
from stack.console import step
from stack.processes import Process, free_port
from stack.scratch import TEMPLATE, Scratch

# What people do, in parts of a hundred: a screen reads more than it writes.
MIX = {"send": 30, "inbox": 20, "history": 20, "read": 15, "sync": 15}
# Everybody starts a conversation with the people so many places further on.
PARTNERS = (1, 7)
GROUP = 20
GROUP_SHARE = 0.05
CONNECTIONS_MAX = 1500
SETTING_UP_AT_ONCE = 8
TRIES = 30
# Somebody who waits longer has gone elsewhere.
DEADLINE_MS = 2000.0
# The service hangs up after 5 s without a request.
IDLE_S = 3.0
# Nothing of ours takes longer: the service gives up after 10 s.
UNANSWERED_S = 15.0
SWEEP_S = 0.25
BEHIND_S = 0.005
HEALTH_EVERY_S = 0.2
WORDS = ("about", "again", "bring", "could", "early", "front", "given", "happy", "later", "might", "never", "often")


class Outcome(NamedTuple):
    """What became of one request. Status 0: the connection was lost; -1: no answer came."""

    kind: str
    due: float
    latency_ms: float
    status: int
    told_when: bool

    @property
    def served(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Turned away as it should be: told when to come back."""
        return self.status in (429, 503) and self.told_when


@dataclass(eq=False)
class Person:
    """Somebody who is signed in, and what their screen knows."""

    id: str
    head: bytes
    rooms: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    newest: bytes | None = None
    cursor: bytes | None = None


@dataclass(eq=False, slots=True)
class Asked:
    """One request that is waiting for its answer."""

    kind: str
    due: float
    raw: bytes
    person: Person | None = None
    key: str = ""
    room: str = ""
    answer: asyncio.Future[bytes] | None = None


class Connection(asyncio.Protocol):
    """One kept connection, one request at a time."""

    def __init__(self, crowd: Crowd, asked: Asked) -> None:
        self.crowd = crowd
        self.asked: Asked | None = asked
        self.buffer = b""
        self.ready = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.ready = True
        if self.asked is not None:
            self.ask(self.asked)

    def ask(self, asked: Asked) -> None:
        self.asked = asked
        self.transport.write(asked.raw)

    def data_received(self, data: bytes) -> None:
        self.buffer = data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0 or self.asked is None:
            return
        at = data.find(b"\r\ncontent-length: ", 0, end)
        size = int(data[at + 18 : data.find(b"\r", at + 18)]) if at >= 0 else 0
        if len(data) < end + 4 + size:
            return
        self.buffer = b""
        asked, self.asked = self.asked, None
        self.crowd.answered(asked, int(data[9:12]), data, end + 4)
        self.crowd.released(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.ready = False
        asked, self.asked = self.asked, None
        self.crowd.gone(self, asked)


class Crowd:
    """The people, their connections, and everything that was asked."""

    def __init__(self, port: int, people: list[Person]) -> None:
        self.port, self.people = port, people
        self.members: dict[str, list[Person]] = {}
        self.outcomes: list[Outcome] = []
        # clientMessageId to the author, of every send and of those that were answered with success.
        self.sent: dict[str, str] = {}
        self.acknowledged: dict[str, str] = {}
        self.connections: set[Connection] = set()
        self.connections_most = 0
        self.connecting: set[asyncio.Future[None]] = set()
        self.behind_ms = 0.0
        self.free: list[Connection] = []
        self.waiting: deque[Asked] = deque()
        self.under_way = 0
        self.dice = random.Random(6)  # noqa: S311

    # ----- connections -----

    def start(self, asked: Asked) -> None:
        """Send a request now: on a free connection, a new one, or the next that gets free."""
        self.under_way += 1
        now = time.perf_counter()
        while self.free:
            connection = self.free.pop()
            if connection.ready and now - connection.idle_since < IDLE_S:
                connection.ask(asked)
                return
            if connection.ready:
                connection.transport.close()
        if len(self.connections) < CONNECTIONS_MAX:
            connection = Connection(self, asked)
            self.connections.add(connection)
            self.connections_most = max(self.connections_most, len(self.connections))
            task = asyncio.ensure_future(self._connect(connection))
            self.connecting.add(task)
            task.add_done_callback(self.connecting.discard)
        else:
            self.waiting.append(asked)

    async def _connect(self, connection: Connection) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", self.port)
        except OSError:
            asked, connection.asked = connection.asked, None
            self.gone(connection, asked)

    def released(self, connection: Connection) -> None:
        if not connection.ready or connection.transport.is_closing():
            return
        if self.waiting:
            connection.ask(self.waiting.popleft())
        else:
            connection.idle_since = time.perf_counter()
            self.free.append(connection)

    def gone(self, connection: Connection, asked: Asked | None) -> None:
        self.connections.discard(connection)
        if asked is not None:
            self.note(asked, 0, False)

    def sweep(self) -> None:
        """Give up on what was never answered."""
        late = time.perf_counter() - UNANSWERED_S
        for connection in [*self.connections]:
            asked = connection.asked
            if asked is not None and asked.due < late:
                connection.asked = None
                self.note(asked, -1, False)
                if connection.ready:
                    connection.transport.abort()

    # ----- answers -----

    def note(self, asked: Asked, status: int, told_when: bool) -> None:
        self.under_way -= 1
        latency_ms = (time.perf_counter() - asked.due) * 1000
        self.outcomes.append(Outcome(asked.kind, asked.due, latency_ms, status, told_when))
        if asked.answer is not None and not asked.answer.done():
            asked.answer.set_result(b"")

    def answered(self, asked: Asked, status: int, answer: bytes, body: int) -> None:
        """Take from an answer what later requests need."""
        served = 200 <= status < 300
        if served and asked.answer is not None and not asked.answer.done():
            asked.answer.set_result(answer[body:])
        self.note(asked, status, status in (429, 503) and b"\r\nretry-after: " in answer[:body])
        if not served or asked.person is None:
            return
        if asked.kind == "send":
            self.acknowledged[asked.key] = asked.person.id
            if asked.room:
                # {"message":{"id":"<36>": it is on the screen of one of the others now, who will say so.
                reader = self.dice.choice(self.members[asked.room])
                if reader is not asked.person:
                    reader.newest = answer[body + 18 : body + 54]
        elif asked.kind == "sync":
            at = answer.rfind(b'"cursor":"') + 10
            asked.person.cursor = answer[at : answer.index(b'"', at)]

    # ----- requests -----

    def request(
        self, kind: str, person: Person, due: float, method: str, path: str, body: bytes | None = None, **more: Any
    ) -> Asked:
        head = b"%b /api/messages/%b HTTP/1.1\r\n%b" % (method.encode(), path.encode(), person.head)
        if body is None:
            return Asked(kind, due, head + b"\r\n", person, **more)
        told = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return Asked(kind, due, head + told + body, person, **more)

    def send(self, person: Person, due: float, to: str, name: str = "conversationId") -> Asked:
        key = str(uuid.UUID(int=self.dice.getrandbits(128), version=4))
        self.sent[key] = person.id
        text = " ".join(self.dice.choices(WORDS, k=10))
        body = f'{{"{name}": "{to}", "body": "{text}", "clientMessageId": "{key}"}}'.encode()
        room = to if name == "conversationId" else ""
        return self.request("send", person, due, "POST", "send", body, key=key, room=room)

    def anything(self, due: float) -> Asked:
        """What one of them does next, by the mix."""
        dice = self.dice
        person = dice.choice(self.people)
        kind = dice.choices(*_KINDS)[0]
        if kind == "send":
            of = person.groups if person.groups and dice.random() < GROUP_SHARE else person.rooms
            return self.send(person, due, dice.choice(of))
        if kind == "inbox":
            return self.request(kind, person, due, "GET", "conversations?limit=20")
        if kind == "read" and person.newest is not None:
            return self.request(kind, person, due, "PATCH", f"{person.newest.decode()}/read")
        if kind == "sync":
            body = b"{}" if person.cursor is None else b'{"cursor": "%b"}' % person.cursor
            return self.request(kind, person, due, "POST", "sync", body)
        path = f"conversations/{dice.choice(person.rooms)}/messages?limit=30"
        return self.request("history", person, due, "GET", path)

    async def offer(self, *stretches: tuple[float, float]) -> list[Phase]:
        """Let requests fall due at these rates for so many seconds each, without a pause in between.

        Ends when each has an answer, or none is to come.
        """
        first = len(self.outcomes)
        phases: list[Phase] = []
        began = due = time.perf_counter()
        for rate_per_s, seconds in stretches:
            phase = Phase(rate_per_s, seconds, began)
            phases.append(phase)
            used_s = time.process_time()
            while (due := due + self.dice.expovariate(rate_per_s)) < began + seconds:
                wait_s = due - time.perf_counter()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                elif wait_s < -BEHIND_S:
                    # What has been answered comes first, or a generator that is late would make the answers late too.
                    phase.behind_ms = max(phase.behind_ms, -wait_s * 1000)
                    await asyncio.sleep(0)
                self.start(self.anything(due))
            began = due = began + seconds
            phase.generator_share = (time.process_time() - used_s) / seconds
        await self.settle()
        for each in self.outcomes[first:]:
            place = next((p for p in phases if p.began <= each.due < p.began + p.seconds), None)
            if place is not None:
                (place.health if each.kind == "health" else place.outcomes).append(each)
        return phases

    async def ask_for_health(self) -> None:
        """What balancers and browsers ask beside all that, until cancelled."""
        host = f"host: 127.0.0.1:{self.port}\r\n".encode()
        live = b"GET /health/live HTTP/1.1\r\n%b\r\n" % host
        asks = b"origin: http://localhost:3000\r\naccess-control-request-method: POST\r\n"
        preflight = b"OPTIONS /api/messages/send HTTP/1.1\r\n%b%b\r\n" % (host, asks)
        while True:
            for raw in (live, preflight):
                self.start(Asked("health", time.perf_counter(), raw))
            self.sweep()
            await asyncio.sleep(HEALTH_EVERY_S)

    async def settle(self) -> None:
        while self.under_way:
            self.sweep()
            await asyncio.sleep(SWEEP_S)

    async def closed_loop(self, people_at_once: int, seconds: float) -> float:
        """So many who each wait for their answer: successes a second, to begin a search with."""
        began = time.perf_counter()
        first = len(self.outcomes)

        async def one() -> None:
            while time.perf_counter() < began + seconds:
                await self.ask(self.anything(time.perf_counter()))

        await asyncio.gather(*(one() for _ in range(people_at_once)))
        return sum(each.served for each in self.outcomes[first:]) / (time.perf_counter() - began)

    async def ask(self, asked: Asked) -> bytes:
        """One request and its body; empty when it was not served."""
        asked.answer = asyncio.get_running_loop().create_future()
        self.start(asked)
        return await asked.answer

    async def insist(self, make: Callable[[], Asked]) -> Any:
        """The answer to one request, which is made again when it is turned away."""
        for _ in range(TRIES):
            if body := await self.ask(make()):
                return json.loads(body)
            await asyncio.sleep(1.0)  # what Retry-After says
        raise SystemExit("bench: the stack does not answer")

    async def set_up(self) -> None:
        """Make the conversations: two with others and, for some, a group."""
        gate = asyncio.Semaphore(SETTING_UP_AT_ONCE)

        async def meet(person: Person, other: Person) -> None:
            async with gate:
                made = await self.insist(lambda: self.send(person, time.perf_counter(), other.id, "toUserId"))
            room = made["conversation"]["id"]
            for each in (person, other):
                each.rooms.append(room)
            self.members[room] = [person, other]

        async def gather_group(members: list[Person]) -> None:
            async with gate:
                told = json.dumps({"title": "Crew", "memberIds": [each.id for each in members[1:]]}).encode()
                path = "conversations/group"
                made = await self.insist(
                    lambda: self.request("group", members[0], time.perf_counter(), "POST", path, told)
                )
            room = made["conversation"]["id"]
            for each in members:
                each.groups.append(room)
            self.members[room] = members

        count = len(self.people)
        await asyncio.gather(
            *(
                meet(person, self.people[(number + step) % count])
                for number, person in enumerate(self.people)
                for step in PARTNERS
            )
        )
        await asyncio.gather(*(gather_group(self.people[at : at + GROUP]) for at in range(0, count // 2, GROUP)))
        self.outcomes.clear()


_KINDS = (tuple(MIX), tuple(MIX.values()))


@dataclass
class Phase:
    """A stretch of time with one rate, and what became of what fell due in it."""

    rate_per_s: float
    seconds: float
    began: float
    outcomes: list[Outcome] = field(default_factory=list)
    health: list[Outcome] = field(default_factory=list)
    behind_ms: float = 0.0
    generator_share: float = 0.0

    def goodput(self) -> float:
        """Served within the deadline, a second."""
        return sum(each.served and each.latency_ms <= DEADLINE_MS for each in self.outcomes) / self.seconds

    def served_ms(self) -> dict[str, float]:
        return _summary([each.latency_ms for each in self.outcomes if each.served])

    def refused_ms(self) -> dict[str, float]:
        return _summary([each.latency_ms for each in self.outcomes if each.refused])

    def share(self, kind: str | None = None) -> float:
        """How much of what was asked was served."""
        of = [each.served for each in self.outcomes if kind in (None, each.kind)]
        return sum(of) / max(1, len(of))

    def amiss(self) -> dict[str, int]:
        """What was neither served nor refused as it should be, by status; and what was never answered."""
        counts: dict[str, int] = {}
        for each in [*self.outcomes, *self.health]:
            if not each.served and (not each.refused or each.kind == "health"):
                name = {0: "lost connection", -1: "unanswered"}.get(each.status, str(each.status))
                counts[name] = counts.get(name, 0) + 1
        return counts

    def windows(self, of_s: float) -> list[tuple[float, bool]]:
        """p99 of what was served, and whether anything was not, in stretches of `of_s`."""
        found = []
        for number in range(int(self.seconds / of_s)):
            begins = self.began + number * of_s
            there = [each for each in self.outcomes if begins <= each.due < begins + of_s]
            p99 = _summary([each.latency_ms for each in there if each.served])["p99"]
            found.append((p99, any(not each.served for each in there)))
        return found


def _summary(samples_ms: list[float]) -> dict[str, float]:
    return summary(samples_ms) if len(samples_ms) > 1 else {"p50": 0.0, "p99": 0.0, "max": 0.0}


class Watch:
    """What a process holds, looked at now and then while the block runs: memory and open file descriptors."""

    def __init__(self, pid: int, every_s: float) -> None:
        self.pid, self.every_s = pid, every_s
        self.samples: list[tuple[float, int, int]] = []

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _look(self) -> None:
        while True:
            self.samples.append((time.perf_counter(), memory_bytes(self.pid), descriptors(self.pid)))
            await asyncio.sleep(self.every_s)


def descriptors(pid: int) -> int:
    """Open file descriptors of a process; 0 where /proc does not say."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


class World:
    """A throw-away stack with our service, and who works in it."""

    def __init__(self, scratch: Scratch, port: int, url: str, processes: dict[str, Process]) -> None:
        self.scratch, self.port, self.url, self.processes = scratch, port, url, processes

    def pid(self, name: str) -> int:
        return self.processes[name].pid or 0

    def database(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.scratch.cluster.url(TEMPLATE), autocommit=True)

    def crowd(self, count: int) -> Crowd:
        """So many people with accounts and tokens."""
        people = []
        for _ in range(count):
            name = str(uuid.uuid4())
            claims = {
                "iss": f"{self.url}/auth/v1",
                "sub": name,
                "role": "authenticated",
                "aud": "authenticated",
                "exp": int(time.time()) + 3 * 3600,
            }
            head = f"host: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.scratch.keys.sign(claims)}\r\n"
            people.append(Person(name, head.encode()))
        with self.database() as database:
            sign_up(database, [person.id for person in people])
        return Crowd(self.port, people)

    def used_s(self) -> dict[str, float]:
        """Processor time so far, by part of the stack."""
        postmaster = self.scratch.cluster.process
        pids = _descendants(postmaster.pid or 0) if postmaster is not None else []
        return {
            "service": cpu_s(self.pid("service")),
            "data API": cpu_s(self.pid("data API")),
            # A backend that has ended is no longer counted; those of the pool stay.
            "Postgres": sum(map(cpu_s, pids)),
        }

    def check(self, crowd: Crowd) -> dict[str, int]:
        """Hold the database against what the crowd was told: acknowledged sends that are lost, and any that doubled."""
        with self.database() as database:
            database.execute("create temporary table told (author uuid, key uuid, acknowledged boolean)")
            with database.cursor().copy("copy told from stdin") as copy:
                for key, author in crowd.sent.items():
                    copy.write_row((author, key, key in crowd.acknowledged))
            row = database.execute(
                "with found as ("
                " select t.acknowledged, count(m.id) as times from told as t"
                " left join public.messages as m on m.from_user_id = t.author and m.client_message_id = t.key"
                " group by t.author, t.key, t.acknowledged)"
                " select count(*) filter (where acknowledged), count(*) filter (where acknowledged and times = 0),"
                " count(*) filter (where times > 1), count(*) filter (where not acknowledged and times = 1),"
                " (select count(*) from (select from public.messages as m group by m.conversation_id"
                " having max(m.seq) <> count(*) or min(m.seq) <> 1) as broken)"
                " from found"
            ).fetchone()
            database.execute("drop table told")
        names = ("acknowledged", "lost", "doubled", "done_without_answer", "numbering_broken")
        return dict(zip(names, row or (), strict=True))


def _descendants(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


@contextmanager
def world() -> Iterator[World]:
    """Postgres, data API, Realtime and our service with their defaults, until the block ends."""
    with step("Starting a throw-away stack"):
        scratch = Scratch().__enter__()
    port, realtime_port, service_port = free_port(), free_port(), free_port()
    url, service_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{service_port}"
    keys, logs, ledger, cluster = scratch.keys, scratch.directory / "log", scratch.ledger, scratch.cluster
    told = dataapi.client_environment(url, service_url, cluster.url(TEMPLATE), keys)
    processes = {
        "Realtime": dataapi.realtime(cluster, TEMPLATE, keys, realtime_port, logs / "realtime.log", ledger),
        "data API": dataapi.data_api(
            cluster, TEMPLATE, scratch.project, keys, port, logs / "api.log", ledger, realtime_port
        ),
        "service": dataapi.service(told, service_port, logs / "service.log", ledger),
    }
    try:
        for process in processes.values():
            process.start()
        processes["data API"].wait_until(lambda: dataapi.answers(f"{url}/realtime/v1/health"), dataapi.READY_S)
        processes["service"].wait_until(lambda: dataapi.answers(f"{service_url}/health/ready"), dataapi.READY_S)
        yield World(scratch, service_port, url, processes)
    finally:
        for process in reversed(processes.values()):
            process.stop()
        scratch.close()


def settle_memory() -> None:
    """What has been made so far stays: the collector need not look at it again and again while time is measured."""
    gc.collect()
    gc.freeze()
