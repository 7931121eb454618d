"""People who write, read, edit, delete and sync, retry until they are answered, and keep account."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from chaos.checker import Account, Acknowledged, Complaint, History, Send
from stack.keys import Keys
from tests.live.recorder import Recorder

TLS = ssl.create_default_context()  # nobody here speaks it, and making one for every device would take seconds
ATTEMPT_S = (2.0, 9.0)  # how long one attempt may take; the service itself waits for ten seconds
AGAIN_S = (0.05, 0.6)  # shorter than Retry-After asks for: retries that come too early must be as harmless
GIVES_UP = 0.03  # of the sends are tried once or twice and then left alone
SYNC_S = (2.0, 9.0)  # between two syncs of a device
PARTNERS, GROUPS_EACH_MAX = 6, 5
GROUP_SIZES = (3, 3, 4, 5, 6, 8, 12, 20)
GIGS = tuple(str(uuid.UUID(int=number)) for number in range(1, 4))
# Numbers as words: a message of digits would be taken for a telephone number, and masked.
WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "hazel"),
    *("indigo", "juniper", "kelp", "larch", "maple", "nectar", "olive", "pearl"),
    *("quartz", "river", "sable", "thyme", "umber", "violet", "willow", "xenon"),
    *("yarrow", "zephyr", "acorn", "basil", "clover", "dune", "elm", "fern"),
]


def words(number: int) -> str:
    """A number of base 32 in words, unlike any other."""
    said: list[str] = []
    while number or not said:
        number, digit = divmod(number, len(WORDS))
        said.append(WORDS[digit])
    return " ".join(said)


@dataclass(frozen=True)
class Person:
    """Somebody who signed up, with a token that outlasts the run."""

    id: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def sign_up(db: psycopg.Connection[Any], keys: Keys, issuer: str, chance: random.Random, count: int) -> list[Person]:
    """Accounts straight in the table; the sign-up trigger makes the profiles. No limits of pace: these people hurry."""
    people = []
    for number in range(count):
        person_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        db.execute(
            "insert into auth.users (id, aud, role, email, raw_user_meta_data)"
            " values (%s, 'authenticated', 'authenticated', %s, %s)",
            (person_id, f"{person_id}@example.com", json.dumps({"display_name": f"Person {words(number)}"})),
        )
        claims = {"iss": issuer, "sub": person_id, "aud": "authenticated", "role": "authenticated"}
        people.append(Person(person_id, keys.sign({**claims, "exp": int(time.time()) + 6 * 3600})))
    db.execute(
        "update private.settings set send_count_max = 500, send_window_s = 1, edit_count_max = 500,"
        " edit_pace_window_s = 1, new_conversation_count_max = 500, first_contact_count_max = 500"
    )
    return people


class Failover(httpx.AsyncBaseTransport):
    """Asks one copy of the service, and after a failure the next: what a load balancer or a careful client does."""

    def __init__(self, ports: Sequence[int], first: int) -> None:
        self.under, self.ports, self.at = (
            httpx.AsyncHTTPTransport(verify=TLS, trust_env=False),
            ports,
            first % len(ports),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As asked, on another port."""
        request.url = request.url.copy_with(port=self.ports[self.at])
        answer = None
        try:
            answer = await self.under.handle_async_request(request)
        finally:
            if answer is None or answer.status_code in (502, 503, 504):
                self.at = (self.at + 1) % len(self.ports)
        return answer


@dataclass
class World:
    """What the people share: the account, the figures, and when it is over."""

    wanted: int
    account: Account = field(default_factory=Account)
    complaints: list[Complaint] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # nobody begins anything
    attempts: Counter[str] = field(default_factory=Counter)  # of sends, by how they ended
    acknowledged: int = 0
    answer_ms: list[float] = field(default_factory=list)  # of the attempt that was acknowledged
    send_ms: list[float] = field(default_factory=list)  # from the first attempt to the acknowledgement
    at_s: list[float] = field(default_factory=list)  # when each was acknowledged
    _hopes: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)

    def note(self, began_s: float, first_s: float) -> None:
        """One send is acknowledged."""
        now_s = time.monotonic()
        self.acknowledged += 1
        self.at_s.append(now_s)
        self.answer_ms.append((now_s - began_s) * 1000)
        self.send_ms.append((now_s - first_s) * 1000)
        for hope in [hope for hope in self._hopes if hope[0] <= began_s]:
            self._hopes.remove(hope)
            if not hope[1].done():
                hope[1].set_result(None)
        if self.acknowledged >= self.wanted:
            self.over.set()

    async def served_again(self, since_s: float, within_s: float) -> float | None:
        """Seconds until a send that began after `since_s` was acknowledged; None when it was not in time."""
        hope: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hopes.append((since_s, hope))
        try:
            async with asyncio.timeout(within_s):
                await hope
        except TimeoutError:
            return None
        return time.monotonic() - since_s


class Client:
    """One person at one device: does one thing after the other, and repeats each until it is answered."""

    def __init__(self, world: World, person: Person, api: httpx.AsyncClient, chance: random.Random) -> None:
        self.world, self.person, self.api, self.chance = world, person, api, chance
        self.places: list[dict[str, str]] = []  # where to write
        self.guests: list[tuple[str, str]] = []  # (group of mine, who comes and goes)
        self.known: dict[str, int] = {}  # conversation -> newest seq I know of
        self.mine: list[str] = []
        self._numbers = itertools.count(1)
        self._name = words(chance.getrandbits(40))

    def key(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    async def ask(
        self, method: str, path: str, body: Any, attempts_max: int | None = None
    ) -> tuple[httpx.Response | None, float]:
        """The first real answer and when it was asked for; None when given up. Silence, 5xx and 429 are none."""
        is_send = path == "/send"
        for attempt in itertools.count(1):
            began_s = time.monotonic()
            try:
                answer = await self.api.request(
                    method, f"/api/messages{path}", headers=self.person.headers, json=body,
                    timeout=self.chance.uniform(*ATTEMPT_S),
                )  # fmt: skip
                how = str(answer.status_code)
            except httpx.TransportError as error:
                answer, how = None, type(error).__name__
            if is_send:
                self.world.attempts[how] += 1
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                return answer, began_s
            if attempts_max is not None and attempt >= attempts_max:
                break
            await asyncio.sleep(self.chance.uniform(*AGAIN_S))
        return None, 0.0

    async def told(self, method: str, path: str, body: Any, *may: int, attempts_max: int | None = None) -> Any:
        """The body of a good answer, or None. Anything else that was not to be expected is a complaint."""
        answer, _ = await self.ask(method, path, body, attempts_max)
        if answer is not None and answer.status_code not in (200, 201, 204, *may):
            self.world.complaints.append(Complaint("altered", f"{method} {path} was answered {answer.text}"))
        return answer.json() if answer is not None and answer.is_success and answer.content else None

    async def send(self) -> None:
        """One message, with one key however often it takes."""
        chance, world = self.chance, self.world
        body = f"{self._name} {words(next(self._numbers))}" + " and so on" * chance.choice((0, 0, 0, 1, 8, 60))
        send = Send(self.person.id, self.key(), body)
        world.account.sends.append(send)
        told = {"body": body, "clientMessageId": send.key, **chance.choice(self.places)}
        first_s = time.monotonic()
        answer, began_s = await self.ask(
            "POST", "/send", told, chance.choice((1, 2)) if chance.random() < GIVES_UP else None
        )
        if answer is None:
            return
        if answer.status_code not in (200, 201):
            world.complaints.append(Complaint("altered", f"a send was answered {answer.status_code} {answer.text}"))
            return
        message = answer.json()["message"]
        send.acknowledged = Acknowledged(message["id"], message["conversationId"], message["seq"])
        if (message["body"], message["clientMessageId"], message["fromUserId"]) != (body, send.key, self.person.id):
            world.complaints.append(Complaint("altered", f"the answer to {send} shows {message}"))
        world.note(began_s, first_s)
        self.known[message["conversationId"]] = message["seq"]
        self.mine = [*self.mine[-20:], message["id"]]

    async def read(self) -> None:
        """Read one conversation up to what is known of it, or mark all of them as delivered."""
        account, me = self.world.account, self.person.id
        if self.chance.random() < 0.7:
            there = self.chance.choice(list(self.known))
            mark = account.read[there, me]
            mark.asked = max(mark.asked, self.known[there])
            told = await self.told("PATCH", f"/conversations/{there}/read-all", {"upToSeq": self.known[there]})
            if told:
                mark.acknowledged = max(mark.acknowledged, told["receipt"]["lastReadSeq"])
            return
        for there, seq in self.known.items():
            mark = account.delivered[there, me]
            mark.asked = max(mark.asked, seq)
        asked = [{"conversationId": there, "seq": seq} for there, seq in self.known.items()]
        for receipt in (await self.told("PATCH", "/delivered", {"receipts": asked}) or {"receipts": []})["receipts"]:
            mark = account.delivered[receipt["conversationId"], me]
            mark.acknowledged = max(mark.acknowledged, receipt["lastDeliveredSeq"])

    async def edit(self) -> None:
        """Another text for one of my last messages. 409: it is deleted."""
        message_id = self.chance.choice(self.mine)
        body = f"{self._name} rather {words(next(self._numbers))}"
        self.world.account.changes[message_id].texts.append(body)
        await self.told("PATCH", f"/{message_id}", {"body": body}, 409, attempts_max=4)

    async def delete(self) -> None:
        """One of my last messages goes."""
        message_id = self.chance.choice(self.mine)
        change = self.world.account.changes[message_id]
        change.delete_asked = True
        if await self.told("DELETE", f"/{message_id}", None, attempts_max=4):
            change.delete_acknowledged = True

    async def receive(self) -> None:
        """A guest goes and comes back. 404: the first attempt had done it."""
        group, guest = self.chance.choice(self.guests)
        await self.told("DELETE", f"/conversations/{group}/members/{guest}", None, 404)
        await self.told("POST", f"/conversations/{group}/members", {"userIds": [guest]})

    async def live(self) -> None:
        """Until it is over."""
        while not self.world.over.is_set():
            what = self.chance.random()
            if what < 0.9 or not self.mine:
                await self.send()
            elif what < 0.96:
                await self.read()
            elif what < 0.98:
                await self.edit()
            elif what < 0.99:
                await self.delete()
            elif self.guests:
                await self.receive()


async def acquaint(clients: Sequence[Client], guests: Sequence[Person], chance: random.Random) -> None:
    """Who writes to whom, and about what; the groups are made. Fewer conversations each than the flood rule catches."""
    for client in clients:
        strangers = [each.person for each in clients if each is not client]
        for other in chance.sample(strangers, min(PARTNERS, len(strangers))):
            gig = chance.choice((None, None, *GIGS))
            client.places.append({"toUserId": other.id, **({"gigId": gig} if gig else {})})
    for number, size in enumerate(GROUP_SIZES):
        owner, *others = chance.sample(clients, min(size, len(clients)))
        guest = guests[number % len(guests)] if guests else None
        members = [*(each.person.id for each in others), *([guest.id] if guest else [])]
        made = await owner.told(
            "POST", "/conversations/group", {"title": f"Crew {words(number)}", "memberIds": members}
        )
        there = made["conversation"]["id"]
        if guest:
            owner.guests.append((there, guest.id))
        for each in (owner, *others):
            if sum("conversationId" in place for place in each.places) < GROUPS_EACH_MAX:
                each.places.append({"conversationId": there})


async def sync_now_and_then(device: Recorder, world: World, chance: random.Random) -> None:
    """A device that is opened from time to time."""
    while not world.over.is_set():
        await asyncio.sleep(chance.uniform(*SYNC_S))
        await device.sync()


def history(name: str, device: Recorder) -> History:
    """What a device shows, in its order."""
    shown = sorted(device.messages.values(), key=lambda message: (message["conversationId"], message["seq"]))
    return History(name, device.person.id, shown, device.conversations, device.receipts)
