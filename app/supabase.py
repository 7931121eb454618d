"""The only door out: calls to Supabase, with a deadline, a size limit and a name for everything that can go wrong.

Upstream text never leaves here, except the `details` of our own SQL refusals (SQLSTATE PTnnn).
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from app import log
from app.patience import Places
from app.pool import Answer, Lost, Pool, TooLarge, Unreadable, secret_key_headers
from app.problems import CATALOGUE, Problem
from app.settings import Settings
from app.vault import Vault, opened

T = TypeVar("T")

# The largest honest answer is a page of 100 messages of 4,000 characters: 1.6 MB if all are emoji, 4.4 MB sealed with a
# masked form each.
ANSWER_BYTES_MAX = 6 * 1024 * 1024
# Readiness is asked for by machines that soon ask again.
_PROBE_TIMEOUT_S = 3.0
_RPC = "/rest/v1/rpc/"
# A retry needs time to succeed in; later than this before the deadline it would only add load.
_RETRY_NEEDS_S = 0.5
# Retry-After of a passing failure: long enough for a restart of the data API, short enough for a person to wait.
_RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: a verified person and their own token, which everything upstream happens with."""

    id: str
    token: str
    expires_at_s: float


class Refusal(msgspec.Struct):
    """PostgREST's error body; only `code` decides, and other servers' bodies may hold anything."""

    code: str = ""
    message: Any = None
    details: Any = None
    hint: Any = None


_encode = msgspec.json.Encoder().encode


@cache
def _decoder(shape: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(shape).decode


def _usable(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        log.warning("answer_unusable", of=name, error=type(error).__name__)
        raise Problem("upstream_invalid") from None


def refusal_of(answer: bytes) -> Refusal:
    """What an answer other than 200 says; nothing when it is not PostgREST's."""
    try:
        return cast(Refusal, _decoder(Refusal)(answer))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refusal()


def _decoded(name: str, answer: bytes, returns: type[T]) -> T:
    return _usable(name, lambda: cast(T, _decoder(cast(Any, returns))(answer)))


class Breaker:
    """Stops calling an upstream that is away, so that an outage is answered at once instead of after a time-out.

    Opens after `failures_max` failures in a row; after `pause_s` one call at a time tries, until one succeeds.
    """

    __slots__ = ("_failures", "_failures_max", "_open_until_s", "_pause_s", "_trying")

    def __init__(self, failures_max: int = 5, pause_s: float = 2.0) -> None:
        self._failures_max = failures_max
        self._pause_s = pause_s
        self._failures = 0
        self._open_until_s = 0.0
        self._trying = False

    def admits(self, now_s: float) -> bool:
        """Whether a call may be made now. Units: now_s is monotonic seconds. A True is followed by one `settle`."""
        if self._failures < self._failures_max:
            return True
        if self._trying or now_s < self._open_until_s:
            return False
        self._trying = True
        return True

    def settle(self, works: bool | None, now_s: float) -> None:
        """Note how an admitted call ended; None when it says nothing about the upstream (the caller went away)."""
        self._trying = False
        if works:
            self._failures = 0
        elif works is False:
            self._failures += 1
            self._open_until_s = now_s + self._pause_s


def crowded() -> Problem:
    """The answer to whoever would have to wait too long."""
    return Problem("upstream_unavailable", "Too many requests are under way.", retry_after_s=1)


class Supabase:
    """One connection pool to one project."""

    def __init__(self, settings: Settings) -> None:
        self._origin = settings.supabase_url
        self._key = settings.supabase_publishable_key
        secret_key = settings.supabase_secret_key
        self._service = Caller("service_role", secret_key, math.inf) if secret_key is not None else None
        self._vault = Vault(settings.message_keys) if settings.message_keys else None
        self._timeout_s = settings.upstream_timeout_s
        self._places = Places(settings.upstream_concurrency_max, time.monotonic())
        self.breaker = Breaker()
        self._pool: Pool | None = None

    def open(self) -> None:
        """Make the pool; connections are made when needed, so Supabase may be away."""
        # No compression is asked for, so that the size limit counts what is read.
        self._pool = Pool(self._origin, {"accept": "application/json"}, ANSWER_BYTES_MAX)

    def is_crowded(self) -> bool:
        """Whether the next call would be turned away, which whoever is about to work for it may ask first."""
        return not self._places.free(time.monotonic())

    async def close(self) -> None:
        """Close the pool; the server has drained the calls before."""
        if self._pool is not None:
            self._pool.close()

    async def rpc(
        self, name: str, params: Mapping[str, Any], caller: Caller, returns: type[T], *, repeatable: bool = False
    ) -> T:
        """Call one SQL function as the caller.

        Shape:  params are the function's arguments; the answer is decoded strictly, members we do not know are ignored.
        Errors: Problem, for everything that can go wrong. With `repeatable` a call whose connection failed is made once
                more within the same deadline: right for reads and for what carries its own idempotency key.
        Source: POST /rest/v1/rpc/<name> with the caller's own token.
        """
        exchange = log.current()
        headers = {
            "apikey": self._key,
            "authorization": f"Bearer {caller.token}",
            "content-type": "application/json",
            "x-request-id": exchange.request_id,
        }
        if exchange.traceparent is not None:
            headers["traceparent"] = exchange.traceparent
        answer = await self._call("POST", _RPC + name, headers, _encode(params), repeatable)
        if answer.status != 200:
            raise problem_of(answer.status, answer.body, caller)
        return self._read(name, answer.body, returns)

    async def rpc_as_service(self, name: str, params: Mapping[str, Any], returns: type[T]) -> T:
        """Call one SQL function as the role `service_role`, for work that is nobody's request; it may be called twice.

        Shape:  as `rpc`. RuntimeError without SUPABASE_SECRET_KEY.
        """
        if self._service is None:
            raise RuntimeError("SUPABASE_SECRET_KEY is needed")
        headers = {
            **secret_key_headers(self._service.token),
            "content-type": "application/json",
            "x-request-id": log.current().request_id,
        }
        answer = await self._call("POST", _RPC + name, headers, _encode(params), repeatable=True)
        if answer.status != 200:
            raise problem_of(answer.status, answer.body, self._service)
        return _decoded(name, answer.body, returns)

    def _read(self, name: str, answer: bytes, returns: type[T]) -> T:
        """Decode, and open what is sealed. A body that says so too only makes us look."""
        if b'"envelope"' not in answer:
            return _decoded(name, answer, returns)
        return _usable(name, lambda: msgspec.convert(opened(msgspec.json.decode(answer), self._vault), returns))

    async def key_set(self) -> bytes:
        """The project's public signing keys as JSON; Problem when they cannot be had."""
        headers = {"apikey": self._key}
        answer = await self._call("GET", "/auth/v1/.well-known/jwks.json", headers, None, repeatable=True)
        if answer.status != 200:
            raise Problem("upstream_unavailable", retry_after_s=_RETRY_AFTER_S)
        return answer.body

    async def why_not(self) -> str | None:
        """Why the data API cannot be used, in one word, or None when it can.

        `anon` may not execute our functions, so "permission denied" is the good answer: the data API and the database
        replied, the function is there, and no secret was needed to learn it. It passes the breaker, which may be what
        it is asked about.
        """
        headers = {"apikey": self._key, "content-type": "application/json"}
        try:
            answer = await self._open_pool().request(
                "POST", f"{_RPC}list_conversations", headers, b"{}", _PROBE_TIMEOUT_S
            )
        except (Lost, Unreadable, TimeoutError):
            return "unreachable"
        code = refusal_of(answer.body).code
        if code == "42501" or (answer.status == 200 and answer.body.startswith(b"{")):
            return None
        return "schema" if code == "PGRST202" else "database"

    def _open_pool(self) -> Pool:
        if self._pool is None:
            raise RuntimeError("open() comes first")
        return self._pool

    async def _call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, repeatable: bool
    ) -> Answer:
        """One bounded call, and one more where that is safe; the breaker and the log learn how it ended."""
        pool = self._open_pool()
        began_s = time.monotonic()
        if not self._places.free(began_s):
            raise crowded()
        if not self.breaker.admits(began_s):
            raise Problem("upstream_unavailable", retry_after_s=_RETRY_AFTER_S)
        self._places.take()
        works: bool | None = None
        try:
            try:
                answer = await pool.request(method, path, headers, body, self._timeout_s)
            except Lost:
                left_s = self._timeout_s - (time.monotonic() - began_s)
                if left_s < _RETRY_NEEDS_S or not repeatable:
                    raise
                # Most often a kept connection that was being closed; another one might be, too.
                answer = await pool.request(method, path, headers, body, left_s, fresh=True)
            # A gateway in front of the data API speaks for it when it is away.
            works = answer.status not in (502, 503, 504)
            return answer
        except TimeoutError:
            works = False
            raise Problem("upstream_timeout") from None
        except Lost as error:
            works = False
            log.warning("upstream_lost", of=path, error=type(error.__cause__ or error).__name__)
            raise Problem("upstream_unavailable", retry_after_s=_RETRY_AFTER_S) from None
        except Unreadable as error:
            log.warning("answer_too_large" if isinstance(error, TooLarge) else "answer_unreadable", of=path)
            raise Problem("upstream_invalid") from None
        finally:
            ended_s = time.monotonic()
            self._places.give_back(ended_s - began_s, ended_s)
            self.breaker.settle(works, ended_s)
            log.current().upstream_s += ended_s - began_s


# SQLSTATEs and PostgREST codes to our codes (docs/errors.md); the longest prefix decides.
_BY_CODE = {
    "22": "validation_failed", "23502": "validation_failed", "23514": "validation_failed",
    "PGRST301": "unauthenticated", "PGRST302": "unauthenticated", "PGRST303": "unauthenticated",
    "42501": "forbidden", "PGRST116": "not_found",
    "23503": "conflict", "23505": "conflict",
    "08": "upstream_unavailable", "53": "upstream_unavailable", "57P0": "upstream_unavailable",
    "PGRST000": "upstream_unavailable", "PGRST001": "upstream_unavailable", "PGRST002": "upstream_unavailable",
    "40001": "upstream_unavailable", "40P01": "upstream_unavailable", "55P03": "upstream_unavailable",
    "57014": "upstream_timeout", "PGRST003": "upstream_timeout",
}  # fmt: skip
# What gateways say without a body of ours; 429 is theirs too, our own pace arrives as PT429.
_BY_STATUS = {
    429: "upstream_unavailable",
    502: "upstream_unavailable",
    503: "upstream_unavailable",
    504: "upstream_timeout",
}
_OURS = re.compile(r"PT([45][0-9]{2})")
_SECONDS = re.compile(r"[0-9]{1,5}")


def problem_of(status: int, answer: bytes, caller: Caller) -> Problem:
    """What an answer other than 200 means to our client, by its code: PostgREST's status suits its own callers."""
    refusal = refusal_of(answer)
    code = refusal.code
    if ours := _OURS.fullmatch(code):
        return _our_own(int(ours[1]), refusal)
    name = next((_BY_CODE[code[:n]] for n in (8, 5, 4, 2) if len(code) >= n and code[:n] in _BY_CODE), None)
    if name is None:
        name = _BY_STATUS.get(status, "internal_error" if code else "upstream_invalid")
    if name == "unauthenticated" and caller.expires_at_s <= time.time():
        name = "token_expired"
    if name in ("validation_failed", "internal_error", "upstream_invalid"):
        # Our own bounds should have caught the first; the others are ours to repair. The text stays out of the log.
        log.warning("answer_unexpected", sqlstate=code[:8] if code.isalnum() else "", status=status)
    waits = _RETRY_AFTER_S if name == "upstream_unavailable" else None
    return Problem(name, retry_after_s=waits, pointer="" if name == "validation_failed" else None)


def _our_own(status: int, refusal: Refusal) -> Problem:
    """A refusal our SQL raised: message is the code, details a sentence, hint the pointer or the seconds."""
    name = refusal.message
    if not isinstance(name, str) or name not in CATALOGUE or CATALOGUE[name].status != status:
        log.warning("refusal_not_in_catalogue", status=status)
        return Problem("internal_error")
    detail = refusal.details if isinstance(refusal.details, str) else None
    hint = refusal.hint if isinstance(refusal.hint, str) else ""
    waits = pointer = None
    if CATALOGUE[name].retry == "after":
        waits = max(1, int(hint)) if _SECONDS.fullmatch(hint) else 1
    elif name == "validation_failed":
        pointer = hint if hint.startswith("/") else ""
    return Problem(name, detail, pointer=pointer, retry_after_s=waits)
