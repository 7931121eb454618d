"""What SQL returns is what the structs say, member by member, and every refusal of SQL is in the catalogue."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.problems import CATALOGUE
from app.routes import conversations, messages
from app.shapes import Read


def equal(value: Any, shape: Any) -> None:
    """Decoding strictly and encoding again must change nothing: no member is unknown, none is missing."""
    raw = msgspec.json.encode(value)
    assert msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(raw, type=shape))) == value


@pytest.fixture
def pair(sql: Any) -> Any:
    ada, ben = sql.new_person("Ada"), sql.new_person("Ben")
    sql.act_as(ada)
    sent = sql.one("select public.send_message(p_body => 'Hello', p_to_user_id => %s::uuid)", [ben])
    return ada, ben, sent


def test_send_message(pair: Any) -> None:
    equal(pair[2], messages._Sent)


def test_list_conversations(sql: Any, pair: Any) -> None:
    equal(sql.one("select public.list_conversations()"), conversations.Conversations)


def test_get_conversation(sql: Any, pair: Any) -> None:
    opened = sql.one("select public.get_conversation(%s::uuid)", [pair[2]["conversation"]["id"]])
    equal(opened, conversations.OpenedConversation)
    assert opened["conversation"]["messages"]
    assert opened["conversation"]["receipts"]


def test_mark_read(sql: Any, pair: Any) -> None:
    sql.act_as(pair[1])
    equal(sql.one("select public.mark_read(%s::uuid)", [pair[2]["message"]["id"]]), Read)
    equal(sql.one("select public.mark_all_read(%s::uuid)", [pair[2]["conversation"]["id"]]), Read)


def test_every_refusal_of_sql_is_in_the_catalogue() -> None:
    text = "\n".join(path.read_text() for path in sorted(Path("supabase/migrations").glob("*.sql")))
    raised = re.findall(r"raise sqlstate 'PT(\d{3})' using\s+message = '(\w+)'", text)
    assert len(raised) == len(re.findall(r"raise sqlstate 'PT", text)) >= 10
    assert {(int(status), code) for status, code in raised} <= {(k.status, code) for code, k in CATALOGUE.items()}
