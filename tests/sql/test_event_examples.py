"""The events that docs/realtime.md shows and the TypeScript client is tested with are the ones the database sends."""

import json
import os
import re
from typing import Any

from psycopg.types.json import Jsonb

from stack.places import ROOT
from tests.sql.rpc import call

EXAMPLES = ROOT / "clients" / "typescript" / "tests" / "events.json"
UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


class Steady:
    """Ids, times and positions as they would be on one day in March: the same in every run."""

    def __init__(self, people: dict[str, str]) -> None:
        self.ids = {real: f"00000000-0000-4000-8000-{number:012x}" for number, real in enumerate(people.values(), 0xA)}
        self.times: dict[str, str] = {}
        self.positions: dict[int, int] = {0: 0}

    def learn(self, found: Any, key: str = "") -> None:
        """In the order of the events, so that what is later stays later."""
        if isinstance(found, dict):
            for name in sorted(found):
                self.learn(found[name], name)
        elif isinstance(found, list):
            for each in found:
                self.learn(each)
        elif key in ("position", "previousPosition") and found not in self.positions:
            self.positions[found] = 1772357400000000 + 1000 * len(self.positions)
        elif isinstance(found, str) and TIME.match(found) and found not in self.times:
            self.times[found] = f"2026-03-01T09:30:00.{len(self.times) + 1:06}Z"
        elif isinstance(found, str) and UUID.match(found) and found not in self.ids:
            self.ids[found] = f"00000000-0000-4000-8000-{0x100 + len(self.ids):012x}"

    def of(self, found: Any, key: str = "") -> Any:
        if isinstance(found, dict):
            return {name: self.of(found[name], name) for name in found}
        if isinstance(found, list):
            return [self.of(each) for each in found]
        if key in ("position", "previousPosition"):
            return self.positions[found]
        if isinstance(found, str) and (live := re.match(r"^conversation:(.{36})(:live:\d+)$", found)):
            return f"conversation:{self.ids[live[1]]}{live[2]}"
        return self.times.get(found, self.ids.get(found, found)) if isinstance(found, str) else found


ORDER = ("id", "type", "position", "previousPosition", "unreadTotal", "conversationId", "message", "receipt", "profile")


def test_examples_are_what_the_database_sends(db, new_person):
    ann, bob = new_person("Ann"), new_person("Bob")
    sent = call(db, ann.id, "send_message", body="Tuesday?", to_user_id=bob.id)["message"]
    call(db, ann.id, "edit_message", message_id=sent["id"], body="Wednesday?")
    call(db, bob.id, "mark_delivered", receipts=Jsonb([{"conversationId": sent["conversationId"], "seq": 1}]))
    call(db, bob.id, "mark_read", message_id=sent["id"])
    call(db, ann.id, "delete_message", message_id=sent["id"])
    crew = call(db, ann.id, "create_group", title="Crew", member_ids=[bob.id])["conversation"]["id"]
    call(db, ann.id, "update_conversation", conversation_id=crew, changes=Jsonb({"title": "Movers"}))
    call(db, ann.id, "remove_member", conversation_id=crew, user_id=bob.id)
    call(db, ann.id, "update_profile", changes=Jsonb({"displayName": "Anna"}))

    rows = db.execute(
        "select payload from realtime.messages where topic = %s order by (payload ->> 'position')::bigint",
        [f"user:{bob.id}"],
    ).fetchall()
    events = [payload for (payload,) in rows]
    ordered = [
        {name: event[name] for name in ORDER if name in event}
        | {name: event[name] for name in sorted(event) if name not in ORDER}
        for event in events
    ]
    steady = Steady({"ann": ann.id, "bob": bob.id})
    for event in ordered:
        steady.learn(event)
    made = steady.of(ordered)
    assert [event["type"] for event in made] == [
        "message.created", "message.updated", "receipt.updated", "receipt.updated", "message.deleted",
        "conversation.created", "conversation.updated", "conversation.lost", "profile.updated",
    ]  # fmt: skip
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("WRITE_EXAMPLES"):
        EXAMPLES.write_text(text)
    assert EXAMPLES.read_text() == text, "events.json is out of date: make events"
