"""Somebody's device: an unmodified supabase-py client, the topics it has joined and what it has heard there."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

from realtime._async.channel import AsyncRealtimeChannel
from realtime.types import RealtimePostgresChangesListenEvent as Event

from supabase import AsyncClient, AsyncClientOptions, acreate_client

WITHIN_S = 15.0


async def until(true: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    """Wait for it, or fail."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "never"
        await asyncio.sleep(0.01)


def unbroken(events: list[dict[str, Any]]) -> bool:
    """Whether each event names the one before it."""
    return all(
        before["position"] == after["previousPosition"] < after["position"]
        for before, after in itertools.pairwise(events)
    )


class Topic:
    """A joined channel, or one that was refused: `states` says which."""

    def __init__(self, channel: AsyncRealtimeChannel) -> None:
        self.channel = channel
        self.states: list[str] = []
        self.heard: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.feed: list[str] = []
        channel.on_broadcast("*", self.heard.append)

    async def join(self) -> Topic:
        await self.channel.subscribe(
            lambda state, error: self.states.append(state.value + (f" {error}" if error else ""))
        )
        return self

    @property
    def events(self) -> list[dict[str, Any]]:
        """The payloads."""
        return [each["payload"] for each in self.heard]

    @property
    def types(self) -> list[str]:
        return [each["event"] for each in self.heard]

    async def hears(self, count: int) -> list[dict[str, Any]]:
        """Wait until it has heard so many; all of them."""
        await until(lambda: len(self.heard) >= count)
        assert len(self.heard) == count
        return self.events


class Device:
    """Opened with `await Device.open(...)`."""

    def __init__(self, supabase: AsyncClient, person: Any) -> None:
        self.supabase, self.person = supabase, person

    @classmethod
    async def open(cls, url: str, key: str, person: Any) -> Device:
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, realtime={"max_retries": 10**9, "initial_backoff": 0.05}
        )
        found = cls(await acreate_client(url, key, options), person)
        await found.supabase.realtime.set_auth(person.token)
        return found

    async def close(self) -> None:
        await self.supabase.realtime.close()
        await self.supabase.auth.close()
        await asyncio.sleep(0)

    async def join(self, topic: str, *, private: bool = True, presence: str | None = None) -> Topic:
        """Join any topic; with `presence`, see who is there and be there under that key."""
        told = {"key": presence or "", "enabled": presence is not None}
        channel = self.supabase.channel(
            topic,
            {"config": {"private": private, "broadcast": {"ack": False, "self": False}, "presence": told}},
        )
        return await Topic(channel).join()

    async def own(self) -> Topic:
        """The one topic a client needs, joined."""
        topic = await self.join(f"user:{self.person.id}")
        assert topic.states == ["SUBSCRIBED"]
        return topic

    async def changes(self) -> Topic:
        """Plain Postgres Changes on messages, as the first example of everybody's documentation has it."""
        topic = Topic(self.supabase.channel("messages"))
        topic.channel.on_postgres_changes(Event.Insert, topic.rows.append, table="messages", schema="public")
        topic.channel.on_system(lambda told: topic.feed.append(str(told.message)))
        await topic.join()
        await until(lambda: "Subscribed to PostgreSQL" in topic.feed)
        return topic

    def drop(self) -> None:
        """Lose the connection without a word."""
        connection = self.supabase.realtime._ws_connection
        if connection is not None:
            connection.transport.abort()
