"""edit_message, delete_message, message_history: only authors change, readers see what was, tombstones keep their place."""

import uuid

import pytest

from tests.sql.rpc import call, make_group, refused, state


def edit(db, person, message, body):
    return call(db, person.id, "edit_message", message_id=message["id"], body=body)["message"]


def delete(db, person, message):
    return call(db, person.id, "delete_message", message_id=message["id"])["message"]


def versions(db, person, message):
    return call(db, person.id, "message_history", message_id=message["id"])["versions"]


@pytest.fixture
def talk(db, new_person):
    ann, bob = new_person(), new_person()
    key = uuid.uuid4()
    sent = call(db, ann.id, "send_message", body="one", to_user_id=bob.id, client_message_id=key)
    return ann, bob, sent["message"], key


class TestEdit:
    def test_replaces_the_text_and_keeps_what_was(self, db, talk):
        ann, bob, message, _ = talk
        edited = edit(db, ann, message, " two ")
        assert edited["body"] == "two" and edited["editedAt"] > message["createdAt"]
        assert edited["eventSeq"] > message["eventSeq"]
        unchanged = {"id", "seq", "createdAt", "clientMessageId", "state", "deletedAt", "status"}
        assert {k: edited[k] for k in unchanged} == {k: message[k] for k in unchanged}
        edit(db, ann, message, "three")
        seen = versions(db, bob, message)
        assert [(v["version"], v["body"]) for v in seen] == [(1, "one"), (2, "two"), (3, "three")]
        assert seen[0]["createdAt"] == message["createdAt"] and seen[1]["createdAt"] == edited["editedAt"]
        assert call(db, bob.id, "list_inbox")["conversations"][0]["lastMessage"]["body"] == "three"

    def test_never_edited_has_one_version(self, db, talk):
        _, bob, message, _ = talk
        assert versions(db, bob, message) == [{"version": 1, "body": "one", "createdAt": message["createdAt"]}]

    def test_the_same_text_changes_nothing(self, db, talk):
        ann, bob, message, _ = talk
        before = state(db, message["conversationId"], ann.id, bob.id)
        assert edit(db, ann, message, "one ") == message
        assert state(db, message["conversationId"], ann.id, bob.id) == before

    def test_does_not_count_as_unread_again(self, db, talk):
        ann, bob, message, _ = talk
        call(db, bob.id, "mark_read", message_id=message["id"])
        edit(db, ann, message, "two")
        assert call(db, bob.id, "unread_counts")["messages"] == 0

    def test_the_window_is_a_setting(self, db, talk):
        ann, _, message, _ = talk
        db.execute(
            "update public.messages set created_at = created_at - interval '25 hours' where id = %s", [message["id"]]
        )
        with refused(422, "edit_window_closed"):
            edit(db, ann, message, "late")
        assert edit(db, ann, message, "one")["body"] == "one", "a retry of what is there already is answered"
        db.execute("update private.settings set edit_window_s = null")
        try:
            assert edit(db, ann, message, "no end")["body"] == "no end"
            db.execute("update private.settings set edit_window_s = 0")
            with refused(422, "edit_window_closed"):
                edit(db, ann, message, "never")
        finally:
            db.execute("update private.settings set edit_window_s = 86400")

    def test_pace_and_length_of_history(self, db, talk):
        ann, bob, message, _ = talk
        for number in range(30):
            edit(db, ann, message, str(number))
        with refused(429, "rate_limited"):
            edit(db, ann, message, "one too many")
        db.execute("update private.settings set edit_count_max = 500")
        for number in range(100):
            edit(db, ann, message, f"more {number}")
        db.execute("update private.settings set edit_count_max = 30")
        seen = versions(db, bob, message)
        assert [v["version"] for v in seen] == list(range(32, 132)) and seen[-1]["body"] == "more 99"

    @pytest.mark.parametrize("body", [None, " ", "x" * 4001])
    def test_text_rules(self, db, talk, body):
        ann, _, message, _ = talk
        with refused(400, "validation_failed") as said:
            edit(db, ann, message, body)
        assert said["hint"] == "/body"

    def test_a_banned_author_may_not(self, db, talk):
        ann, _, message, _ = talk
        db.execute("update auth.users set banned_until = now() + interval '1 day' where id = %s", [ann.id])
        with refused(403, "account_unavailable"):
            edit(db, ann, message, "two")


class TestDelete:
    def test_leaves_a_tombstone(self, db, talk):
        ann, bob, message, key = talk
        edit(db, ann, message, "two")
        gone = delete(db, ann, message)
        assert (gone["body"], gone["state"], gone["seq"]) == (None, "deleted", 1) and gone["deletedAt"]
        assert versions(db, bob, message) == [] == versions(db, ann, message)
        shown = call(db, bob.id, "list_inbox")["conversations"][0]
        assert shown["lastMessage"] == gone and shown["lastSeq"] == 1
        kept = db.execute(
            "select body from private.message_versions where message_id = %s order by version", [message["id"]]
        ).fetchall()
        assert kept == [("one",), ("two",)]
        again = call(db, ann.id, "send_message", body="one", to_user_id=bob.id, client_message_id=key)
        assert again["created"] is False and again["message"] == gone

    def test_a_repeat_changes_nothing(self, db, talk):
        ann, bob, message, _ = talk
        gone = delete(db, ann, message)
        before = state(db, message["conversationId"], ann.id, bob.id)
        assert delete(db, ann, message) == gone
        assert state(db, message["conversationId"], ann.id, bob.id) == before
        with refused(409, "message_deleted"):
            edit(db, ann, message, "back")

    def test_unread_is_right_afterwards(self, db, new_person):
        people = [new_person() for _ in range(3)]
        there = make_group(db, [p.id for p in people])
        sent = [call(db, people[0].id, "send_message", body=str(n), conversation_id=there)["message"] for n in range(4)]
        call(db, people[1].id, "mark_read", message_id=sent[1]["id"])
        db.execute(
            "update public.conversation_members set visible_from_seq = 4, unread_count = 1 where user_id = %s",
            [people[2].id],
        )
        for gone in (sent[0], sent[2]):
            delete(db, people[0], gone)
        counts = [call(db, p.id, "unread_counts")["messages"] for p in people]
        assert counts == [0, 1, 1]
        call(db, people[1].id, "mark_all_read", conversation_id=there, up_to_seq=2)
        assert call(db, people[1].id, "unread_counts")["messages"] == 1


class TestWho:
    @pytest.mark.parametrize("change", [lambda db, p, m: edit(db, p, m, "x"), delete])
    def test_only_the_author(self, db, talk, new_person, change):
        ann, bob, message, _ = talk
        with refused(403, "forbidden"):
            change(db, bob, message)
        said = []
        for target in (message, {"id": str(uuid.uuid4())}):
            with refused(404, "not_found") as one:
                change(db, new_person(), target)
            said.append(one)
        assert said[0] == said[1]
        db.execute("update public.conversation_members set left_at = now() where user_id = %s", [ann.id])
        with refused(404, "not_found"):
            change(db, ann, message)

    def test_history_is_for_members_in_range(self, db, talk, new_person):
        _, bob, message, _ = talk
        said = []
        for target in (message, {"id": str(uuid.uuid4())}):
            with refused(404, "not_found") as one:
                versions(db, new_person(), target)
            said.append(one)
        assert said[0] == said[1]
        db.execute("update public.conversation_members set visible_from_seq = 2 where user_id = %s", [bob.id])
        with refused(404, "not_found"):
            versions(db, bob, message)
