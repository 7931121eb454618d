"""A service that lets itself be fuzzed: no pace in the way, people who know each other, and its log at hand."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from stack.dataapi import READY_S, answers
from stack.processes import Process, free_port

# Deadlines of single examples say more about the machine than about a parser; each test has its own of 60 s.
settings.register_profile("fuzz", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fuzz")

# Counts have a ceiling in SQL; a window of one second makes them as good as none.
PACES = {"send": "send_window_s", "new_conversation": "new_conversation_window_s", "report": "report_window_s",
         "first_contact": "first_contact_window_s", "edit": "edit_pace_window_s"}  # fmt: skip


@dataclass(frozen=True)
class Fuzzed:
    """The service, where it writes its log, and the process."""

    url: str
    log: Path
    process: Process

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far; every line must be one JSON object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def unpaced(supabase_stack: Any) -> Iterator[None]:
    """Limits in private.settings that fuzzing does not reach, put back afterwards."""
    names = [name for kind, window in PACES.items() for name in (f"{kind}_count_max", window)]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    with psycopg.connect(supabase_stack.database_url, autocommit=True) as db:
        before = db.execute(sql.SQL("select {} from private.settings").format(columns)).fetchone()
        assert before is not None

        def change(values: Any) -> None:
            db.execute(
                sql.SQL("update private.settings set ({}) = row({})").format(
                    columns, sql.SQL(", ").join(sql.Placeholder() * len(names))
                ),
                values,
            )

        change([500, 1] * len(PACES))
        yield
        change(before)


@pytest.fixture(scope="module")
def fuzzed(supabase_stack: Any, worker: str, unpaced: None) -> Iterator[Fuzzed]:
    """A service of its own on this worker's stack."""
    port = free_port()
    attached = supabase_stack.attached
    log = attached.directory / "log" / f"fuzzed-{worker}-{port}.log"
    service = Process(
        "The service",
        [sys.executable, "-m", "app", "serve"],
        log=log,
        ledger=attached.ledger,
        env={
            **os.environ,
            **supabase_stack.api_settings(),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PERSON_REQUESTS_PER_MINUTE": "1000000",
            "ANONYMOUS_REQUESTS_PER_MINUTE": "1000000",
        },
    )
    service.start()
    url = f"http://127.0.0.1:{port}"
    try:
        service.wait_until(lambda: answers(f"{url}/health/ready"), READY_S)
        yield Fuzzed(url, log, service)
    finally:
        service.stop()


@pytest.fixture
def known(fuzzed: Fuzzed, new_person: Callable[..., Any]) -> Any:
    """Somebody with an inbox: direct conversations, a group, messages of both sides, an edited and a deleted one."""
    ada, ben, cem, dan = (new_person(name) for name in ("Ada", "Ben", "Cem", "Dan"))
    with httpx.Client(base_url=fuzzed.url, timeout=30) as client:

        def ask(method: str, path: str, who: Any, body: Any = None) -> Any:
            answer = client.request(method, f"/api/{path}", headers=who.headers, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        first = ask("POST", "messages/send", ada, {"toUserId": ben.id, "body": "Is Saturday good?"})["message"]
        ask("POST", "messages/send", ben, {"toUserId": ada.id, "body": "It is."})
        rude = ask("POST", "messages/send", cem, {"toUserId": ben.id, "body": "Hello"})["message"]
        ask("POST", "messages/send", cem, {"toUserId": ada.id, "body": "Hello"})
        crew = {"title": "Crew", "memberIds": [ben.id, cem.id]}
        room = ask("POST", "messages/conversations/group", ada, crew)["conversation"]["id"]
        gone = ask("POST", "messages/send", ada, {"conversationId": room, "body": "Hi all"})["message"]
        ask("POST", "messages/send", ben, {"conversationId": room, "body": "Hi"})
        ask("PATCH", f"messages/{first['id']}", ada, {"body": "Well?"})
        ask("DELETE", f"messages/{gone['id']}", ada)
        ask("POST", f"users/{dan.id}/block", ada)
        # What waits on the moderators' desk.
        ask("POST", f"messages/{rude['id']}/report", ben, {"reason": "spam"})
        ask("POST", f"users/{cem.id}/report", ben, {"reason": "other", "note": "See above."})
    return ada


@pytest.fixture
def moderator(known: Any, db: psycopg.Connection[Any]) -> Any:
    """The same person, who is a moderator as well."""
    db.execute("insert into private.moderators (user_id, role) values (%s, 'admin')", [known.id])
    return known
