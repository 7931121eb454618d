"""The stand-in for Supabase Realtime: `python -m stack.realtime`, behind /realtime/v1 of the one origin.

Speaks the published protocol to unmodified clients. A development server: one process, one project.

    sockets --frames--> Channel --probes--> Postgres           realtime_wire.py      frames
       ^                   |                                   realtime_channel.py   a joined topic, presence
       |                 World <-- REST                        realtime_rest.py      both endpoints
       |                   ^                                   realtime_database.py  the policies asked, replay
       +-- bounded queue --+-- Stream of realtime.messages     realtime_stream.py    logical replication
                           +-- Changes of supabase_realtime    realtime_changes.py   rows under RLS

Environment: STACK_REALTIME_PORT, STACK_REALTIME_DB_URL (a superuser), SUPABASE_JWT_SECRET, SUPABASE_PUBLISHABLE_KEY,
SUPABASE_SECRET_KEY, LITE_SIGNING_JWK, and what `Settings` reads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from stack import realtime_rest
from stack.realtime_changes import PUBLICATION, Changes
from stack.realtime_channel import PREFIX, Channel, World
from stack.realtime_database import Database
from stack.realtime_limits import CONNECTIONS_MAX, Limits
from stack.realtime_stream import Change, Stream
from stack.realtime_tokens import Refused, Tokens
from stack.realtime_wire import Broadcast, Frame, Malformed, Message, Vsn, decode, dumps, encode

log = logging.getLogger("realtime")

FRAME_BYTES_MAX = 5_000_000
SOCKET_IDLE_S = 60.0  # without a frame; both clients send a heartbeat every 25 s
UPGRADE_REFUSAL_DELAY_S = 2.0
QUEUE_FRAMES_MAX = 20_000
MESSAGES_PUBLICATION = "supabase_realtime_messages_publication"
MESSAGES_SCHEMA = "realtime"
LISTENING_WAIT_S = 1.0
HOUSEKEEPING_S = 1.0
CLOSING_S = 1.0
UPGRADE_PATHS = ("/websocket", "/socket/websocket")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Settings:
    """What may differ between hosted-like and quick."""

    denial_delay_s: float = 5.0
    idle_s: float = 60.0  # replication ends so long after the last socket; about 12 minutes on hosted
    queue_bytes_max: int = 8_000_000  # per socket; a slower reader is disconnected
    limits: bool = False  # refuse what the Free plan refuses
    private_only: bool = False  # "allow public access" turned off

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """From STACK_REALTIME_<NAME>. Raises ValueError for what is not a number."""

        def told(name: str, default: float) -> float:
            return float(environment.get(f"STACK_REALTIME_{name}") or default)

        return cls(
            told("DENIAL_DELAY_S", cls.denial_delay_s),
            told("IDLE_S", cls.idle_s),
            int(told("QUEUE_BYTES_MAX", cls.queue_bytes_max)),
            told("LIMITS", 0) == 1,
            told("PRIVATE_ONLY", 0) == 1,
        )


class Hub:
    """Everything of one project."""

    def __init__(self, settings: Settings, tokens: Tokens, database_url: str) -> None:
        self.settings, self.tokens = settings, tokens
        self.limits = Limits(on=settings.limits)
        self.database = Database(database_url)
        self.changes = Changes(self.database)
        self.messages = Stream(database_url, MESSAGES_PUBLICATION, self._sent)
        self.rows = Stream(database_url, PUBLICATION, self.changes.handle)
        self.sockets: set[Socket] = set()
        self.worlds: dict[tuple[str, bool], World] = {}
        self._waiting_for_rows = 0
        self._partitions: asyncio.Task[None] | None = None

    # ----- worlds -----

    def enter(self, channel: Channel) -> World:
        world = self.worlds.setdefault((channel.topic, channel.private), World())
        world.channels[channel] = None
        return world

    def leave(self, channel: Channel, world: World) -> None:
        world.channels.pop(channel, None)
        world.absent(channel)
        if not world.channels:
            self.worlds.pop((channel.topic, channel.private), None)

    def deliver(self, broadcast: Broadcast, *, private: bool) -> None:
        """A broadcast from outside any socket."""
        world = self.worlds.get((broadcast.topic, private))
        if world and not self.limits.too_many_messages(0):
            self.limits.too_many_messages(world.deliver(broadcast))

    # ----- the database -----

    async def until_listening(self) -> None:
        """Wait a moment for the stream of database broadcasts. Raises Refused when Postgres does not answer.

        Hosted answers a join before that; waiting here means that who has joined also hears, with any client.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTENING_WAIT_S):
                await self.messages.ready.wait()
                return
        await self.database.run(lambda connection: connection.execute("select 1"))

    async def until_streaming_changes(self) -> None:
        self.rows.start()
        self._waiting_for_rows += 1
        try:
            await self.rows.ready.wait()
        finally:
            self._waiting_for_rows -= 1

    def connected(self, socket: Socket) -> None:
        """The first one of a while wakes the project up."""
        self.sockets.add(socket)
        if not self.messages.started:
            self.messages.start()
            self._partitions = asyncio.create_task(self.database.make_partitions())

    async def _sent(self, change: Change) -> None:
        """A row of realtime.messages was committed."""
        row = change.new
        event, payload, raw = row.get("event"), row.get("payload"), row.get("binary_payload")
        content = payload if payload is not None else raw
        if change.kind != "INSERT" or change.relation.schema != MESSAGES_SCHEMA or row.get("extension") != "broadcast":
            return
        if event is None or content is None:
            return
        is_json = payload is not None
        broadcast = Broadcast(
            f"{PREFIX}{row['topic']}",
            event,
            content.encode() if is_json else bytes.fromhex(content.removeprefix("\\x")),
            is_json=is_json,
            meta=dumps({"id": row["id"]}),
            id=str(row["id"]),
        )
        if not self.limits.too_large(broadcast):
            self.deliver(broadcast, private=row.get("private") == "t")

    async def keep_house(self) -> None:
        """Replication only while somebody listens: a slot holds back WAL, and decoding costs every writer."""
        loop = asyncio.get_running_loop()
        used_at = {self.messages: 0.0, self.rows: 0.0}
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            rows_used = self.changes.bindings or self._waiting_for_rows
            for stream, used in ((self.messages, self.sockets), (self.rows, rows_used)):
                if used or not stream.started:
                    used_at[stream] = loop.time()
                elif loop.time() - used_at[stream] > self.settings.idle_s:
                    await stream.stop()

    async def close(self) -> None:
        for stream in (self.messages, self.rows):
            await stream.stop()
        await self.database.close()


class Socket:
    """One WebSocket: its channels, and a bounded queue of frames on their way out."""

    def __init__(self, hub: Hub, vsn: Vsn, token: str, headers: str, send: Send, abort: Callable[[], None]) -> None:
        self.hub, self.vsn, self.token, self.headers = hub, vsn, token, headers
        self.channels: dict[str, Channel] = {}
        self._send, self._abort = send, abort
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._more = asyncio.Event()
        self._refusals: set[asyncio.Task[None]] = set()
        self.closing = False

    # ----- out -----

    def push(self, frame: Frame) -> None:
        """Queue a frame. Who reads too slowly is cut off at once: a close frame would wait behind the rest."""
        if self.closing:
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._more.set()
        if self._queued_bytes > self.hub.settings.queue_bytes_max or len(self._queue) > QUEUE_FRAMES_MAX:
            log.warning("a socket that reads too slowly was cut off with %s bytes waiting", self._queued_bytes)
            self.closing = True
            self._queue.clear()
            self._abort()

    async def write(self) -> None:
        """Send what is queued until cancelled or disconnected."""
        with suppress(OSError):
            while True:
                while self._queue:
                    frame = self._queue.popleft()
                    self._queued_bytes -= len(frame)
                    await self._send({"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame})
                self._more.clear()
                await self._more.wait()

    async def close(self, code: int) -> None:
        """With a close frame; without one when nobody reads it."""
        self.closing = True
        try:
            async with asyncio.timeout(CLOSING_S):
                await self._send({"type": "websocket.close", "code": code})
        except (OSError, TimeoutError):
            self._abort()

    def crash(self, channel: Channel) -> None:
        """An error of ours: the client joins again."""
        channel.gone()
        self.channels.pop(channel.topic, None)
        told = {"reason": "channel_crash"}
        self.push(encode(self.vsn, channel.join_ref, channel.join_ref, channel.topic, "phx_error", told))

    def gone(self) -> None:
        self.closing = True
        for task in self._refusals:
            task.cancel()
        for channel in list(self.channels.values()):
            channel.gone()
        self.channels.clear()

    # ----- in -----

    async def handle(self, frame: Frame) -> None:
        """One frame from the client. Never raises for what it says."""
        try:
            message = decode(self.vsn, frame)
        except Malformed as error:
            log.info("MalformedWebSocketMessage: %s", error)
            return
        channel = self.channels.get(message.topic)
        if message.topic == "phoenix" and message.event == "heartbeat":
            self.reply(message, "ok", {})
        elif message.event == "phx_join":
            await self._join(message)
        elif channel is None:
            if message.event == "phx_leave":
                self.reply(message, "ok", {})
            else:
                self.reply(message, "error", {"reason": "unmatched topic"})
        else:
            try:
                await channel.handle(message)
            except Refused as error:
                log.warning("%s on %s was not done: %s", message.event, message.topic, error)
            except Exception:
                log.exception("channel %s crashed", message.topic)
                self.crash(channel)

    async def _join(self, message: Message) -> None:
        if not message.topic.startswith(PREFIX):
            return self.reply(message, "error", {"reason": "unmatched topic"})
        if message.topic in self.channels:
            self.channels[message.topic].close()
        channel = Channel(self, message)
        try:
            await channel.join(message.ref)
        except Refused as error:
            self._refuse(message, str(error))
            if error.code == "ClientJoinRateLimitReached":
                await self.close(1000)
        except Exception:
            log.exception("the join of %s crashed", message.topic)
            self._refuse(message, "Unknown Error on Channel")
        else:
            self.channels[message.topic] = channel
            return None
        return channel.gone()

    def _refuse(self, message: Message, reason: str) -> None:
        """Answer a join with an error, after the delay with which hosted slows down who tries again and again."""

        async def later() -> None:
            await asyncio.sleep(self.hub.settings.denial_delay_s)
            if message.topic not in self.channels:
                self.reply(message, "error", {"reason": reason})

        log.info("the join of %s was refused: %s", message.topic, reason)
        task = asyncio.create_task(later())
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    def reply(self, message: Message, status: str, response: dict[str, Any]) -> None:
        told = {"status": status, "response": response}
        self.push(encode(self.vsn, message.join_ref, message.ref, message.topic, "phx_reply", told))


# ----- ASGI -----


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's, which lets the application cut a connection off without waiting for what is buffered."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"]["abort"] = {"now": self.transport.abort}


def _headers(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _path(scope: Mapping[str, Any]) -> str:
    """The path as it was sent, without the prefix of the one origin."""
    path: str = scope["raw_path"].partition(b"?")[0].decode("latin-1")
    return path.removeprefix("/realtime/v1")


class App:
    """Upgrades to sockets, everything else to the REST endpoints."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        house = asyncio.create_task(self.hub.keep_house())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        house.cancel()
        await self.hub.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        body = b""
        while (event := await receive())["type"] == "http.request":
            body += event.get("body", b"")
            if not event.get("more_body") or len(body) > realtime_rest.BODY_BYTES_MAX:
                break
        query = scope["query_string"].decode("latin-1")
        request = realtime_rest.Request(scope["method"], _path(scope), query, _headers(scope), body)
        answer = await realtime_rest.handle(self.hub, request)
        headers = {"content-length": str(len(answer.content)), **realtime_rest.CORS, **answer.headers}
        if answer.body is not None:
            headers["content-type"] = "application/json; charset=utf-8"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.content})

    async def _socket(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        headers, query = _headers(scope), parse_qs(scope["query_string"].decode("latin-1"))
        token = headers.get("x-api-key") or query.get("apikey", [""])[0]
        refused = self._refusal(_path(scope), token)
        if refused:
            status, text = refused
            await asyncio.sleep(min(UPGRADE_REFUSAL_DELAY_S, self.hub.settings.denial_delay_s))
            kind = [(b"content-type", b"application/json; charset=utf-8")]
            await send({"type": "websocket.http.response.start", "status": status, "headers": kind})
            await send({"type": "websocket.http.response.body", "body": dumps({"error": text})})
            return
        vsn: Vsn = "2.0.0" if query.get("vsn", ["1.0.0"])[0].startswith("2.") else "1.0.0"
        abort = scope["extensions"]["abort"]["now"]
        await send({"type": "websocket.accept"})
        told = dumps({name: value for name, value in headers.items() if name != "x-api-key"}).decode()
        socket = Socket(self.hub, vsn, token, told, send, abort)
        self.hub.connected(socket)
        writer = asyncio.create_task(socket.write())
        try:
            await self._read(socket, receive)
        finally:
            self.hub.sockets.discard(socket)
            socket.gone()
            writer.cancel()
            await asyncio.wait([writer])

    def _refusal(self, path: str, token: str) -> tuple[int, str] | None:
        """Status and text of an upgrade that is refused."""
        if path not in UPGRADE_PATHS:
            return 404, "Not Found"
        if not token:
            return 401, "API key is missing"
        try:
            self.hub.tokens.claims(token)
        except Refused as error:
            return 401, error.text
        if self.hub.limits.on and len(self.hub.sockets) >= CONNECTIONS_MAX:
            return 429, "Too many connected users"
        return None

    async def _read(self, socket: Socket, receive: Receive) -> None:
        while True:
            try:
                async with asyncio.timeout(SOCKET_IDLE_S):
                    event = await receive()
            except TimeoutError:
                await socket.close(1000)
                return
            if event["type"] == "websocket.disconnect":
                return
            text, data = event.get("text"), event.get("bytes")
            await socket.handle(text if text is not None else data or b"")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    environment = os.environ
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    tokens = Tokens(
        environment["SUPABASE_JWT_SECRET"],
        environment["SUPABASE_PUBLISHABLE_KEY"],
        environment["SUPABASE_SECRET_KEY"],
        environment.get("LITE_SIGNING_JWK", ""),
    )
    hub = Hub(Settings.read(environment), tokens, environment["STACK_REALTIME_DB_URL"])
    uvicorn.run(
        App(hub),
        host="127.0.0.1",
        port=int(environment["STACK_REALTIME_PORT"]),
        ws=Protocol,
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=None,  # hosted does not ping either; it waits for the client's heartbeats
        ws_per_message_deflate=False,
        log_level="warning",  # not "info", which would write API keys from the query
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
    )


if __name__ == "__main__":
    main()
