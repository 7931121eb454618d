"""The two REST endpoints of Realtime: POST /api/broadcast and POST /api/broadcast/{topic}/events/{event}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import msgspec

from stack.realtime_tokens import Claims, Refused
from stack.realtime_wire import JSON, RAW, Broadcast, dumps

if TYPE_CHECKING:
    from stack.realtime import Hub

CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "*",
    "access-control-allow-methods": "GET, POST, OPTIONS",
}
BODY_BYTES_MAX = 8_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; `body` is written as JSON unless it is None."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return b"" if self.body is None else dumps(self.body)


UNAUTHORIZED = Answer(401, {"message": "Unauthorized"})
FORBIDDEN = Answer(403, {"message": "Unauthorized"})
NOT_FOUND = Answer(404, {"message": "Not Found"})


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request; `path` is still percent-encoded and starts after /realtime/v1."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


async def handle(hub: Hub, request: Request) -> Answer:
    """The answer, whatever was asked. Raises nothing that a client could cause."""
    if request.method == "OPTIONS":
        return Answer(204)
    if request.path == "/health":
        return Answer(200, {"ok": True})
    words = [unquote(word) for word in request.path.split("/")]
    is_batch = words[1:] == ["api", "broadcast"]
    is_single = len(words) == 6 and words[1:3] == ["api", "broadcast"] and words[4] == "events"
    if request.method != "POST" or not (is_batch or is_single):
        return NOT_FOUND
    if len(request.body) > BODY_BYTES_MAX:
        return Answer(413, {"message": "Request body too large"})
    try:
        claims = hub.tokens.claims(_token(request.headers))
    except Refused:
        return UNAUTHORIZED
    try:
        return await (_batch(hub, request, claims) if is_batch else _single(hub, request, claims, words[3], words[5]))
    except Refused as error:
        status = 429 if error.code == "TooManyRequests" else 422
        return Answer(status, {"message": error.text})


def _token(headers: Mapping[str, str]) -> str:
    """The bearer token, which wins over the API key."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else headers.get("apikey", "")


def _headers(request: Request) -> str:
    return dumps({name: value for name, value in request.headers.items() if name != "authorization"}).decode()


async def _single(hub: Hub, request: Request, claims: Claims, topic: str, event: str) -> Answer:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/octet-stream"):
        return Answer(415, {"message": "Unsupported Media Type"})
    encoding = JSON if kind == "application/json" else RAW
    if encoding == JSON:
        try:
            msgspec.json.decode(request.body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return Answer(400, {"message": "Bad Request"})
    missing = {name: ["can't be blank"] for name, word in (("topic", topic), ("event", event)) if not word}
    if missing:
        return Answer(422, {"errors": missing})
    private = parse_qs(request.query).get("private", ["false"])[-1].lower() == "true"
    broadcast = Broadcast(f"realtime:{topic}", event, request.body, is_json=encoding == JSON)
    if refusal := hub.limits.too_large(broadcast):
        return Answer(422, {"errors": {"payload": [refusal]}})
    if private and "broadcast" not in await hub.database.writable(claims, topic, _headers(request)):
        return FORBIDDEN
    hub.limits.count_rest(1)
    hub.deliver(broadcast, private=private)
    return Answer(202)


async def _batch(hub: Hub, request: Request, claims: Claims) -> Answer:
    try:
        told = msgspec.json.decode(request.body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Answer(400, {"message": "Bad Request"})
    messages = told.get("messages") if isinstance(told, dict) else None
    if not isinstance(messages, list) or not messages:
        return Answer(422, {"errors": {"messages": ["can't be blank"]}})
    errors, broadcasts = [], []
    for message in messages:
        wrong, broadcast, private = _read(hub, message)
        errors.append(wrong)
        broadcasts.append((broadcast, private))
    if any(errors):
        return Answer(422, {"errors": {"messages": errors}})
    hub.limits.count_rest(len(broadcasts))
    allowed: dict[str, bool] = {}
    for broadcast, private in broadcasts:
        topic = broadcast.topic.removeprefix("realtime:")
        if private and topic not in allowed:
            allowed[topic] = "broadcast" in await hub.database.writable(claims, topic, _headers(request))
        if not private or allowed[topic]:  # without permission: silently dropped, as on hosted
            hub.deliver(broadcast, private=private)
    return Answer(202)


def _read(hub: Hub, message: Any) -> tuple[dict[str, list[str]], Broadcast, bool]:
    """One message of a batch: (what is wrong with it, the broadcast, private)."""
    told = message if isinstance(message, dict) else {}
    topic, event, payload, private = (told.get(name) for name in ("topic", "event", "payload", "private"))
    wrong: dict[str, list[str]] = {}
    for name, value, right in (("topic", topic, str), ("event", event, str), ("payload", payload, dict)):
        if value is None or value == "":
            wrong[name] = ["can't be blank"]
        elif not isinstance(value, right):
            wrong[name] = ["is invalid"]
    if private is not None and not isinstance(private, bool):
        wrong["private"] = ["is invalid"]
    broadcast = Broadcast(f"realtime:{topic}", str(event), dumps(payload))
    if refusal := hub.limits.too_large(broadcast):
        wrong.setdefault("payload", []).append(refusal)
    return wrong, broadcast, private is True
