"""`python -m app keys`: make a master key, tell the database what to believe, and re-wrap what older keys wrapped."""

import asyncio
import math
import re
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from postgrest import APIError

from app import log, settings
from app.problems import Problem
from app.service_role import Away, ServiceRole
from app.settings import MessageKey, Settings
from app.supabase import Caller, problem_of
from app.vault import Vault, base64_of

USAGE = "usage: python -m app keys new|sql|rotate"
# One transaction and one answer: small enough to hold no lock for long.
_BATCH_COUNT = 200
_TRIES_MAX = 5
_PAUSE_S = 1.0
_STATUS = re.compile(r"[45][0-9]{2}")


class _Listed(Struct, frozen=True):
    envelopes: list[dict[str, Any]]


class _Rewrapped(Struct, frozen=True):
    rewrapped: int


def run(words: list[str]) -> None:
    """One command; SystemExit with one sentence when it cannot be done."""
    if words not in (["new"], ["sql"], ["rotate"]):
        raise SystemExit(USAGE)
    try:
        masters = settings.message_keys()
        if words == ["new"]:
            print(new(masters))
            return
        if not masters:
            raise SystemExit("settings: MESSAGE_KEYS is missing")
        vault = Vault(masters)
        if words == ["sql"]:
            print(registration(vault), end="")
            return
        config = settings.load()
    except settings.SettingsError as error:
        raise SystemExit(f"settings: {error}") from None
    if config.supabase_secret_key is None:
        raise SystemExit("settings: SUPABASE_SECRET_KEY is missing")
    log.configure()
    try:
        rewrapped, unreadable = asyncio.run(rotate(config, vault))
    except Problem as problem:
        raise SystemExit(f"{problem.code}: {problem.detail} What is done stays done; run it again.") from None
    print(f"{rewrapped} envelopes are now under version {vault.version}; {unreadable} could not be opened.")
    if unreadable:
        raise SystemExit(1)


def new(masters: Sequence[MessageKey]) -> str:
    """A fresh entry of MESSAGE_KEYS, with a version after those there are."""
    version = 1 + max((key.version for key in masters), default=0)
    return f"{version}:{base64_of(secrets.token_bytes(32))}"


def registration(vault: Vault) -> str:
    """SQL that tells the database the signing keys; again it changes nothing. Retiring one is an update by hand."""
    calls = [f"select private.register_envelope_key({v}, '\\x{key.hex()}');" for v, key in vault.signing_keys()]
    return "\n".join(["-- These keys prove who made an envelope, and open none.", *calls, ""])


async def rotate(config: Settings, vault: Vault) -> tuple[int, int]:
    """Wrap the data keys of all envelopes of older versions anew; how many were, and how many could not be opened.

    Errors: Problem when the data API stays away. Every batch is a transaction, and each row is changed only if it still
            is what was read, so it may be interrupted, repeated, and run twice at once.
    """
    if config.supabase_secret_key is None:
        raise RuntimeError("SUPABASE_SECRET_KEY is needed")
    service = ServiceRole(config.supabase_url, config.supabase_secret_key, config.upstream_timeout_s)
    rewrapped = unreadable = 0
    after: str | None = None
    try:
        while True:
            asked = {"p_below_version": vault.version, "p_after": after, "p_limit": _BATCH_COUNT}
            page = (await _patiently(service, "list_envelopes", asked, _Listed)).envelopes
            if not page:
                return rewrapped, unreadable
            after = page[-1]["messageId"]
            changes = [change for row in page if (change := _change(vault, row)) is not None]
            unreadable += len(page) - len(changes)
            if changes:
                done = await _patiently(service, "rewrap_envelopes", {"p_envelopes": changes}, _Rewrapped)
                rewrapped += done.rewrapped
    finally:
        await service.close()


def _change(vault: Vault, row: dict[str, Any]) -> dict[str, Any] | None:
    fresh = vault.rewrap(row["envelope"])
    return fresh and {
        "messageId": row["messageId"],
        "fromVersion": row["envelope"]["keyVersion"],
        "keyVersion": vault.version,
        "wrappedKey": base64_of(fresh.wrapped_key),
        "oldDigest": fresh.old_digest,
        "digest": fresh.digest,
    }


async def _patiently(service: ServiceRole, name: str, params: dict[str, Any], returns: Any) -> Any:
    """A call that outlives a restart of the data API; both functions may be called twice."""
    tries = 1
    while True:
        try:
            return await service.rpc(name, params, returns)
        except Away as error:
            problem = Problem("upstream_timeout" if str(error) == "timeout" else "upstream_unavailable")
        except APIError as error:
            problem = _problem(error)
        if problem.kind.status < 500 or tries == _TRIES_MAX:
            raise problem
        await asyncio.sleep(_PAUSE_S * tries)
        tries += 1


def _problem(error: APIError) -> Problem:
    # A gateway's page has no code of its own; postgrest puts the status in its place.
    code = error.code or ""
    status = int(code) if _STATUS.fullmatch(code) else 400
    return problem_of(status, msgspec.json.encode(error.json()), Caller("service_role", "", math.inf))
