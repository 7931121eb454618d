"""Blocks: contact ends both ways, at once and whatever happens at the same time, and the other is told nothing."""

import functools
import random
import threading
import time
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import acting, call, refused
from tests.sql.test_events import events, types
from tests.sql.test_guarantees import check_everything
from tests.sql.test_realtime_policies import ALL, NOTHING, probe

UNAVAILABLE = (403, "recipient_unavailable")
WAIT_S = 20


def send(db, person, **target):
    return call(db, person.id, "send_message", body="hello", **target)


def block(db, person, other):
    return call(db, person.id, "block_user", user_id=other.id)["user"]


def unblock(db, person, other):
    assert call(db, person.id, "unblock_user", user_id=other.id) == {"userId": other.id}


def shown(db, person, there):
    return call(db, person.id, "get_conversation", conversation_id=there)["conversation"]


def crew(db, owner, *members):
    made = call(db, owner.id, "create_group", title="Crew", member_ids=[m.id for m in members])
    return made["conversation"]["id"]


def readable(db, person):
    """All rows this person can read with their own token, with the version of each."""
    with acting(db, person.id):
        return {
            table: db.execute(f"select t.*, t.xmin::text from public.{table} as t order by t::text").fetchall()
            for table in ("profiles", "conversations", "conversation_members", "messages")
        }


@pytest.fixture
def talk(db, new_person):
    """Ann and Bob have written to each other."""
    ann, bob = new_person("Ann"), new_person("Bob")
    there = send(db, ann, to_user_id=bob.id)["conversation"]["id"]
    send(db, bob, conversation_id=there)
    return ann, bob, there


@pytest.fixture
def group(db, new_person):
    """Ann, Bob and Cyd in a group; Bob and Cyd have written one message each."""
    ann, bob, cyd = new_person("Ann"), new_person("Bob"), new_person("Cyd")
    there = crew(db, cyd, ann, bob)
    sent = call(db, bob.id, "send_message", body="words of Bob", conversation_id=there)["message"]
    call(db, cyd.id, "send_message", body="words of Cyd", conversation_id=there)
    return ann, bob, cyd, there, sent["id"]


@pytest.fixture
def admin(supabase_stack, cluster):
    with psycopg.connect(cluster.cluster.url(supabase_stack.database, "supabase_admin"), autocommit=True) as conn:
        yield conn


class TestDirect:
    def test_neither_writes_nor_types_and_unblocking_ends_it(self, db, talk):
        ann, bob, there = talk
        block(db, ann, bob)
        for me, other in ((ann, bob), (bob, ann)):
            for target in ({"conversation_id": there}, {"to_user_id": other.id},
                           {"to_user_id": other.id, "gig_id": uuid.uuid4()}):  # fmt: skip
                with refused(*UNAVAILABLE):
                    send(db, me, **target)
            with refused(*UNAVAILABLE):
                call(db, me.id, "set_typing", conversation_id=there)
            assert shown(db, me, there)["canSend"] is False
            assert len(shown(db, me, there)["messages"]) == 2, "history stays"
        unblock(db, ann, bob)
        for me in (ann, bob):
            assert shown(db, me, there)["canSend"] is True
            assert send(db, me, conversation_id=there)["created"]
            assert call(db, me.id, "set_typing", conversation_id=there) == {}
        check_everything(db, [ann.id, bob.id])

    def test_strangers(self, db, new_person):
        ann, bob = new_person(), new_person()
        block(db, ann, bob)
        for me, other in ((ann, bob), (bob, ann)):
            with refused(*UNAVAILABLE):
                send(db, me, to_user_id=other.id)
        assert (
            db.execute("select 1 from public.conversations where created_by in (%s, %s)", [ann.id, bob.id]).rowcount
            == 0
        )

    def test_two_blocks_are_two(self, db, talk):
        ann, bob, there = talk
        block(db, ann, bob)
        block(db, bob, ann)
        unblock(db, ann, bob)
        with refused(*UNAVAILABLE):
            send(db, ann, conversation_id=there)
        unblock(db, bob, ann)
        assert send(db, ann, conversation_id=there)["created"]

    def test_a_retry_is_still_answered(self, db, talk):
        ann, bob, there = talk
        key = uuid.uuid4()
        send(db, bob, conversation_id=there, client_message_id=key)
        block(db, ann, bob)
        assert send(db, bob, conversation_id=there, client_message_id=key)["created"] is False

    def test_old_messages_take_no_new_words(self, db, talk):
        ann, bob, there = talk
        mine = shown(db, bob, there)["messages"][1]["id"]
        block(db, ann, bob)
        with refused(*UNAVAILABLE):
            call(db, bob.id, "edit_message", message_id=mine, body="one more thing")
        assert call(db, bob.id, "edit_message", message_id=mine, body="hello")["message"]["body"] == "hello", "a retry"
        assert call(db, bob.id, "delete_message", message_id=mine)["message"]["state"] == "deleted"
        check_everything(db, [ann.id, bob.id])

    def test_looks_like_an_account_that_is_gone(self, db, new_person):
        """Whoever cannot write learns the same from a block as from the end of the account."""
        said: list[Any] = []
        for ends in (lambda ann, bob: block(db, ann, bob),
                     lambda ann, bob: db.execute("delete from auth.users where id = %s", [ann.id])):  # fmt: skip
            ann, bob = new_person(), new_person()
            there = send(db, bob, to_user_id=ann.id)["message"]
            ends(ann, bob)
            found: list[Any] = []
            for name, arguments in (
                ("send_message", {"body": "x", "conversation_id": there["conversationId"]}),
                ("send_message", {"body": "x", "to_user_id": ann.id}),
                ("send_message", {"body": "x", "to_user_id": ann.id, "gig_id": uuid.uuid4()}),
                ("set_typing", {"conversation_id": there["conversationId"]}),
                ("edit_message", {"message_id": there["id"], "body": "y"}),
                ("create_group", {"title": "x", "member_ids": [ann.id]}),
            ):
                with pytest.raises(psycopg.Error) as caught:
                    call(db, bob.id, name, **arguments)
                diag = caught.value.diag
                found.append((name, diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint))
            conversation = shown(db, bob, there["conversationId"])
            found.append((conversation["canSend"], conversation["liveTopic"].replace(there["conversationId"], "")))
            said.append(found)
        assert said[0] == said[1]


class TestNotAnnounced:
    def test_nothing_of_the_others_changes(self, db, new_person, talk):
        ann, bob, _ = talk
        cyd = new_person()
        send(db, ann, conversation_id=crew(db, cyd, ann, bob))
        before = readable(db, bob), events(db, bob)
        for change in (block, unblock, block):
            change(db, ann, bob)
            assert (readable(db, bob), events(db, bob)) == before
        cursor = call(db, bob.id, "sync")["cursor"]
        call(db, ann.id, "mark_all_read", conversation_id=talk[2])
        call(db, ann.id, "mark_delivered", receipts=Jsonb([{"conversationId": talk[2], "seq": 2}]))
        call(db, ann.id, "update_profile", changes=Jsonb({"displayName": "Ann", "avatarUrl": None}))
        profiles = {table: rows for table, rows in readable(db, bob).items() if table != "profiles"}
        assert profiles == {table: rows for table, rows in before[0].items() if table != "profiles"}
        assert events(db, bob) == before[1], "not even that the other reads, or is there"
        assert call(db, bob.id, "sync", cursor=cursor)["cursor"] == cursor

    def test_own_devices_are_told(self, db, talk, new_person):
        ann, bob, there = talk
        cyd = new_person()
        shared, foreign = crew(db, cyd, ann, bob), crew(db, cyd, ann)
        cursor = call(db, ann.id, "sync")["cursor"]
        before = types(db, ann)
        block(db, ann, bob)
        assert types(db, ann) == before + ["conversation.updated"] * 2
        told = {event["conversationId"]: event["conversation"] for event in events(db, ann)[-2:]}
        assert set(told) == {there, shared} != {there, foreign}
        assert told[there]["canSend"] is False and told[there]["liveTopic"] == shown(db, ann, there)["liveTopic"]
        page = call(db, ann.id, "sync", cursor=cursor)
        assert {c["id"]: c["canSend"] for c in page["conversations"]} == {there: False, shared: True}
        block(db, ann, bob)
        assert len(types(db, ann)) == len(before) + 2, "a repeat tells nobody"
        unblock(db, ann, bob)
        unblock(db, ann, bob)
        assert len(types(db, ann)) == len(before) + 4
        assert {c["id"]: c["canSend"] for c in call(db, ann.id, "sync", cursor=page["cursor"])["conversations"]} == {
            there: True, shared: True,
        }  # fmt: skip

    def test_whoever_has_no_conversation_has_nobody_to_tell(self, db, new_person):
        ann, bob = new_person(), new_person()
        block(db, ann, bob)
        unblock(db, ann, bob)
        assert types(db, ann) == types(db, bob) == []


class TestPresence:
    def test_the_blocker_moves_to_a_topic_of_their_own(self, db, admin, talk):
        ann, bob, there = talk
        common = shown(db, ann, there)["liveTopic"]
        assert probe(admin, ann.id, common) == probe(admin, bob.id, common) == ALL
        block(db, ann, bob)
        own = shown(db, ann, there)["liveTopic"]
        assert own != common == shown(db, bob, there)["liveTopic"]
        assert (probe(admin, ann.id, own), probe(admin, ann.id, common)) == (ALL, NOTHING)
        assert (probe(admin, bob.id, own), probe(admin, bob.id, common)) == (NOTHING, ALL)
        block(db, bob, ann)
        other = shown(db, bob, there)["liveTopic"]
        assert len({common, own, other}) == 3
        assert (probe(admin, bob.id, other), probe(admin, bob.id, own), probe(admin, ann.id, other)) == (
            ALL,
            NOTHING,
            NOTHING,
        )
        unblock(db, ann, bob)
        unblock(db, bob, ann)
        assert shown(db, ann, there)["liveTopic"] == shown(db, bob, there)["liveTopic"] == common
        assert probe(admin, ann.id, common) == probe(admin, bob.id, common) == ALL
        assert probe(admin, ann.id, own) == probe(admin, bob.id, other) == NOTHING

    def test_the_topic_of_a_group_stays(self, db, admin, group):
        ann, bob, _, there, _ = group
        common = shown(db, ann, there)["liveTopic"]
        block(db, ann, bob)
        assert shown(db, ann, there)["liveTopic"] == shown(db, bob, there)["liveTopic"] == common
        assert probe(admin, ann.id, common) == probe(admin, bob.id, common) == ALL
        assert call(db, bob.id, "set_typing", conversation_id=there) == {}

    def test_last_seen(self, db, group):
        ann, bob, cyd, there, _ = group
        for person in (ann, bob, cyd):
            call(db, person.id, "set_typing", conversation_id=there)

        def seen(viewer):
            members = call(db, viewer.id, "list_members", conversation_id=there)["members"]
            return {m["id"] for m in members if m["lastSeenAt"]}

        everybody = {ann.id, bob.id, cyd.id}
        assert seen(ann) == seen(bob) == everybody
        block(db, ann, bob)
        assert (seen(ann), seen(bob), seen(cyd)) == (everybody - {bob.id}, everybody - {ann.id}, everybody)
        unblock(db, ann, bob)
        assert seen(ann) == seen(bob) == everybody

    def test_receipts_are_not_shared(self, db, new_person):
        ann, bob = new_person(), new_person()
        there = send(db, ann, to_user_id=bob.id)["conversation"]["id"]
        send(db, bob, conversation_id=there)
        block(db, ann, bob)
        told = types(db, ann), types(db, bob)
        for me in (ann, bob):
            read = call(db, me.id, "mark_all_read", conversation_id=there)
            assert (read["receipt"]["lastReadSeq"], read["unreadCount"]) == (2, 0), "one's own watermark moves"
            answer = call(db, me.id, "mark_delivered", receipts=Jsonb([{"conversationId": there, "seq": 2}]))
            # Who is blocked sees what they would see of anybody who does not read on; who blocks shares nothing.
            assert [r["lastDeliveredSeq"] for r in answer["receipts"]] == [0 if me is ann else 2]
        watermarks = {r["userId"]: (r["lastReadSeq"], r["lastDeliveredSeq"]) for r in shown(db, bob, there)["receipts"]}
        assert watermarks == {ann.id: (0, 0), bob.id: (2, 2)}
        assert (types(db, ann), types(db, bob)) == ([*told[0], "conversation.updated"], [*told[1], "receipt.updated"])
        check_everything(db, [ann.id, bob.id])
        unblock(db, ann, bob)
        send(db, bob, conversation_id=there)
        call(db, ann.id, "mark_all_read", conversation_id=there)
        assert {m["status"] for m in shown(db, bob, there)["messages"] if m["fromUserId"] == bob.id} == {"read"}
        check_everything(db, [ann.id, bob.id])

    def test_receipts_in_groups_are(self, db, group):
        ann, bob, _, there, _ = group
        block(db, ann, bob)
        call(db, ann.id, "mark_all_read", conversation_id=there)
        assert {r["userId"]: r["lastReadSeq"] for r in shown(db, bob, there)["receipts"]}[ann.id] == 2

    def test_a_new_card_is_not_announced_across_a_block(self, db, talk, new_person):
        ann, bob, _ = talk
        cyd = new_person()
        send(db, cyd, to_user_id=bob.id)
        block(db, ann, bob)
        before = types(db, ann)
        call(db, bob.id, "update_profile", changes=Jsonb({"displayName": "You know who"}))
        assert types(db, ann) == before and types(db, cyd)[-1] == types(db, bob)[-1] == "profile.updated"
        check_everything(db, [ann.id, bob.id, cyd.id])


class TestGroups:
    def test_messages_are_hidden_from_the_blocker_alone(self, db, group):
        ann, bob, cyd, there, message = group
        call(db, bob.id, "edit_message", message_id=message, body="other words of Bob")
        block(db, ann, bob)

        def read(person):
            pages = [
                shown(db, person, there)["messages"],
                call(db, person.id, "list_messages", conversation_id=there)["messages"],
                call(db, person.id, "list_messages", conversation_id=there, around=1, limit=1)["messages"],
            ]
            assert pages[0] == pages[1] and pages[0][:1] == pages[2]
            return [(m["state"], m["body"]) for m in pages[0]]

        hidden, words = ("hidden", None), ("visible", "other words of Bob")
        assert read(ann) == [hidden, ("visible", "words of Cyd")]
        assert read(bob) == read(cyd) == [words, ("visible", "words of Cyd")]
        assert call(db, ann.id, "message_history", message_id=message) == {"versions": []}
        assert len(call(db, cyd.id, "message_history", message_id=message)["versions"]) == 2
        unblock(db, ann, bob)
        assert read(ann) == [words, ("visible", "words of Cyd")]
        assert len(call(db, ann.id, "message_history", message_id=message)["versions"]) == 2

    def test_wherever_they_are_shown(self, db, group):
        ann, bob, _, there, _ = group
        cursor = call(db, ann.id, "sync")["cursor"]
        block(db, ann, bob)
        call(db, bob.id, "send_message", body="words", conversation_id=there)
        page = call(db, ann.id, "sync", cursor=cursor)
        places = [
            *page["messages"],
            *(c["lastMessage"] for c in page["conversations"]),
            *(c["lastMessage"] for c in call(db, ann.id, "list_inbox")["conversations"]),
            *(c["lastMessage"] for c in call(db, ann.id, "list_conversations")["conversations"]),
        ]
        assert len(places) == 4 and {(m["state"], m["body"]) for m in places} == {("hidden", None)}

    def test_unread(self, db, group):
        ann, bob, cyd, there, message = group
        other = crew(db, cyd, ann, bob)
        assert shown(db, ann, there)["unreadCount"] == 2
        block(db, ann, bob)
        assert shown(db, ann, there)["unreadCount"] == 1 and events(db, ann)[-1]["unreadTotal"] == 1
        for room in (there, other):
            send(db, bob, conversation_id=room)
            send(db, cyd, conversation_id=room)
        assert [shown(db, ann, room)["unreadCount"] for room in (there, other)] == [2, 1]
        call(db, bob.id, "delete_message", message_id=message)
        call(db, cyd.id, "remove_member", conversation_id=other, user_id=bob.id)
        assert [shown(db, ann, room)["unreadCount"] for room in (there, other)] == [2, 1]
        check_everything(db, [ann.id, bob.id, cyd.id])
        unblock(db, ann, bob)
        assert [shown(db, ann, room)["unreadCount"] for room in (there, other)] == [3, 2], "also where Bob is no more"
        check_everything(db, [ann.id, bob.id, cyd.id])
        block(db, ann, bob)
        assert [shown(db, ann, room)["unreadCount"] for room in (there, other)] == [2, 1]
        assert call(db, ann.id, "unread_counts")["messages"] == 3

    def test_no_way_round_through_a_group(self, db, group, new_person):
        ann, bob, cyd, there, _ = group
        dan = new_person()
        own = crew(db, bob, dan)
        block(db, ann, bob)
        for me, other in ((ann, bob), (bob, ann)):
            with refused(*UNAVAILABLE):
                call(db, me.id, "create_group", title="x", member_ids=[dan.id, other.id])
        with refused(*UNAVAILABLE):
            call(db, bob.id, "add_members", conversation_id=own, user_ids=[dan.id, ann.id])
        mine = crew(db, ann, dan)
        with refused(*UNAVAILABLE):
            call(db, ann.id, "add_members", conversation_id=mine, user_ids=[bob.id])
        assert crew(db, cyd, ann, bob), "others may invite both"
        call(db, cyd.id, "add_members", conversation_id=there, user_ids=[bob.id], role="owner")
        assert call(db, bob.id, "add_members", conversation_id=there, user_ids=[ann.id], role="admin")["members"]

    def test_a_full_group_says_nothing_else(self, db, talk):
        ann, bob, _ = talk
        block(db, ann, bob)
        own = crew(db, bob)
        with db.transaction(force_rollback=True):
            db.execute("update private.settings set group_size_max = 1")
            for nobody in (ann.id, str(uuid.uuid4())):
                with refused(*UNAVAILABLE):
                    call(db, bob.id, "add_members", conversation_id=own, user_ids=[nobody])


class TestList:
    def test_newest_first_page_by_page(self, db, new_person):
        ann, others = new_person(), [new_person() for _ in range(5)]
        assert call(db, ann.id, "list_blocked") == {"users": [], "nextCursor": None}
        blocked = [block(db, ann, other) for other in others]
        assert block(db, ann, others[0]) == blocked[0], "a repeat changes nothing"
        found, cursor = [], None
        while True:
            page = call(db, ann.id, "list_blocked", limit=2, cursor=cursor)
            found += page["users"]
            assert len(page["users"]) <= 2
            if (cursor := page["nextCursor"]) is None:
                break
        assert found == blocked[::-1] == call(db, ann.id, "list_blocked")["users"]
        unblock(db, ann, others[2])
        left = [user["id"] for user in call(db, ann.id, "list_blocked")["users"]]
        assert left == [others[n].id for n in (4, 3, 1, 0)]
        assert call(db, others[0].id, "list_blocked")["users"] == []

    def test_cards_of_people_one_has_met_and_of_nobody_else(self, db, new_person, talk, group):
        ann, bob, _ = talk
        card = block(db, ann, bob)
        assert (card["displayName"], card["isFallback"]) == ("Bob", False)
        assert set(card) == {"id", "displayName", "avatarUrl", "isFallback", "blockedAt"}
        # Together in a group, also when that has ended; but not one after the other.
        bea, cyd, there = group[1], group[2], group[3]
        call(db, bea.id, "remove_member", conversation_id=there, user_id=bea.id)
        late = new_person("Late")
        call(db, cyd.id, "add_members", conversation_id=there, user_ids=[late.id])
        assert block(db, cyd, bea)["displayName"] == "Bob"
        assert block(db, late, bea)["isFallback"] and block(db, bea, late)["isFallback"]
        # A stranger's card and nobody's are the same.
        stranger, nobody = new_person("Stranger"), str(uuid.uuid4())
        cards = [block(db, ann, stranger), call(db, ann.id, "block_user", user_id=nobody)["user"]]
        assert [c.pop("id") for c in cards] == [stranger.id, nobody]
        assert all(c.pop("blockedAt") for c in cards)
        assert cards == [{"displayName": "Member", "avatarUrl": None, "isFallback": True}] * 2

    def test_who_has_not_been_reached_does_not_learn_who_writes(self, db, new_person):
        """The first message waits for a moderator: the conversation is there, and not for its recipient."""
        ann, bob = new_person("Ann"), new_person("Bob")
        there = send(db, ann, to_user_id=bob.id)["conversation"]["id"]
        db.execute(
            "update public.conversation_members set left_at = joined_at where conversation_id = %s and user_id = %s",
            [there, bob.id],
        )
        before = types(db, bob)
        assert block(db, bob, ann)["isFallback"] is True
        assert types(db, bob) == before
        assert block(db, ann, bob)["displayName"] == "Bob"

    def test_oneself_and_nobody(self, db, new_person):
        ann = new_person()
        for name in ("block_user", "unblock_user"):
            for user_id in (ann.id, None):
                with refused(400, "validation_failed") as said:
                    call(db, ann.id, name, user_id=user_id)
                assert said["hint"] == "/id"

    @pytest.mark.parametrize(("arguments", "code"), [({"limit": 0}, "validation_failed"), ({"limit": 101}, "validation_failed"),
                                                     ({"limit": None}, "validation_failed"), ({"cursor": "x"}, "cursor_invalid")])  # fmt: skip
    def test_shape(self, db, new_person, arguments, code):
        with refused(400, code):
            call(db, new_person().id, "list_blocked", **arguments)

    def test_limit_is_exact_also_at_the_same_time(self, db, supabase_stack, new_person):
        ann, others = new_person(), [new_person() for _ in range(6)]
        db.execute("update private.settings set block_count_max = 3")
        try:
            said: list[str] = []
            barrier = threading.Barrier(6, timeout=WAIT_S)

            def work(other):
                with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                    barrier.wait()
                    try:
                        block(conn, ann, other)
                        said.append("blocked")
                    except psycopg.Error as error:
                        said.append(f"{error.diag.sqlstate} {error.diag.message_primary}")

            threads = [threading.Thread(target=work, args=[other]) for other in others]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT_S)
            assert sorted(said) == ["PT422 block_list_full"] * 3 + ["blocked"] * 3
            full = call(db, ann.id, "list_blocked")["users"]
            assert call(db, ann.id, "block_user", user_id=full[0]["id"])["user"] == full[0], (
                "who is there already is answered"
            )
            call(db, ann.id, "unblock_user", user_id=full[0]["id"])
            block(db, ann, new_person())
        finally:
            db.execute("update private.settings set block_count_max = 1000")


class TestAccounts:
    def test_muted_people_may_and_suspended_may_not(self, db, new_person):
        ann, bob = new_person(), new_person()
        sanction = "insert into private.sanctions (user_id, kind, reason) values (%s, %s, 'test')"
        db.execute(sanction, [ann.id, "mute"])
        block(db, ann, bob)
        unblock(db, ann, bob)
        db.execute(sanction, [ann.id, "suspend"])
        for name in ("block_user", "unblock_user"):
            with refused(403, "account_unavailable"):
                call(db, ann.id, name, user_id=bob.id)
        with refused(401, "unauthenticated"), db.transaction():
            db.execute("select set_config('request.jwt.claims', '', true)")
            db.execute("select public.block_user(%s)", [bob.id])

    def test_muted_people_do_not_type(self, db, talk):
        ann, _, there = talk
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'mute', 'test')", [ann.id])
        with refused(403, "account_muted"):
            call(db, ann.id, "set_typing", conversation_id=there)

    @pytest.mark.parametrize(
        "end", ["delete from auth.users where id = %s", "update auth.users set deleted_at = now() where id = %s"]
    )
    def test_an_ended_account_blocks_nobody_and_stays_blocked(self, db, group, end):
        ann, bob, cyd, there, _ = group
        block(db, bob, ann)
        block(db, ann, bob)
        db.execute(end, [bob.id])
        assert (
            db.execute("select blocked_id::text from private.blocks where blocker_id = %s", [bob.id]).fetchall() == []
        )
        assert [m["state"] for m in shown(db, ann, there)["messages"]] == ["hidden", "visible"]
        (card,) = call(db, ann.id, "list_blocked")["users"]
        assert (card["id"], card["isFallback"]) == (bob.id, True)
        check_everything(db, [ann.id, cyd.id])
        unblock(db, ann, bob)
        check_everything(db, [ann.id, cyd.id])


class Meanwhile:
    """Something done by another connection that has to wait for a lock until this one commits."""

    def __init__(self, url: str, watcher: psycopg.Connection[Any], job: Any) -> None:
        self.result: Any = None
        self.connection = psycopg.connect(url, autocommit=True)
        self.watcher = watcher

        def run() -> None:
            try:
                self.result = job(self.connection)
            except psycopg.Error as error:
                self.result = error

        self.thread = threading.Thread(target=run)

    def __enter__(self) -> "Meanwhile":
        self.thread.start()
        waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        until = time.monotonic() + WAIT_S
        while self.watcher.execute(waits, [self.connection.info.backend_pid]).fetchone() != (True,):
            if not self.thread.is_alive() or time.monotonic() > until:
                self.__exit__()
                pytest.fail(f"it did not wait: {self.result}")
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(WAIT_S)
        self.connection.close()
        assert not self.thread.is_alive()

    def was_refused(self) -> bool:
        return isinstance(self.result, psycopg.Error) and self.result.diag.message_primary == "recipient_unavailable"


class TestAtTheSameTime:
    @pytest.fixture
    def other(self, supabase_stack):
        with psycopg.connect(supabase_stack.database_url) as conn:
            # Inside a transaction, what `call` does is kept open until the commit.
            conn.execute("select 1")
            yield conn

    @pytest.fixture(params=["first message", "conversation there is", "another conversation"])
    def target(self, request, db, new_person):
        """Ann, Bob and how Bob writes to Ann."""
        ann, bob = new_person(), new_person()
        if request.param != "first message":
            send(db, bob, to_user_id=ann.id)
        gig_id = uuid.uuid4() if request.param == "another conversation" else None
        return ann, bob, {"to_user_id": ann.id, "gig_id": gig_id}

    @pytest.mark.parametrize("is_blocker", [True, False])
    def test_block_first(self, db, supabase_stack, other, target, is_blocker):
        ann, bob, how = target
        blocker, blocked = (bob, ann) if is_blocker else (ann, bob)
        count = "select count(*) from public.messages where from_user_id = %s"
        before = db.execute(count, [bob.id]).fetchone()
        block(other, blocker, blocked)
        with Meanwhile(supabase_stack.database_url, db, lambda conn: send(conn, bob, **how)) as late:
            other.commit()
        assert late.was_refused(), late.result
        assert db.execute(count, [bob.id]).fetchone() == before

    @pytest.mark.parametrize("is_blocker", [True, False])
    def test_message_first(self, db, supabase_stack, other, target, is_blocker):
        ann, bob, how = target
        blocker, blocked = (bob, ann) if is_blocker else (ann, bob)
        there = send(other, bob, **how)["conversation"]["id"]
        with Meanwhile(supabase_stack.database_url, db, lambda conn: block(conn, blocker, blocked)) as late:
            other.commit()
        assert late.result["id"] == blocked.id
        assert late.result["isFallback"] is False, "the conversation it waited for is seen"
        told = [event for event in events(db, blocker) if event["conversationId"] == there]
        assert told[-1]["conversation"]["canSend"] is False
        with refused(*UNAVAILABLE):
            send(db, bob, conversation_id=there)
        check_everything(db, [ann.id, bob.id])

    def test_an_edit_does_not_slip_past(self, db, supabase_stack, other, talk):
        ann, bob, there = talk
        mine = shown(db, bob, there)["messages"][1]["id"]
        block(other, ann, bob)
        with Meanwhile(
            supabase_stack.database_url, db,
            lambda conn: call(conn, bob.id, "edit_message", message_id=mine, body="new words"),
        ) as late:  # fmt: skip
            other.commit()
        assert late.was_refused(), late.result

    def test_nor_does_a_receipt(self, db, supabase_stack, other, talk):
        ann, bob, there = talk
        before = shown(db, bob, there)["receipts"]
        block(other, ann, bob)
        with Meanwhile(
            supabase_stack.database_url, db, lambda conn: call(conn, ann.id, "mark_all_read", conversation_id=there)
        ) as late:
            other.commit()
        assert late.result["receipt"]["lastReadSeq"] == 2
        assert shown(db, bob, there)["receipts"] == before

    @pytest.mark.parametrize("is_blocker", [True, False])
    def test_nor_a_group(self, db, supabase_stack, other, new_person, is_blocker):
        ann, bob = new_person(), new_person()
        crew(db, new_person(), ann, bob)
        blocker, blocked = (bob, ann) if is_blocker else (ann, bob)
        block(other, blocker, blocked)
        with Meanwhile(supabase_stack.database_url, db, lambda conn: crew(conn, bob, ann)) as late:
            other.commit()
        assert late.was_refused(), late.result

    def test_a_group_that_comes_into_being_meanwhile_is_counted_right(self, db, supabase_stack, other, new_person):
        """While Ann's block waits for a conversation, Bob and Ann are put in a group and Bob writes there."""
        ann, bob, cyd = new_person(), new_person(), new_person()
        there = send(db, bob, to_user_id=ann.id)["conversation"]["id"]
        other.execute("select from public.conversations where id = %s for no key update", [there])
        with Meanwhile(supabase_stack.database_url, db, lambda conn: block(conn, ann, bob)) as late:
            room = crew(db, cyd, ann, bob)
            send(db, bob, conversation_id=room)
            assert shown(db, ann, room)["unreadCount"] == 1
            other.commit()
        assert late.result["id"] == bob.id
        assert shown(db, ann, room)["unreadCount"] == 0
        check_everything(db, [ann.id, bob.id, cyd.id])

    @pytest.mark.parametrize("name", ["send_message", "delete_message", "hide_message"])
    def test_a_group_is_counted_right_whoever_comes_first(self, db, supabase_stack, other, group, name):
        ann, bob, cyd, there, _ = group

        def act(conn, message):
            if name == "send_message":
                send(conn, bob, conversation_id=there)
            elif name == "delete_message":
                call(conn, bob.id, "delete_message", message_id=message)
            else:
                conn.execute("select private.hide_message(%s)", [message])
            return "done"

        for change in (block, unblock):
            message = send(db, bob, conversation_id=there)["message"]["id"]
            other.execute("select 1")
            change(other, ann, bob)
            job = functools.partial(act, message=message)
            with Meanwhile(supabase_stack.database_url, db, job) as late:
                other.commit()
            assert late.result == "done"
            check_everything(db, [ann.id, bob.id, cyd.id])

    def test_nor_one_that_is_made_while_a_block_is_not_committed(self, db, supabase_stack, other, new_person):
        ann, bob, cyd = new_person(), new_person(), new_person()
        crew(db, ann)
        block(other, ann, bob)

        def meet(conn):
            room = crew(conn, cyd, ann, bob)
            send(conn, bob, conversation_id=room)
            return room

        with Meanwhile(supabase_stack.database_url, db, meet) as late:
            other.commit()
        assert shown(db, ann, late.result)["unreadCount"] == 0
        check_everything(db, [ann.id, bob.id, cyd.id])


@pytest.mark.parametrize("seed", range(3))
def test_unread_is_always_what_a_recount_says(db, new_person, seed):
    """Any order of blocks, unblocks, messages, deletions, reads, comings and goings."""
    chance = random.Random(seed)
    people = [new_person() for _ in range(4)]
    rooms = [crew(db, people[0], *people[1:]), crew(db, people[0], *people[1:3])]
    sent: list[tuple[Any, str]] = []
    done = 0
    for _ in range(120):
        me, you = chance.sample(people, 2)
        room, what = chance.choice(rooms), chance.random()
        try:
            if what < 0.4:
                sent.append((me, send(db, me, conversation_id=room)["message"]["id"]))
            elif what < 0.5:
                send(db, me, to_user_id=you.id)
            elif what < 0.65:
                block(db, me, you)
            elif what < 0.75:
                unblock(db, me, you)
            elif what < 0.85 and sent:
                author, message = sent.pop(chance.randrange(len(sent)))
                call(db, author.id, "delete_message", message_id=message)
            elif what < 0.95:
                call(db, me.id, "mark_all_read", conversation_id=room, up_to_seq=chance.randrange(12))
            elif what < 0.97:
                call(db, me.id, "remove_member", conversation_id=room, user_id=me.id)
            else:
                call(db, people[0].id, "add_members", conversation_id=room, user_ids=[me.id])
            done += 1
        except psycopg.Error as error:
            assert error.diag.sqlstate in ("PT403", "PT404"), error
        check_everything(db, [p.id for p in people])
    assert done > 60
