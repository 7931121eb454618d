"""The promises that must hold under any concurrency. Every worker has its own connection, like a data API pool."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import call, make_group, refused

DEADLINE_S = 60


def together(url: str, jobs: list[Callable[[psycopg.Connection[Any]], Any]]) -> list[Any]:
    """Start all jobs at the same instant, each on a connection of its own; answers their results or exceptions."""
    barrier = threading.Barrier(len(jobs), timeout=DEADLINE_S)

    def run(job: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        with psycopg.connect(url, autocommit=True) as conn:
            barrier.wait()
            try:
                return job(conn)
            except psycopg.Error as error:
                return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs, timeout=DEADLINE_S))


def seqs(db: psycopg.Connection[Any], conversation_id: str) -> list[int]:
    return [
        row[0]
        for row in db.execute(
            "select seq from public.messages where conversation_id = %s order by seq", [conversation_id]
        )
    ]


def check_everything(db: psycopg.Connection[Any], person_ids: list[str]) -> None:
    """Facts that must be true of all conversations of these people at any moment between transactions."""
    rooms = [row[0] for row in db.execute(
        "select distinct conversation_id from public.conversation_members where user_id = any(%s::uuid[])", [person_ids]
    )]  # fmt: skip
    assert rooms

    def none(claim: str, query: str) -> None:
        assert db.execute(query, {"rooms": rooms}).fetchall() == [], claim

    none("seq is contiguous and the conversation knows its newest message", """
        select c.id from public.conversations as c where c.id = any(%(rooms)s) and (
            c.last_seq <> (select count(*) from public.messages as m where m.conversation_id = c.id) + c.first_seq - 1
            or c.last_seq <> (select coalesce(max(m.seq), c.first_seq - 1) from public.messages as m where m.conversation_id = c.id)
            or c.last_message_at is distinct from
                (select m.created_at from public.messages as m where m.conversation_id = c.id and m.seq = c.last_seq)
        )
    """)  # fmt: skip
    none("every unread count is what a recount says", """
        select m.conversation_id, m.user_id, m.unread_count, t.recount
        from public.conversation_members as m,
        lateral (
            select count(*) as recount from public.messages as x
            where x.conversation_id = m.conversation_id and x.from_user_id <> m.user_id and x.state = 'visible'
              and x.seq > greatest(m.last_read_seq, m.visible_from_seq - 1)
              and (m.user_id, x.from_user_id) not in (select b.blocker_id, b.blocked_id from private.blocks as b)
        ) as t
        where m.conversation_id = any(%(rooms)s) and m.left_at is null and m.unread_count <> t.recount
    """)  # fmt: skip
    none("no change has a position above its person's head", """
        select m.conversation_id from public.conversation_members as m
        inner join private.heads as h on h.user_id = m.user_id
        where m.conversation_id = any(%(rooms)s) and m.left_at is null and m.changed_position > h.position
    """)  # fmt: skip
    none("every message is the one of its key", """
        select m.id from public.messages as m
        left join private.send_keys as k on k.from_user_id = m.from_user_id and k.client_message_id = m.client_message_id
        where m.conversation_id = any(%(rooms)s) and k.message_id is distinct from m.id
    """)  # fmt: skip


class TestFirstMessageRace:
    def test_both_write_first_at_the_same_instant(self, db, supabase_stack, new_person):
        for gig in (None, uuid.uuid4()):
            ann, bob = new_person(), new_person()
            jobs = [
                lambda conn, a=a, b=b, n=n, gig=gig: call(
                    conn, a.id, "send_message", body=f"first {n}", to_user_id=b.id, gig_id=gig
                )["conversation"]["id"]
                for n in range(4)
                for a, b in ((ann, bob), (bob, ann))
            ]
            there = set(together(supabase_stack.database_url, jobs))
            assert len(there) == 1
            assert seqs(db, there.pop()) == list(range(1, 9))


class TestReplayRace:
    def test_one_key_sent_many_times_at_once_is_one_message(self, db, supabase_stack, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        jobs = [
            lambda conn: call(conn, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        ] * 12
        answers = together(supabase_stack.database_url, jobs)
        assert Counter(answer["created"] for answer in answers) == {True: 1, False: 11}
        assert len({answer["message"]["id"] for answer in answers}) == 1
        assert seqs(db, answers[0]["conversation"]["id"]) == [1]


class TestPace:
    def test_parallel_burst_gets_exactly_the_limit(self, db, supabase_stack, new_person):
        ann = new_person()
        others = [new_person() for _ in range(8)]

        def burst(conn: psycopg.Connection[Any], to: str) -> Counter[str]:
            said: Counter[str] = Counter()
            for number in range(20):
                try:
                    call(conn, ann.id, "send_message", body=str(number), to_user_id=to)
                    said["accepted"] += 1
                except psycopg.Error as error:
                    assert error.diag.sqlstate == "PT429" and 1 <= int(error.diag.message_hint) <= 60
                    said["refused"] += 1
            return said

        said = together(supabase_stack.database_url, [lambda conn, o=o: burst(conn, o.id) for o in others])
        assert sum(said, Counter()) == {"accepted": 100, "refused": 60}

    def test_any_window_holds_at_most_the_limit(self, db, new_person):
        """Sliding, not fixed: with 5 in 2 s, whatever the rhythm, no 2 s hold a sixth."""
        ann, bob = new_person(), new_person()
        db.execute("update private.settings set send_count_max = 5, send_window_s = 2")
        try:
            rhythm = random.Random(5)
            accepted, refusals, until = [], 0, time.monotonic() + 7
            while time.monotonic() < until:
                try:
                    sent = call(db, ann.id, "send_message", body="tick", to_user_id=bob.id)
                    at, later = db.execute(
                        "select created_at, clock_timestamp() from public.messages where id = %s",
                        [sent["message"]["id"]],
                    ).fetchone()
                    accepted.append(at)
                    # One more may have left the window between the insert and the answer.
                    left, left_later = (5 - sum((now - t).total_seconds() < 2 for t in accepted) for now in (at, later))
                    assert left <= sent["pace"]["remaining"] <= left_later
                except psycopg.Error as error:
                    assert error.diag.sqlstate == "PT429"
                    refusals += 1
                time.sleep(rhythm.choice([0, 0.05, 0.3]))
            gaps = [(late - early).total_seconds() for early, late in zip(accepted, accepted[5:], strict=False)]
            assert refusals and gaps and min(gaps) >= 2
            assert len(accepted) > 10, "what has left the window is allowed again"
        finally:
            db.execute("update private.settings set send_count_max = 100, send_window_s = 60")

    def test_new_conversations_per_person(self, db, new_person):
        ann = new_person()
        for _ in range(30):
            call(db, ann.id, "send_message", body="hello", to_user_id=new_person().id)
        with refused(429, "rate_limited") as said:
            call(db, ann.id, "send_message", body="hello", to_user_id=new_person().id)
        assert 3500 < int(said["hint"]) <= 3600
        old = call(db, ann.id, "list_conversations")["conversations"][0]["id"]
        assert call(db, ann.id, "send_message", body="more", conversation_id=old)["created"]

    def test_first_contacts_per_recipient(self, db, new_person):
        bob = new_person()
        writers = [new_person() for _ in range(31)]
        for writer in writers[:30]:
            call(db, writer.id, "send_message", body="hello", to_user_id=bob.id)
        with refused(429, "rate_limited"):
            call(db, writers[30].id, "send_message", body="hello", to_user_id=bob.id)
        known = call(db, writers[0].id, "send_message", body="hi", to_user_id=bob.id, gig_id=uuid.uuid4())
        assert known["created"], "somebody known may start another conversation"


class TestMixedLoad:
    @pytest.mark.timeout(120)
    def test_no_deadlock_no_gap_no_drift(self, db, supabase_stack, new_person):
        people = [new_person() for _ in range(6)]
        groups = [make_group(db, [p.id for p in people]), make_group(db, [p.id for p in people[:4]])]
        db.execute("update public.conversation_members set role = 'owner' where user_id = %s", [people[0].id])
        url = supabase_stack.database_url

        def work(conn: psycopg.Connection[Any], seed: int) -> Counter[str]:
            chance = random.Random(seed)
            said: Counter[str] = Counter()
            keys = [uuid.UUID(int=chance.getrandbits(128)) for _ in range(5)]
            for step in range(100):
                me, other = chance.sample(people, 2)
                what = chance.random()
                try:
                    if what < 0.03:
                        call(conn, me.id, "block_user", user_id=other.id)
                    elif what < 0.08:
                        call(conn, me.id, "unblock_user", user_id=other.id)
                    elif what < 0.35:
                        call(conn, me.id, "send_message", body=f"{seed} {step}", to_user_id=other.id,
                             gig_id=chance.choice([None, uuid.UUID(int=7)]))  # fmt: skip
                    elif what < 0.5:
                        call(conn, me.id, "send_message", body="again", to_user_id=other.id,
                             client_message_id=chance.choice(keys))  # fmt: skip
                    elif what < 0.65:
                        call(conn, people[chance.randrange(4)].id, "send_message", body="all",
                             conversation_id=chance.choice(groups))  # fmt: skip
                    elif what < 0.72:
                        room = call(conn, me.id, "list_messages", conversation_id=chance.choice(groups))["messages"]
                        mine = [m["id"] for m in room if m["fromUserId"] == me.id]
                        if mine and what < 0.69:
                            call(
                                conn,
                                me.id,
                                "edit_message",
                                message_id=chance.choice(mine),
                                body=f"edited {seed} {step}",
                            )
                        elif mine:
                            call(conn, me.id, "delete_message", message_id=chance.choice(mine))
                    elif what < 0.76:
                        call(
                            conn,
                            people[0].id,
                            "add_members",
                            conversation_id=groups[1],
                            user_ids=[people[4].id, people[5].id],
                        )
                    elif what < 0.8:
                        call(conn, people[chance.choice([4, 5])].id, "remove_member", conversation_id=groups[1],
                             user_id=people[chance.choice([4, 5])].id)  # fmt: skip
                    elif what < 0.84:
                        call(conn, me.id, "update_conversation", conversation_id=chance.choice(groups),
                             changes=Jsonb({"archived": chance.random() < 0.5, "pinned": chance.random() < 0.5}))  # fmt: skip
                    elif what < 0.86:
                        call(conn, me.id, "create_group", title="New", member_ids=[p.id for p in people])
                    elif what < 0.88:
                        with conn.transaction():
                            call(conn, me.id, "send_message", body="taken back", to_user_id=other.id)
                            raise psycopg.Rollback
                    else:
                        inbox = call(conn, me.id, "list_conversations")["conversations"]
                        if inbox:
                            room = chance.choice(inbox)
                            up_to = chance.choice([None, chance.randrange(room["lastSeq"] + 1)])
                            if what < 0.96:
                                call(conn, me.id, "mark_all_read", conversation_id=room["id"], up_to_seq=up_to)
                            elif what < 0.98:
                                receipts = [{"conversationId": one["id"], "seq": one["lastSeq"]} for one in inbox]
                                call(conn, me.id, "mark_delivered", receipts=Jsonb(receipts))
                            elif what < 0.99:
                                call(conn, me.id, "set_typing", conversation_id=room["id"])
                            else:
                                call(conn, me.id, "update_profile", changes=Jsonb({"displayName": f"{seed} {step}"}))
                    said["done"] += 1
                except psycopg.Error as error:
                    said[error.diag.sqlstate or repr(error)] += 1
            return said

        said = sum(together(url, [lambda conn, s=s: work(conn, s) for s in range(8)]), Counter())
        # Not a member any more, not an admin, blocked, deleted meanwhile, too fast: answers, not accidents.
        answers = ("done", "PT403", "PT404", "PT409", "PT429")
        unexpected = {state: n for state, n in said.items() if state not in answers}
        assert unexpected == {}, "deadlocks (40P01), time-outs or anything else that is not an answer of ours"
        assert said["done"] > 300
        check_everything(db, [p.id for p in people])

    def test_positions_are_unique_and_rise_with_commit_order_per_person(self, db, supabase_stack, new_person):
        people = [new_person() for _ in range(4)]

        def work(conn: psycopg.Connection[Any], seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(20):
                me, other = chance.sample(people, 2)
                call(conn, me.id, "send_message", body="x", to_user_id=other.id)

        together(supabase_stack.database_url, [lambda conn, s=s: work(conn, s) for s in range(4)])
        for person in people:
            seen = db.execute(
                "select changed_position, count(*) from public.messages where %s in (from_user_id, to_user_id) group by 1",
                [person.id],
            ).fetchall()
            assert seen and all(times == 1 for _, times in seen)
            head = db.execute("select position from private.heads where user_id = %s", [person.id]).fetchone()[0]
            assert max(position for position, _ in seen) == head < 2**53


class TestTheCheckNotices:
    """check_everything is worth something only if damage makes it complain."""

    @pytest.mark.parametrize(
        "damage",
        [
            "delete from public.messages where seq = 2 and conversation_id = %s",
            "update public.conversation_members set unread_count = unread_count + 1 where conversation_id = %s",
            "update public.conversation_members set changed_position = changed_position + 10^15 where conversation_id = %s",
            "update public.conversations set last_seq = last_seq + 1, event_seq = event_seq + 1 where id = %s",
            "delete from private.send_keys where message_id in (select id from public.messages where conversation_id = %s)",
        ],
    )
    def test_damage(self, sql, new_person, damage):
        db, ann, bob = sql.connection, new_person(), new_person()
        for number in range(3):
            there = call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)["conversation"]["id"]
        check_everything(db, [ann.id])
        db.execute(damage, [there])
        with pytest.raises(AssertionError):
            check_everything(db, [ann.id])
