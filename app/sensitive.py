"""Sensitive messages on their way in: judged here by the rules SQL would judge by, then sealed and signed."""

import asyncio
import time
from typing import Any, NamedTuple

from app import log, moderation
from app.moderation import Judgement, Rules
from app.problems import Problem
from app.settings import Settings
from app.supabase import Supabase
from app.vault import About, Vault, Verdict

# SQL refuses what was judged by older rules, so this only bounds how long rules of a restored database are believed.
_RULES_KEPT_S = 300.0
# Somebody must set or register keys; a client may ask again, and need not hurry.
_RETRY_AFTER_S = 60


def unavailable(why: str) -> Problem:
    """The problem for a client, and the reason for an operator."""
    log.warning("sensitive_unavailable", why=why)
    return Problem("sensitive_unavailable", retry_after_s=_RETRY_AFTER_S)


class Sealer:
    """Makes the envelopes of `send_message`, and keeps the moderation rules that takes."""

    def __init__(self, settings: Settings, supabase: Supabase) -> None:
        self._vault = Vault(settings.message_keys) if settings.message_keys else None
        self._has_secret_key = settings.supabase_secret_key is not None
        self._supabase = supabase
        self._rules: Rules | None = None
        self._fetched_s = 0.0
        self._fetching = asyncio.Lock()
        self._judging = asyncio.Lock()

    async def envelope(self, about: About, body: str) -> dict[str, Any]:
        """The p_envelope for a text.

        Shape:  body is normalised, about names the target as the request does.
        Errors: Problem sensitive_unavailable without the keys it takes; otherwise as a call of the data API.
        """
        if self._vault is None or not self._has_secret_key:
            raise unavailable("MESSAGE_KEYS or SUPABASE_SECRET_KEY is missing")
        rules = await self._current_rules()
        # A long text made for it takes a tenth of a second: not on the loop, and never more than one at a time.
        async with self._judging:
            judged = await asyncio.to_thread(_judged, body, rules)
        return self._vault.signed(
            about,
            body,
            judged.verdict,
            judged.verdict_if_contact_allowed,
            text_digest=judged.text_digest,
            has_link=judged.has_link,
            rules_revision=rules.revision,
        )

    def forget_rules(self) -> None:
        """SQL says they are out of date."""
        self._rules = None

    async def _current_rules(self) -> Rules:
        async with self._fetching:
            if self._rules is None or time.monotonic() - self._fetched_s > _RULES_KEPT_S:
                try:
                    told = await self._supabase.rpc_as_service("get_moderation_rules", {}, dict[str, Any])
                except Problem as problem:
                    if problem.kind.status in (401, 403, 404, 502):
                        raise unavailable("SUPABASE_SECRET_KEY is not accepted") from None
                    raise
                self._rules, self._fetched_s = Rules.parse(told), time.monotonic()
            return self._rules


class _Judged(NamedTuple):
    verdict: Verdict
    verdict_if_contact_allowed: Verdict
    text_digest: int | None
    has_link: bool


def _judged(body: str, rules: Rules) -> _Judged:
    judgement = if_allowed = moderation.judge(body, rules, False)
    if any(rule["kind"] == "contact" for rule in judgement.rules):
        if_allowed = moderation.judge(body, rules, True)
    return _Judged(
        _verdict(judgement),
        _verdict(if_allowed),
        moderation.text_digest(body, rules),
        moderation.has_link(body, rules),
    )


def _verdict(judgement: Judgement) -> Verdict:
    return Verdict(
        judgement.action, judgement.label, judgement.explanation, judgement.rules, masked_body=judgement.masked_body
    )
