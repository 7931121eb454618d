"""report_message, report_user: who may report what, once, and what is kept of it."""

import uuid

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.desk import hold
from tests.sql.rpc import call, make_group, refused
from tests.sql.test_guarantees import together


@pytest.fixture
def talk(db, new_person):
    ann, bob = new_person("Ann"), new_person("Bob")
    sent = call(db, ann.id, "send_message", body="See you on Friday", to_user_id=bob.id)
    return ann, bob, sent["message"]


def report(db, person, message, reason="scam", note=None):
    return call(db, person.id, "report_message", message_id=message["id"], reason=reason, note=note)


def row(db, answer):
    with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from private.reports where id = %s", [answer["report"]["id"]]).fetchone()


def item(db, answer):
    with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(
            "select i.* from private.moderation_items as i inner join private.reports as r on r.item_id = i.id"
            " where r.id = %s",
            [answer["report"]["id"]],
        ).fetchone()


def nothing_filed(db, person):
    return db.execute("select count(*) from private.reports where reporter_id = %s", [person.id]).fetchone() == (0,)


class TestMessage:
    def test_is_kept_and_put_before_the_moderators(self, db, talk):
        ann, bob, message = talk
        answer = report(db, bob, message, note="  Wants my\r\ncard ")
        assert answer["created"] is True
        assert answer["report"] == {
            "id": answer["report"]["id"], "kind": "message", "messageId": message["id"], "userId": ann.id,
            "reason": "scam", "note": "Wants my\ncard", "status": "open", "createdAt": answer["report"]["createdAt"],
        }  # fmt: skip
        found = item(db, answer)
        assert (found["kind"], found["status"], str(found["user_id"])) == ("message_report", "open", ann.id)
        assert (str(found["message_id"]), str(found["conversation_id"])) == (message["id"], message["conversationId"])
        assert found["details"] == {"reasons": {"scam": 1}}

    def test_the_same_again_is_the_first_one(self, db, talk):
        _, bob, message = talk
        first = report(db, bob, message)
        again = report(db, bob, message, "spam", "other words")
        assert again == {"report": first["report"], "created": False}
        assert item(db, first)["details"] == {"reasons": {"scam": 1}}

    def test_several_people_join_one_item(self, db, new_person):
        people = [new_person() for _ in range(4)]
        room = make_group(db, [p.id for p in people])
        message = call(db, people[0].id, "send_message", body="x", conversation_id=room)["message"]
        answers = [report(db, p, message, r) for p, r in zip(people[1:], ("spam", "hate", "spam"), strict=True)]
        assert len({item(db, answer)["id"] for answer in answers}) == 1
        assert item(db, answers[0])["details"] == {"reasons": {"spam": 2, "hate": 1}}

    def test_the_evidence_is_what_there_was_to_see(self, db, talk):
        ann, bob, message = talk
        for number in range(12):
            call(db, bob.id, "send_message", body=f"{number}", conversation_id=message["conversationId"])
        call(db, ann.id, "edit_message", message_id=message["id"], body="See you on Monday")
        evidence = row(db, report(db, bob, message))["evidence"]
        call(db, ann.id, "edit_message", message_id=message["id"], body="Nothing")
        call(db, ann.id, "delete_message", message_id=message["id"])
        call(db, ann.id, "update_profile", changes=Jsonb({"displayName": "Somebody else"}))
        assert row(db, report(db, bob, message))["evidence"] == evidence
        assert evidence["body"] == "See you on Monday" and evidence["state"] == "visible"
        assert evidence["original"] == {"body": "See you on Monday", "unreadable": False}
        assert [(v["version"], v["body"]) for v in evidence["versions"]] == [(1, "See you on Friday")]
        assert (evidence["fromUserId"], evidence["toUserId"], evidence["senderName"]) == (ann.id, bob.id, "Ann")
        assert evidence["createdAt"] == message["createdAt"] and evidence["editedAt"]
        assert [around["seq"] for around in evidence["around"]] == list(range(2, 12))
        assert {set(around) == {"id", "seq", "eventSeq"} for around in evidence["around"]} == {True}

    def test_of_a_masked_message_the_true_text_is_kept(self, db, talk):
        _, bob, message = talk
        db.execute("insert into private.originals (message_id, body) values (%s, 'call 555')", [message["id"]])
        assert row(db, report(db, bob, message))["evidence"]["original"] == {"body": "call 555", "unreadable": False}

    def test_of_a_sensitive_message_the_envelope_is_kept(self, db, talk):
        ann, bob, message = talk
        db.execute("update public.messages set is_sensitive = true, body = null where id = %s", [message["id"]])
        db.execute(
            "insert into private.envelope_keys (version, signing_key) values (77, sha256('')) on conflict do nothing"
        )
        db.execute(
            "insert into private.envelopes (message_id, key_version, wrapped_key, nonce, ciphertext, sender_id,"
            " client_message_id, target) values (%s, 77, '\\x00', decode(repeat('00', 12), 'hex'),"
            " decode(repeat('00', 80), 'hex'), %s, %s, '- - -')",
            [message["id"], ann.id, message["clientMessageId"]],
        )
        evidence = row(db, report(db, bob, message))["evidence"]
        sealed = db.execute("select private.envelope_json(%s)", [message["id"]]).fetchone()[0]
        assert evidence["original"] == {"body": None, "unreadable": True, "envelope": sealed}
        assert evidence["body"] is None

    def test_a_tombstone_can_be_reported(self, db, talk):
        ann, bob, message = talk
        call(db, ann.id, "delete_message", message_id=message["id"])
        evidence = row(db, report(db, bob, message))["evidence"]
        assert evidence["state"] == "deleted" and evidence["versions"][0]["body"] == "See you on Friday"

    def test_only_what_one_may_read(self, db, new_person, talk):
        ann, bob, message = talk
        crew = [new_person() for _ in range(3)]
        room = make_group(db, [p.id for p in crew])
        early = call(db, crew[0].id, "send_message", body="early", conversation_id=room)["message"]
        late = new_person()
        db.execute("update public.conversation_members set role = 'owner' where user_id = %s", [crew[0].id])
        call(db, crew[0].id, "add_members", conversation_id=room, user_ids=[late.id])
        call(db, crew[1].id, "remove_member", conversation_id=room, user_id=crew[1].id)
        held = hold(db, message["conversationId"], ann.id, "held")
        for person, thing in (
            (new_person(), message), (late, early), (crew[1], early), (bob, {"id": held}), (bob, {"id": uuid.uuid4()}),
            (bob, {"id": None}),
        ):  # fmt: skip
            with refused(404, "not_found") as said:
                report(db, person, thing)
            assert said["detail"] == "There is no such message for you."
            assert nothing_filed(db, person)

    def test_not_ones_own(self, db, talk):
        ann, _, message = talk
        with refused(403, "forbidden"):
            report(db, ann, message)
        assert nothing_filed(db, ann)

    def test_nobody_is_told(self, db, talk):
        ann, bob, message = talk
        heads = db.execute(
            "select position from private.heads where user_id = any(%s::uuid[]) order by user_id", [[ann.id, bob.id]]
        ).fetchall()
        report(db, bob, message)
        assert heads == db.execute(
            "select position from private.heads where user_id = any(%s::uuid[]) order by user_id", [[ann.id, bob.id]]
        ).fetchall()  # fmt: skip


class TestUser:
    def test_is_kept_with_name_and_what_is_shared(self, db, talk):
        ann, bob, message = talk
        answer = call(db, bob.id, "report_user", user_id=ann.id, reason="impersonation")
        assert (answer["report"]["kind"], answer["report"]["messageId"]) == ("user", None)
        assert item(db, answer)["kind"] == "user_report" and item(db, answer)["conversation_id"] is None
        evidence = row(db, answer)["evidence"]
        assert evidence["profile"]["displayName"] == "Ann"
        assert evidence["conversationIds"] == [message["conversationId"]]
        again = call(db, bob.id, "report_user", user_id=ann.id, reason="spam")
        assert again == {"report": answer["report"], "created": False}
        assert report(db, bob, message)["created"], "a message is another thing"

    def test_who_was_met_in_a_group_that_one_has_left(self, db, new_person):
        ann, bob = new_person(), new_person()
        room = make_group(db, [ann.id, bob.id])
        call(db, bob.id, "remove_member", conversation_id=room, user_id=bob.id)
        assert call(db, bob.id, "report_user", user_id=ann.id, reason="spam")["created"]
        assert call(db, ann.id, "report_user", user_id=bob.id, reason="spam")["created"]

    def test_strangers_do_not_exist(self, db, new_person):
        ann, bob, late = new_person(), new_person(), new_person()
        room = make_group(db, [ann.id, bob.id])
        db.execute("update public.conversation_members set role = 'owner' where user_id = %s", [ann.id])
        call(db, bob.id, "remove_member", conversation_id=room, user_id=bob.id)
        call(db, ann.id, "add_members", conversation_id=room, user_ids=[late.id])
        details = []
        # Bob must not learn who came after he had left.
        for stranger in (late.id, new_person().id, uuid.uuid4(), None):
            with refused(404, "not_found") as said:
                call(db, bob.id, "report_user", user_id=stranger, reason="spam")
            details.append(said["detail"])
        assert len(set(details)) == 1

    def test_who_has_not_been_reached_yet_knows_nobody(self, db, talk, new_person):
        """While somebody's first message is held, neither of the two has met the other."""
        ann, bob, message = talk
        db.execute(
            "update public.conversation_members set left_at = now() where conversation_id = %s and user_id = %s",
            [message["conversationId"], bob.id],
        )
        for me, other in ((ann, bob), (bob, ann)):
            with refused(404, "not_found"):
                call(db, me.id, "report_user", user_id=other.id, reason="spam")

    def test_not_oneself(self, db, new_person):
        ann = new_person()
        with refused(400, "validation_failed") as said:
            call(db, ann.id, "report_user", user_id=ann.id, reason="spam")
        assert said["hint"] == "/id"


class TestWhoAndHow:
    @pytest.mark.parametrize("reason", [None, "", "Spam", "boring", "spam "])
    def test_reasons_are_given(self, db, talk, reason):
        _, bob, message = talk
        with refused(400, "validation_failed") as said:
            report(db, bob, message, reason)
        assert said["hint"] == "/reason"

    def test_notes_are_bounded(self, db, talk):
        _, bob, message = talk
        for note in ("x" * 1001, "\U0001f600" * 1001, "a" + "\u0301" * 300, "x" * 1_000_000):
            with refused(400, "validation_failed") as said:
                report(db, bob, message, note=note)
            assert said["hint"] == "/note"
        assert report(db, bob, message, note=" \n" + "\U0001f600" * 1000)["report"]["note"] == "\U0001f600" * 1000

    def test_an_empty_note_is_none(self, db, talk):
        _, bob, message = talk
        assert report(db, bob, message, note=" \u200b\n".replace("\u200b", "\u202e"))["report"]["note"] is None

    def test_signed_in_and_not_suspended(self, db, talk):
        ann, bob, message = talk
        for function, thing in (
            ("report_message", {"message_id": message["id"]}),
            ("report_user", {"user_id": ann.id}),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                call(db, None, function, reason="spam", **thing)
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'mute', 'x')", [bob.id])
        assert report(db, bob, message)["created"], "who is muted can still ask for help"
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'suspend', 'x')", [bob.id])
        for function, thing in (
            ("report_message", {"message_id": message["id"]}),
            ("report_user", {"user_id": ann.id}),
        ):
            with refused(403, "account_unavailable"):
                call(db, bob.id, function, reason="spam", **thing)

    def test_at_a_pace(self, db, new_person):
        ann, bob = new_person(), new_person()
        room = make_group(db, [ann.id, bob.id])
        messages = [call(db, ann.id, "send_message", body=f"{n}", conversation_id=room)["message"] for n in range(21)]
        for message in messages[:20]:
            assert report(db, bob, message)["created"]
        with refused(429, "rate_limited") as said:
            report(db, bob, messages[20])
        assert 3500 < int(said["hint"]) <= 3600
        assert report(db, bob, messages[0])["created"] is False, "what is open already costs nothing"


class TestTogether:
    def test_one_report_however_often_it_is_sent_at_once(self, db, supabase_stack, talk):
        _, bob, message = talk
        answers = together(supabase_stack.database_url, [lambda conn: report(conn, bob, message)] * 8)
        assert sorted(answer["created"] for answer in answers) == [False] * 7 + [True]
        assert len({answer["report"]["id"] for answer in answers}) == 1

    def test_everybody_at_once_is_one_item(self, db, supabase_stack, new_person):
        people = [new_person() for _ in range(9)]
        room = make_group(db, [p.id for p in people])
        message = call(db, people[0].id, "send_message", body="x", conversation_id=room)["message"]
        answers = together(
            supabase_stack.database_url, [lambda conn, p=p: report(conn, p, message, "hate") for p in people[1:]]
        )
        assert [answer["created"] for answer in answers] == [True] * 8
        assert len({item(db, answer)["id"] for answer in answers}) == 1
        assert item(db, answers[0])["details"] == {"reasons": {"hate": 8}}
