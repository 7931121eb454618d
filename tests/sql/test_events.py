"""Events: one per change and person, chained by positions, and never in the way of what they tell about."""

import threading
import time
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import call, refused

EVENT = {"id", "type", "position", "previousPosition", "conversationId", "unreadTotal"}
FACTS = {
    "id", "kind", "gigId", "title", "lastMessageAt", "unreadCount", "markedUnread", "myRole", "myLastReadSeq", "canSend",
    "liveTopic", "lastSeq", "firstSeq", "eventSeq", "archivedAt", "mutedUntil", "pinnedAt", "createdAt",
}  # fmt: skip


def events(db: psycopg.Connection[Any], person: Any) -> list[dict[str, Any]]:
    """What was handed to Realtime for this person, oldest first; the chain of positions must have no gap."""
    rows = db.execute(
        "select event, payload, private from realtime.messages where topic = %s order by (payload ->> 'position')::bigint",
        [f"user:{person.id}"],
    ).fetchall()
    previous = None
    for name, payload, private in rows:
        assert private is True and payload["type"] == name
        if previous is not None:
            assert payload["previousPosition"] == previous, "a position without an event"
        previous = payload["position"]
    if rows:
        head = db.execute("select position from private.heads where user_id = %s", [person.id]).fetchone()
        assert head == (previous,), "the newest position has no event"
    return [payload for _, payload, _ in rows]


def types(db, person):
    return [event["type"] for event in events(db, person)]


class TestMessages:
    def test_created(self, db, new_person):
        ann, bob = new_person("Ann"), new_person()
        sent = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)
        for person, unread in ((ann, 0), (bob, 1)):
            (event,) = events(db, person)
            assert set(event) == EVENT | {"conversation", "message"}
            assert event["message"] == sent["message"] and set(event["conversation"]) == FACTS
            assert (event["unreadTotal"], event["conversation"]["unreadCount"]) == (unread, unread)
            assert event["conversation"]["lastSeq"] == 1
            assert event["position"] < 2**53 and event["previousPosition"] == 0

    def test_facts_are_those_of_the_inbox(self, db, new_person):
        ann, bob = new_person(), new_person()
        call(db, ann.id, "send_message", body="hi", to_user_id=bob.id, gig_id=uuid.uuid4())
        shown = call(db, bob.id, "list_inbox")["conversations"][0]
        assert events(db, bob)[0]["conversation"] == {name: shown[name] for name in FACTS}

    def test_updated_deleted_and_silent_repeats(self, db, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        sent = call(db, ann.id, "send_message", body="one", to_user_id=bob.id, client_message_id=key)["message"]
        call(db, ann.id, "edit_message", message_id=sent["id"], body="two")
        call(db, ann.id, "edit_message", message_id=sent["id"], body="two")
        call(db, ann.id, "send_message", body="one", to_user_id=bob.id, client_message_id=key)
        call(db, ann.id, "delete_message", message_id=sent["id"])
        call(db, ann.id, "delete_message", message_id=sent["id"])
        for person in (ann, bob):
            assert types(db, person) == ["message.created", "message.updated", "message.deleted"]
        last = events(db, bob)[-1]
        assert last["message"]["body"] is None and last["unreadTotal"] == 0
        assert "'one'" not in str(last) and "'two'" not in str(last)

    def test_hidden_from_who_blocks_the_author_in_a_group(self, db, new_person):
        ann, bob, cyd = new_person(), new_person(), new_person()
        there = call(db, cyd.id, "create_group", title="Crew", member_ids=[ann.id, bob.id])["conversation"]["id"]
        call(db, ann.id, "block_user", user_id=bob.id)
        sent = call(db, bob.id, "send_message", body="'one'", conversation_id=there)["message"]
        call(db, bob.id, "edit_message", message_id=sent["id"], body="'two'")
        call(db, bob.id, "delete_message", message_id=sent["id"])
        for person in (bob, cyd):
            told = [event["message"] for event in events(db, person) if "message" in event]
            assert [(m["state"], m["body"]) for m in told] == [
                ("visible", "'one'"),
                ("visible", "'two'"),
                ("deleted", None),
            ]
        told = [event for event in events(db, ann) if "message" in event]
        assert [(e["message"]["state"], e["message"]["body"], e["unreadTotal"]) for e in told] == [
            ("hidden", None, 0)
        ] * 3
        assert "'one'" not in str(told) and "'two'" not in str(told)
        # What the two wrote to each other directly stays as it was.
        direct = call(db, cyd.id, "send_message", body="hi", to_user_id=ann.id)["message"]
        call(db, ann.id, "block_user", user_id=cyd.id)
        call(db, cyd.id, "delete_message", message_id=direct["id"])
        assert events(db, ann)[-1]["message"]["state"] == "deleted"

    def test_a_refused_send_tells_nobody(self, db, new_person):
        ann, bob = new_person(), new_person()
        sent = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)
        with refused(422, "recipient_mismatch"):
            call(db, ann.id, "send_message", body="x", conversation_id=sent["conversation"]["id"], to_user_id=ann.id)
        assert types(db, bob) == ["message.created"]


class TestReceipts:
    def test_read_tells_both_once(self, db, new_person):
        ann, bob = new_person(), new_person()
        sent = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)["message"]
        call(db, bob.id, "mark_read", message_id=sent["id"])
        call(db, bob.id, "mark_read", message_id=sent["id"])
        for person in (ann, bob):
            event = events(db, person)[-1]
            assert types(db, person) == ["message.created", "receipt.updated"]
            assert event["receipt"] == {"userId": bob.id, "lastReadSeq": 1, "lastDeliveredSeq": 1}
            assert "message" not in event

    def test_delivered(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        sent = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)["message"]
        foreign = call(db, ann.id, "send_message", body="hi", to_user_id=eve.id)["message"]["conversationId"]
        there = sent["conversationId"]
        receipts = [
            {"conversationId": there, "seq": 99},
            {"conversationId": foreign, "seq": 1},
            {"conversationId": str(uuid.uuid4()), "seq": 1},
        ]
        answer = call(db, bob.id, "mark_delivered", receipts=Jsonb(receipts))
        assert answer == {
            "receipts": [{"conversationId": there, "userId": bob.id, "lastReadSeq": 0, "lastDeliveredSeq": 1}]
        }
        assert call(db, bob.id, "mark_delivered", receipts=Jsonb(receipts)) == answer
        assert types(db, ann)[-1] == "receipt.updated" and types(db, bob) == ["message.created", "receipt.updated"]
        assert call(db, ann.id, "list_messages", conversation_id=there)["messages"][0]["status"] == "delivered"

    def test_several_conversations_at_once_keep_the_chain(self, db, new_person):
        bob, writers = new_person(), [new_person() for _ in range(4)]
        rooms = [call(db, w.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"] for w in writers]
        call(db, bob.id, "mark_delivered", receipts=Jsonb([{"conversationId": room, "seq": 1} for room in rooms]))
        assert types(db, bob) == ["message.created"] * 4 + ["receipt.updated"] * 4
        for writer in writers:
            assert types(db, writer) == ["message.created", "receipt.updated"]

    @pytest.mark.parametrize(
        "receipts",
        [None, {}, [], [1], [{}], [{"conversationId": "x", "seq": 1}], [{"conversationId": str(uuid.uuid4()), "seq": -1}],
         [{"conversationId": str(uuid.uuid4()), "seq": "9" * 17}], [{"conversationId": str(uuid.uuid4()), "seq": 1}] * 101],
    )  # fmt: skip
    def test_delivered_shape(self, db, new_person, receipts):
        with refused(400, "validation_failed") as said:
            call(db, new_person().id, "mark_delivered", receipts=Jsonb(receipts))
        assert said["hint"] == "/receipts"

    def test_private_reading_tells_only_the_reader_and_is_never_made_up_for(self, db, new_person):
        ann, bob = new_person(), new_person()
        call(db, bob.id, "update_profile", changes=Jsonb({"privateReading": True}))
        for number in range(3):
            sent = call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)["message"]
        there = sent["conversationId"]
        before = types(db, ann)
        assert call(db, bob.id, "mark_read", message_id=sent["id"])["receipt"]["lastReadSeq"] == 3
        assert types(db, ann) == before and types(db, bob)[-1] == "conversation.updated"
        seen = call(db, ann.id, "get_conversation", conversation_id=there)["conversation"]
        assert {m["status"] for m in seen["messages"]} == {"sent"}
        call(db, bob.id, "update_profile", changes=Jsonb({"privateReading": False}))
        call(db, bob.id, "mark_all_read", conversation_id=there)
        assert (
            call(db, ann.id, "get_conversation", conversation_id=there)["conversation"]["receipts"] == seen["receipts"]
        )

    def test_large_groups_tell_authors_only(self, db, new_person):
        owner, people = new_person(), [new_person() for _ in range(17)]
        there = call(db, owner.id, "create_group", title="Large", member_ids=[p.id for p in people])["conversation"][
            "id"
        ]
        sent = [call(db, p.id, "send_message", body="x", conversation_id=there)["message"] for p in people[:2]]
        before = {p.id: len(types(db, p)) for p in people}
        call(db, people[5].id, "mark_delivered", receipts=Jsonb([{"conversationId": there, "seq": 2}]))
        assert {p.id: len(types(db, p)) for p in people} == before
        call(db, people[5].id, "mark_read", message_id=sent[1]["id"])
        told = {p.id for p in people if len(types(db, p)) > before[p.id]}
        assert told == {people[0].id, people[1].id, people[5].id}


class TestConversations:
    def test_own_arrangement_is_told_to_oneself(self, db, new_person):
        ann, bob = new_person(), new_person()
        there = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)["conversation"]["id"]
        call(db, bob.id, "update_conversation", conversation_id=there, changes=Jsonb({"pinned": True}))
        assert types(db, bob) == ["message.created", "conversation.updated"] and types(db, ann) == ["message.created"]
        assert events(db, bob)[-1]["conversation"]["pinnedAt"]

    def test_life_of_a_group(self, db, new_person):
        owner, one, two = new_person(), new_person(), new_person()
        there = call(db, owner.id, "create_group", title="Crew", member_ids=[one.id])["conversation"]["id"]
        call(db, owner.id, "add_members", conversation_id=there, user_ids=[two.id])
        call(db, owner.id, "add_members", conversation_id=there, user_ids=[two.id, one.id], role="admin")
        call(db, one.id, "update_conversation", conversation_id=there, changes=Jsonb({"title": "Team"}))
        call(db, owner.id, "remove_member", conversation_id=there, user_id=two.id)
        assert types(db, owner) == ["conversation.created"] + ["conversation.updated"] * 4
        assert types(db, two) == [
            "conversation.created",
            "conversation.updated",
            "conversation.updated",
            "conversation.lost",
        ]
        lost = events(db, two)[-1]
        assert set(lost) == EVENT and lost["conversationId"] == there
        assert events(db, one)[-1]["conversation"]["liveTopic"].endswith(":live:2")
        call(db, owner.id, "send_message", body="without two", conversation_id=there)
        assert types(db, two)[-1] == "conversation.lost"

    def test_ended_account_in_several_groups_keeps_every_chain(self, db, new_person):
        owner, one = new_person(), new_person()
        for _ in range(3):
            call(db, owner.id, "create_group", title="Crew", member_ids=[one.id])
        db.execute("delete from auth.users where id = %s", [owner.id])
        assert types(db, one) == ["conversation.created"] * 3 + ["conversation.updated"] * 3
        assert types(db, owner)[-3:] == ["conversation.lost"] * 3

    def test_profile(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)
        call(db, eve.id, "update_profile", changes=Jsonb({"locale": "de"}))
        call(db, ann.id, "update_profile", changes=Jsonb({"displayName": "Anna"}))
        for person in (ann, bob):
            event = events(db, person)[-1]
            assert (event["type"], event["profile"]["displayName"]) == ("profile.updated", "Anna")
        assert events(db, eve) == []


class TestNeverInTheWay:
    """However Realtime is, the send succeeds at once and the positions are there for sync to repair with."""

    def send(self, db, new_person):
        ann, bob = new_person(), new_person()
        began = time.monotonic()
        sent = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)
        assert sent["created"] and time.monotonic() - began < 1
        head = db.execute("select position from private.heads where user_id = %s", [bob.id]).fetchone()[0]
        assert head > 0
        return ann, bob

    @pytest.mark.parametrize(
        "harm",
        [
            "alter function realtime.send(jsonb, text, text, boolean) rename to gone",
            "alter schema realtime rename to gone",
            "alter table realtime.messages rename to gone",
            "create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) "
            "returns void language plpgsql as $$ begin raise exception 'broken'; end $$",
            "create function pg_temp.none() returns int language sql as 'select 1'; "
            "do $$ declare p regclass; begin for p in select inhrelid::regclass from pg_inherits "
            "where inhparent = 'realtime.messages'::regclass loop execute 'drop table ' || p; end loop; end $$",
        ],
        ids=["function missing", "realtime absent", "table missing", "function raises", "no partition"],
    )
    def test_broken(self, supabase_stack, cluster, new_person, harm):
        with psycopg.connect(cluster.cluster.url(supabase_stack.database, "supabase_admin")) as admin:
            admin.execute(harm)
            self.send(admin, new_person)
            admin.rollback()

    def test_partition_being_made(self, supabase_stack, cluster, db, new_person):
        with psycopg.connect(cluster.cluster.url(supabase_stack.database, "supabase_admin")) as admin:
            admin.execute("lock table realtime.messages in access exclusive mode")
            ann, _ = self.send(db, new_person)
            timeout = db.execute("show lock_timeout").fetchone()
            admin.rollback()
        assert timeout == ("0",)
        assert events_count(db, ann) == 0

    def test_many_recipients_wait_once(self, supabase_stack, cluster, db, new_person):
        owner, people = new_person(), [new_person() for _ in range(40)]
        there = call(db, owner.id, "create_group", title="Many", member_ids=[p.id for p in people])["conversation"][
            "id"
        ]
        with psycopg.connect(cluster.cluster.url(supabase_stack.database, "supabase_admin")) as admin:
            admin.execute("lock table realtime.messages in access exclusive mode")
            began = time.monotonic()
            call(db, owner.id, "send_message", body="x", conversation_id=there)
            assert time.monotonic() - began < 1
            admin.rollback()

    def test_largest_payload(self, db, new_person):
        ann, bob = new_person(), new_person()
        call(db, ann.id, "send_message", body="\U0001f3bb" * 4000, to_user_id=bob.id)
        (event,) = events(db, bob)
        assert len(event["message"]["body"]) == 4000

    def test_the_callers_own_lock_timeout_survives(self, db, new_person):
        ann, bob = new_person(), new_person()
        with db.transaction():
            db.execute("set local lock_timeout = '7s'")
            call(db, ann.id, "send_message", body="x", to_user_id=bob.id)
            assert db.execute("show lock_timeout").fetchone() == ("7s",)


def events_count(db, person):
    return db.execute("select count(*) from realtime.messages where topic = %s", [f"user:{person.id}"]).fetchone()[0]


class TestChainUnderLoad:
    def test_every_position_has_its_event_whoever_writes(self, db, supabase_stack, new_person):
        people = [new_person() for _ in range(4)]

        def work(number: int) -> None:
            with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                me = people[number]
                for turn in range(12):
                    other = people[(number + 1 + turn % 3) % 4]
                    there = call(conn, me.id, "send_message", body=str(turn), to_user_id=other.id)["conversation"]["id"]
                    call(conn, other.id, "mark_all_read", conversation_id=there)

        threads = [threading.Thread(target=work, args=[n]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for person in people:
            assert len(events(db, person)) >= 36


class TestTyping:
    def test_goes_to_the_live_topic(self, db, new_person):
        ann, bob = new_person(), new_person()
        shown = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]
        assert call(db, bob.id, "set_typing", conversation_id=shown["id"]) == {}
        event, payload = db.execute(
            "select event, payload from realtime.messages where topic = %s", [shown["liveTopic"]]
        ).fetchone()
        assert event == "typing" and (payload["userId"], payload["conversationId"]) == (bob.id, shown["id"])
        with refused(404, "not_found"):
            call(db, new_person().id, "set_typing", conversation_id=shown["id"])


class TestLastSeen:
    def seen(self, db, viewer, there):
        members = call(db, viewer.id, "list_members", conversation_id=there)["members"]
        return {m["id"]: m["lastSeenAt"] for m in members}

    def test_to_the_minute_and_mutual(self, db, new_person):
        ann, bob = new_person(), new_person()
        there = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"]
        seen = self.seen(db, bob, there)
        assert seen[ann.id].endswith(":00.000000Z") and seen[bob.id] is None
        call(db, bob.id, "set_typing", conversation_id=there)
        assert self.seen(db, ann, there)[bob.id]
        call(db, ann.id, "update_profile", changes=Jsonb({"hidesLastSeen": True}))
        assert self.seen(db, bob, there)[ann.id] is None
        own = self.seen(db, ann, there)
        assert own[bob.id] is None and own[ann.id]

    def test_written_once_a_minute(self, db, new_person):
        ann, bob = new_person(), new_person()
        row = "select xmin, seen_at from private.last_seen where user_id = %s"
        there = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"]
        first = db.execute(row, [ann.id]).fetchone()
        call(db, ann.id, "set_typing", conversation_id=there)
        second = db.execute(row, [ann.id]).fetchone()
        assert second == first or second[1] > first[1]
