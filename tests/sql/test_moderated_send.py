"""What the rules' verdicts do to sends and edits, and what moderation does to messages afterwards."""

import json
import threading
import uuid
from contextlib import contextmanager

import psycopg
import pytest

from tests.sql.rpc import call, make_group, refused

CONTACT = "write to me: +49 151 23456789 please"


@contextmanager
def rule(db, name, kind, action, **more):
    """A rule for the time of the block; versions and verdicts stay."""
    columns = {
        "name": name,
        "kind": kind,
        "action": action,
        "label": name,
        "explanation": f"{name} is not wanted.",
    } | more
    db.execute(
        f"insert into private.moderation_rules ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
        [json.dumps(value) if isinstance(value, dict) else value for value in columns.values()],
    )
    try:
        yield
    finally:
        db.execute("delete from private.moderation_rules where name = %s", [name])


def one(db, query, *params):
    return db.execute(query, params).fetchone()


def verdicts(db, person):
    return db.execute(
        "select action, message_id, body, rules from private.verdicts where user_id = %s order by id", [person.id]
    ).fetchall()


def inbox(db, person):
    return call(db, person.id, "list_inbox")["conversations"]


def unread(db, person):
    return call(db, person.id, "unread_counts")["messages"]


@pytest.fixture
def pair(new_person):
    return new_person("Ada"), new_person("Ben")


@pytest.fixture
def held(db, pair):
    """A first message from Ada to Ben that waits."""
    with rule(db, "waits", "term", "hold", terms=["zorgon"]):
        return call(
            db,
            pair[0].id,
            "send_message",
            body="The zorgon is ready",
            to_user_id=pair[1].id,
            client_message_id=uuid.uuid4(),
        )


class TestAllowed:
    def test_leaves_no_verdict(self, db, pair):
        sent = call(db, pair[0].id, "send_message", body="Is Saturday at ten still good?", to_user_id=pair[1].id)
        assert (sent["held"], sent["message"]["warning"], sent["message"]["masked"]) == (False, None, False)
        assert verdicts(db, pair[0]) == []


class TestWarn:
    def test_is_sent_with_its_label(self, db, pair):
        with rule(db, "shady", "term", "warn", terms=["zorgon"]):
            sent = call(db, pair[0].id, "send_message", body="Buy a zorgon", to_user_id=pair[1].id)
        read = call(db, pair[1].id, "list_messages", conversation_id=sent["conversation"]["id"])["messages"][0]
        assert (read["warning"], read["body"], read["state"]) == ("shady", "Buy a zorgon", "visible")
        [(action, message_id, body, rules)] = verdicts(db, pair[0])
        assert (action, str(message_id), body) == ("warn", sent["message"]["id"], "Buy a zorgon")
        assert [(r["name"], r["version"], r["kind"], r["action"]) for r in rules] == [("shady", 1, "term", "warn")]


class TestReject:
    def test_is_answered_and_leaves_its_verdict_and_nothing_else(self, db, pair):
        key = uuid.uuid4()
        with rule(db, "banned", "term", "reject", terms=["zorgon"]):
            answer = call(
                db, pair[0].id, "send_message", body="A zorgon!", to_user_id=pair[1].id, client_message_id=key
            )
        assert answer == {
            "code": "PT422", "message": "message_rejected", "details": "banned is not wanted.", "hint": None
        }  # fmt: skip
        assert inbox(db, pair[0]) == inbox(db, pair[1]) == []
        [(action, message_id, body, _)] = verdicts(db, pair[0])
        assert (action, message_id, body) == ("reject", None, "A zorgon!")
        # The key is free: other words may be sent with it, and it does not count as sent.
        assert call(db, pair[0].id, "get_limits")["limits"][0]["remaining"] == 100
        assert call(db, pair[0].id, "send_message", body="Hi", to_user_id=pair[1].id, client_message_id=key)["created"]

    def test_attempts_count_as_repetition(self, db, new_person):
        ada = new_person()
        text = "zorgon for everybody, come and get it"
        with rule(db, "banned", "term", "reject", terms=["zorgon"]):
            for _ in range(3):
                call(db, ada.id, "send_message", body=text, to_user_id=new_person().id)
        with rule(db, "again", "repetition", "hold", settings={"conversations": 4, "windowS": 600}):
            assert call(db, ada.id, "send_message", body=text, to_user_id=new_person().id)["held"]

    def test_an_edit_is_refused_and_recorded(self, db, pair):
        sent = call(db, pair[0].id, "send_message", body="Fine", to_user_id=pair[1].id)["message"]
        for action in ("reject", "hold"):
            with rule(db, "banned", "term", action, terms=["zorgon"]):
                answer = call(db, pair[0].id, "edit_message", message_id=sent["id"], body="zorgon")
            assert answer["message"] == "message_rejected"
        assert [v[0] for v in verdicts(db, pair[0])] == ["reject", "hold"]
        assert call(db, pair[1].id, "message_history", message_id=sent["id"])["versions"][-1]["body"] == "Fine"


class TestMask:
    def test_everybody_reads_it_masked_until_contact_is_allowed(self, db, pair):
        ada, ben = pair
        sent = call(db, ada.id, "send_message", body=CONTACT, to_user_id=ben.id)
        room, message = sent["conversation"]["id"], sent["message"]
        assert message["masked"] is True
        assert "2345" not in message["body"] and message["body"].startswith("write to ")
        for person in pair:
            read = call(db, person.id, "list_messages", conversation_id=room)["messages"][0]
            assert (read["body"], read["masked"]) == (message["body"], True)
        before = call(db, ben.id, "sync", cursor=None)["cursor"]

        allowed = one(db, "select private.allow_contact(%s, true)", room)[0]
        assert allowed == {"conversationId": room, "isAllowed": True, "unmaskedCount": 1}
        for person in pair:
            read = call(db, person.id, "list_messages", conversation_id=room)["messages"][0]
            assert (read["body"], read["masked"], read["editedAt"]) == (CONTACT, False, None)
        changed = call(db, ben.id, "sync", cursor=before)["messages"]
        assert [(m["id"], m["body"]) for m in changed] == [(message["id"], CONTACT)]
        again = call(db, ben.id, "send_message", body="and mine is +49 152 98765432", conversation_id=room)
        assert again["message"]["masked"] is False
        assert one(db, "select count(*) from private.originals where message_id = %s", message["id"]) == (0,)

    def test_allowing_is_for_one_conversation_and_can_end(self, db, pair):
        ada, ben = pair
        first = call(db, ada.id, "send_message", body=CONTACT, to_user_id=ben.id)["conversation"]["id"]
        other = call(db, ada.id, "send_message", body=CONTACT, to_user_id=ben.id, gig_id=uuid.uuid4())["conversation"][
            "id"
        ]
        db.execute("select private.allow_contact(%s, true)", [first])
        assert call(db, ada.id, "send_message", body=CONTACT, conversation_id=other)["message"]["masked"]
        db.execute("select private.allow_contact(%s, false)", [first])
        assert call(db, ada.id, "send_message", body=CONTACT, conversation_id=first)["message"]["masked"]

    def test_what_other_rules_cover_stays_covered(self, db, pair):
        ada, ben = pair
        with rule(db, "covered", "term", "mask", terms=["zorgon"]):
            sent = call(db, ada.id, "send_message", body=f"zorgon, {CONTACT}", to_user_id=ben.id)
            room, message = sent["conversation"]["id"], sent["message"]
            assert "zorgon" not in message["body"] and "2345" not in message["body"]
            db.execute("select private.allow_contact(%s, true)", [room])
            read = call(db, ben.id, "list_messages", conversation_id=room)["messages"][0]
            assert read["masked"] and "zorgon" not in read["body"] and read["body"].endswith(CONTACT)
            assert one(db, "select private.allow_contact(%s, true)", room)[0]["unmaskedCount"] == 0
            later = call(db, ada.id, "send_message", body=f"zorgon, {CONTACT}", conversation_id=room)["message"]
            assert later["body"] == read["body"]
            db.execute("select private.hide_message(%s)", [message["id"]])
            db.execute("select private.restore_message(%s)", [message["id"]])
            assert call(db, ben.id, "list_messages", conversation_id=room)["messages"][0]["body"] == read["body"]

    def test_a_replay_and_an_edit_go_by_what_was_written(self, db, pair):
        ada, ben = pair
        key = uuid.uuid4()
        sent = call(db, ada.id, "send_message", body=CONTACT, to_user_id=ben.id, client_message_id=key)["message"]
        assert not call(db, ada.id, "send_message", body=CONTACT, to_user_id=ben.id, client_message_id=key)["created"]
        with refused(409, "idempotency_conflict"):
            call(db, ada.id, "send_message", body=sent["body"], to_user_id=ben.id, client_message_id=key)
        same = call(db, ada.id, "edit_message", message_id=sent["id"], body=CONTACT)["message"]
        assert same["editedAt"] is None
        other = call(db, ada.id, "edit_message", message_id=sent["id"], body="or +49 153 11223344")["message"]
        assert other["masked"] and "1122" not in other["body"]
        plain = call(db, ada.id, "edit_message", message_id=sent["id"], body="Never mind")["message"]
        assert (plain["body"], plain["masked"]) == ("Never mind", False)
        assert one(db, "select count(*) from private.originals where message_id = %s", sent["id"]) == (0,)
        history = [each["body"] for each in call(db, ben.id, "message_history", message_id=sent["id"])["versions"]]
        assert history and not any("2345" in body or "1122" in body for body in history)

    def test_waiting_for_the_lock_does_not_leave_a_mask_behind(self, db, pair, supabase_stack):
        """Contact is allowed while a send waits for the conversation: it must not stay masked for ever."""
        ada, ben = pair
        room = call(db, ada.id, "send_message", body="Hi", to_user_id=ben.id)["conversation"]["id"]
        sent = []
        with psycopg.connect(supabase_stack.database_url, autocommit=True) as other:

            def send():
                sent.append(call(other, ada.id, "send_message", body=CONTACT, conversation_id=room))

            with db.transaction():
                db.execute("select 1 from public.conversations where id = %s for no key update", [room])
                thread = threading.Thread(target=send)
                thread.start()
                while not one(
                    db,
                    "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %s",
                    other.info.backend_pid,
                )[0]:
                    assert thread.is_alive()
                db.execute("select private.allow_contact(%s, true)", [room])
            thread.join(10)
        assert sent[0]["message"]["masked"] is False and sent[0]["message"]["body"] == CONTACT


class TestHold:
    def test_only_its_author_knows(self, db, pair, held):
        ada, ben = pair
        message, room = held["message"], held["conversation"]
        assert held["held"] and held["created"]
        assert (message["state"], message["seq"], message["body"]) == ("pending", 0, "The zorgon is ready")
        assert message["toUserId"] == ben.id
        assert [p["id"] for p in room["members"]] == [
            p.id for p in sorted(pair, key=lambda p: [m["id"] for m in room["members"]].index(p.id))
        ]
        assert (room["memberCount"], room["lastMessage"], room["lastSeq"]) == (2, None, 0)
        opened = call(db, ada.id, "get_conversation", conversation_id=room["id"])["conversation"]
        assert [p["id"] for p in opened["pending"]] == [message["id"]] and opened["messages"] == []
        assert [c["id"] for c in inbox(db, ada)] == [room["id"]]
        # For the other there is nothing: no conversation, no message, no trace in sync, no unread.
        assert inbox(db, ben) == [] and unread(db, ben) == 0
        assert call(db, ben.id, "sync", cursor=None)["conversations"] == []
        with refused(404, "not_found"):
            call(db, ben.id, "get_conversation", conversation_id=room["id"])
        assert one(
            db,
            "select kind, user_id::text, message_id::text from private.moderation_items where message_id = %s",
            message["id"],
        ) == ("held", ada.id, message["id"])

    def test_a_retry_is_answered_with_it(self, db, pair, held):
        again = call(
            db, pair[0].id, "send_message", body="The zorgon is ready", to_user_id=pair[1].id,
            client_message_id=held["message"]["clientMessageId"],
        )  # fmt: skip
        assert (again["created"], again["held"], again["message"]) == (False, True, held["message"])

    def test_release_makes_a_real_message_of_it(self, db, pair, held):
        ada, ben = pair
        call(db, ada.id, "send_message", body="And this one passes", to_user_id=ben.id)
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("released",)
        room = held["conversation"]["id"]
        messages = call(db, ben.id, "list_messages", conversation_id=room)["messages"]
        assert [(m["seq"], m["body"], m["state"]) for m in messages] == [
            (1, "And this one passes", "visible"), (2, "The zorgon is ready", "visible")
        ]  # fmt: skip
        assert messages[1]["id"] == held["message"]["id"]
        assert messages[1]["clientMessageId"] == held["message"]["clientMessageId"]
        assert messages[0]["createdAt"] < messages[1]["createdAt"]
        assert unread(db, ben) == 2
        assert call(db, ada.id, "get_conversation", conversation_id=room)["conversation"]["pending"] == []
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("gone",)
        again = call(
            db, ada.id, "send_message", body="The zorgon is ready", to_user_id=ben.id,
            client_message_id=held["message"]["clientMessageId"],
        )  # fmt: skip
        assert (again["created"], again["held"], again["message"]["seq"]) == (False, False, 2)

    def test_release_reaches_who_was_not_there_yet(self, db, pair, held):
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("released",)
        [row] = inbox(db, pair[1])
        assert (row["id"], row["unreadCount"], row["firstSeq"]) == (held["conversation"]["id"], 1, 1)
        call(db, pair[1].id, "mark_read", message_id=held["message"]["id"])
        assert unread(db, pair[1]) == 0

    def test_the_other_may_write_first_meanwhile(self, db, pair, held):
        ada, ben = pair
        sent = call(db, ben.id, "send_message", body="Hello Ada", to_user_id=ada.id)
        assert sent["conversation"]["id"] == held["conversation"]["id"]
        opened = call(db, ben.id, "get_conversation", conversation_id=sent["conversation"]["id"])["conversation"]
        assert [m["body"] for m in opened["messages"]] == ["Hello Ada"] and opened["pending"] == []
        assert unread(db, ada) == 1

    def test_both_first_messages_may_wait(self, db, pair, held):
        ada, ben = pair
        with rule(db, "waits", "term", "hold", terms=["zorgon"]):
            other = call(db, ben.id, "send_message", body="My zorgon too", to_user_id=ada.id)
        assert other["conversation"]["id"] == held["conversation"]["id"]
        assert len(inbox(db, ada)) == len(inbox(db, ben)) == 1
        assert [
            p["body"]
            for p in call(db, ben.id, "get_conversation", conversation_id=other["conversation"]["id"])["conversation"][
                "pending"
            ]
        ] == ["My zorgon too"]
        assert unread(db, ada) == unread(db, ben) == 0

    def test_in_a_group(self, db, new_person):
        ada, ben = new_person(), new_person()
        crew = make_group(db, [ada.id, ben.id])
        with rule(db, "waits", "term", "hold", terms=["zorgon"]):
            held = call(db, ada.id, "send_message", body="zorgon", conversation_id=crew)
        assert held["message"]["toUserId"] is None and unread(db, ben) == 0
        db.execute("select private.release_pending(%s)", [held["message"]["id"]])
        assert unread(db, ben) == 1

    def test_rejected_by_a_moderator(self, db, pair, held):
        ada, ben = pair
        position = one(db, "select position from private.heads where user_id = %s", ada.id)[0]
        assert one(db, "select private.reject_pending(%s)", held["message"]["id"]) == (True,)
        assert one(db, "select private.reject_pending(%s)", held["message"]["id"]) == (False,)
        assert one(db, "select position > %s from private.heads where user_id = %s", position, ada.id) == (True,)
        with refused(422, "message_rejected"):
            call(
                db, ada.id, "send_message", body="The zorgon is ready", to_user_id=ben.id,
                client_message_id=held["message"]["clientMessageId"],
            )  # fmt: skip
        assert one(db, "select private.reopen_pending(%s)", held["message"]["id"]) == (True,)
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("released",)

    def test_its_authors_devices_are_told_what_becomes_of_it_and_nobody_else(self, db, pair, held):
        ada, ben = pair
        message, room = held["message"]["id"], held["conversation"]["id"]
        call(db, ben.id, "send_message", body="Hello Ada", conversation_id=None, to_user_id=ada.id)

        def heads():
            return [one(db, "select position from private.heads where user_id = %s", p.id)[0] for p in pair]

        readable = "select * from public.conversations where id = %s"
        for step in ("select private.reject_pending(%s)", "select private.reopen_pending(%s)", None):
            before, row = heads(), one(db, readable, room)
            if step:
                db.execute(step, [message])
            else:
                call(db, ada.id, "delete_message", message_id=message)
            now = heads()
            assert (now[0] > before[0], now[1] == before[1]) == (True, True)
            assert one(db, readable, room) == row, "others can read this row"

    def test_withdrawn_by_its_author(self, db, pair, held):
        with refused(404, "not_found"):
            call(db, pair[1].id, "delete_message", message_id=held["message"]["id"])
        gone = call(db, pair[0].id, "delete_message", message_id=held["message"]["id"])["message"]
        assert (gone["state"], gone["body"]) == ("deleted", None) and gone["deletedAt"]
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("gone",)
        assert one(
            db, "select status, decision from private.moderation_items where message_id = %s", held["message"]["id"]
        ) == ("decided", "withdrawn")

    def test_not_released_to_who_blocks_or_from_who_is_gone(self, db, pair, held):
        ada, ben = pair
        db.execute("insert into private.blocks (blocker_id, blocked_id) values (%s, %s)", [ben.id, ada.id])
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("undeliverable",)
        db.execute("delete from private.blocks where blocker_id = %s", [ben.id])
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'suspend', 'x')", [ada.id])
        assert one(db, "select private.release_pending(%s)", held["message"]["id"]) == ("undeliverable",)
        assert one(db, "select state from private.pending_messages where message_id = %s", held["message"]["id"]) == (
            "pending",
        )
        assert inbox(db, ben) == []

    def test_not_without_end(self, db, pair):
        ada, ben = pair
        db.execute("update private.settings set pending_count_max = 2")
        try:
            with rule(db, "waits", "term", "hold", terms=["zorgon"]):
                for number in range(2):
                    call(db, ada.id, "send_message", body=f"zorgon {number}", to_user_id=ben.id)
                with refused(429, "rate_limited"):
                    call(db, ada.id, "send_message", body="zorgon 3", to_user_id=ben.id)
        finally:
            db.execute("update private.settings set pending_count_max = default")

    def test_a_masked_one_is_released_masked_or_not_as_things_are_then(self, db, pair):
        ada, ben = pair
        with rule(db, "waits", "term", "hold", terms=["zorgon"]):
            held = [
                call(db, ada.id, "send_message", body=f"zorgon {n}: {CONTACT}", to_user_id=ben.id) for n in range(2)
            ]
        assert held[0]["message"]["body"].endswith(CONTACT), "its author reads what was written"
        db.execute("select private.release_pending(%s)", [held[0]["message"]["id"]])
        room = held[0]["conversation"]["id"]
        first = call(db, ben.id, "list_messages", conversation_id=room)["messages"][0]
        assert first["masked"] and "2345" not in first["body"]
        db.execute("select private.allow_contact(%s, true)", [room])
        db.execute("select private.release_pending(%s)", [held[1]["message"]["id"]])
        assert [
            m["body"].endswith(CONTACT) for m in call(db, ben.id, "list_messages", conversation_id=room)["messages"]
        ] == [True, True]


class TestHide:
    @pytest.fixture
    def sent(self, db, pair):
        return call(db, pair[0].id, "send_message", body="Something rude", to_user_id=pair[1].id)

    def test_nobody_reads_it_and_it_is_not_unread(self, db, pair, sent):
        message, room = sent["message"]["id"], sent["conversation"]["id"]
        assert one(db, "select private.hide_message(%s)", message) == (True,)
        assert one(db, "select private.hide_message(%s)", message) == (False,)
        for person in pair:
            read = call(db, person.id, "list_messages", conversation_id=room)["messages"][0]
            assert (read["state"], read["body"]) == ("hidden", None)
            assert call(db, person.id, "message_history", message_id=message)["versions"] == []
        assert unread(db, pair[1]) == 0
        with refused(409, "message_deleted"):
            call(db, pair[0].id, "edit_message", message_id=message, body="Better")
        assert one(db, "select private.restore_message(%s)", message) == (True,)
        assert one(db, "select private.restore_message(%s)", message) == (False,)
        assert call(db, pair[1].id, "list_messages", conversation_id=room)["messages"][0]["body"] == "Something rude"
        assert unread(db, pair[1]) == 1
        assert one(db, "select count(*) from private.originals where message_id = %s", message) == (0,)

    def test_what_was_read_does_not_become_unread(self, db, pair, sent):
        call(db, pair[1].id, "mark_read", message_id=sent["message"]["id"])
        db.execute("select private.hide_message(%s)", [sent["message"]["id"]])
        db.execute("select private.restore_message(%s)", [sent["message"]["id"]])
        assert unread(db, pair[1]) == 0

    def test_a_masked_one_comes_back_masked_unless_contact_was_allowed(self, db, pair):
        ada, ben = pair
        sent = call(db, ada.id, "send_message", body=CONTACT, to_user_id=ben.id)
        message, room = sent["message"]["id"], sent["conversation"]["id"]
        db.execute("select private.hide_message(%s)", [message])
        db.execute("select private.restore_message(%s)", [message])
        read = call(db, ben.id, "list_messages", conversation_id=room)["messages"][0]
        assert (read["body"], read["masked"]) == (sent["message"]["body"], True)
        db.execute("select private.hide_message(%s)", [message])
        db.execute("select private.allow_contact(%s, true)", [room])
        assert call(db, ben.id, "list_messages", conversation_id=room)["messages"][0]["body"] is None
        db.execute("select private.restore_message(%s)", [message])
        read = call(db, ben.id, "list_messages", conversation_id=room)["messages"][0]
        assert (read["body"], read["masked"]) == (CONTACT, False)

    def test_a_deleted_one_stays_deleted(self, db, pair, sent):
        call(db, pair[0].id, "delete_message", message_id=sent["message"]["id"])
        assert one(db, "select private.hide_message(%s)", sent["message"]["id"]) == (False,)
        assert one(db, "select private.restore_message(%s)", sent["message"]["id"]) == (False,)

    def test_unknown(self, db):
        for function in ("hide_message", "restore_message", "reject_pending", "reopen_pending"):
            assert one(db, f"select private.{function}(%s)", uuid.uuid4()) == (False,)
        assert one(db, "select private.release_pending(%s)", uuid.uuid4()) == ("gone",)
        with refused(404, "not_found"):
            db.execute("select private.allow_contact(%s, true)", [uuid.uuid4()])


class TestMuted:
    def test_cannot_write_but_read_and_delete(self, db, pair):
        ada, ben = pair
        sent = call(db, ada.id, "send_message", body="Hi", to_user_id=ben.id)
        db.execute(
            "insert into private.sanctions (user_id, kind, reason, ends_at) values (%s, 'mute', 'x', '2100-01-01')",
            [ada.id],
        )
        with refused(403, "account_muted") as said:
            call(db, ada.id, "send_message", body="Hi", to_user_id=ben.id)
        assert "2100-01-01T00:00:00" in said["detail"]
        for function, params in (
            ("edit_message", {"message_id": sent["message"]["id"], "body": "Ho"}),
            ("create_group", {"title": "Crew", "member_ids": [ben.id]}),
        ):
            with refused(403, "account_muted"):
                call(db, ada.id, function, **params)
        assert call(db, ben.id, "send_message", body="You there?", to_user_id=ada.id)["created"]
        assert unread(db, ada) == 1
        assert call(db, ada.id, "delete_message", message_id=sent["message"]["id"])["message"]["state"] == "deleted"
        db.execute("update private.sanctions set lifted_at = now() where user_id = %s", [ada.id])
        assert call(db, ada.id, "send_message", body="Hi again", to_user_id=ben.id)["created"]

    def test_suspended_is_like_gone(self, db, pair):
        ada, ben = pair
        sent = call(db, ada.id, "send_message", body="Hi", to_user_id=ben.id)
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'suspend', 'x')", [ada.id])
        for function, params in (
            ("send_message", {"body": "Hi", "to_user_id": ben.id}),
            ("edit_message", {"message_id": sent["message"]["id"], "body": "Ho"}),
            ("delete_message", {"message_id": sent["message"]["id"]}),
            ("mark_all_read", {"conversation_id": sent["conversation"]["id"]}),
            ("set_typing", {"conversation_id": sent["conversation"]["id"]}),
            ("update_profile", {"changes": '{"displayName": "X"}'}),
            ("update_conversation", {"conversation_id": sent["conversation"]["id"], "changes": '{"pinned": true}'}),
            ("mark_delivered", {"receipts": json.dumps([{"conversationId": sent["conversation"]["id"], "seq": 1}])}),
        ):
            with refused(403, "account_unavailable"):
                call(db, ada.id, function, **params)
        with refused(403, "recipient_unavailable"):
            call(db, ben.id, "send_message", body="Hello?", to_user_id=ada.id)
        assert inbox(db, ben)[0]["canSend"] is False


class TestNamesAndTitles:
    def test_are_held_to_the_rules_as_well(self, db, pair, new_person):
        ada, ben = pair
        group = call(db, ada.id, "create_group", title="Crew", member_ids=[ben.id])["conversation"]["id"]
        for text, action in (("Ring +49 151 23456789", None), ("The zorgon", "reject"), ("The zorgon", "hold")):
            with rule(db, "banned", "term", action or "warn", terms=["zorgon"]):
                for function, params in (
                    ("create_group", {"title": text, "member_ids": [ben.id]}),
                    ("update_conversation", {"conversation_id": group, "changes": json.dumps({"title": text})}),
                    ("update_profile", {"changes": json.dumps({"displayName": text})}),
                ):
                    answer = call(db, ada.id, function, **params)
                    assert (answer["code"], answer["message"]) == ("PT422", "text_rejected")
                assert call(db, new_person(text).id, "get_profile")["profile"]["displayName"] == "Member"
        assert len(verdicts(db, ada)) == 9, "refusals are recorded"
        with rule(db, "shady", "term", "warn", terms=["zorgon"]):
            call(db, ada.id, "update_profile", changes='{"displayName": "Zorgon"}')
        assert call(db, ada.id, "get_profile")["profile"]["displayName"] == "Zorgon"

    def test_cannot_be_tried_or_changed_without_end(self, db, pair):
        ada, ben = pair
        group = call(db, ada.id, "create_group", title="Crew", member_ids=[ben.id])["conversation"]["id"]
        db.execute("update private.settings set send_count_max = 3, edit_count_max = 3")
        try:
            for _ in range(3):
                assert (
                    call(db, ada.id, "update_profile", changes='{"displayName": "+49 151 23456789"}')["code"] == "PT422"
                )
            with refused(429, "rate_limited"):
                call(db, ada.id, "update_profile", changes='{"displayName": "+49 151 23456789"}')
            for number in range(3):
                call(
                    db,
                    ada.id,
                    "update_conversation",
                    conversation_id=group,
                    changes=json.dumps({"title": f"Crew {number}"}),
                )
            with refused(429, "rate_limited"):
                call(db, ada.id, "update_conversation", conversation_id=group, changes='{"title": "Crew 9"}')
        finally:
            db.execute("update private.settings set send_count_max = default, edit_count_max = default")

    def test_a_muted_person_renames_no_group(self, db, pair):
        ada, ben = pair
        group = call(db, ada.id, "create_group", title="Crew", member_ids=[ben.id])["conversation"]["id"]
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'mute', 'x')", [ada.id])
        with refused(403, "account_muted"):
            call(db, ada.id, "update_conversation", conversation_id=group, changes='{"title": "Ha"}')
        assert call(db, ada.id, "update_conversation", conversation_id=group, changes='{"pinned": true}')[
            "conversation"
        ]["pinnedAt"]


class TestAuditLog:
    def test_cannot_be_changed_by_anybody(self, sql):
        sql.execute("select private.record_action(null, 'tested', null, null, null, null, 'why', '{}', null)")
        for statement in (
            "update private.moderation_actions set note = 'x'",
            "delete from private.moderation_actions",
            "truncate private.moderation_actions",
        ):
            with pytest.raises(psycopg.Error, match="only grows"), sql.connection.transaction():
                sql.execute(statement)
