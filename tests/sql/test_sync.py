"""sync: whoever asks, whenever, however often interrupted, ends with exactly what is in the database.

That it costs what has changed and not what there is: test_plans.py.
"""

import random
import threading
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import acting, call, refused


class Client:
    """Somebody's device: merges by id and eventSeq, as the contract says, and can be restarted between any two pages."""

    def __init__(self, db: psycopg.Connection[Any], person: Any) -> None:
        self.person = person
        self.conversations: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self.receipts: dict[tuple[str, str], dict[str, Any]] = {}
        # A new device has every conversation from its first pages and no history.
        cursor = None
        while True:
            page = call(db, person.id, "list_inbox", limit=100, cursor=cursor)
            self.conversations |= {c["id"]: c for c in page["conversations"]}
            if (cursor := page["nextCursor"]) is None:
                break
        self.cursor = call(db, person.id, "sync")["cursor"]

    def page(self, db: psycopg.Connection[Any], limit: int = 200) -> bool:
        """One page; whether there is more."""
        page = call(db, self.person.id, "sync", cursor=self.cursor, limit=limit)
        assert set(page) == {"messages", "conversations", "receipts", "lost", "cursor", "hasMore", "position"}
        for conversation in page["conversations"]:
            self.conversations[conversation["id"]] = conversation
            # Whoever left and came back between two pages begins anew: what is below firstSeq is not theirs any more.
            self.messages = {
                k: m
                for k, m in self.messages.items()
                if m["conversationId"] != conversation["id"] or m["seq"] >= conversation["firstSeq"]
            }
        for message in page["messages"]:
            known = self.messages.get(message["id"])
            if known is None or known["eventSeq"] <= message["eventSeq"]:
                self.messages[message["id"]] = message
        for receipt in page["receipts"]:
            self.receipts[receipt["conversationId"], receipt["userId"]] = receipt
        for lost in page["lost"]:
            self.conversations.pop(lost, None)
            self.messages = {k: m for k, m in self.messages.items() if m["conversationId"] != lost}
        self.cursor = page["cursor"]
        return bool(page["hasMore"])

    def catch_up(self, db: psycopg.Connection[Any], limit: int = 200) -> int:
        pages = 1
        while self.page(db, limit):
            pages += 1
        return pages

    def check(self, db: psycopg.Connection[Any], since: dict[str, int]) -> None:
        """Everything since the device began is there, current, and nothing else."""
        with acting(db, self.person.id):
            rows = db.execute(
                "select id::text, conversation_id::text, seq, event_seq, body, state from public.messages"
            ).fetchall()
            mine = {row[0] for row in db.execute("select id::text from public.conversations").fetchall()}
        wanted = {r[0]: (r[3], r[4], r[5]) for r in rows if r[2] > since.get(r[1], 0)}
        held = {
            k: (m["eventSeq"], m["body"], m["state"])
            for k, m in self.messages.items()
            if m["seq"] > since.get(m["conversationId"], 0)
        }
        assert {k for k in wanted if k not in held} == set(), "lost messages"
        assert {k for k, v in held.items() if wanted.get(k) != v} == set(), "stale messages"
        assert {k for k in self.conversations if k not in mine} == set(), "a conversation that is not there any more"
        cursor = None
        while True:
            page = call(db, self.person.id, "list_inbox", limit=100, cursor=cursor)
            for current in page["conversations"]:
                known = self.conversations.get(current["id"])
                assert known is not None, "lost conversation"
                for name in (
                    "lastSeq",
                    "unreadCount",
                    "title",
                    "pinnedAt",
                    "myRole",
                    "memberCount",
                    "liveTopic",
                    "myLastReadSeq",
                ):
                    assert known[name] == current[name], name
            if (cursor := page["nextCursor"]) is None:
                break
        for (conversation_id, user_id), receipt in self.receipts.items():
            row = db.execute(
                "select shared_read_seq, shared_delivered_seq from public.conversation_members "
                "where conversation_id = %s and user_id = %s and left_at is null",
                [conversation_id, user_id],
            ).fetchone()
            if row and conversation_id in mine:
                assert (receipt["lastReadSeq"], receipt["lastDeliveredSeq"]) == row, "stale receipt"


class TestPages:
    def test_first_call_is_the_inbox_and_a_cursor(self, db, new_person):
        ann, bob = new_person(), new_person()
        call(db, ann.id, "send_message", body="x", to_user_id=bob.id)
        page = call(db, bob.id, "sync")
        assert page["conversations"] == call(db, bob.id, "list_inbox")["conversations"]
        assert (page["messages"], page["receipts"], page["lost"], page["hasMore"]) == ([], [], [], False)
        head = db.execute("select position from private.heads where user_id = %s", [bob.id]).fetchone()[0]
        assert page["position"] == head
        again = call(db, bob.id, "sync", cursor=page["cursor"])
        nothing: dict[str, Any] = {name: [] for name in ("messages", "conversations", "receipts", "lost")}
        assert again == nothing | {"cursor": page["cursor"], "hasMore": False, "position": head}

    def test_position_is_where_the_chain_of_events_goes_on(self, db, new_person):
        ann, bob = new_person(), new_person()
        first = call(db, bob.id, "sync")
        assert first["position"] == 0
        for number in range(3):
            call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)
        page = call(db, bob.id, "sync", cursor=first["cursor"], limit=2)
        assert page["hasMore"] and page["position"] is None
        page = call(db, bob.id, "sync", cursor=page["cursor"])
        call(db, ann.id, "send_message", body="next", to_user_id=bob.id)
        event = db.execute(
            "select payload from realtime.messages where topic = %s order by (payload ->> 'position')::bigint desc limit 1",
            [f"user:{bob.id}"],
        ).fetchone()[0]
        assert event["previousPosition"] == page["position"]

    def test_somebody_new(self, db, new_person):
        ann, bob = new_person(), new_person()
        cursor = call(db, bob.id, "sync")["cursor"]
        sent = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)
        page = call(db, bob.id, "sync", cursor=cursor)
        assert page["messages"] == [sent["message"]]
        assert [c["id"] for c in page["conversations"]] == [sent["conversation"]["id"]]
        assert {r["userId"] for r in page["receipts"]} == {ann.id, bob.id}

    @pytest.mark.parametrize("limit", [1, 2, 7, 500])
    def test_small_pages_hold_the_same(self, db, new_person, limit):
        me, others = new_person(), [new_person() for _ in range(3)]
        device = Client(db, me)
        for number in range(5):
            for other in others:
                call(db, other.id, "send_message", body=str(number), to_user_id=me.id)
        assert device.catch_up(db, limit) >= 15 // limit
        device.check(db, {})
        assert len(device.messages) == 15

    def test_edits_deletes_receipts_and_own_arrangement(self, db, new_person):
        ann, bob = new_person(), new_person()
        sent = [call(db, ann.id, "send_message", body=str(n), to_user_id=bob.id)["message"] for n in range(3)]
        devices = [Client(db, ann), Client(db, bob)]
        call(db, ann.id, "edit_message", message_id=sent[0]["id"], body="edited")
        call(db, ann.id, "delete_message", message_id=sent[1]["id"])
        call(db, bob.id, "mark_read", message_id=sent[2]["id"])
        call(
            db,
            bob.id,
            "update_conversation",
            conversation_id=sent[0]["conversationId"],
            changes=Jsonb({"pinned": True}),
        )
        for device in devices:
            device.catch_up(db)
            assert [m["body"] for m in device.messages.values()] == ["edited", None]
            device.check(db, {sent[0]["conversationId"]: 3})
        assert devices[1].conversations[sent[0]["conversationId"]]["pinnedAt"]
        assert devices[0].receipts[sent[0]["conversationId"], bob.id]["lastReadSeq"] == 3

    def test_membership_lost_and_gained(self, db, new_person):
        owner, me = new_person(), new_person()
        there = call(db, owner.id, "create_group", title="Crew", member_ids=[me.id])["conversation"]["id"]
        call(db, owner.id, "send_message", body="before", conversation_id=there)
        device = Client(db, me)
        call(db, owner.id, "remove_member", conversation_id=there, user_id=me.id)
        call(db, owner.id, "send_message", body="meanwhile", conversation_id=there)
        page = call(db, me.id, "sync", cursor=device.cursor)
        assert page["lost"] == [there] and page["messages"] == page["conversations"] == page["receipts"] == []
        device.catch_up(db)
        assert device.conversations == {}
        call(db, owner.id, "add_members", conversation_id=there, user_ids=[me.id])
        call(db, owner.id, "send_message", body="after", conversation_id=there)
        device.catch_up(db)
        assert [m["body"] for m in device.messages.values()] == ["after"]
        device.check(db, {})

    def test_gone_and_back_between_two_calls_begins_anew(self, db, new_person):
        owner, me = new_person(), new_person()
        there = call(db, owner.id, "create_group", title="Crew", member_ids=[me.id])["conversation"]["id"]
        device = Client(db, me)
        call(db, owner.id, "send_message", body="before", conversation_id=there)
        device.catch_up(db)
        call(db, owner.id, "remove_member", conversation_id=there, user_id=me.id)
        call(db, owner.id, "add_members", conversation_id=there, user_ids=[me.id])
        page = call(db, me.id, "sync", cursor=device.cursor)
        assert page["lost"] == [] and page["conversations"][0]["firstSeq"] == 2
        device.catch_up(db)
        assert device.messages == {}
        device.check(db, {})

    def test_a_year_of_absence_is_the_same_call(self, db, new_person):
        me, other = new_person(), new_person()
        device = Client(db, me)
        db.execute("update private.settings set send_count_max = 500")
        for number in range(450):
            call(db, other.id, "send_message", body=str(number), to_user_id=me.id)
        db.execute("update private.settings set send_count_max = 100")
        assert device.catch_up(db, 100) in (5, 6)
        device.check(db, {})


class TestCursor:
    def test_of_somebody_else_or_of_another_history(self, sql, new_person):
        db, ann, bob = sql.connection, new_person(), new_person()
        cursor = call(db, ann.id, "sync")["cursor"]
        with refused(400, "cursor_invalid") as said:
            call(db, bob.id, "sync", cursor=cursor)
        assert said["hint"] == "/cursor"
        sql.execute("update private.settings set sync_epoch = gen_random_uuid()")
        with refused(400, "cursor_invalid"):
            call(db, ann.id, "sync", cursor=cursor)

    @pytest.mark.parametrize("cursor", ["", "x", "0.0.0", "0123456789abcdef.1", "0123456789abcdef.1.1", "é", "a" * 500])
    def test_foreign_words(self, db, new_person, cursor):
        with refused(400, "cursor_invalid"):
            call(db, new_person().id, "sync", cursor=cursor)

    @pytest.mark.parametrize("limit", [0, 501, None])
    def test_limit(self, db, new_person, limit):
        with refused(400, "validation_failed") as said:
            call(db, new_person().id, "sync", limit=limit)
        assert said["hint"] == "/limit"

    def test_a_position_this_copy_has_not_seen_yet_answers_nothing_and_the_same_cursor(self, db, new_person):
        ann, bob = new_person(), new_person()
        call(db, ann.id, "send_message", body="x", to_user_id=bob.id)
        digest = call(db, bob.id, "sync")["cursor"].split(".")[0]
        ahead = f"{digest}.9007199254740000.9007199254740000"
        page = call(db, bob.id, "sync", cursor=ahead)
        assert (page["cursor"], page["conversations"], page["hasMore"]) == (ahead, [], False)


def storm(
    url: str,
    people: list[Any],
    seed: int,
    writes: int,
    late: float,
    stop: threading.Event,
    errors: list[str],
    done: list[int],
) -> None:
    """One writer: sends, edits, deletes, reads, groups; the share `late` of its transactions stays open for a while."""
    chance = random.Random(seed)
    with psycopg.connect(url, autocommit=True) as conn:
        for step in range(writes):
            me, other = chance.sample(people, 2)
            what = chance.random()
            try:
                with conn.transaction():
                    if what < 0.6:
                        call(conn, me.id, "send_message", body=f"{seed}.{step}", to_user_id=other.id)
                    elif what < 0.75:
                        inbox = call(conn, me.id, "list_inbox", limit=5)["conversations"]
                        if inbox:
                            call(conn, me.id, "mark_all_read", conversation_id=chance.choice(inbox)["id"])
                    elif what < 0.85:
                        inbox = call(conn, me.id, "list_inbox", limit=3)["conversations"]
                        own = [
                            c["lastMessage"]
                            for c in inbox
                            if c["lastMessage"] and c["lastMessage"]["fromUserId"] == me.id
                        ]
                        if own:
                            message = chance.choice(own)
                            if message["state"] == "visible" and what < 0.82:
                                call(
                                    conn, me.id, "edit_message", message_id=message["id"], body=f"edited {seed}.{step}"
                                )
                            else:
                                call(conn, me.id, "delete_message", message_id=message["id"])
                    elif what < 0.9:
                        groups = [
                            c
                            for c in call(conn, me.id, "list_inbox", limit=20)["conversations"]
                            if c["kind"] == "group"
                        ]
                        if groups:
                            call(conn, me.id, "send_message", body="all", conversation_id=chance.choice(groups)["id"])
                        else:
                            call(
                                conn,
                                me.id,
                                "create_group",
                                title="G",
                                member_ids=[p.id for p in chance.sample(people, 3)],
                            )
                    else:
                        groups = [
                            c
                            for c in call(conn, me.id, "list_inbox", limit=20)["conversations"]
                            if c["myRole"] == "owner"
                        ]
                        if groups:
                            there = chance.choice(groups)["id"]
                            if chance.random() < 0.5:
                                call(conn, me.id, "add_members", conversation_id=there, user_ids=[other.id])
                            else:
                                call(conn, me.id, "remove_member", conversation_id=there, user_id=other.id)
                    if chance.random() < late:
                        conn.execute("select pg_sleep(%s)", [chance.random() * 0.01])
                done.append(seed)
            except psycopg.Error as error:
                if error.diag.sqlstate not in ("PT403", "PT404", "PT409", "PT422", "PT429"):
                    errors.append(f"{error.diag.sqlstate} {error}")
    stop.set()


def run_storm(
    db: psycopg.Connection[Any], url: str, new_person: Any, *, people_count: int, writers: int, writes: int, late: float
) -> tuple[int, int]:
    """Writers against readers that page in small pieces all the while; answers (writes committed, pages read)."""
    people = [new_person() for _ in range(people_count)]
    since: dict[str, int] = {}
    devices = [Client(db, person) for person in people[:6] for _ in range(2)]
    errors: list[str] = []
    done: list[int] = []
    stops = [threading.Event() for _ in range(writers)]
    threads = [
        threading.Thread(target=storm, args=(url, people, n, writes, late, stops[n], errors, done))
        for n in range(writers)
    ]
    pages = 0

    def read(mine: list[Client], seed: int) -> None:
        nonlocal pages
        chance = random.Random(seed)
        with psycopg.connect(url, autocommit=True) as conn:
            while not all(stop.is_set() for stop in stops):
                for device in mine:
                    device.page(conn, chance.choice([1, 2, 5, 50]))
                    pages += 1

    readers = [threading.Thread(target=read, args=(devices[n::2], n)) for n in range(2)]
    for thread in (*threads, *readers):
        thread.start()
    for thread in (*threads, *readers):
        thread.join(600)
        assert not thread.is_alive()
    assert errors == []
    for device in devices:
        device.catch_up(db, 50)
        device.check(db, since)
    return len(done), pages


@pytest.fixture
def unpaced(supabase_stack, cluster, new_person, worker):
    """A database of its own, where pace does not limit the storm."""
    name = cluster.clone(f"storm_{worker}_{uuid.uuid4().hex[:6]}")
    url = cluster.cluster.url(name)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("update private.settings set send_count_max = 500, send_window_s = 1, new_conversation_count_max = 500, "
                     "first_contact_count_max = 500, new_conversation_window_s = 1, first_contact_window_s = 1")  # fmt: skip

        class Made:
            def __init__(self) -> None:
                self.id = str(uuid.uuid4())
                conn.execute("insert into auth.users (id, email) values (%s, %s)", [self.id, f"{self.id}@example.com"])

        yield conn, url, Made
    cluster.drop(name)


@pytest.mark.timeout(120)
def test_nothing_is_lost_or_stale_under_a_storm(unpaced):
    db, url, made = unpaced
    written, pages = run_storm(db, url, made, people_count=6, writers=6, writes=60, late=0.5)
    assert written > 200 and pages > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundred_thousand_writes(unpaced):
    """About ten minutes on two quiet cores."""
    db, url, made = unpaced
    written = 0
    while written < 100_000:
        written += run_storm(db, url, made, people_count=24, writers=6, writes=2000, late=0.05)[0]
