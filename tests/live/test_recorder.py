"""A recorder that misses nothing: parts are killed and started again at random while people write and it listens."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psycopg
import pytest

from stack import dataapi
from stack.processes import free_port
from stack.scratch import TEMPLATE, Scratch
from tests.conftest import Person
from tests.live.device import until
from tests.live.recorder import Recorder, persist
from tests.sql.rpc import call

SETTLED_S = 60.0
# What events do not say of a conversation.
LACKING = ("members", "memberCount", "lastMessage")
FAULTS = ("drop", "realtime", "data api", "service", "postgres", "stream", "table", "table")
CALM_S = (0.2, 3.0)  # between two faults
TABLE_LOCKED_S = 0.7
LAST_WORD_S = 5.0
GIGS = [str(uuid.uuid4()) for _ in range(3)]


class OwnStack:
    """A whole stack that only these tests use, so that they may kill all of it."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, keys, logs = scratch, scratch.keys, scratch.directory / "log"
        self.key = keys.publishable_key
        port, realtime_port, service_port = free_port(), free_port(), free_port()
        self.url, self.service_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{service_port}"
        of = (scratch.cluster, TEMPLATE)
        api = dataapi.data_api(*of, scratch.project, keys, port, logs / "api.log", scratch.ledger, realtime_port)
        realtime = dataapi.realtime(
            *of, keys, realtime_port, logs / "realtime.log", scratch.ledger, STACK_REALTIME_DENIAL_DELAY_S="0"
        )
        told = dataapi.client_environment(self.url, self.service_url, self.database_url, keys)
        service = dataapi.service(told, service_port, logs / "service.log", scratch.ledger)
        generous = {**(service.env or {}), "PERSON_REQUESTS_PER_MINUTE": "100000"}
        self.processes = {
            "realtime": realtime,
            "data api": api,
            "service": dataclasses.replace(service, env=generous),
        }
        self.ready: dict[str, Callable[[], bool]] = {
            "realtime": lambda: dataapi.realtime_ready(realtime_port),
            "data api": lambda: dataapi.data_api_ready(port, keys),
            "service": lambda: dataapi.answers(f"{self.service_url}/health/ready"),
        }

    @property
    def database_url(self) -> str:
        return self.scratch.cluster.url(TEMPLATE)

    def person(self, db: psycopg.Connection[Any], name: str) -> Person:
        person_id, email = str(uuid.uuid4()), f"{uuid.uuid4()}@example.com"
        db.execute(
            "insert into auth.users (id, aud, role, email, raw_user_meta_data)"
            " values (%s, 'authenticated', 'authenticated', %s, %s)",
            (person_id, email, json.dumps({"display_name": name})),
        )
        claims = {
            "iss": f"{self.url}/auth/v1",
            "sub": person_id,
            "aud": "authenticated",
            "role": "authenticated",
            "exp": int(time.time()) + 7200,
        }
        return Person(person_id, email, name, self.scratch.keys.sign(claims))

    def kill(self, name: str) -> None:
        """-9, at whatever it is doing."""
        process = self.processes[name]
        if process.pid:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process.stop()

    def revive(self) -> None:
        """What the supervisor does: start what does not run. A port may be taken for a moment."""
        for process in self.processes.values():
            if process.pid is None or process.exit_code() is not None:
                process.stop()
                process.start()

    def cut_stream(self) -> None:
        """What is committed until Realtime reads again is told to nobody, and no client notices."""
        with self.scratch.cluster.connect(TEMPLATE) as admin:
            admin.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where active")

    @contextmanager
    def table_locked(self) -> Iterator[None]:
        """As while a partition is being made: sends go through, their events are lost without a word."""
        with self.scratch.cluster.connect(TEMPLATE) as admin, admin.transaction():
            admin.execute("lock table realtime.messages in access exclusive mode")
            yield

    def lock_table(self) -> None:
        with self.table_locked():
            time.sleep(TABLE_LOCKED_S)

    def restart_postgres(self) -> None:
        self.scratch.cluster.stop()
        self.scratch.cluster.start()

    def all_ready(self) -> None:
        """Everything runs and answers. Raises AssertionError after a while."""
        deadline = time.monotonic() + dataapi.READY_S
        while not all(ready() for ready in self.ready.values()):
            assert time.monotonic() < deadline, "the stack did not come back"
            self.revive()
            time.sleep(0.05)

    def close(self) -> None:
        for process in self.processes.values():
            process.stop()


@pytest.fixture(scope="module")
def own_stack() -> Iterator[OwnStack]:
    with Scratch() as scratch:
        stack = OwnStack(scratch)
        try:
            stack.all_ready()
            with psycopg.connect(stack.database_url, autocommit=True) as db:
                db.execute(
                    "update private.settings set send_count_max = 500, send_window_s = 10, edit_count_max = 500,"
                    " new_conversation_count_max = 500, first_contact_count_max = 500"
                )
            yield stack
        finally:
            stack.close()


class Writers:
    """People who write to the recorder's person and to their group, and keep account of what was acknowledged."""

    def __init__(self, api: httpx.AsyncClient, me: Person, others: list[Person], group: str, seed: int) -> None:
        self.api, self.me, self.others, self.group, self.seed = api, me, others, group, seed
        self.asked: dict[str, tuple[str, str]] = {}  # key -> author, text
        self.acknowledged: dict[str, str] = {}  # key -> message
        self.refusals: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self.running = True

    async def ask(self, person: Person, method: str, path: str, body: Any = None, may: tuple[int, ...] = ()) -> Any:
        answer = await persist(self.api, person, method, f"/messages{path}", body)
        if answer.status_code in may:
            self.refusals[f"{method} {answer.status_code}"] += 1
            return None
        assert answer.status_code in (200, 201, 204), answer.text
        return answer.json() if answer.content else None

    async def send(self, person: Person, **to: Any) -> Any:
        """404: the group, when the person was removed meanwhile."""
        key, text = str(uuid.uuid4()), f"{self.seed}.{next(self.numbers)}"
        self.asked[key] = (person.id, text)
        sent = await self.ask(person, "POST", "/send", {"body": text, "clientMessageId": key, **to}, may=(404,))
        if sent:
            self.acknowledged[key] = sent["message"]["id"]
        return sent

    async def write(self, person: Person) -> None:
        """One of the others; the first of them owns the group."""
        chance = random.Random(f"{self.seed} {person.id}")
        members = f"/conversations/{self.group}/members"
        mine: list[str] = []
        last: dict[str, Any] | None = None
        while self.running:
            what = chance.random()
            if what < 0.55:
                gig = chance.choice([None, None, None, *GIGS])
                last = await self.send(person, toUserId=self.me.id, **({"gigId": gig} if gig else {}))
                mine.append(last["message"]["id"])
            elif what < 0.7:
                await self.send(person, conversationId=self.group)
            elif what < 0.78 and mine:
                body = {"body": f"edited {next(self.numbers)}"}
                await self.ask(person, "PATCH", f"/{chance.choice(mine)}", body, may=(409,))  # it was deleted
            elif what < 0.83 and mine:
                await self.ask(person, "DELETE", f"/{chance.choice(mine)}")
            elif what < 0.93 and last:
                await self.ask(person, "PATCH", f"/conversations/{last['conversation']['id']}/read-all", {})
            elif what < 0.96 and person is self.others[0]:
                await self.ask(person, "DELETE", f"{members}/{self.me.id}", may=(404,))
                await self.ask(person, "POST", members, {"userIds": [self.me.id]})
            elif last:
                await self.ask(person, "POST", f"/conversations/{last['conversation']['id']}/typing")
            await asyncio.sleep(chance.uniform(0.02, 0.3))

    async def live(self, recorder: Recorder) -> None:
        """The recorder's own person on another device: answers, reads, pins."""
        chance = random.Random(f"{self.seed} me")
        while self.running:
            what = chance.random()
            there = chance.choice([None, *sorted(recorder.conversations)])
            if what < 0.4:
                await self.send(self.me, toUserId=chance.choice(self.others).id)
            elif there is None:
                pass
            elif what < 0.7:
                await self.ask(self.me, "PATCH", f"/conversations/{there}/read-all", {}, may=(404,))
            elif what < 0.8:
                receipts = [{"conversationId": there, "seq": recorder.conversations.get(there, {}).get("lastSeq", 1)}]
                await self.ask(self.me, "PATCH", "/delivered", {"receipts": receipts})
            elif what < 0.9:
                await self.send(self.me, conversationId=self.group)
            else:
                changes = {chance.choice(["pinned", "markedUnread"]): chance.random() < 0.5}
                await self.ask(self.me, "PATCH", f"/conversations/{there}", changes, may=(404,))
            await asyncio.sleep(chance.uniform(0.05, 0.5))


async def chaos(stack: OwnStack, recorder: Recorder, seed: int, seconds: float) -> Counter[str]:
    """Every kind of fault in every round, in any order."""
    chance, done = random.Random(seed), Counter[str]()
    ends_at = time.monotonic() + seconds
    while True:
        for what in chance.sample(FAULTS, len(FAULTS)):
            await asyncio.sleep(chance.uniform(*CALM_S))
            if time.monotonic() > ends_at:
                return done
            done[what] += 1
            if what == "drop":
                if recorder.device:
                    recorder.device.drop()
            elif what in ("postgres", "stream", "table"):
                how = {"postgres": stack.restart_postgres, "stream": stack.cut_stream, "table": stack.lock_table}
                await asyncio.to_thread(how[what])
            else:
                await asyncio.to_thread(stack.kill, what)
                await asyncio.sleep(chance.uniform(0, 0.5))
            stack.revive()


def the_truth(db: psycopg.Connection[Any], me: Person) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conversations and messages as the functions that front ends read with show them now."""
    conversations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    cursor = None
    while True:
        page = call(db, me.id, "list_inbox", limit=100, cursor=cursor)
        conversations |= {each["id"]: each for each in page["conversations"]}
        if (cursor := page["nextCursor"]) is None:
            break
    for conversation_id in conversations:
        before = None
        while True:
            told = {} if before is None else {"before": before}
            page = call(db, me.id, "list_messages", conversation_id=conversation_id, limit=100, **told)
            messages |= {each["id"]: each for each in page["messages"]}
            if not page["hasMoreBefore"]:
                break
            before = page["messages"][0]["seq"]
    return conversations, messages


async def record(stack: OwnStack, seconds: float) -> None:
    seed = int(os.environ.get("RECORDER_SEED") or random.randrange(2**32))
    print(f"RECORDER_SEED={seed}")  # pytest shows it when the test fails
    with psycopg.connect(stack.database_url, autocommit=True) as db:
        me, *others = (stack.person(db, name) for name in ("Me", "Ann", "Bob", "Eve"))
    async with httpx.AsyncClient(base_url=stack.service_url, timeout=10) as api:
        group = {"title": "Crew", "memberIds": [each.id for each in (me, *others[1:])]}
        made = await persist(api, others[0], "POST", "/messages/conversations/group", group)
        assert made.status_code == 201, made.text
        recorder = Recorder(stack.url, stack.key, api, me)
        writers = Writers(api, me, others, made.json()["conversation"]["id"], seed)
        await recorder.start()
        writing = [asyncio.create_task(writers.write(each)) for each in others]
        writing.append(asyncio.create_task(writers.live(recorder)))
        try:
            done = await chaos(stack, recorder, seed, seconds)
            await asyncio.to_thread(stack.all_ready)
            writers.running = False
            async with asyncio.timeout(SETTLED_S):
                await asyncio.gather(*writing)
            await heard_last_word(stack, writers, recorder)
            assert recorder.errors == []
            check(stack, recorder, writers, LACKING)
        finally:
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)
            await recorder.stop()
        await recorder.sync()
        print(f"{dict(done)} {recorder.counts} {len(writers.acknowledged)} acknowledged, {dict(writers.refusals)}")
        check(stack, recorder, writers)
        badge = (await persist(api, me, "GET", "/messages/unread")).json()
        assert badge["messages"] == sum(each["unreadCount"] for each in recorder.conversations.values())
    assert recorder.counts["events"] > 0
    assert recorder.counts["subscribed"] > 1


async def heard_last_word(stack: OwnStack, writers: Writers, recorder: Recorder) -> None:
    """Two more messages, now that all is quiet. Nobody is told of the first; the second one's event says so, and once
    that was repaired the chain vouches for everything before it.
    """
    await until(lambda: recorder.is_certain, SETTLED_S)
    with stack.table_locked():
        await writers.send(writers.others[1], toUserId=writers.me.id)
    deadline = time.monotonic() + SETTLED_S
    while time.monotonic() < deadline:
        await until(lambda: recorder.channel.is_joined, SETTLED_S)
        sent = await writers.send(writers.others[0], toUserId=writers.me.id)
        with suppress(AssertionError):  # said while the channel was not there yet
            await until(lambda sent=sent: sent["message"]["id"] in recorder.messages, LAST_WORD_S)
            await until(lambda: recorder.is_certain, LAST_WORD_S)
            return
    raise AssertionError("the recorder does not hear any more")


def check(stack: OwnStack, recorder: Recorder, writers: Writers, besides: Container[str] = ()) -> None:
    """Nothing lost, nothing stale, nothing twice, nothing invented. `besides`: names in conversations."""
    with psycopg.connect(stack.database_url, autocommit=True) as db:
        conversations, messages = the_truth(db, recorder.person)
        rows = db.execute(
            "select client_message_id::text, id::text from public.messages where from_user_id = any(%s::uuid[])",
            ([each.id for each in (writers.me, *writers.others)],),
        ).fetchall()

    def chosen(told: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in told.items() if name not in besides}

    assert recorder.conversations.keys() == conversations.keys()
    for conversation_id, truth in conversations.items():
        assert chosen(recorder.conversations[conversation_id]) == chosen(truth)
    assert recorder.messages.keys() - messages.keys() == set(), "held, but not in the database"
    assert messages.keys() - recorder.messages.keys() == set(), "lost"
    for message_id, truth in messages.items():
        held = recorder.messages[message_id]
        # Ticks follow from receipts; those of people who joined come with the next sync.
        status = truth["status"] if besides else recorder.status(held)
        assert {**held, "status": status} == truth
    kept = dict(rows)
    assert len(kept) == len(rows), "sent twice"
    assert {key: kept.get(key) for key in writers.acknowledged} == writers.acknowledged
    assert kept.keys() <= writers.asked.keys()


# The Python client itself reads these; as an error the warning would end its reading task.
@pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")
class TestRecorder:
    @pytest.mark.timeout(240)
    async def test_holds_exactly_what_the_database_holds(self, own_stack):
        await record(own_stack, 25)

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    async def test_for_minutes(self, own_stack):
        await record(own_stack, 240)
