"""send_message: what it makes, what it refuses, and what a retry is answered."""

import hashlib
import uuid
from typing import Any

import psycopg
import pytest

from tests.sql.rpc import call, make_group, refused, state


def count(db: psycopg.Connection[Any], table: str, **where: Any) -> int:
    condition = " and ".join(f"{column} = %s" for column in where) or "true"
    row = db.execute(f"select count(*) from {table} where {condition}", list(where.values())).fetchone()
    assert row is not None
    return int(row[0])


class TestFirstMessage:
    def test_starts_a_direct_conversation(self, db, new_person):
        ann, bob = new_person("Ann"), new_person("Bob")
        gig, key = str(uuid.uuid4()), str(uuid.uuid4())
        sent = call(
            db, ann.id, "send_message", body="Is it free?", to_user_id=bob.id, gig_id=gig, client_message_id=key
        )
        message, conversation = sent["message"], sent["conversation"]
        assert sent["created"] is True
        assert message["seq"] == 1 and message["body"] == "Is it free?"
        assert (message["fromUserId"], message["toUserId"], message["gigId"]) == (ann.id, bob.id, gig)
        assert (message["clientMessageId"], message["state"], message["status"]) == (key, "visible", "sent")
        assert message["sender"] == {"id": ann.id, "displayName": "Ann", "avatarUrl": None, "isFallback": False}
        assert message["conversationId"] == conversation["id"]
        assert (conversation["kind"], conversation["gigId"], conversation["memberCount"]) == ("direct", gig, 2)
        assert {member["id"] for member in conversation["members"]} == {ann.id, bob.id}
        assert conversation["lastMessage"] == message
        assert conversation["lastMessageAt"] == message["createdAt"]
        assert conversation["unreadCount"] == 0 and conversation["canSend"] is True
        assert conversation["liveTopic"] == f"conversation:{conversation['id']}:live:1"
        assert sent["pace"] == {"limit": 100, "remaining": 99, "windowS": 60, "resetS": 60}
        inbox = call(db, bob.id, "list_conversations")
        assert inbox["total"] == 1
        assert inbox["conversations"][0]["unreadCount"] == 1

    def test_no_gig_is_one_conversation_too(self, db, new_person):
        ann, bob = new_person(), new_person()
        first = call(db, ann.id, "send_message", body="a", to_user_id=bob.id)
        back = call(db, bob.id, "send_message", body="b", to_user_id=ann.id)
        about = call(db, ann.id, "send_message", body="c", to_user_id=bob.id, gig_id=uuid.uuid4())
        assert back["conversation"]["id"] == first["conversation"]["id"]
        assert back["message"]["seq"] == 2
        assert about["conversation"]["id"] != first["conversation"]["id"]

    def test_host_decides_about_gigs(self, db, new_person):
        ann, bob = new_person(), new_person()
        original = db.execute("select pg_get_functiondef('private.gig_allows'::regproc)").fetchone()[0]
        db.execute(original.replace("return true", f"return p_recipient_id <> '{bob.id}'"))
        try:
            with refused(403, "recipient_unavailable"):
                call(db, ann.id, "send_message", body="a", to_user_id=bob.id, gig_id=uuid.uuid4())
            assert call(db, ann.id, "send_message", body="a", to_user_id=bob.id)["created"]
        finally:
            db.execute(original)


class TestTarget:
    def test_conversation_alone_suffices(self, db, new_person):
        ann, bob = new_person(), new_person()
        first = call(db, ann.id, "send_message", body="a", to_user_id=bob.id)
        answer = call(db, bob.id, "send_message", body="b", conversation_id=first["conversation"]["id"])
        assert answer["message"]["toUserId"] == ann.id and answer["message"]["seq"] == 2

    def test_both_given_must_match(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        gig = uuid.uuid4()
        there = call(db, ann.id, "send_message", body="a", to_user_id=bob.id, gig_id=gig)["conversation"]["id"]
        assert call(db, ann.id, "send_message", body="b", conversation_id=there, to_user_id=bob.id, gig_id=gig)[
            "created"
        ]
        for wrong in ({"to_user_id": eve.id}, {"to_user_id": ann.id}, {"gig_id": uuid.uuid4()}):
            with refused(422, "recipient_mismatch"):
                call(db, ann.id, "send_message", body="b", conversation_id=there, **wrong)

    def test_nobody_named(self, db, new_person):
        with refused(400, "validation_failed") as said:
            call(db, new_person().id, "send_message", body="a")
        assert said["hint"] == "/conversationId"

    def test_foreign_and_imaginary_conversation_look_alike(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        there = call(db, ann.id, "send_message", body="a", to_user_id=bob.id)["conversation"]["id"]
        with refused(404, "not_found") as foreign:
            call(db, eve.id, "send_message", body="b", conversation_id=there)
        with refused(404, "not_found") as imaginary:
            call(db, eve.id, "send_message", body="b", conversation_id=uuid.uuid4())
        assert foreign == imaginary

    def test_unreachable_people_look_alike(self, db, new_person):
        ann, banned, deleted, gone = (new_person() for _ in range(4))
        call(db, ann.id, "send_message", body="while it lasted", to_user_id=gone.id)
        db.execute("update auth.users set banned_until = now() + interval '1 day' where id = %s", [banned.id])
        db.execute("update auth.users set deleted_at = now() where id = %s", [deleted.id])
        db.execute("delete from auth.users where id = %s", [gone.id])
        answers = []
        for target in (str(uuid.uuid4()), ann.id, banned.id, deleted.id, gone.id):
            with refused(403, "recipient_unavailable") as said:
                call(db, ann.id, "send_message", body="a", to_user_id=target)
            answers.append(said)
        assert all(said == answers[0] for said in answers)
        inbox = call(db, ann.id, "list_conversations")["conversations"]
        (one,) = inbox
        assert (one["canSend"], {each["id"]: each["isFallback"] for each in one["members"]}[gone.id]) == (False, True)


class TestCaller:
    def test_ended_and_banned_accounts_may_not_write(self, db, new_person):
        bob = new_person()
        for change in (
            "delete from auth.users where id = %s",
            "update auth.users set deleted_at = now() where id = %s",
            "update auth.users set banned_until = now() + interval '1 day' where id = %s",
            "update auth.users set is_anonymous = true where id = %s",
        ):
            ann = new_person()
            db.execute(change, [ann.id])
            with refused(403, "account_unavailable"):
                call(db, ann.id, "send_message", body="a", to_user_id=bob.id)

    def test_a_ban_that_is_over_does_not_count(self, db, new_person):
        ann, bob = new_person(), new_person()
        db.execute("update auth.users set banned_until = now() - interval '1 day' where id = %s", [ann.id])
        assert call(db, ann.id, "send_message", body="a", to_user_id=bob.id)["created"]

    def test_anonymous_people_may_write_when_the_setting_allows(self, sql, new_person):
        ann, bob = new_person(), new_person()
        sql.execute("update auth.users set is_anonymous = true where id = %s", [ann.id])
        sql.execute("update private.settings set anonymous_may_send = true")
        assert call(sql.connection, ann.id, "send_message", body="a", to_user_id=bob.id)["created"]

    def test_anon_may_not_even_call(self, db, new_person):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            call(db, None, "send_message", body="a", to_user_id=new_person().id)

    def test_without_subject_is_unauthenticated(self, db):
        with refused(401, "unauthenticated"), db.transaction():
            db.execute("set local role authenticated")
            db.execute("select set_config('request.jwt.claims', '{\"role\": \"authenticated\"}', true)")
            db.execute("select public.send_message('a')")


class TestText:
    @pytest.mark.parametrize("body", [None, "", "   ", "\n\t \u3000\ufeff", "\u202a\u202e", "x" * 4001])
    def test_refuses(self, db, new_person, body):
        with refused(400, "validation_failed") as said:
            call(db, new_person().id, "send_message", body=body, to_user_id=new_person().id)
        assert said["hint"] == "/body"

    @pytest.mark.parametrize("between", ["", "\u202a", "\x07"])
    def test_marks_without_end_are_refused_quickly(self, db, new_person, between):
        """Sorting them takes the square of their number, which no statement time-out interrupts."""
        ann, bob = new_person(), new_person()
        db.execute("set statement_timeout = '2s'")
        for number in (200, 4000, 100_000):
            with refused(400, "validation_failed"):
                call(
                    db, ann.id, "send_message", body="a" + f"\u0301{between}\u0323{between}" * number, to_user_id=bob.id
                )
        stacked = "a" + "\u0323\u0301" * 100
        assert call(db, ann.id, "send_message", body=stacked, to_user_id=bob.id)["created"]

    def test_stores_what_is_left_after_normalising(self, db, new_person):
        ann, bob = new_person(), new_person()
        sent = call(db, ann.id, "send_message", body=" e\u0301\r\n\u202eb\u0007\r ", to_user_id=bob.id)
        assert sent["message"]["body"] == "\u00e9\nb"
        whole = "x" * 4000
        assert call(db, ann.id, "send_message", body=f"  {whole}\r\n", to_user_id=bob.id)["message"]["body"] == whole


class TestReplay:
    def test_answers_the_same_message_and_changes_nothing(self, db, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        first = call(db, ann.id, "send_message", body="once", to_user_id=bob.id, client_message_id=key)
        there = first["conversation"]["id"]
        before = state(db, there, ann.id, bob.id)
        again = call(db, ann.id, "send_message", body=" once\r\n", to_user_id=bob.id, client_message_id=key)
        by_id = call(db, ann.id, "send_message", body="once", conversation_id=there, client_message_id=key)
        assert again["created"] is by_id["created"] is False
        assert again["message"] == by_id["message"] == first["message"]
        assert again["pace"]["remaining"] == 99
        assert state(db, there, ann.id, bob.id) == before

    def test_answers_the_message_as_it_is_now(self, db, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        first = call(db, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        call(db, bob.id, "mark_read", message_id=first["message"]["id"])
        again = call(db, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        assert again["message"]["status"] == "read"

    def test_other_request_with_the_same_key_conflicts(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        key = uuid.uuid4()
        call(db, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        for other in (
            {"body": "b", "to_user_id": bob.id},
            {"body": "a", "to_user_id": eve.id},
            {"body": "a", "to_user_id": bob.id, "gig_id": uuid.uuid4()},
        ):
            with refused(409, "idempotency_conflict"):
                call(db, ann.id, "send_message", client_message_id=key, **other)
        assert call(db, eve.id, "send_message", body="b", to_user_id=bob.id, client_message_id=key)["created"]

    def test_comes_before_pace_and_recipient(self, db, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        call(db, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        for number in range(99):
            call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)
        with refused(429, "rate_limited"):
            call(db, ann.id, "send_message", body="one too many", to_user_id=bob.id)
        db.execute("delete from auth.users where id = %s", [bob.id])
        again = call(db, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        assert again["created"] is False and again["pace"]["remaining"] == 0

    def test_not_for_somebody_who_may_not_read_it_any_more(self, db, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        sent = call(db, ann.id, "send_message", body="a", to_user_id=bob.id, client_message_id=key)
        db.execute(
            "update public.conversation_members set left_at = now() where conversation_id = %s and user_id = %s",
            [sent["conversation"]["id"], ann.id],
        )
        for target in ({"to_user_id": bob.id}, {"conversation_id": sent["conversation"]["id"]}):
            with refused(404, "not_found"):
                call(db, ann.id, "send_message", body="a", client_message_id=key, **target)

    def test_digest_is_of_the_normalised_request(self, db, new_person):
        ann, bob = new_person(), new_person()
        sent = call(db, ann.id, "send_message", body=" a ", to_user_id=bob.id)
        stored = db.execute(
            "select request_digest from private.send_keys where message_id = %s", [sent["message"]["id"]]
        ).fetchone()[0]
        assert stored == hashlib.sha256(f"{sent['conversation']['id']} a".encode()).digest()


class TestRefusedSendLeavesNoTrace:
    def test_no_conversation_key_or_pace_remains(self, db, new_person):
        ann = new_person()
        key = uuid.uuid4()
        with refused(403, "recipient_unavailable"):
            call(db, ann.id, "send_message", body="a", to_user_id=uuid.uuid4(), client_message_id=key)
        assert count(db, "public.conversations", created_by=ann.id) == 0
        assert count(db, "private.send_keys", from_user_id=ann.id) == 0
        assert count(db, "private.paces", user_id=ann.id) == 0

    def test_rolled_back_send_leaves_no_gap(self, db, new_person):
        ann, bob = new_person(), new_person()
        call(db, ann.id, "send_message", body="a", to_user_id=bob.id)
        with pytest.raises(RuntimeError), db.transaction():
            call(db, ann.id, "send_message", body="never", to_user_id=bob.id)
            raise RuntimeError
        assert call(db, ann.id, "send_message", body="b", to_user_id=bob.id)["message"]["seq"] == 2


class TestGroup:
    def test_message_has_no_recipient_and_counts_for_all_others(self, db, new_person):
        people = [new_person() for _ in range(3)]
        there = make_group(db, [person.id for person in people])
        sent = call(db, people[0].id, "send_message", body="all", conversation_id=there)
        assert sent["message"]["toUserId"] is None and sent["conversation"]["kind"] == "group"
        assert sent["conversation"]["memberCount"] == 3
        for reader in people[1:]:
            assert call(db, reader.id, "list_conversations")["conversations"][0]["unreadCount"] == 1
            assert (
                call(db, people[0].id, "get_conversation", conversation_id=there)["conversation"]["messages"][0][
                    "status"
                ]
                == "sent"
            )
            call(db, reader.id, "mark_read", message_id=sent["message"]["id"])
        shown = call(db, people[0].id, "get_conversation", conversation_id=there)["conversation"]
        assert shown["messages"][0]["status"] == "read"

    def test_to_user_id_does_not_match_a_group(self, db, new_person):
        people = [new_person() for _ in range(2)]
        there = make_group(db, [person.id for person in people])
        with refused(422, "recipient_mismatch"):
            call(db, people[0].id, "send_message", body="a", conversation_id=there, to_user_id=people[1].id)
