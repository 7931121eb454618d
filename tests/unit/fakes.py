"""What the unit tests stand on: a scripted TCP upstream, the application on it, tokens, answers as SQL gives them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt

from app.edge import Edge
from app.main import create_app
from app.settings import Settings

SECRET = "a-secret-for-tests-of-at-least-32-bytes"
ADA = "0198c0de-0000-7000-8000-00000000ada0"
BEN = "0198c0de-0000-7000-8000-00000000be40"
CONVERSATION = "0198c0de-0000-7000-8000-0000000c0417"
MESSAGE = "0198c0de-0000-7000-8000-0000000e55a6"
KEY = "0198c0de-0000-7000-8000-00000000004e"


@dataclass
class Asked:
    """One request the upstream received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[bytes | None]]


@dataclass
class Upstream:
    """A TCP server that does what `script` says: the bytes it returns, or whatever it does to the connection."""

    script: Script
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                asked = Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
                self.asked.append(asked)
                answer = await self.script(asked, writer)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            # Cancelled a second time while it hangs up, it is as good as gone.
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self.serving.discard(task)


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    """Listen on a free port until the block ends."""
    up = Upstream(script)
    server = await asyncio.start_server(up.serve, "127.0.0.1", 0)
    up.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield up
    finally:
        server.close()
        # What still hangs there would outlive the loop it was made in.
        serving = [*up.serving]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def http(status: int, body: bytes | Any, content_type: str = "application/json") -> bytes:
    """A complete HTTP/1.1 answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


def always(answer: bytes) -> Script:
    """A script that gives every request the same answer."""

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
        return answer

    return script


def refusal(code: str, message: str, details: str | None = None, hint: str | None = None) -> bytes:
    """An error as PostgREST writes it, under a status that must not matter."""
    return http(400, {"code": code, "message": message, "details": details, "hint": hint})


def config(url: str, **changes: Any) -> Settings:
    """Settings for an upstream at `url`."""
    given = {"supabase_publishable_key": "sb_publishable_test", "supabase_jwt_secret": SECRET, **changes}
    return Settings(supabase_url=url, **given)


def token(issuer: str, key: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **changes: Any) -> str:
    """A token as Supabase Auth signs it; a claim given as None is left out."""
    claims = {
        "sub": ADA,
        "aud": "authenticated",
        "role": "authenticated",
        "iss": issuer,
        "exp": int(time.time()) + 3600,
    }
    kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def bearer(url: str, **changes: Any) -> dict[str, str]:
    """Headers of a person who is signed in at the upstream `url`."""
    return {"Authorization": f"Bearer {token(f'{url}/auth/v1', **changes)}"}


@asynccontextmanager
async def serving(settings: Settings, address: str = "192.0.2.1") -> AsyncIterator[httpx.AsyncClient]:
    """The whole application in this process, started and stopped as a server would."""
    edge: Edge = create_app(settings)
    async with edge.app.lifespan():
        transport = httpx.ASGITransport(edge, raise_app_exceptions=False, client=(address, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client


PROFILE = {"id": ADA, "displayName": "Ada", "avatarUrl": None, "isFallback": False}
SENT_MESSAGE = {
    "id": MESSAGE, "conversationId": CONVERSATION, "seq": 1, "eventSeq": 1, "fromUserId": ADA, "toUserId": BEN,
    "gigId": None, "clientMessageId": KEY, "body": "Hello", "state": "visible",
    "warning": None, "masked": False, "sensitive": False, "unreadable": False, "status": "sent", "sender": PROFILE,
    "editedAt": None, "deletedAt": None, "createdAt": "2026-03-01T09:30:00.123456Z",
}  # fmt: skip
INBOX_ROW = {
    "id": CONVERSATION, "kind": "direct", "gigId": None, "title": None, "members": [PROFILE], "memberCount": 2,
    "lastMessage": SENT_MESSAGE, "lastMessageAt": "2026-03-01T09:30:00.123456Z", "unreadCount": 0,
    "markedUnread": False, "myRole": "member", "myLastReadSeq": 0, "canSend": True,
    "liveTopic": f"conversation:{CONVERSATION}:live:1", "lastSeq": 1, "firstSeq": 1, "eventSeq": 1,
    "archivedAt": None, "mutedUntil": None, "pinnedAt": None, "createdAt": "2026-03-01T09:30:00.123456Z",
}  # fmt: skip
PACE = {"limit": 100, "remaining": 99, "windowS": 60, "resetS": 60}
SENT = {"message": SENT_MESSAGE, "conversation": INBOX_ROW, "created": True, "held": False, "pace": PACE}
READ = {
    "receipt": {"userId": ADA, "lastReadSeq": 1, "lastDeliveredSeq": 1},
    "unreadCount": 0,
    "unreadTotal": 0,
}
