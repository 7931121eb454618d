"""update_conversation: one's own arrangement is one's own; a title is everybody's."""

import uuid

import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import call, make_group, refused, state


def update(db, person, there, **changes):
    return call(db, person.id, "update_conversation", conversation_id=there, changes=Jsonb(changes))["conversation"]


@pytest.fixture
def talk(db, new_person):
    ann, bob = new_person(), new_person()
    there = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"]
    return ann, bob, there


class TestOwnArrangement:
    def test_each_can_be_set_and_taken_back_and_nobody_else_sees_it(self, db, talk):
        ann, bob, there = talk
        before = call(db, ann.id, "list_inbox")["conversations"]
        shown = update(db, bob, there, archived=True, pinned=True, markedUnread=True, mutedUntil="2999-01-01T00:00:00Z")
        assert shown["archivedAt"] and shown["pinnedAt"] and shown["markedUnread"]
        assert shown["mutedUntil"] == "2999-01-01T00:00:00.000000Z"
        assert call(db, ann.id, "list_inbox")["conversations"] == before
        again = update(db, bob, there, archived=True, pinned=True)
        assert (again["archivedAt"], again["pinnedAt"]) == (shown["archivedAt"], shown["pinnedAt"])
        shown = update(db, bob, there, archived=False, pinned=False, markedUnread=False, mutedUntil=None)
        assert (shown["archivedAt"], shown["pinnedAt"], shown["markedUnread"], shown["mutedUntil"]) == (
            None,
            None,
            False,
            None,
        )

    def test_what_is_not_named_stays(self, db, talk):
        _, bob, there = talk
        pinned = update(db, bob, there, pinned=True)["pinnedAt"]
        shown = update(db, bob, there, mutedUntil="2999-01-01T12:00:00+02:00")
        assert shown["pinnedAt"] == pinned and shown["mutedUntil"] == "2999-01-01T10:00:00.000000Z"
        assert update(db, bob, there)["pinnedAt"] == pinned

    def test_a_time_that_has_passed_unmutes(self, db, talk):
        _, bob, there = talk
        assert update(db, bob, there, mutedUntil="2001-01-01T00:00:00Z")["mutedUntil"] is None

    def test_a_new_message_unarchives_unless_muted(self, db, talk):
        ann, bob, there = talk
        update(db, bob, there, archived=True)
        call(db, ann.id, "send_message", body="y", to_user_id=bob.id)
        assert call(db, bob.id, "list_inbox")["conversations"][0]["archivedAt"] is None
        update(db, bob, there, archived=True, mutedUntil="2999-01-01T00:00:00Z")
        call(db, ann.id, "send_message", body="z", to_user_id=bob.id)
        assert call(db, bob.id, "list_inbox")["conversations"] == []
        archived = call(db, bob.id, "list_inbox", archived=True)["conversations"]
        assert [(one["id"], one["unreadCount"]) for one in archived] == [(there, 3)]

    def test_own_message_unarchives_too(self, db, talk):
        _, bob, there = talk
        update(db, bob, there, archived=True)
        assert call(db, bob.id, "send_message", body="y", conversation_id=there)["conversation"]["archivedAt"] is None

    def test_reading_clears_the_mark(self, db, talk):
        _, bob, there = talk
        call(db, bob.id, "mark_all_read", conversation_id=there)
        update(db, bob, there, markedUnread=True)
        assert call(db, bob.id, "unread_counts") == {"messages": 0, "conversations": 1}
        call(db, bob.id, "mark_all_read", conversation_id=there)
        assert call(db, bob.id, "unread_counts") == {"messages": 0, "conversations": 0}

    def test_moves_only_the_own_head(self, db, talk):
        ann, bob, there = talk
        heads = "select user_id::text, position from private.heads where user_id = any(%s::uuid[])"
        before = dict(db.execute(heads, [[ann.id, bob.id]]).fetchall())
        update(db, bob, there, pinned=True)
        after = dict(db.execute(heads, [[ann.id, bob.id]]).fetchall())
        assert after[ann.id] == before[ann.id] and after[bob.id] > before[bob.id]

    def test_a_repeat_changes_nothing(self, db, talk):
        ann, bob, there = talk
        update(db, bob, there, archived=True, pinned=True, markedUnread=True, mutedUntil="2999-01-01T00:00:00Z")
        before = state(db, there, ann.id, bob.id)
        update(db, bob, there, archived=True, pinned=True, markedUnread=True, mutedUntil="2999-01-01T00:00:00Z")
        update(db, bob, there)
        update(db, ann, there, archived=False, mutedUntil=None)
        assert state(db, there, ann.id, bob.id) == before


class TestTitle:
    def test_owner_and_admin_may_member_may_not(self, db, new_person):
        owner, admin, member = (new_person() for _ in range(3))
        there = make_group(db, [owner.id, admin.id, member.id])
        db.execute(
            "update public.conversation_members set role = case user_id when %s then 'owner' when %s then 'admin' else 'member' end "
            "where conversation_id = %s",
            [owner.id, admin.id, there],
        )
        assert update(db, owner, there, title=" New\n title ")["title"] == "New title"
        assert update(db, admin, there, title="Admin's")["eventSeq"] > 0
        before = state(db, there, owner.id)
        update(db, owner, there, title="Admin's")
        assert state(db, there, owner.id) == before
        with refused(403, "forbidden"):
            update(db, member, there, title="Mine")
        assert call(db, member.id, "list_inbox")["conversations"][0]["title"] == "Admin's"

    def test_direct_conversations_have_none(self, db, talk):
        ann, _, there = talk
        with refused(422, "not_a_group"):
            update(db, ann, there, title="Us")


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"archived": "yes"}, "/archived"),
            ({"archived": None}, "/archived"),
            ({"pinned": 1}, "/pinned"),
            ({"markedUnread": []}, "/markedUnread"),
            ({"mutedUntil": "tomorrow"}, "/mutedUntil"),
            ({"mutedUntil": "infinity"}, "/mutedUntil"),
            ({"mutedUntil": 5}, "/mutedUntil"),
            ({"mutedUntil": "2999-13-45T99:99:99Z"}, "/mutedUntil"),
            ({"mutedUntil": "9999-12-31T23:59:59-14:00"}, "/mutedUntil"),
            ({"mutedUntil": "2999-01-01T00:00:00+99:99"}, "/mutedUntil"),
            ({"title": "  "}, "/title"),
            ({"title": "x" * 121}, "/title"),
            ({"unread_count": 0}, "/unread_count"),
            ({"a/b\u202e": 1}, "/ab"),
        ],
    )
    def test_shape(self, db, talk, changes, pointer):
        ann, _, there = talk
        with refused(400, "validation_failed") as said:
            update(db, ann, there, **changes)
        assert said["hint"] == pointer

    @pytest.mark.parametrize("changes", [[], "text", 1, None, [{"pinned": True}]])
    def test_not_an_object(self, db, talk, changes):
        ann, _, there = talk
        with refused(400, "validation_failed"):
            call(db, ann.id, "update_conversation", conversation_id=there, changes=Jsonb(changes))

    def test_foreign_and_imaginary_look_alike(self, db, talk, new_person):
        _, _, there = talk
        said = []
        for target in (there, str(uuid.uuid4())):
            with refused(404, "not_found") as one:
                update(db, new_person(), target, pinned=True)
            said.append(one)
        assert said[0] == said[1]
