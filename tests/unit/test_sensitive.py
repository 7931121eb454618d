"""Sending a sensitive message, against a scripted database: what it is told, and what it may answer."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app import sensitive
from app.settings import MessageKey
from app.vault import Text, Vault
from tests.unit.fakes import BEN, KEY, SENT, Asked, Upstream, bearer, config, http, refusal, serving, upstream

MASTERS = (MessageKey(3, b"\x03" * 32),)
WORDS = "The code is 4711-0815-7700"
RULES = {
    "revision": 7,
    "rules": [],
    "words": {},
    "lexicon": {"hosts_hint": "https?://", "broken": "!!", "stretched": "(.)\\1\\1\\1"},
    "letters": {},
}


class Database:
    """Answers the two functions; `rules` and `send` are scripts of answers, the last one for ever."""

    def __init__(self, *, rules: list[bytes] | None = None, send: list[bytes] | None = None) -> None:
        self.rules = rules or [http(200, RULES)]
        self.send = send or [http(200, SENT)]
        self.calls: Counter[str] = Counter()
        self.envelopes: list[dict[str, Any]] = []

    async def script(self, asked: Asked, _: asyncio.StreamWriter) -> bytes:
        name = asked.path.rsplit("/", 1)[1]
        answers = {"get_moderation_rules": self.rules, "send_message": self.send}[name]
        answer = answers[min(self.calls[name], len(answers) - 1)]
        self.calls[name] += 1
        if name == "send_message":
            self.envelopes.append(asked.json)
        return answer

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(told["p_envelope"]["signed"]) for told in self.envelopes]


@asynccontextmanager
async def service(database: Database, **changes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Upstream]]:
    given = {"message_keys": MASTERS, "supabase_secret_key": "sb_secret_test", **changes}
    async with upstream(database.script) as up, serving(config(up.url, **given)) as client:
        yield client, up


async def send(client: httpx.AsyncClient, up: Upstream, **members: Any) -> httpx.Response:
    body = {"body": WORDS, "toUserId": BEN.upper(), "clientMessageId": KEY, "sensitive": True, **members}
    return await client.post("/api/messages/send", headers=bearer(up.url), json=body)


async def test_what_goes_out_has_no_text() -> None:
    database = Database()
    async with service(database) as (client, up):
        assert (await send(client, up, body=f" {WORDS}\r\n\x00")).status_code == 201
        [sent] = [asked for asked in up.asked if asked.path.endswith("send_message")]
    assert sent.headers["authorization"] != "Bearer sb_secret_test"
    assert b"4711-0815" not in b"".join(asked.body for asked in up.asked)
    told = database.envelopes[0]
    assert "p_body" not in told
    assert (told["p_to_user_id"], told["p_client_message_id"], told["p_conversation_id"]) == (BEN.upper(), KEY, None)
    assert database.said[0]["target"] == f"- {BEN} -"
    assert database.said[0]["rulesRevision"] == 7
    assert Vault(MASTERS).open(database.said[0]) == Text(WORDS)


async def test_an_ordinary_message_asks_for_no_rules() -> None:
    database = Database()
    async with service(database) as (client, up):
        assert (await send(client, up, sensitive=False)).status_code == 201
    assert database.calls == {"send_message": 1}
    assert "p_envelope" not in database.envelopes[0]


async def test_rules_are_fetched_once_and_with_the_secret_key() -> None:
    database = Database()
    async with service(database) as (client, up):
        assert {answer.status_code for answer in await asyncio.gather(*(send(client, up) for _ in range(8)))} == {201}
    assert database.calls == {"get_moderation_rules": 1, "send_message": 8}
    keys = {asked.headers["apikey"] for asked in up.asked if asked.path.endswith("get_moderation_rules")}
    assert keys == {"sb_secret_test"}


async def test_rules_are_not_believed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitive, "_RULES_KEPT_S", 0.0)
    database = Database()
    async with service(database) as (client, up):
        for _ in range(2):
            await send(client, up)
    assert database.calls["get_moderation_rules"] == 2


async def test_rules_that_changed_are_fetched_anew() -> None:
    conflict = refusal("PT409", "conflict", "The text was judged by rules that have changed meanwhile.")
    database = Database(rules=[http(200, RULES), http(200, RULES | {"revision": 8})], send=[conflict, http(200, SENT)])
    async with service(database) as (client, up):
        assert (await send(client, up)).status_code == 201
    assert [said["rulesRevision"] for said in database.said] == [7, 8]


async def test_a_conflict_that_stays_is_told() -> None:
    database = Database(send=[refusal("PT409", "conflict", "x")])
    async with service(database) as (client, up):
        assert (await send(client, up)).json()["code"] == "conflict"
    assert database.calls == {"get_moderation_rules": 2, "send_message": 2}


@pytest.mark.parametrize("changes", [{"message_keys": ()}, {"supabase_secret_key": None}])
async def test_without_keys_nothing_is_sent(changes: dict[str, Any]) -> None:
    database = Database()
    async with service(database, **changes) as (client, up):
        answer = await send(client, up)
    assert (answer.status_code, answer.json()["code"]) == (503, "sensitive_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert database.calls == {}


@pytest.mark.parametrize(
    "database",
    [
        Database(send=[refusal("PT403", "envelope_invalid", "It is not signed, or not with a key in use.")]),
        Database(rules=[refusal("42501", "permission denied")]),
        Database(rules=[http(401, {"message": "Invalid API key"})]),
    ],
)
async def test_keys_that_are_not_accepted(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    async with service(database) as (client, up):
        answer = await send(client, up)
    assert (answer.status_code, answer.json()["code"]) == (503, "sensitive_unavailable")
    assert WORDS not in answer.text
    assert WORDS not in capsys.readouterr().out


async def test_database_away_while_rules_are_fetched() -> None:
    async with service(Database(rules=[http(503, b"")])) as (client, up):
        assert (await send(client, up)).json()["code"] == "upstream_unavailable"


@pytest.mark.parametrize("code", ["message_rejected", "recipient_mismatch"])
async def test_refusals_pass(code: str) -> None:
    async with service(Database(send=[refusal("PT422", code, "Because.")])) as (client, up):
        answer = await send(client, up)
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (422, code, "Because.")
