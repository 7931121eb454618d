"""Authentication: a bearer token becomes a Caller, or a 401 that says why.

Tokens are verified here, without I/O: HS256 with the project's shared secret where one is configured, ES256 and RS256
with the public key that the token names. A token never chooses the kind of its key. PostgREST verifies again; this is
the early, cheap no, and the name for limits and logs.
"""

import asyncio
import hashlib
import math
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import msgspec
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from app import log
from app.problems import CHALLENGE, Problem
from app.settings import Settings
from app.supabase import Caller

# A token with a few custom claims has about 1 KiB; hashing and parsing more than this is work for a stranger.
TOKEN_BYTES_MAX = 8 * 1024
# Clocks of two machines; PostgREST allows the same.
LEEWAY_S = 30
# 10,000 callers of a token's life (1 h) at about 1.5 KiB each: 15 MiB.
_CACHE_COUNT_MAX = 10_000
_KEYS_FRESH_S = 600.0
# Also after a failure: whoever invents key ids, or an outage, cannot make us ask more often.
_KEYS_ASK_AGAIN_S = 30.0
# While none were ever seen nobody can be let in, so the end of an outage should be noticed soon.
_KEYS_ASK_FIRST_S = 2.0
# A project has one or two; each is parsed, so somebody else's list must not be long.
_KEYS_COUNT_MAX = 32
# Algorithm by key type, never by what the token says. P-256 is the only curve Supabase signs with.
_ALGORITHMS = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
_RSA_BITS_MIN = 2048
# Base64url and nothing else: decoders pass over foreign characters, which then would travel on in a header.
_COMPACT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class _JsonWebKey(msgspec.Struct):
    """The members of a key that decide whether and how it is used."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    crv: str | None = None


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySet:
    """The project's public signing keys: fetched when needed, kept ten minutes, and kept on while they cannot be had.

    Shape:  `fetch` returns the JSON of a key set and raises Problem when it cannot; `now_s` is a monotonic clock.
    """

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], now_s: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._now_s = now_s
        self._keys: dict[str, tuple[str, Any]] | None = None
        self._fetched_at_s = self._asked_at_s = float("-inf")
        self._lock = asyncio.Lock()
        self.generation = 0

    @property
    def are_known(self) -> bool:
        """Whether there was ever an answer; what it said is kept."""
        return self._keys is not None

    async def find(self, kid: str) -> tuple[str, Any] | None:
        """Algorithm and key of this id, or None when the project has no such key; Problem when nobody knows yet."""
        if self._keys is None or kid not in self._keys or self._now_s() - self._fetched_at_s > _KEYS_FRESH_S:
            await self.refresh()
        if self._keys is None:
            raise Problem("upstream_unavailable", retry_after_s=2)
        return self._keys.get(kid)

    async def refresh(self) -> bool:
        """Ask once, however many wait for it, and at most every 30 s (2 s before the first answer).

        Shape:  whether any keys are known afterwards.
        """
        async with self._lock:
            pause_s = _KEYS_ASK_FIRST_S if self._keys is None else _KEYS_ASK_AGAIN_S
            if self._now_s() - self._asked_at_s >= pause_s:
                self._asked_at_s = self._now_s()
                try:
                    keys = _usable_keys(await self._fetch())
                except (Problem, msgspec.DecodeError, UnicodeDecodeError) as error:
                    log.warning("key_set_unavailable", error=type(error).__name__)
                else:
                    if self._keys is not None and not self._keys.keys() <= keys.keys():
                        self.generation += 1
                    self._keys, self._fetched_at_s = keys, self._now_s()
        return self._keys is not None


def _usable_keys(document: bytes) -> dict[str, tuple[str, Any]]:
    usable: dict[str, tuple[str, Any]] = {}
    for raw in msgspec.json.decode(document, type=_KeySet).keys[:_KEYS_COUNT_MAX]:
        try:
            about = msgspec.convert(raw, _JsonWebKey)
            algorithm = _ALGORITHMS.get((about.kty, about.crv))
            if about.kid is None or algorithm is None or about.alg not in (None, algorithm) or about.use == "enc":
                continue
            key = jwt.PyJWK(raw, algorithm).key
        except (msgspec.ValidationError, PyJWTError):
            continue
        if getattr(key, "key_size", _RSA_BITS_MIN) >= _RSA_BITS_MIN or algorithm == "ES256":
            usable[about.kid] = (algorithm, key)
    return usable


class Verifier:
    """Turns `Authorization` into a Caller; verified tokens are remembered by digest until they expire."""

    def __init__(self, settings: Settings, keys: KeySet, now_s: Callable[[], float] = time.time) -> None:
        self._secret = settings.supabase_jwt_secret
        self._issuer = settings.issuer
        self._keys = keys
        self._now_s = now_s
        self._callers: OrderedDict[bytes, tuple[int, Caller]] = OrderedDict()

    async def caller(self, authorization: bytes | None) -> Caller:
        """Who sends this header.

        Units:  tokens count 30 s past their `exp`, as clocks differ.
        Errors: Problem unauthenticated or token_expired, with WWW-Authenticate; upstream_unavailable when the key set
                was never seen and cannot be had.
        """
        if authorization is None:
            raise Problem("unauthenticated", "There is no bearer token.", headers={"www-authenticate": CHALLENGE})
        scheme, _, raw = authorization.partition(b" ")
        raw = raw.strip()
        if scheme.lower() != b"bearer" or len(raw) > TOKEN_BYTES_MAX:
            raise Problem("unauthenticated")
        digest = hashlib.sha256(raw).digest()
        known = self._callers.get(digest)
        if known is not None:
            generation, caller = known
            if generation == self._keys.generation and self._now_s() < caller.expires_at_s + LEEWAY_S:
                self._callers.move_to_end(digest)
                return caller
            del self._callers[digest]
        if not _COMPACT.fullmatch(raw):
            raise Problem("unauthenticated")
        caller = await self._verify(raw.decode())
        self._callers[digest] = (self._keys.generation, caller)
        if len(self._callers) > _CACHE_COUNT_MAX:
            self._callers.popitem(last=False)
        return caller

    async def _verify(self, token: str) -> Caller:
        try:
            algorithm, key = await self._key_for(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience="authenticated",
                issuer=self._issuer,
                # Expiry is checked below, by the clock that tests move.
                options={
                    "require": ["exp", "sub", "aud", "iss"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            return self._caller_of(claims, token)
        except ExpiredSignatureError:
            raise Problem("token_expired") from None
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # Which check failed is nobody's business; the token itself never gets into a message.
            raise Problem("unauthenticated") from None

    async def _key_for(self, header: dict[str, Any]) -> tuple[str, Any]:
        if header.get("alg") == "HS256" and self._secret is not None:
            return "HS256", self._secret
        kid = header.get("kid")
        found = await self._keys.find(kid) if header.get("alg") in ("ES256", "RS256") and isinstance(kid, str) else None
        if found is None or found[0] != header["alg"]:
            raise Problem("unauthenticated")
        return found

    def _caller_of(self, claims: dict[str, Any], token: str) -> Caller:
        now_s = self._now_s()
        expires_at_s, not_before_s, subject = claims["exp"], claims.get("nbf", 0), claims["sub"]
        for number in (expires_at_s, not_before_s):
            if type(number) not in (int, float) or not math.isfinite(number):
                raise TypeError
        if not expires_at_s + LEEWAY_S > now_s:
            raise ExpiredSignatureError
        person = uuid.UUID(subject)
        if str(person) != subject.lower() or claims.get("role") != "authenticated" or not_before_s > now_s + LEEWAY_S:
            raise ValueError
        return Caller(str(person), token, float(expires_at_s))
