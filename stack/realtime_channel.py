"""One joined topic of one socket, and the world of all channels that hear each other."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from stack.realtime_changes import Binding, parse_binding
from stack.realtime_database import REPLAY_MAX
from stack.realtime_tokens import Claims, Refused, expired
from stack.realtime_wire import Broadcast, Frame, Message, Vsn, dumps, encode

if TYPE_CHECKING:
    from stack.realtime import Socket

log = logging.getLogger("realtime")

PREFIX = "realtime:"
TOKEN_CHECK_S = 300.0
REPLICATION_READY_S = 60.0
SUBSCRIBE_AGAIN_S = 5.0
CHANGES_WAIT_S = 15.0  # the clients' own patience with `postgres_changes_options: {wait: true}`
NO_READ = "You do not have permissions to read from this Channel topic: {}"


class World:
    """The channels of one topic, public or private; messages and presences never cross."""

    def __init__(self) -> None:
        self.channels: dict[Channel, None] = {}  # in the order in which they joined
        self.presences: dict[str, dict[Channel, dict[str, Any]]] = {}

    def deliver(self, broadcast: Broadcast, sender: Channel | None = None) -> int:
        """Hand it to everybody who may hear it; how many that were."""
        frames: dict[Vsn, Frame | None] = {}
        count = 0
        for channel in self.channels:
            if "broadcast" not in channel.readable or (channel is sender and not channel.hears_itself):
                continue
            vsn = channel.socket.vsn
            if vsn not in frames:
                frames[vsn] = broadcast.encode(vsn)
            if (frame := frames[vsn]) is not None:
                channel.hear(broadcast, frame)
                count += 1
        return count

    def state(self) -> dict[str, Any]:
        return {key: {"metas": list(metas.values())} for key, metas in self.presences.items()}

    def present(self, channel: Channel, payload: dict[str, Any]) -> None:
        """Set what everybody sees of a channel. The same again changes nothing."""
        metas = self.presences.setdefault(channel.presence_key, {})
        old = metas.get(channel)
        if old is not None and {n: v for n, v in old.items() if not n.startswith("phx_ref")} == payload:
            return
        meta = {**payload, "phx_ref": secrets.token_urlsafe(12)}
        if old is not None:
            meta["phx_ref_prev"] = old["phx_ref"]
        metas[channel] = meta
        self._tell(channel, joins=[meta], leaves=[old] if old else [])

    def absent(self, channel: Channel) -> None:
        metas = self.presences.get(channel.presence_key, {})
        old = metas.pop(channel, None)
        if not metas:
            self.presences.pop(channel.presence_key, None)
        if old is not None:
            self._tell(channel, joins=[], leaves=[old])

    def _tell(self, channel: Channel, joins: list[dict[str, Any]], leaves: list[dict[str, Any]]) -> None:
        def entry(metas: list[dict[str, Any]]) -> dict[str, Any]:
            return {channel.presence_key: {"metas": metas}} if metas else {}

        diff = {"joins": entry(joins), "leaves": entry(leaves)}
        frames: dict[Vsn, str] = {}
        for each in self.channels:
            if each.sees_presence:
                vsn = each.socket.vsn
                if vsn not in frames:
                    frames[vsn] = encode(vsn, None, None, each.topic, "presence_diff", diff)
                each.socket.push(frames[vsn])


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the join's config; missing and null (the Python client) are empty."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


class Channel:
    """Authorized once, at `join`; again only for a new token."""

    def __init__(self, socket: Socket, message: Message) -> None:
        self.socket, self.hub = socket, socket.hub
        self.topic, self.join_ref = message.topic, message.join_ref or message.ref
        self.name = message.topic.removeprefix(PREFIX)
        config = _section(message.payload, "config")
        broadcast, presence = _section(config, "broadcast"), _section(config, "presence")
        self.private = _true(config.get("private"))
        self.acks, self.hears_itself = _true(broadcast.get("ack")), _true(broadcast.get("self"))
        self.replay = broadcast.get("replay")
        self.wants_replication_ready = _true(broadcast.get("replication_ready"))
        self.presence_enabled = _true(presence.get("enabled"))
        self.presence_key = str(presence.get("key") or uuid.uuid4())
        changes = config.get("postgres_changes")
        self.asked_changes = [each for each in changes if isinstance(each, dict)] if isinstance(changes, list) else []
        options = _section(config, "postgres_changes_options")
        self.waits_for_changes, timeout_ms = _true(options.get("wait")), options.get("timeout")
        self.changes_wait_s = timeout_ms / 1000 if isinstance(timeout_ms, int) else CHANGES_WAIT_S
        self.token = self._chosen_token(message.payload)
        self.claims: Claims = {}
        self.readable: set[str] = set()
        self.writable: set[str] | None = None
        self.world: World | None = None
        self._presence_calls = self.hub.limits.presence_calls()
        self._probed_presence = self.presence_enabled
        self._held: list[tuple[Broadcast, Frame]] | None = None
        self._replayed: set[str] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _chosen_token(self, payload: dict[str, Any]) -> str:
        """The join's own token; the connection's when there is none, or only an API key."""
        token = payload.get("access_token") or payload.get("user_token")
        return token if isinstance(token, str) and not token.startswith("sb_") else self.socket.token

    @property
    def sees_presence(self) -> bool:
        return self.presence_enabled and "presence" in self.readable

    # ----- joining and leaving -----

    async def join(self, ref: str | None) -> None:
        """Answer the join and send what follows it. Raises Refused."""
        if not self.name or self.name == self.topic:
            raise Refused("TopicNameRequired", "You must provide a topic name")
        self.claims = self.hub.tokens.claims(self.token)
        self.hub.limits.check_join(len(self.socket.channels), len(self.hub.sockets))
        if self.hub.settings.private_only and not self.private:
            raise Refused("PrivateOnly", "This project only allows private channels")
        since_ms, limit = self._replay_options()
        await self.hub.until_listening()
        await self._authorize()
        bindings = [self._parsed(told) for told in self.asked_changes]
        if self.asked_changes and self.waits_for_changes:
            try:
                async with asyncio.timeout(min(self.changes_wait_s, CHANGES_WAIT_S)):
                    await self._start_changes(bindings)
            except (TimeoutError, ValueError) as error:
                raise Refused("UnableToSubscribeToPostgresChanges", self._no_changes()) from error

        self.world = self.hub.enter(self)
        self._watch_expiry()
        echo = [
            {**told, "id": binding.id if binding else 1}
            for told, binding in zip(self.asked_changes, bindings, strict=True)
        ]
        self.reply(ref, "ok", {"postgres_changes": echo})
        if self.sees_presence:
            self.push("presence_state", self.world.state())
        if since_ms is not None and "broadcast" in self.readable:
            self._held = []  # what comes live meanwhile is sent after what is replayed
            self._spawn(self._replay(since_ms, limit))
        if self.asked_changes and self.waits_for_changes:
            self._say_subscribed()
        elif self.asked_changes:
            self._spawn(self._subscribe(bindings))
        if self.wants_replication_ready:
            self._spawn(self._say_replication_ready())

    def _replay_options(self) -> tuple[int | None, int]:
        """(since in epoch milliseconds or None, limit). Raises Refused."""
        if self.replay is None:
            return None, 0
        if not self.private:
            raise Refused("UnableToReplayMessages", "Replay is not allowed for public channels")
        told = self.replay if isinstance(self.replay, dict) else {}
        since_ms, limit = told.get("since"), told.get("limit", REPLAY_MAX)
        if any(type(each) is not int or not 0 <= each < 2**53 for each in (since_ms, limit)):
            raise Refused("UnableToReplayMessages", "Replay params are not valid")
        return since_ms, limit

    async def _authorize(self) -> None:
        """Ask the policies what this channel may read. Raises Refused when that is nothing."""
        self.writable = None
        if not self.private:
            self.readable = {"broadcast", "presence"}
            return
        extensions = ["broadcast", "presence"] if self._probed_presence else ["broadcast"]
        self.readable = await self.hub.database.readable(self.claims, self.name, extensions, self.socket.headers)
        if not self.readable:
            raise Refused("Unauthorized", NO_READ.format(self.name))

    def close(self, error: str | None = None) -> None:
        """End the channel; clients do not join it again by themselves."""
        if error:
            self.system("system", "error", error)
        self.gone()
        self.socket.channels.pop(self.topic, None)
        self.socket.push(encode(self.socket.vsn, self.join_ref, self.join_ref, self.topic, "phx_close", {}))

    def gone(self) -> None:
        """Forget it everywhere but in its socket."""
        if self._expiry:
            self._expiry.cancel()
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        self.hub.changes.remove(self)
        if self.world:
            self.hub.leave(self, self.world)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("channel %s crashed", self.topic)
            self.socket.crash(self)

    # ----- frames out -----

    def reply(self, ref: str | None, status: str, response: dict[str, Any]) -> None:
        told = {"status": status, "response": response}
        self.socket.push(encode(self.socket.vsn, self.join_ref, ref, self.topic, "phx_reply", told))

    def push(self, event: str, payload: dict[str, Any]) -> None:
        self.socket.push(encode(self.socket.vsn, self.join_ref, None, self.topic, event, payload))

    def system(self, extension: str, status: str, text: str) -> None:
        self.push("system", {"extension": extension, "status": status, "message": text, "channel": self.name})

    def hear(self, broadcast: Broadcast, frame: Frame) -> None:
        """A broadcast of the world, encoded for this socket."""
        if self._held is not None:
            self._held.append((broadcast, frame))
        elif not broadcast.id or broadcast.id not in self._replayed:
            self.socket.push(frame)

    def change(self, ids: list[int], data: dict[str, Any]) -> None:
        payload = {"ids": ids, "data": data}
        self.socket.push(encode(self.socket.vsn, None, None, self.topic, "postgres_changes", payload))

    # ----- frames in -----

    async def handle(self, message: Message) -> None:
        """Any event but the join. Raises Refused when the database cannot be asked."""
        match message.event.lower():
            case "broadcast":
                await self._broadcast(message)
            case "presence":
                await self._presence(message)
            case "access_token":
                await self._new_token(message.payload.get("access_token"))
            case "phx_leave":
                self.reply(message.ref, "ok", {})
                self.close()
            case _:
                log.info("an unknown event on %s: %r", self.topic, message.event[:100])

    async def _may_write(self, extension: str) -> bool:
        """Asked at the first use, then remembered."""
        if not self.private:
            return True
        if self.writable is None:
            self.writable = await self.hub.database.writable(self.claims, self.name, self.socket.headers)
        return extension in self.writable

    async def _broadcast(self, message: Message) -> None:
        broadcast = message.broadcast
        if broadcast is None or not await self._may_write("broadcast") or self.world is None:
            return  # never answered, as on hosted
        if self.hub.limits.too_large(broadcast):
            if self.acks:
                self.reply(message.ref, "error", {"error": "payload_size_exceeded"})
            return
        count = self.world.deliver(broadcast, self)
        if self.hub.limits.too_many_messages(1 + count):
            self.close("Too many messages per second")
        elif self.acks:
            self.reply(message.ref, "ok", {})

    async def _presence(self, message: Message) -> None:
        if not self._presence_calls.add():
            return self.close("Client presence rate limit exceeded")
        if self.hub.limits.too_many_presence_messages():
            return self.close("Too many presence messages per second")
        if self.private and not self._probed_presence:
            self._probed_presence = True
            self.readable |= await self.hub.database.readable(self.claims, self.name, ["presence"], self.socket.headers)
        event, payload = str(message.payload.get("event")).lower(), message.payload.get("payload", {})
        if event == "track" and not isinstance(payload, dict):
            return self.reply(message.ref, "error", {"reason": "Presence track payload must be a map"})
        if event not in ("track", "untrack"):
            return self.reply(message.ref, "error", {"reason": f"Unknown presence event: {event[:100]}"})
        if self.world is None or not await self._may_write("presence"):
            return self.reply(message.ref, "error", {})
        if event == "untrack":
            self.world.absent(self)
        elif self.hub.limits.too_large(Broadcast(self.topic, "track", dumps(payload))):
            return self.close("Track message size exceeded")
        else:
            self.world.present(self, payload)
        return self.reply(message.ref, "ok", {})

    # ----- tokens -----

    async def _new_token(self, token: Any) -> None:
        """The same one, none, and API keys change nothing."""
        if not isinstance(token, str) or not token or token.startswith("sb_") or token == self.token:
            return
        try:
            self.claims = self.hub.tokens.claims(token)
            self.token = token
            await self._authorize()
        except Refused as error:
            self.close(error.text)
        else:
            self._watch_expiry()

    def _watch_expiry(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        left_s = float(self.claims["exp"]) - time.time()
        self._expiry = asyncio.get_running_loop().call_later(min(TOKEN_CHECK_S, max(left_s, 0)) + 0.01, self._expire)

    def _expire(self) -> None:
        if over := expired(self.claims):
            self.close(over.text)
        else:
            self._watch_expiry()

    # ----- what follows a join -----

    async def _replay(self, since_ms: int, limit: int) -> None:
        try:
            for row_id, event, payload, raw in await self.hub.database.replay(self.name, since_ms, limit):
                self._replayed.add(row_id)
                meta = dumps({"replayed": True, "id": row_id})
                content = raw if payload is None else payload.encode()
                old = Broadcast(self.topic, event, content or b"", is_json=payload is not None, meta=meta)
                if (frame := old.encode(self.socket.vsn)) is not None:
                    self.socket.push(frame)
        finally:
            held, self._held = self._held or [], None
            for broadcast, frame in held:
                self.hear(broadcast, frame)

    def _parsed(self, told: dict[str, Any]) -> Binding | None:
        try:
            return parse_binding(told)
        except ValueError as error:
            log.info("a refused change feed %r: %s", told, error)
            return None

    async def _subscribe(self, bindings: Iterable[Binding | None]) -> None:
        """Start the change feeds, again and again until the table is there, and say how it went."""
        told_error = False
        while True:
            try:
                await self._start_changes(bindings)
            except ValueError as error:
                log.info("no change feed for %s: %s", self.topic, error)
                if not told_error:
                    self.system("postgres_changes", "error", self._no_changes())
                told_error = True
                await asyncio.sleep(SUBSCRIBE_AGAIN_S)
            else:
                return self._say_subscribed()

    async def _start_changes(self, bindings: Iterable[Binding | None]) -> None:
        """Raises ValueError when what was asked for cannot be."""
        known = [binding for binding in bindings if binding]
        if len(known) < len(self.asked_changes):
            raise ValueError("parameters that make no sense")
        await self.hub.changes.check(known, str(self.claims["role"]))
        await self.hub.until_streaming_changes()
        self.hub.changes.add(self, known)

    def _say_subscribed(self) -> None:
        self.system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    def _no_changes(self) -> str:
        asked = ", ".join(f"{name}: {value}" for told in self.asked_changes for name, value in told.items())
        return (
            "Unable to subscribe to changes with given parameters. "
            f"Please check Realtime is enabled for the given connect parameters: [{asked}]"
        )

    async def _say_replication_ready(self) -> None:
        try:
            async with asyncio.timeout(REPLICATION_READY_S):
                await self.hub.messages.ready.wait()
        except TimeoutError:
            self.close("Replication connection was not established in time")
        else:
            self.system("system", "ok", "Replication connection established")
