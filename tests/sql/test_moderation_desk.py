"""The moderators' desk: who may see and decide, what a decision does, how it is undone, and what stays on record."""

import random
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.sql.desk import appoint, hold
from tests.sql.rpc import call, make_group, refused
from tests.sql.test_guarantees import check_everything, together

NOBODY = uuid.UUID(int=0)
# Every function of the desk with arguments that are well-formed.
DESK = {
    "list_moderation_queue": {},
    "get_moderation_item": {"item_id": NOBODY},
    "decide_moderation_item": {"item_id": NOBODY, "decision": "dismiss"},
    "sanction_user": {"user_id": NOBODY, "kind": "mute", "duration_s": 60, "reason": "x"},
    "lift_sanction": {"sanction_id": NOBODY},
    "moderate_hide_message": {"message_id": NOBODY, "note": "x"},
    "moderate_restore_message": {"message_id": NOBODY, "note": "x"},
    "undo_moderation_action": {"action_id": NOBODY},
    "list_moderation_actions": {},
}


@pytest.fixture
def mod(db, new_person):
    person = new_person("Mo")
    appoint(db, person.id)
    return person


@pytest.fixture
def admin(db, new_person):
    person = new_person("Ada")
    appoint(db, person.id, "admin")
    return person


class Case:
    """Ann wrote to Bob, who reported it."""

    def __init__(self, db, ann, bob):
        self.db, self.ann, self.bob = db, ann, bob
        self.message = call(db, ann.id, "send_message", body="See you on Friday", to_user_id=bob.id)["message"]
        self.room = self.message["conversationId"]
        self.report()

    def report(self):
        self.reported = call(self.db, self.bob.id, "report_message", message_id=self.message["id"], reason="scam")
        self.item = self.scalar("select item_id from private.reports where id = %s", self.reported["report"]["id"])
        return self.item

    def held(self, body="Call me"):
        self.held_id = hold(self.db, self.room, self.ann.id, body)
        return self.scalar("select id from private.moderation_items where message_id = %s", self.held_id)

    def scalar(self, query, *parameters):
        found = self.db.execute(query, parameters).fetchone()
        return found and found[0]

    def state(self):
        return self.scalar("select state from public.messages where id = %s", self.message["id"])

    def seen_by(self, person):
        page = call(self.db, person.id, "list_messages", conversation_id=self.room)["messages"]
        return [(m["seq"], m["state"], m["body"]) for m in page]


@pytest.fixture
def case(db, new_person):
    return Case(db, new_person("Ann"), new_person("Bob"))


def decide(db, person, item, decision, note=None):
    return call(db, person.id, "decide_moderation_item", item_id=item, decision=decision, note=note)


def undo(db, person, action, note=None):
    return call(db, person.id, "undo_moderation_action", action_id=action["id"], note=note)["action"]


def sanction(db, person, other, kind="mute", duration_s=3600, reason="Too loud"):
    return call(
        db, person.id, "sanction_user", user_id=other.id, kind=kind, duration_s=duration_s, reason=reason
    )  # fmt: skip


def queue(db, person, **asked):
    items, cursor = [], None
    while True:
        page = call(db, person.id, "list_moderation_queue", cursor=cursor, **asked)
        items += page["items"]
        cursor = page["nextCursor"]
        if cursor is None:
            return items


def log(db, person, **asked):
    return call(db, person.id, "list_moderation_actions", **asked)["actions"]


class TestWho:
    @pytest.mark.parametrize("function", DESK)
    def test_only_moderators(self, db, new_person, mod, function):
        with refused(403, "forbidden") as said:
            call(db, new_person().id, function, **DESK[function])
        assert said["detail"] == "Only moderators may do this."
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            call(db, None, function, **DESK[function])
        db.execute("insert into private.sanctions (user_id, kind, reason) values (%s, 'suspend', 'x')", [mod.id])
        with refused(403, "account_unavailable"):
            call(db, mod.id, function, **DESK[function])
        db.execute("delete from private.sanctions where user_id = %s", [mod.id])
        db.execute("delete from private.moderators where user_id = %s", [mod.id])
        with refused(403, "forbidden"):
            call(db, mod.id, function, **DESK[function])

    @pytest.mark.parametrize("function", [name for name, given in DESK.items() if given])
    def test_what_is_not_there_is_not_found(self, db, mod, function):
        for nothing in (NOBODY, None):
            with refused(404, "not_found"):
                given = {name: nothing if value == NOBODY else value for name, value in DESK[function].items()}
                call(db, mod.id, function, **given)

    def test_nobody_looks_after_what_is_about_themselves(self, db, case, mod, admin):
        """Not even who reported them may be known, so neither item nor log show it."""
        acted = call(db, mod.id, "moderate_hide_message", message_id=case.message["id"], note="x")["action"]
        sanctioned = sanction(db, mod, case.ann)
        appoint(db, case.ann.id, "admin")
        for function, given in {
            "get_moderation_item": {"item_id": case.item},
            "decide_moderation_item": {"item_id": case.item, "decision": "dismiss"},
            "moderate_restore_message": {"message_id": case.message["id"], "note": "x"},
            "sanction_user": {"user_id": case.ann.id, "kind": "mute", "duration_s": 60, "reason": "x"},
            "lift_sanction": {"sanction_id": sanctioned["sanction"]["id"]},
            "undo_moderation_action": {"action_id": acted["id"]},
        }.items():
            with refused(403, "forbidden"):
                call(db, case.ann.id, function, **given)
        assert queue(db, case.ann, user_id=case.ann.id) == []
        assert str(case.item) not in {i["id"] for i in queue(db, case.ann)}
        assert log(db, case.ann, user_id=case.ann.id) == [] and log(db, case.ann, item_id=case.item) == []
        assert case.ann.id not in {a["user"]["id"] for a in log(db, case.ann, limit=100) if a["user"]}
        assert case.state() == "hidden"


class TestQueue:
    def test_oldest_first_and_page_by_page(self, db, new_person, mod):
        ann, bob = new_person(), new_person()
        room = make_group(db, [ann.id, bob.id])
        reported = []
        for number in range(7):
            message = call(db, ann.id, "send_message", body=f"{number}", conversation_id=room)["message"]
            call(db, bob.id, "report_message", message_id=message["id"], reason="spam")
            reported.append(message["id"])
        call(db, bob.id, "report_user", user_id=ann.id, reason="other")
        found = queue(db, mod, user_id=ann.id, limit=3)
        assert [i["messageId"] for i in found] == [*reported, None]
        assert [i["kind"] for i in queue(db, mod, user_id=ann.id, kind="user_report")] == ["user_report"]
        ours = [i["id"] for i in found]
        assert [i["id"] for i in queue(db, mod, limit=100) if i["id"] in ours] == ours
        decided = [decide(db, mod, item, "dismiss")["item"] for item in random.Random(3).sample(ours, 5)]
        assert queue(db, mod, status="decided", user_id=ann.id, limit=2) == decided[::-1]
        everybodys = queue(db, mod, status="decided", limit=2)
        assert everybodys[:5] == decided[::-1]
        assert len({i["id"] for i in everybodys}) == len(everybodys)
        assert len(queue(db, mod, user_id=ann.id)) == 3

    def test_shows_what_it_is_about(self, db, case, mod):
        found = queue(db, mod, user_id=case.ann.id)[0]
        assert found == {
            "id": str(case.item), "kind": "message_report", "status": "open",
            "user": {"id": case.ann.id, "displayName": "Ann", "avatarUrl": None, "isFallback": False},
            "conversationId": case.room, "messageId": case.message["id"], "details": {"reasons": {"scam": 1}},
            "reportCount": 1, "openedAt": found["openedAt"], "decidedAt": None, "decision": None,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("asked", "pointer"),
        [
            ({"limit": 0}, "/limit"), ({"limit": 101}, "/limit"), ({"limit": None}, "/limit"), ({"status": "x"}, "/status"),
            ({"status": None}, "/status"), ({"kind": "x"}, "/kind"),
        ],
    )  # fmt: skip
    def test_bounds(self, db, mod, asked, pointer):
        with refused(400, "validation_failed") as said:
            call(db, mod.id, "list_moderation_queue", **asked)
        assert said["hint"] == pointer

    def test_cursors_are_ours_and_of_this_status(self, db, case, mod):
        case.held()
        cursor = call(db, mod.id, "list_moderation_queue", limit=1)["nextCursor"]
        assert cursor
        for asked in ({"cursor": "x"}, {"cursor": ""}, {"cursor": cursor, "status": "decided"}, {"cursor": "A" * 5000}):
            with refused(400, "cursor_invalid"):
                call(db, mod.id, "list_moderation_queue", **asked)


class TestItem:
    def test_all_that_is_needed_to_decide(self, db, case, mod, new_person):
        for number in range(12):
            call(db, case.bob.id, "send_message", body=f"{number}", conversation_id=case.room)
        for body in ("second", "third"):
            call(db, case.ann.id, "edit_message", message_id=case.message["id"], body=body)
        sanctioned = sanction(db, mod, case.ann)
        db.execute(
            "insert into private.verdicts (user_id, action, rules, body) values (%s, 'reject', '[{\"id\": 1}]', 'bad')",
            [case.ann.id],
        )
        call(db, mod.id, "moderate_hide_message", message_id=case.message["id"], note="x")
        seen = call(db, mod.id, "get_moderation_item", item_id=case.item)
        assert set(seen) == {"item", "message", "context", "reports", "verdicts", "sanctions", "actions"}
        assert seen["item"] == queue(db, mod, user_id=case.ann.id)[0]
        message = seen["message"]
        assert (message["state"], message["body"]) == ("hidden", None)
        assert message["original"] == {"body": "third", "unreadable": False}
        assert [v["body"] for v in message["versions"]] == ["See you on Friday", "second"]
        assert [(m["seq"], m["original"]["body"]) for m in seen["context"]] == [(n + 2, f"{n}") for n in range(10)]
        report = seen["reports"][0]
        assert (report["reporter"]["id"], report["reason"], report["note"]) == (case.bob.id, "scam", None)
        assert report["evidence"]["body"] == "See you on Friday"
        assert [(v["action"], v["body"]) for v in seen["verdicts"]] == [("reject", "bad")]
        assert seen["sanctions"] == [sanctioned["sanction"]]
        assert [a["action"] for a in seen["actions"]] == ["hide", "mute"]

    def test_ten_before_and_ten_after(self, db, mod, new_person):
        ann, bob = new_person(), new_person()
        room = make_group(db, [ann.id, bob.id])
        sent = [call(db, ann.id, "send_message", body=f"{n}", conversation_id=room)["message"] for n in range(1, 26)]
        db.execute("insert into private.originals (message_id, body) values (%s, 'call 555')", [sent[2]["id"]])
        call(db, bob.id, "report_message", message_id=sent[12]["id"], reason="spam")
        seen = call(db, mod.id, "get_moderation_item", item_id=queue(db, mod, user_id=ann.id)[0]["id"])
        assert [m["seq"] for m in seen["context"]] == [*range(3, 13), *range(14, 24)]
        assert (seen["context"][0]["body"], seen["context"][0]["original"]["body"]) == ("3", "call 555")

    def test_a_held_message_among_those_around_it(self, db, case, mod):
        call(db, case.bob.id, "send_message", body="before", conversation_id=case.room)
        item = case.held("Call me")
        call(db, case.bob.id, "send_message", body="after", conversation_id=case.room)
        seen = call(db, mod.id, "get_moderation_item", item_id=item)
        message = seen["message"]
        assert (message["id"], message["seq"], message["state"]) == (case.held_id, 0, "pending")
        assert message["original"] == {"body": "Call me", "unreadable": False}
        assert message["sender"]["displayName"] == "Ann" and message["versions"] == []
        assert [m["original"]["body"] for m in seen["context"]] == ["See you on Friday", "before", "after"]

    def test_a_person_without_a_message(self, db, case, mod):
        call(db, case.bob.id, "report_user", user_id=case.ann.id, reason="impersonation")
        item = queue(db, mod, kind="user_report", user_id=case.ann.id)[0]
        seen = call(db, mod.id, "get_moderation_item", item_id=item["id"])
        assert (seen["message"], seen["context"]) == (None, [])
        assert seen["reports"][0]["evidence"]["profile"]["displayName"] == "Ann"

    def test_a_message_that_is_gone(self, db, case, mod):
        item = case.held()
        call(db, case.ann.id, "delete_message", message_id=case.held_id)
        seen = call(db, mod.id, "get_moderation_item", item_id=item)
        assert seen["message"] is None and seen["item"]["decision"] == "withdrawn"

    def test_sealed_texts_come_with_their_envelopes(self, db, case, mod):
        """After a rotation of keys the evidence can be opened, too: with the envelope of today."""
        db.execute(
            "insert into private.envelope_keys (version, signing_key) values (77, sha256('')) on conflict do nothing"
        )
        db.execute("update public.messages set is_sensitive = true, body = null where id = %s", [case.message["id"]])
        db.execute(
            "insert into private.envelopes (message_id, key_version, wrapped_key, nonce, ciphertext, sender_id,"
            " client_message_id, target) values (%s, 77, '\\x00', decode(repeat('00', 12), 'hex'),"
            " decode(repeat('00', 80), 'hex'), %s, %s, '- - -')",
            [case.message["id"], case.ann.id, case.message["clientMessageId"]],
        )
        sealed = case.scalar("select private.envelope_json(%s)", case.message["id"])
        seen = call(db, mod.id, "get_moderation_item", item_id=case.item)
        assert seen["message"]["original"]["envelope"] == sealed
        assert seen["reports"][0]["evidence"]["original"]["envelope"] == sealed
        assert "envelope" not in seen["message"]

    def test_no_crowd_makes_it_too_large_to_read(self, db, mod, new_person):
        """Sixty people report a message with twenty long versions; the answer stays below what the service takes."""
        people = [new_person() for _ in range(61)]
        room = make_group(db, [p.id for p in people])
        long = "\U0001f600" * 3990
        message = call(db, people[0].id, "send_message", body=long, conversation_id=room)["message"]
        for number in range(20):
            call(db, people[0].id, "edit_message", message_id=message["id"], body=f"{number}{long}")
        for person in people[1:]:
            call(db, person.id, "report_message", message_id=message["id"], reason="spam", note=long[:1000])
        item = queue(db, mod, user_id=people[0].id)[0]
        seen = call(db, mod.id, "get_moderation_item", item_id=item["id"])
        assert (item["reportCount"], len(seen["reports"])) == (60, 50)
        assert seen["reports"][0]["evidence"]["versions"] and seen["reports"][49]["evidence"] is None
        size = db.execute("select octet_length(%s::jsonb::text)", [psycopg.types.json.Jsonb(seen)]).fetchone()[0]
        assert size < 4_000_000

    def test_each_look_is_on_record_once_an_hour(self, db, supabase_stack, case, mod, admin):
        views = [lambda conn: call(conn, mod.id, "get_moderation_item", item_id=case.item)] * 4
        assert all(isinstance(seen, dict) for seen in together(supabase_stack.database_url, views))
        call(db, admin.id, "get_moderation_item", item_id=case.item)
        seen = [(a["action"], a["moderator"]["id"], a["user"]["id"]) for a in log(db, admin, item_id=case.item)]
        assert seen == [("viewed", admin.id, case.ann.id), ("viewed", mod.id, case.ann.id)]
        with refused(409, "undo_not_possible"):
            undo(db, admin, log(db, admin, item_id=case.item)[0])


class TestDecide:
    def test_dismiss_closes_the_reports_and_changes_nothing_else(self, db, case, mod):
        answer = decide(db, mod, case.item, "dismiss", " fine ")
        assert (answer["item"]["status"], answer["item"]["decision"]) == ("decided", "dismiss")
        assert answer["item"]["decidedAt"]
        action = answer["action"]
        assert (action["action"], action["note"], action["moderator"]["id"]) == ("dismiss", "fine", mod.id)
        assert (action["itemId"], action["user"]["id"], action["messageId"]) == (
            str(case.item), case.ann.id, case.message["id"]
        )  # fmt: skip
        assert (action["undoes"], action["undoneBy"]) == (None, None)
        assert case.scalar("select status from private.reports where item_id = %s", case.item) == "closed"
        assert case.state() == "visible"
        old, new = case.item, case.report()
        assert case.reported["created"] and new != old, "it can be reported anew"

    def test_hide_takes_it_from_everybodys_eyes(self, db, case, mod):
        decide(db, mod, case.item, "hide")
        for person in (case.ann, case.bob):
            assert case.seen_by(person) == [(1, "hidden", None)]
        assert call(db, case.bob.id, "unread_counts")["messages"] == 0
        check_everything(db, [case.ann.id, case.bob.id])

    def test_release_delivers_a_held_message(self, db, case, mod):
        answer = decide(db, mod, case.held(), "release")
        assert answer["item"]["decision"] == "release"
        assert case.seen_by(case.bob) == [(1, "visible", "See you on Friday"), (2, "visible", "Call me")]

    def test_reject_keeps_it_from_ever_arriving(self, db, case, mod):
        decide(db, mod, case.held(), "reject", "No")
        assert case.seen_by(case.bob) == [(1, "visible", "See you on Friday")]
        assert (
            case.scalar("select state from private.pending_messages where message_id = %s", case.held_id) == "rejected"
        )

    def test_what_does_not_fit(self, db, case, mod):
        call(db, case.bob.id, "report_user", user_id=case.ann.id, reason="impersonation")
        person_item = queue(db, mod, kind="user_report", user_id=case.ann.id)[0]["id"]
        for item, decision in (
            (case.item, "release"), (case.item, "reject"), (person_item, "hide"), (person_item, "release"),
            (case.held(), "hide"), (case.held(), "dismiss"),
        ):  # fmt: skip
            with refused(422, "decision_not_possible"):
                decide(db, mod, item, decision)
        assert {i["status"] for i in queue(db, mod, user_id=case.ann.id)} == {"open"}
        assert log(db, mod, user_id=case.ann.id) == []

    @pytest.mark.parametrize("decision", [None, "", "DISMISS", "delete", "withdrawn"])
    def test_decisions_are_given(self, db, case, mod, decision):
        with refused(400, "validation_failed") as said:
            decide(db, mod, case.item, decision)
        assert said["hint"] == "/decision"

    def test_notes_are_bounded(self, db, case, mod):
        with refused(400, "validation_failed") as said:
            decide(db, mod, case.item, "dismiss", "x" * 1001)
        assert said["hint"] == "/note"

    def test_the_same_again_is_the_same(self, db, case, mod, admin):
        for item, decision in ((case.item, "hide"), (case.held(), "release"), (case.held(), "reject")):
            first = decide(db, mod, item, decision, "x")
            assert decide(db, mod, item, decision, "other") == first
            with refused(409, "already_decided"):
                decide(db, admin, item, decision)
            with refused(409, "already_decided"):
                decide(db, mod, item, "dismiss")

    def test_a_deleted_message_cannot_be_hidden(self, db, case, mod):
        call(db, case.ann.id, "delete_message", message_id=case.message["id"])
        with refused(409, "message_deleted"):
            decide(db, mod, case.item, "hide")
        assert decide(db, mod, case.item, "dismiss")["item"]["status"] == "decided"

    def test_withdrawn_by_its_author(self, db, case, mod):
        item = case.held()
        call(db, case.ann.id, "delete_message", message_id=case.held_id)
        with refused(409, "already_decided"):
            decide(db, mod, item, "release")

    def test_what_cannot_be_delivered_stays_held(self, db, case, mod):
        item = case.held()
        sanction(db, mod, case.bob, "suspend")
        with refused(422, "decision_not_possible"):
            decide(db, mod, item, "release")
        assert decide(db, mod, item, "reject")["item"]["decision"] == "reject"


class TestSanctions:
    def test_who_is_muted_cannot_write_and_can_read(self, db, case, mod):
        answer = sanction(db, mod, case.ann, "mute", 60, " Too loud ")
        assert (
            answer["created"] and answer["sanction"]["reason"] == "Too loud" and answer["sanction"]["liftedAt"] is None
        )
        assert answer["action"]["sanctionId"] == answer["sanction"]["id"]
        with refused(403, "account_muted") as said:
            call(db, case.ann.id, "send_message", body="x", conversation_id=case.room)
        assert answer["sanction"]["endsAt"] in said["detail"]
        assert case.seen_by(case.ann)
        assert call(db, case.bob.id, "send_message", body="hi", conversation_id=case.room)["created"]

    def test_who_is_suspended_is_as_good_as_gone(self, db, case, mod):
        sanction(db, mod, case.ann, "suspend", None)
        for function, given in {
            "send_message": {"body": "x", "conversation_id": case.room},
            "delete_message": {"message_id": case.message["id"]},
            "report_user": {"user_id": case.bob.id, "reason": "spam"},
        }.items():
            with refused(403, "account_unavailable"):
                call(db, case.ann.id, function, **given)
        with refused(403, "recipient_unavailable"):
            call(db, case.bob.id, "send_message", body="x", conversation_id=case.room)
        assert call(db, case.bob.id, "get_conversation", conversation_id=case.room)["conversation"]["canSend"] is False

    def test_is_over_when_it_is_lifted(self, db, case, mod):
        given = sanction(db, mod, case.ann, "suspend", None)["sanction"]
        answer = call(db, mod.id, "lift_sanction", sanction_id=given["id"], note="enough")
        assert answer["sanction"]["liftedAt"] and answer["action"]["action"] == "lift"
        assert call(db, case.ann.id, "send_message", body="x", conversation_id=case.room)["created"]
        assert call(db, mod.id, "lift_sanction", sanction_id=given["id"]) == answer

    def test_ends_by_itself(self, db, case, mod, admin):
        given = sanction(db, mod, case.ann)["sanction"]
        db.execute(
            "update private.sanctions set starts_at = starts_at - interval '2 hours', ends_at = ends_at - interval '2 hours'"
            " where id = %s",
            [given["id"]],
        )
        assert call(db, case.ann.id, "send_message", body="x", conversation_id=case.room)["created"]
        for person in (mod, admin):
            with refused(409, "already_decided"):
                call(db, person.id, "lift_sanction", sanction_id=given["id"])
        assert sanction(db, mod, case.ann)["created"]

    def test_one_of_a_kind_is_in_force(self, db, case, mod, admin):
        first = sanction(db, mod, case.ann)
        assert sanction(db, mod, case.ann) == first | {"created": False}
        for person, given in (
            (admin, {}), (mod, {"duration_s": 61}), (mod, {"reason": "other"}), (mod, {"duration_s": None}),
        ):  # fmt: skip
            with refused(409, "already_decided"):
                sanction(db, person, case.ann, **given)
        assert sanction(db, mod, case.ann, "suspend")["created"]

    def test_rank(self, db, case, mod, admin, new_person):
        other, chief = new_person(), new_person()
        appoint(db, other.id)
        appoint(db, chief.id, "admin")
        for who, whom in ((mod, other), (mod, admin), (mod, mod), (admin, admin), (admin, chief)):
            with refused(403, "forbidden"):
                sanction(db, who, whom)
        given = sanction(db, admin, other, "mute")
        with refused(403, "forbidden"):
            call(db, mod.id, "lift_sanction", sanction_id=given["sanction"]["id"])
        with refused(403, "forbidden"):
            call(db, other.id, "lift_sanction", sanction_id=given["sanction"]["id"])
        assert call(db, admin.id, "lift_sanction", sanction_id=given["sanction"]["id"])["sanction"]["liftedAt"]

    @pytest.mark.parametrize(
        ("given", "pointer"),
        [
            ({"kind": "ban"}, "/kind"), ({"kind": None}, "/kind"), ({"duration_s": 0}, "/durationS"),
            ({"duration_s": -5}, "/durationS"), ({"duration_s": 2**31 - 1}, "/durationS"), ({"reason": None}, "/reason"),
            ({"reason": " \n"}, "/reason"), ({"reason": "x" * 1001}, "/reason"),
        ],
    )  # fmt: skip
    def test_bounds(self, db, case, mod, given, pointer):
        with refused(400, "validation_failed") as said:
            sanction(db, mod, case.ann, **given)
        assert said["hint"] == pointer


class TestMessages:
    def test_hidden_and_shown_without_an_item(self, db, case, mod, admin):
        def moderate(person, what, note="x"):
            return call(db, person.id, f"moderate_{what}_message", message_id=case.message["id"], note=note)["action"]

        hidden = moderate(mod, "hide", "Scam")
        assert (hidden["action"], hidden["note"], hidden["itemId"]) == ("hide", "Scam", None)
        assert case.seen_by(case.bob) == [(1, "hidden", None)]
        assert moderate(mod, "hide") == hidden and moderate(admin, "hide") == hidden
        restored = moderate(admin, "restore")
        assert case.seen_by(case.bob) == [(1, "visible", "See you on Friday")]
        assert moderate(mod, "restore") == restored
        assert [a["action"] for a in log(db, mod, user_id=case.ann.id)] == ["restore", "hide"]

    def test_what_the_system_hid_gets_a_name(self, db, case, mod):
        db.execute("select private.hide_message(%s)", [case.message["id"]])
        action = call(db, mod.id, "moderate_hide_message", message_id=case.message["id"], note="Right")["action"]
        assert action["moderator"]["id"] == mod.id and case.state() == "hidden"

    def test_neither_held_nor_deleted_ones_nor_without_a_note(self, db, case, mod):
        case.held()
        for what in ("hide", "restore"):
            for note in (None, "", " \n"):
                with refused(400, "validation_failed") as said:
                    call(db, mod.id, f"moderate_{what}_message", message_id=case.message["id"], note=note)
                assert said["hint"] == "/note"
            with refused(404, "not_found"):
                call(db, mod.id, f"moderate_{what}_message", message_id=case.held_id, note="x")
        call(db, case.ann.id, "delete_message", message_id=case.message["id"])
        for what in ("hide", "restore"):
            with refused(409, "message_deleted"):
                call(db, mod.id, f"moderate_{what}_message", message_id=case.message["id"], note="x")


class TestUndo:
    def test_a_hidden_message_is_shown_and_its_item_open(self, db, case, mod):
        hidden = decide(db, mod, case.item, "hide")["action"]
        undone = undo(db, mod, hidden, "my mistake")
        assert (undone["action"], undone["undoes"], undone["note"]) == ("restore", hidden["id"], "my mistake")
        assert undone["details"] == {"reopened": True}
        assert case.seen_by(case.bob) == [(1, "visible", "See you on Friday")]
        assert call(db, case.bob.id, "unread_counts")["messages"] == 1
        assert [i["id"] for i in queue(db, mod, user_id=case.ann.id)] == [str(case.item)]
        assert case.scalar("select status from private.reports where item_id = %s", case.item) == "open"
        assert case.report() == case.item and case.reported["created"] is False
        assert decide(db, mod, case.item, "dismiss")["item"]["decision"] == "dismiss"
        check_everything(db, [case.ann.id, case.bob.id])

    def test_a_dismissal_opens_the_item_again(self, db, case, mod):
        undone = undo(db, mod, decide(db, mod, case.item, "dismiss")["action"])
        assert undone["action"] == "reopen"
        assert [i["id"] for i in queue(db, mod, user_id=case.ann.id)] == [str(case.item)]

    def test_a_rejected_message_waits_again(self, db, case, mod):
        item = case.held()
        undo(db, mod, decide(db, mod, item, "reject")["action"])
        decide(db, mod, item, "release")
        assert case.seen_by(case.bob)[1] == (2, "visible", "Call me")

    def test_a_sanction_is_lifted(self, db, case, mod):
        for kind in ("mute", "suspend"):
            given = sanction(db, mod, case.ann, kind)
            undone = undo(db, mod, given["action"])
            assert (undone["action"], undone["sanctionId"]) == ("lift", given["sanction"]["id"])
        assert call(db, case.ann.id, "send_message", body="x", conversation_id=case.room)["created"]

    def test_a_lifted_one_comes_back_for_the_time_it_had_left(self, db, case, mod):
        given = sanction(db, mod, case.ann, "mute", 3600)["sanction"]
        db.execute(
            "update private.sanctions set starts_at = starts_at - interval '50 min', ends_at = ends_at - interval '50 min'"
            " where id = %s",
            [given["id"]],
        )
        lifted = call(db, mod.id, "lift_sanction", sanction_id=given["id"])["action"]
        undone = undo(db, mod, lifted)
        assert undone["action"] == "mute" and undone["sanctionId"] != given["id"]
        left = case.scalar(
            "select extract(epoch from ends_at - clock_timestamp()) from private.sanctions where id = %s",
            undone["sanctionId"],
        )
        assert 590 < left <= 600
        with refused(403, "account_muted"):
            call(db, case.ann.id, "send_message", body="x", conversation_id=case.room)

    def test_without_an_end_it_comes_back_without_one(self, db, case, mod):
        given = sanction(db, mod, case.ann, "suspend", None)["sanction"]
        undo(db, mod, call(db, mod.id, "lift_sanction", sanction_id=given["id"])["action"])
        with refused(403, "account_unavailable"):
            call(db, case.ann.id, "send_message", body="x", conversation_id=case.room)

    def test_a_restored_message_is_hidden_again(self, db, case, mod):
        call(db, mod.id, "moderate_hide_message", message_id=case.message["id"], note="x")
        restored = call(db, mod.id, "moderate_restore_message", message_id=case.message["id"], note="x")["action"]
        assert undo(db, mod, restored)["action"] == "hide" and case.state() == "hidden"

    def test_once(self, db, case, mod, admin):
        given = sanction(db, mod, case.ann)["action"]
        undone = undo(db, mod, given)
        assert undo(db, mod, given, "again") == undone
        with refused(409, "undo_not_possible"):
            undo(db, admin, given)
        assert log(db, mod, user_id=case.ann.id)[1]["undoneBy"] == undone["id"]
        with refused(409, "undo_not_possible"):
            undo(db, mod, undone)

    def test_not_a_release(self, db, case, mod):
        released = decide(db, mod, case.held(), "release")["action"]
        with refused(409, "undo_not_possible") as said:
            undo(db, mod, released)
        assert "hide it" in said["detail"]

    def test_ones_own_or_as_admin_anybodys(self, db, case, mod, admin, new_person):
        other = new_person()
        appoint(db, other.id)
        hidden = decide(db, mod, case.item, "hide")["action"]
        with refused(403, "forbidden"):
            undo(db, other, hidden)
        assert undo(db, admin, hidden)["moderator"]["id"] == admin.id

    def test_nothing_that_is_no_longer_as_it_was_left(self, db, case, mod):
        hidden = decide(db, mod, case.item, "hide")["action"]
        call(db, mod.id, "moderate_restore_message", message_id=case.message["id"], note="x")
        given = sanction(db, mod, case.ann)
        call(db, mod.id, "lift_sanction", sanction_id=given["sanction"]["id"])
        again = sanction(db, mod, case.ann)
        lifted = next(a for a in log(db, mod, user_id=case.ann.id) if a["action"] == "lift")
        rejected = decide(db, mod, case.held(), "reject")["action"]
        call(db, case.ann.id, "delete_message", message_id=case.held_id)
        for action in (hidden, given["action"], lifted, rejected):
            with refused(409, "undo_not_possible"):
                undo(db, mod, action)
        assert call(db, mod.id, "lift_sanction", sanction_id=again["sanction"]["id"])

    def test_a_newer_open_item_stands_in_for_the_old_one(self, db, case, mod):
        dismissed = decide(db, mod, case.item, "dismiss")["action"]
        newer = case.report()
        with refused(409, "undo_not_possible"):
            undo(db, mod, dismissed)
        hidden = decide(db, mod, newer, "hide")["action"]
        newest = case.report()
        assert undo(db, mod, hidden)["details"] == {"reopened": False}
        assert case.state() == "visible"
        assert [i["id"] for i in queue(db, mod, user_id=case.ann.id)] == [str(newest)]


class TestAuditLog:
    def test_newest_first_by_person_and_item(self, db, case, mod):
        sanction(db, mod, case.ann)
        decide(db, mod, case.item, "dismiss")
        call(db, mod.id, "get_moderation_item", item_id=case.item)
        assert [a["action"] for a in log(db, mod, user_id=case.ann.id)] == ["viewed", "dismiss", "mute"]
        assert [a["action"] for a in log(db, mod, item_id=case.item)] == ["viewed", "dismiss"]
        assert log(db, mod, item_id=case.item, user_id=case.bob.id) == []
        assert [a["action"] for a in log(db, mod, limit=3)] == ["viewed", "dismiss", "mute"]
        first = call(db, mod.id, "list_moderation_actions", user_id=case.ann.id, limit=2)
        rest = call(db, mod.id, "list_moderation_actions", user_id=case.ann.id, limit=2, cursor=first["nextCursor"])
        assert [a["action"] for a in first["actions"] + rest["actions"]] == ["viewed", "dismiss", "mute"]
        assert rest["nextCursor"] is None
        for asked, code in (({"limit": 0}, "validation_failed"), ({"cursor": "x"}, "cursor_invalid")):
            with refused(400, code):
                call(db, mod.id, "list_moderation_actions", **asked)

    @pytest.mark.parametrize(
        "change",
        [
            "update private.moderation_actions set note = 'x'",
            "update private.moderation_actions set id = id where false or id is not null",
            "delete from private.moderation_actions",
            "truncate private.moderation_actions",
            "with t as (delete from private.moderation_actions returning 1) select * from t",
            "insert into private.moderation_actions (id, action) select id, action from private.moderation_actions"
            " on conflict (id) do update set note = 'x'",
            "merge into private.moderation_actions as a using (values (1)) as v on true when matched then delete",
        ],
    )
    def test_nobody_changes_it_not_even_its_owner(self, db, case, mod, change):
        decide(db, mod, case.item, "dismiss")
        before = db.execute("select * from private.moderation_actions order by id").fetchall()
        assert db.execute("select current_user").fetchone() == ("postgres",)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            db.execute(change)
        assert db.execute("select * from private.moderation_actions order by id").fetchall() == before

    def test_what_is_refused_leaves_no_line(self, db, case, mod):
        with refused(422, "decision_not_possible"):
            decide(db, mod, case.item, "release")
        assert log(db, mod, user_id=case.ann.id) == []


class TestTogether:
    def test_of_many_decisions_exactly_one_is_made(self, db, supabase_stack, case, new_person):
        moderators = [new_person() for _ in range(6)]
        for moderator in moderators:
            appoint(db, moderator.id)
        held = case.held()
        for item, decisions in ((case.item, ("hide", "dismiss")), (held, ("release", "reject"))):
            jobs = [
                lambda conn, m=m, d=decisions[n % 2], i=item: decide(conn, m, i, d) for n, m in enumerate(moderators)
            ]  # fmt: skip
            answers = together(supabase_stack.database_url, jobs)
            made = [a for a in answers if isinstance(a, dict)]
            assert len(made) == 1
            lost = {(a.diag.sqlstate, a.diag.message_primary) for a in answers if not isinstance(a, dict)}
            assert lost == {("PT409", "already_decided")}
            assert [a["id"] for a in log(db, moderators[0], item_id=item)] == [made[0]["action"]["id"]]
        check_everything(db, [case.ann.id, case.bob.id])

    def test_the_row_of_the_queue_is_locked_last(self, db, supabase_stack, case, mod):
        """Whoever holds the conversation, like the classifier, may still join the item that is being decided."""
        with psycopg.connect(supabase_stack.database_url) as other, ThreadPoolExecutor(1) as pool:
            other.execute("select 1 from public.conversations where id = %s for no key update", [case.room])
            with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                deciding = pool.submit(decide, conn, mod, case.item, "hide")
                until = time.monotonic() + 30
                while not db.execute(
                    "select cardinality(pg_blocking_pids(%s)) > 0", [conn.info.backend_pid]
                ).fetchone()[0]:  # fmt: skip
                    assert time.monotonic() < until and not deciding.done()
                joined = other.execute(
                    "select private.open_item('message_report', %s, %s, %s, '{}')",
                    [case.ann.id, case.room, case.message["id"]],
                ).fetchone()[0]
                other.commit()
                assert joined == case.item
                assert deciding.result(30)["item"]["decision"] == "hide"

    def test_one_sanction_one_lift_one_undo(self, db, supabase_stack, case, mod):
        url = supabase_stack.database_url
        made = together(url, [lambda conn: sanction(conn, mod, case.ann)] * 6)
        assert sorted(a["created"] for a in made) == [False] * 5 + [True]
        given = made[0]
        undone = together(url, [lambda conn: undo(conn, mod, given["action"])] * 6)
        assert len({a["id"] for a in undone}) == 1
        again = sanction(db, mod, case.ann)["sanction"]
        lifted = together(url, [lambda conn: call(conn, mod.id, "lift_sanction", sanction_id=again["id"])] * 6)
        assert len({a["action"]["id"] for a in lifted}) == 1

    @pytest.mark.timeout(120)
    def test_no_deadlock_whatever_happens_at_once(self, db, supabase_stack, new_person):
        """Reports, decisions, undo, sends, edits and deletions about the same messages; only honest refusals."""
        people = [new_person() for _ in range(4)]
        moderators = [new_person() for _ in range(3)]
        for moderator in moderators:
            appoint(db, moderator.id, "admin")
        room = make_group(db, [p.id for p in people])
        for person in people:
            call(db, person.id, "send_message", body="hello", conversation_id=room)
        db.execute("update private.settings set report_count_max = 500")

        def work(conn, seed):
            chance, said = random.Random(seed), Counter()
            for step in range(60):
                me, boss = chance.choice(people), chance.choice(moderators)
                what = chance.random()
                try:
                    newest = call(conn, me.id, "list_messages", conversation_id=room, limit=5)["messages"]
                    message = chance.choice(newest)
                    if what < 0.15:
                        call(conn, me.id, "send_message", body=f"{seed} {step}", conversation_id=room)
                    elif what < 0.25:
                        call(conn, me.id, "edit_message", message_id=message["id"], body=f"{seed} {step}")
                    elif what < 0.3:
                        call(conn, me.id, "delete_message", message_id=message["id"])
                    elif what < 0.37:
                        hold(conn, room, me.id, "held")
                    elif what < 0.42:
                        waiting = conn.execute(
                            "select message_id, from_user_id from private.pending_messages where conversation_id = %s",
                            [room],
                        ).fetchall()
                        held, author = chance.choice(waiting)
                        call(conn, author, "delete_message", message_id=held)
                    elif what < 0.65:
                        call(conn, me.id, "report_message", message_id=message["id"], reason="spam")
                    elif what < 0.9:
                        items = call(conn, boss.id, "list_moderation_queue", limit=100)["items"]
                        items = [i for i in items if i["user"]["id"] in {p.id for p in people}]
                        item = chance.choice(items)
                        fitting = ("release", "reject") if item["kind"] == "held" else ("hide", "dismiss")
                        decide(conn, boss, item["id"], chance.choice(fitting))
                    else:
                        actions = call(
                            conn, boss.id, "list_moderation_actions", user_id=chance.choice(people).id, limit=100
                        )["actions"]
                        undo(conn, boss, chance.choice([a for a in actions if a["undoneBy"] is None][:5]))
                    said["done"] += 1
                except IndexError:
                    said["nothing to do"] += 1
                except psycopg.Error as error:
                    said[error.diag.sqlstate, error.diag.message_primary] += 1
            return said

        try:
            said = sum(
                together(supabase_stack.database_url, [lambda conn, s=s: work(conn, s) for s in range(6)]), Counter()
            )
        finally:
            db.execute("update private.settings set report_count_max = 20")
        honest = {
            "forbidden", "not_found", "message_deleted", "already_decided", "undo_not_possible", "rate_limited"
        }  # fmt: skip
        assert {what[1] for what in said if isinstance(what, tuple)} <= honest, said
        assert said["done"] > 150, said
        check_everything(db, [p.id for p in people])
        assert db.execute(
            "select count(*) from private.reports as r inner join private.moderation_items as i on r.item_id = i.id"
            " where r.status <> case i.status when 'open' then 'open' else 'closed' end"
        ).fetchone() == (0,), "reports are open exactly as long as their item"
