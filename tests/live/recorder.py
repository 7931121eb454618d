"""A client that keeps the client rule: subscribe, sync on SUBSCRIBED, watch the chain, sync when in doubt.

What it holds at the end must be what is in the database, whatever was killed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx

from tests.live.device import Device

LOOK_S = 0.1
NOT_JOINED_MAX_S = 20.0  # then something is wrong that the client does not get over by itself
AGAIN_S = 0.2


async def persist(client: httpx.AsyncClient, person: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    """The first answer that is one: neither silence, nor 5xx, nor "later"."""
    while True:
        try:
            answer = await client.request(method, f"/api{path}", headers=person.headers, json=body)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code < 500 and answer.status_code != 429:
            return answer
        await asyncio.sleep(AGAIN_S)


class Recorder:
    """Everything somebody can see, kept by events and repaired by sync."""

    def __init__(self, url: str, key: str, api: httpx.AsyncClient, person: Any) -> None:
        self.url, self.key, self.api, self.person = url, key, api, person
        self.conversations: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self.receipts: dict[tuple[str, str], dict[str, Any]] = {}
        self.position = 0  # of the newest event that is certain
        self.newest = 0  # of all that were heard
        self.cursor: str | None = None
        self.doubt = asyncio.Event()
        self.device: Device | None = None
        self.channel: Any = None
        self.errors: list[BaseException] = []
        self.counts = dict.fromkeys(("events", "gaps", "syncs", "subscribed", "renewed"), 0)
        self._held: list[dict[str, Any]] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._open()
        self._tasks = [asyncio.create_task(self._guarded(each)) for each in (self._sync_when_in_doubt(), self._watch())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.device:
            await self.device.close()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self.errors.append(error)

    # ----- the channel -----

    async def _open(self) -> None:
        self.device = await Device.open(self.url, self.key, self.person)
        self.channel = self.device.supabase.channel(f"user:{self.person.id}", {"config": {"private": True}})
        self.channel.on_broadcast("*", self._hear)
        await self.channel.subscribe(self._state)

    def _state(self, state: Any, error: Exception | None) -> None:
        if state.value == "SUBSCRIBED":
            self.counts["subscribed"] += 1
            self.doubt.set()

    @property
    def is_certain(self) -> bool:
        """Whether every event up to the newest was heard or repaired."""
        return (
            self.channel.is_joined and not self.doubt.is_set() and self._held is None and self.position == self.newest
        )

    async def _watch(self) -> None:
        """Joining again is the client's own business, except after CLOSED."""
        silent_s = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            silent_s = 0.0 if self.channel.is_joined else silent_s + LOOK_S
            if self.channel.is_closed or silent_s > NOT_JOINED_MAX_S:
                self.counts["renewed"] += 1
                silent_s = 0.0
                if self.device:
                    await self.device.close()
                await self._open()

    # ----- events -----

    def _hear(self, told: Any) -> None:
        event = told["payload"]
        try:
            self.counts["events"] += 1
            self.newest = max(self.newest, event["position"])
            if self._held is None:
                self._take(event)
            else:
                self._held.append(event)  # a sync under way may say more than this event knows
        except Exception as error:
            self.errors.append(error)

    def _take(self, event: dict[str, Any]) -> None:
        if event["position"] <= self.position:
            return  # a sync that began after it was heard has said all of it
        if event["previousPosition"] == self.position:
            self.position = event["position"]
        else:
            self.counts["gaps"] += 1
            self.doubt.set()
        if event["type"] == "conversation.lost" or event.get("conversationId") not in self.conversations:
            self.doubt.set()  # whether it is still so, and what else belongs to it, only a sync says
            return
        if "conversation" in event:
            self._merge_conversation(event["conversation"])
        if "message" in event:
            self._merge_message(event["message"])
        if "receipt" in event:
            self._merge_receipt(event["conversationId"], event["receipt"])

    # ----- sync -----

    async def _sync_when_in_doubt(self) -> None:
        while True:
            await self.doubt.wait()
            await self.sync()

    async def sync(self) -> None:
        """All pages from where we are. What is heard meanwhile is merged afterwards."""
        self.doubt.clear()
        self._held = []
        heard = self.newest
        more = True
        while more:
            self.counts["syncs"] += 1
            answer = await persist(self.api, self.person, "POST", "/messages/sync", {"cursor": self.cursor})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            for conversation in page["conversations"]:
                self._merge_conversation(conversation)
            for message in page["messages"]:
                self._merge_message(message)
            for receipt in page["receipts"]:
                self._merge_receipt(receipt.pop("conversationId"), receipt)
            for lost in page["lost"]:
                self._forget(lost)
            self.cursor, more = page["cursor"], page["hasMore"]
        self.position = max(self.position, heard)
        held, self._held = self._held, None
        for event in held:
            self._take(event)

    # ----- merging: by id and eventSeq; watermarks only rise -----

    def _merge_conversation(self, told: dict[str, Any]) -> None:
        known = self.conversations.get(told["id"], {})
        if told["eventSeq"] >= known.get("eventSeq", 0):
            self.conversations[told["id"]] = {**known, **told}
            if told["firstSeq"] != known.get("firstSeq"):
                self.messages = {
                    key: each
                    for key, each in self.messages.items()
                    if each["conversationId"] != told["id"] or each["seq"] >= told["firstSeq"]
                }

    def _merge_message(self, told: dict[str, Any]) -> None:
        known = self.messages.get(told["id"])
        in_view = told["seq"] >= self.conversations[told["conversationId"]]["firstSeq"]
        if in_view and (known is None or told["eventSeq"] >= known["eventSeq"]):
            self.messages[told["id"]] = told

    def _merge_receipt(self, conversation_id: str, told: dict[str, Any]) -> None:
        known = self.receipts.setdefault((conversation_id, told["userId"]), told)
        self.receipts[conversation_id, told["userId"]] = {
            "userId": told["userId"],
            **{name: max(known[name], told[name]) for name in ("lastReadSeq", "lastDeliveredSeq")},
        }

    def _forget(self, conversation_id: str) -> None:
        self.conversations.pop(conversation_id, None)
        self.messages = {k: m for k, m in self.messages.items() if m["conversationId"] != conversation_id}
        self.receipts = {k: r for k, r in self.receipts.items() if k[0] != conversation_id}

    # ----- what a screen shows -----

    def status(self, message: dict[str, Any]) -> str:
        """The ticks, from the receipts of the members other than the author."""
        conversation_id = message["conversationId"]
        others = [
            self.receipts.get((conversation_id, member["id"]), {"lastReadSeq": 0, "lastDeliveredSeq": 0})
            for member in self.conversations[conversation_id]["members"]
            if member["id"] != message["fromUserId"]
        ]
        for name, word in (("lastReadSeq", "read"), ("lastDeliveredSeq", "delivered")):
            if others and min(each[name] for each in others) >= message["seq"]:
                return word
        return "sent"
