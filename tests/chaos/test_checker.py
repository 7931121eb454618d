"""The checker sees what it is there to see: a clean run has no complaint, every kind of damage has one."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from chaos.checker import KINDS, Account, Acknowledged, Complaint, History, Send, check
from tests.sql.rpc import call

SENDS = 6


@dataclass
class Clean:
    """A small run in which nothing went wrong."""

    db: psycopg.Connection[Any]
    account: Account
    histories: list[History]
    people: list[str]
    direct: str
    group: str

    def complaints(self) -> list[Complaint]:
        return check(self.db, self.account, self.histories)

    def id_at(self, seq: int) -> str:
        """The message with this number in the direct conversation."""
        query = "select id::text from public.messages where conversation_id = %s and seq = %s"
        return str(self.db.execute(query, [self.direct, seq]).fetchone()[0])  # type: ignore[index]


def _history(db: psycopg.Connection[Any], person: str, cursor: str) -> History:
    page = call(db, person, "sync", cursor=cursor, limit=500)
    assert not page["hasMore"]
    return History(
        "device",
        person,
        sorted(page["messages"], key=lambda message: (message["conversationId"], message["seq"])),
        {each["id"]: each for each in page["conversations"]},
        {(each["conversationId"], each["userId"]): each for each in page["receipts"]},
    )


@pytest.fixture(scope="module")
def built(cluster: Any, worker: str) -> Iterator[Clean]:
    """Three people, a direct conversation and a group; reads, an edit, a deletion, retries, sends given up."""
    name = cluster.clone(f"checked_{worker}")
    account = Account()
    try:
        with psycopg.connect(cluster.cluster.url(name), autocommit=True) as db:
            people = [str(uuid.uuid4()) for _ in range(3)]
            for person in people:
                db.execute(
                    "insert into auth.users (id, aud, role, email) values (%s, 'authenticated', 'authenticated', %s)",
                    [person, f"{person}@example.com"],
                )
            cursors = [call(db, person, "sync")["cursor"] for person in people]

            def send(person: str, number: int, *, told: bool = True, **to: str) -> dict[str, Any]:
                body, key = f"hello {'again ' * number}", str(uuid.uuid4())
                for _ in range(2):
                    sent: dict[str, Any] = call(db, person, "send_message", body=body, client_message_id=key, **to)[
                        "message"
                    ]
                answer = Acknowledged(sent["id"], sent["conversationId"], sent["seq"]) if told else None
                account.sends.append(Send(person, key, body.strip(), answer))
                return sent

            ann, bob, eve = people
            group = call(db, ann, "create_group", title="Crew", member_ids=[bob, eve])["conversation"]["id"]
            sent = [send((ann, bob)[n % 2], n, to_user_id=(bob, ann)[n % 2]) for n in range(SENDS)]
            direct = sent[0]["conversationId"]
            for number in range(SENDS, SENDS + 3):
                send(people[number % 3], number, told=number % 2 == 0, conversation_id=group)
            account.sends.append(Send(eve, str(uuid.uuid4()), "never arrived"))
            call(db, ann, "edit_message", message_id=sent[2]["id"], body="rather this")
            account.changes[sent[2]["id"]].texts += ["rather this"]
            call(db, bob, "delete_message", message_id=sent[3]["id"])
            account.changes[sent[3]["id"]].delete_asked = account.changes[sent[3]["id"]].delete_acknowledged = True
            call(db, bob, "mark_all_read", conversation_id=direct, up_to_seq=3)
            account.read[direct, bob].asked = account.read[direct, bob].acknowledged = 3
            histories = [_history(db, *each) for each in zip(people, cursors, strict=True)]
        with psycopg.connect(cluster.cluster.url(name)) as db:
            yield Clean(db, account, histories, people, direct, group)
    finally:
        cluster.drop(name)


@pytest.fixture
def clean(built: Clean) -> Iterator[Clean]:
    """The same again for every test: what it damages is rolled back or a copy."""
    account, histories = copy.deepcopy(built.account), copy.deepcopy(built.histories)
    yield Clean(built.db, account, histories, built.people, built.direct, built.group)
    built.db.rollback()


def test_clean_run_has_no_complaint(clean: Clean) -> None:
    assert clean.complaints() == []


def test_empty_database_has_no_complaint(clean: Clean) -> None:
    clean.db.execute("truncate public.conversations, public.conversation_members, public.messages cascade")
    clean.db.execute("truncate private.send_keys, private.heads, private.message_versions, realtime.messages")
    assert check(clean.db, Account(), []) == []


MOVE = "update public.messages set seq = %s, event_seq = event_seq + 100 where conversation_id = %s and seq = %s"
ADD = (
    "insert into public.messages (conversation_id, seq, event_seq, from_user_id, client_message_id, body, created_at,"
    " changed_position) select conversation_id, 7, 90, from_user_id, gen_random_uuid(), {body}, now(), changed_position"
    " from public.messages where id = %s"
)


def one(seq: int, statement: str) -> Callable[[Clean], Any]:
    """A statement about the message with this number; %s is its id."""
    return lambda clean: clean.db.execute(statement, [clean.id_at(seq)])


DAMAGE_STORED: dict[str, tuple[str, Callable[[Clean], Any]]] = {
    "a message is gone": ("lost", one(6, "delete from public.messages where id = %s")),
    "one in the middle is gone": ("seq", one(4, "delete from public.messages where id = %s")),
    "its key is gone": ("pointer", one(1, "delete from private.send_keys where message_id = %s")),
    "the same text again": ("doubled", one(1, ADD.format(body="body"))),
    "nobody asked for it": ("ghost", one(1, ADD.format(body="'something'"))),
    "the same key again": (
        "doubled",
        one(1, ADD.format(body="'something'").replace("gen_random_uuid()", "client_message_id")),
    ),
    "another number": ("altered", lambda c: c.db.execute(MOVE, [9, c.direct, 6])),
    "a gap": ("seq", lambda c: c.db.execute(MOVE, [9, c.direct, 6])),
    "two of one author change places": (
        "reordered",
        lambda c: [c.db.execute(MOVE, [to, c.direct, seq]) for to, seq in ((50, 1), (1, 5), (5, 50))],
    ),
    "another text": ("altered", one(1, "update public.messages set body = 'x' where id = %s")),
    "another edit": ("altered", one(3, "update public.messages set body = 'x' where id = %s")),
    "undeleted": (
        "altered",
        one(4, "update public.messages set state = 'visible', body = 'x' where id = %s"),
    ),
    "deleted": (
        "altered",
        one(1, "update public.messages set state = 'deleted', body = null where id = %s"),
    ),
    "an event_seq twice": (
        "events",
        lambda c: c.db.execute(
            "update public.messages set event_seq = (select m.event_seq from public.messages as m where m.id = %s)"
            " where id = %s",
            [c.id_at(6), c.id_at(5)],
        ),
    ),
    "an event_seq nobody was told": (
        "events",
        lambda c: c.db.execute("update public.conversations set event_seq = event_seq + 1 where id = %s", [c.direct]),
    ),
    "a conversation behind its messages": (
        "events",
        lambda c: c.db.execute("update public.conversations set position = 1 where id = %s", [c.direct]),
    ),
    "an event is gone": (
        "positions",
        lambda c: c.db.execute(
            "delete from realtime.messages where id = (select id from realtime.messages where topic = %s"
            " order by payload ->> 'position' offset 2 limit 1)",
            [f"user:{c.people[0]}"],
        ),
    ),
    "the last event is gone": (
        "positions",
        lambda c: c.db.execute(
            "delete from realtime.messages where id = (select id from realtime.messages where topic = %s"
            " order by payload ->> 'position' desc limit 1)",
            [f"user:{c.people[0]}"],
        ),
    ),
    "an event names another one before it": (
        "positions",
        lambda c: c.db.execute(
            "update realtime.messages set payload = payload || '{\"previousPosition\": 7}' where topic = %s",
            [f"user:{c.people[1]}"],
        ),
    ),
    "positions against the order of changes": (
        "positions",
        one(6, "update public.messages set changed_position = 1 where id = %s"),
    ),
    "a row that sync would not show": (
        "positions",
        lambda c: c.db.execute(
            "update public.conversation_members set changed_position = 1 where user_id = %s", [c.people[0]]
        ),
    ),
    "a head that went back": (
        "positions",
        lambda c: c.db.execute("update private.heads set position = 1 where user_id = %s", [c.people[0]]),
    ),
    "an unread count": (
        "unread",
        lambda c: c.db.execute("update public.conversation_members set unread_count = unread_count + 1"),
    ),
    "read beyond the end": (
        "watermark",
        lambda c: c.db.execute("update public.conversation_members set last_read_seq = 99, unread_count = 0"),
    ),
    "read less than acknowledged": (
        "watermark",
        lambda c: c.db.execute(
            "update public.conversation_members set last_read_seq = 2, shared_read_seq = 2 where user_id = %s"
            " and conversation_id = %s",
            [c.people[1], c.direct],
        ),
    ),
    "delivered further than asked": (
        "watermark",
        lambda c: c.db.execute(
            "update public.conversation_members set shared_delivered_seq = 4 where conversation_id = %s", [c.direct]
        ),
    ),
    "another newest message": (
        "pointer",
        lambda c: c.db.execute("update public.conversations set last_seq = 5 where id = %s", [c.direct]),
    ),
    "another time of the newest message": (
        "pointer",
        lambda c: c.db.execute("update public.conversations set last_message_at = now() where id = %s", [c.direct]),
    ),
    "another place in the inbox": (
        "pointer",
        lambda c: c.db.execute("update public.conversation_members set last_activity_at = now()"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE_STORED)
def test_damaged_database(clean: Clean, damage: str) -> None:
    kind, do = DAMAGE_STORED[damage]
    do(clean)
    assert kind in {complaint.kind for complaint in clean.complaints()}


def _alter(messages: Any, place: int, **what: Any) -> None:
    messages[place] = {**messages[place], **what}


DAMAGE_HELD: dict[str, Callable[[History], Any]] = {
    "lacks one": lambda h: h.messages.pop(2),  # type: ignore[attr-defined]
    "lacks all": lambda h: h.messages.clear(),  # type: ignore[attr-defined]
    "holds a ghost": lambda h: h.messages.append({**h.messages[-1], "id": str(uuid.uuid4()), "seq": 99}),  # type: ignore[attr-defined]
    "holds one twice": lambda h: h.messages.append(h.messages[-1]),  # type: ignore[attr-defined]
    "another order": lambda h: h.messages.reverse(),  # type: ignore[attr-defined]
    "another text": lambda h: _alter(h.messages, 0, body="x"),
    "another state": lambda h: _alter(h.messages, 0, state="hidden"),
    "an older version": lambda h: _alter(h.messages, 0, eventSeq=0),
    "another author": lambda h: _alter(h.messages, 0, fromUserId=str(uuid.uuid4())),
    "another unread count": lambda h: next(iter(h.conversations.values())).update(unreadCount=77),  # type: ignore[attr-defined]
    "an older end": lambda h: next(iter(h.conversations.values())).update(lastSeq=1),  # type: ignore[attr-defined]
    "a conversation less": lambda h: h.conversations.popitem(),  # type: ignore[attr-defined]
    "an older receipt": lambda h: [each.update(lastReadSeq=1) for each in h.receipts.values()],  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("damage", DAMAGE_HELD)
def test_damaged_device(clean: Clean, damage: str) -> None:
    DAMAGE_HELD[damage](clean.histories[1])
    complaints = clean.complaints()
    assert {complaint.kind for complaint in complaints} == {"device"}
    assert all(clean.people[1] in complaint.what for complaint in complaints)


def test_acknowledged_otherwise_than_stored(clean: Clean) -> None:
    told = clean.account.sends[0].acknowledged
    assert told
    for wrong in (
        told._replace(seq=5),
        told._replace(message_id=str(uuid.uuid4())),
        told._replace(conversation_id=clean.group),
    ):
        clean.account.sends[0].acknowledged = wrong
        assert "altered" in {complaint.kind for complaint in clean.complaints()}


def test_acknowledged_in_another_order(clean: Clean) -> None:
    sends = clean.account.sends
    sends[0], sends[2] = sends[2], sends[0]
    assert {complaint.kind for complaint in clean.complaints()} == {"reordered"}


def test_sent_by_somebody_else(clean: Clean) -> None:
    clean.account.sends[0].person = clean.people[2]
    assert {"lost", "ghost"} <= {complaint.kind for complaint in clean.complaints()}


def test_every_kind_that_data_can_show_is_shown() -> None:
    assert {kind for kind, _ in DAMAGE_STORED.values()} | {"device", "stuck"} == set(KINDS)
