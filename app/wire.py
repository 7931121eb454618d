"""The wire: bodies in, with limits on size and time and a pointer to the first thing that is wrong; bodies out."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.types import Receive, Scope, Send

from app import log
from app.problems import Problem
from app.sensitive import Sealer
from app.supabase import Caller, Supabase

T = TypeVar("T")

# 4,000 characters are at most 16 kB of UTF-8, or 48 kB as JSON escapes; then the other members.
BODY_BYTES_MAX = 64 * 1024
# A phone on a bad line sends 64 KiB in a few seconds; a connection that drips holds memory for nothing.
BODY_TIMEOUT_S = 10.0
# Ours are seven at the most; links collect some more on their way.
_PARAMETERS_COUNT_MAX = 100

# The spelling msgspec has for where something is wrong, and the two sentences in which it quotes the client.
_AT = " - at `"
_UNKNOWN = "Object contains unknown field `"
_NOT_LISTED = "Invalid enum value "
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_STEP = re.compile(r"\.([^.\[]+)|\[([0-9]+|\.\.\.)\]")
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_encode = msgspec.json.Encoder().encode
_JSON = re.compile(rb"application/json[ \t]*(;[ \t]*charset[ \t]*=[ \t]*\"?utf-?8\"?[ \t]*)?", re.IGNORECASE)


class Reply:
    """An answer whose body is a struct, as raw ASGI: Litestar's Response costs as much as the rest of the framework."""

    __slots__ = ("_body", "_status")

    def __init__(self, body: msgspec.Struct, status: int = 200) -> None:
        self._status = status
        self._body = _encode(body)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


class NoContent:
    """204: done, and nothing to say."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ApiRequest(Request[Caller, Any, State]):
    """A request whose JSON body is read by our rules; Litestar hands the result to the handler as `data`."""

    @property
    def supabase(self) -> Supabase:
        """The door out."""
        door: Supabase = self.scope["litestar_app"].state["supabase"]
        return door

    @property
    def sealer(self) -> Sealer:
        """What makes envelopes of sensitive messages."""
        sealer: Sealer = self.scope["litestar_app"].state["sealer"]
        return sealer

    def asked(self, shape: type[T]) -> T:
        """The query parameters as a struct; unknown ones are ignored, as links collect them on their way.

        Errors: Problem validation_failed that points at the parameter.
        """
        try:
            query = self.scope["query_string"].decode()
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_PARAMETERS_COUNT_MAX, errors="strict")
        except ValueError:
            raise Problem("validation_failed", "The query is not valid UTF-8, or too long.", pointer="") from None
        names = _names(cast(Any, shape))
        known: dict[str, str] = {}
        for name, value in pairs:
            if name in known:
                raise Problem("validation_failed", "This parameter is given twice.", pointer=f"/{name}")
            if name in names:
                # As in text: PostgreSQL cannot hold NUL, and normalisation would remove it anyway.
                known[name] = value.replace("\x00", "")
        try:
            asked = msgspec.convert(known, shape, strict=False)
        except msgspec.ValidationError as error:
            pointer, detail = _explain(str(error))
            raise Problem("validation_failed", detail, pointer=pointer) from None
        for name in known:
            # msgspec takes the word null for None; a link that says so was put together wrongly.
            if getattr(asked, names[name]) is None:
                raise Problem("validation_failed", "A parameter without a value is left out.", pointer=f"/{name}")
        return asked

    async def body(self) -> bytes:
        """The whole body, at most 64 KiB.

        Errors: Problem payload_too_large as soon as more arrives, unsupported_media_type, request_timeout, and
                validation_failed when there is none and the route needs one.
        """
        if isinstance(self._body, bytes):
            return self._body
        headers = log.current().headers
        length = headers.get(b"content-length", b"0")
        # Refused by its headers alone, nothing is read, and a client that waits for 100 Continue sends nothing.
        if length != b"0":
            if not length.isdigit() or len(length) > 18 or int(length) > BODY_BYTES_MAX:
                raise Problem("payload_too_large")
            _check_type(headers)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                self._body = await self._read()
        except TimeoutError:
            raise Problem("request_timeout", headers={"connection": "close"}) from None
        if length == b"0" and self._body:
            _check_type(headers)
        field = self.route_handler.parsed_data_field
        # Litestar would refuse this in words of its own, without asking for the JSON.
        if not self._body and field is not None and struct_of(field.annotation) is field.annotation:
            raise Problem("validation_failed", "The body is missing.", pointer="")
        return self._body

    async def _read(self) -> bytes:
        whole, more = bytearray(), True
        while more:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem("request_timeout", "The connection was closed before the body was complete.")
            whole += message.get("body", b"")
            more = message.get("more_body", False)
            if len(whole) > BODY_BYTES_MAX:
                raise Problem("payload_too_large")
        return bytes(whole)

    async def json(self) -> Any:
        """The body as the struct the handler declares for `data`; Problem validation_failed with a pointer."""
        field = self.route_handler.parsed_data_field
        return decode(await self.body(), field.annotation if field is not None else dict)


@cache
def _names(shape: Any) -> dict[str, str]:
    """Names of the wire to names of members; msgspec looks through all annotations for that."""
    return {field.encode_name: field.name for field in msgspec.structs.fields(shape)}


def _check_type(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem("unsupported_media_type", "Send the body without a content encoding.")
    if not _JSON.fullmatch(headers.get(b"content-type", b"")):
        raise Problem("unsupported_media_type")


class _Twice(ValueError):
    """A JSON object has a member twice."""


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise _Twice("A member occurs twice.")


_decode_unique = json.JSONDecoder(object_pairs_hook=_unique).decode


def struct_of(annotation: Any) -> Any:
    """The struct in `Struct | None`: a body may be left out, but what is sent must be one."""
    return next((arm for arm in getattr(annotation, "__args__", ()) if arm is not type(None)), annotation)


@cache
def _decoder(annotation: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(struct_of(annotation)).decode


def _decoded(body: bytes, shape: Any) -> Any:
    try:
        return _decoder(shape)(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    # 36.0 and 36e0 are integers to JSON Schema, and to languages with one kind of number. Python's decoder is laxer
    # than msgspec, which therefore reads the result again.
    return _decoder(shape)(_encode(_decode_whole(body.decode())))


def _whole(number: str) -> int | float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _no_number(word: str) -> None:
    raise ValueError(word)


_decode_whole = json.JSONDecoder(parse_float=_whole, parse_constant=_no_number).decode


def decode(body: bytes, shape: Any) -> Any:
    """Decode JSON strictly into a struct: no unknown members, no member twice, no value of another type.

    Errors: Problem validation_failed; its pointer is that of the first finding. Its sentence never quotes a value.
    """
    try:
        data = _decoded(body, shape)
        # Of two members with one name msgspec keeps the last; a proxy that keeps the first would see another request.
        _decode_unique(body.decode())
    except msgspec.ValidationError as error:
        pointer, detail = _explain(str(error))
        raise Problem("validation_failed", detail, pointer=pointer) from None
    except (ValueError, OverflowError, RecursionError) as error:
        detail = str(error) if isinstance(error, _Twice) else "The body is not valid JSON in UTF-8."
        raise Problem("validation_failed", detail, pointer="") from None
    return data


def _explain(message: str) -> tuple[str, str]:
    """JSON pointer and sentence for a message of msgspec; what a client wrote is in the pointer only, and escaped."""
    # The last one is msgspec's own; those before are part of a name or value that was sent.
    said, at, path = message.rpartition(_AT)
    pointer = _pointer(path) if at else ""
    if message.startswith(_UNKNOWN):
        name = (said or message).removeprefix(_UNKNOWN).removesuffix("`")
        return f"{pointer}/{_escape(name)}", "There is no such member."
    if message.startswith(_NOT_LISTED):
        return pointer, "This is not one of the values that can be given."
    said = said or message
    if missing := _MISSING.fullmatch(said):
        return f"{pointer}/{missing[1]}", "This member is missing."
    if "matching regex" in said:
        said = "Expected a UUID in its canonical form"
    return pointer, said.replace("`", "") + "."


def _pointer(path: str) -> str:
    # No shape of ours is deeper.
    return "".join(f"/{_escape(name or index)}" for name, index in _STEP.findall(path.removesuffix("`"))[:4])


def _escape(name: str) -> str:
    # A name is the client's own text: bounded, and free of what a terminal or a log viewer might obey.
    return "".join(c if c.isprintable() else "?" for c in name[:100]).replace("~", "~0").replace("/", "~1")


def changes(data: msgspec.Struct) -> dict[str, Any]:
    """What the body of a PATCH names, by the names of the wire; NUL goes, as JSON can carry it and jsonb cannot."""
    named: dict[str, Any] = msgspec.to_builtins(data)
    return {name: value.replace("\x00", "") if isinstance(value, str) else value for name, value in named.items()}


def given_id(text: str, pointer: str) -> str:
    """A UUID from a path or header, in lower case; Problem validation_failed that points at the parameter."""
    if not _UUID.fullmatch(text):
        raise Problem("validation_failed", "Expected a UUID in its canonical form.", pointer=pointer)
    return text.lower()
