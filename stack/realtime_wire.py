"""The two serializers of Realtime: frames to messages and messages to frames.

vsn 1.0.0 is JSON objects in text frames. vsn 2.0.0 is JSON arrays [join_ref, ref, topic, event, payload] in text
frames, and binary frames for broadcasts: type 3 from a client, type 4 to one, with one-byte lengths in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Vsn = Literal["1.0.0", "2.0.0"]
Frame = str | bytes

PUSH, BROADCAST = 3, 4  # kinds of binary frames
RAW, JSON = 0, 1  # encodings inside them
PUSH_HEAD, BROADCAST_HEAD = 7, 5  # bytes before the bodies
LENGTH_MAX = 255

_json = msgspec.json.Encoder(decimal_format="number")


class Malformed(ValueError):
    """A frame that says nothing: logged and forgotten, as on hosted."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """One broadcast on its way to any number of sockets. `payload` and `meta` are JSON text unless `is_json` is False.

    `verbatim` is the whole payload object of a text frame, which is passed on as its sender wrote it; `id` is the row
    of realtime.messages that it came from.
    """

    topic: str
    event: str
    payload: bytes
    is_json: bool = True
    meta: bytes = b""
    verbatim: bytes = b""
    id: str = ""

    @property
    def size(self) -> int:
        return len(self.payload)

    def encode(self, vsn: Vsn) -> Frame | None:
        """The frame for a socket, or None: raw bytes do not reach 1.0.0."""
        if vsn == "2.0.0" and not self.verbatim:
            sizes = (topic := self.topic.encode(), event := self.event.encode(), self.meta)
            if all(len(each) <= LENGTH_MAX for each in sizes):
                head = bytes((BROADCAST, *map(len, sizes), JSON if self.is_json else RAW))
                return b"".join((head, topic, event, self.meta, self.payload))
        if not self.is_json:
            return None
        told: Any = msgspec.Raw(self.verbatim)
        if not self.verbatim:
            told = {"event": self.event, "payload": msgspec.Raw(self.payload), "type": "broadcast"}
            if self.meta:
                told["meta"] = msgspec.Raw(self.meta)
        return encode(vsn, None, None, self.topic, "broadcast", told)


@dataclass(frozen=True, slots=True)
class Message:
    """What a client sent. `broadcast` is set for the event `broadcast`; `payload` is its object otherwise."""

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: dict[str, Any]
    broadcast: Broadcast | None = None


class _Object(msgspec.Struct):
    topic: str
    event: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    ref: str | int | None = None
    join_ref: str | int | None = None


_Array = tuple[str | int | None, str | int | None, str, str, msgspec.Raw]
_objects: msgspec.json.Decoder[_Object] = msgspec.json.Decoder(_Object)
_arrays: msgspec.json.Decoder[_Array] = msgspec.json.Decoder(_Array)


def dumps(value: Any) -> bytes:
    """JSON text; numbers that were read exactly are written exactly."""
    return _json.encode(value)


def encode(vsn: Vsn, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> str:
    """A text frame to a client. 1.0.0 never says join_ref and always says ref (the Python client needs it)."""
    if vsn == "2.0.0":
        return dumps((join_ref, ref, topic, event, payload)).decode()
    return dumps({"topic": topic, "event": event, "payload": payload, "ref": ref}).decode()


def decode(vsn: Vsn, frame: Frame) -> Message:
    """Raises Malformed."""
    try:
        if isinstance(frame, bytes):
            if vsn == "1.0.0":
                raise Malformed("a binary frame on a 1.0.0 socket")
            return _decode_push(frame)
        if vsn == "2.0.0":
            join_ref, ref, topic, event, raw = _arrays.decode(frame)
        else:
            told = _objects.decode(frame)
            join_ref, ref, topic, event, raw = told.join_ref, told.ref, told.topic, told.event, told.payload
        payload = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
    if not isinstance(payload, dict):
        raise Malformed("a payload that is not an object")
    names = (_text(join_ref), _text(ref), topic, event, payload)
    if event != "broadcast":
        return Message(*names)
    name = payload.get("event")
    inner = dumps(payload.get("payload"))
    return Message(*names, Broadcast(topic, name if isinstance(name, str) else "", inner, verbatim=bytes(raw)))


def _text(ref: str | int | None) -> str | None:
    return str(ref) if isinstance(ref, int) else ref


def _decode_push(frame: bytes) -> Message:
    if len(frame) < PUSH_HEAD or frame[0] != PUSH:
        raise Malformed("an unknown kind of binary frame")
    parts, at = [], PUSH_HEAD
    for size in frame[1:6]:
        parts.append(frame[at : at + size])
        at += size
    if at > len(frame) or frame[6] not in (RAW, JSON):
        raise Malformed("a binary frame whose lengths do not add up")
    join_ref, ref, topic, event, _meta = (part.decode() for part in parts)
    payload = frame[at:]
    if frame[6] == JSON:
        msgspec.json.decode(payload)  # what does not parse would break whoever receives it
    broadcast = Broadcast(topic, event, payload, is_json=frame[6] == JSON)
    return Message(join_ref or None, ref or None, topic, "broadcast", {}, broadcast)
