"""list_conversations and get_conversation: order, bounds, ranges, and what others look like."""

import uuid

import pytest

from tests.sql.rpc import call, refused


class TestListConversations:
    def test_newest_activity_first_pinned_before(self, db, new_person):
        me = new_person()
        others = [new_person() for _ in range(4)]
        rooms = [call(db, o.id, "send_message", body="x", to_user_id=me.id)["conversation"]["id"] for o in others]
        call(db, me.id, "send_message", body="up", conversation_id=rooms[0])
        db.execute(
            "update public.conversation_members set pinned_at = now() where user_id = %s and conversation_id = %s",
            [me.id, rooms[1]],
        )
        assert ids(call(db, me.id, "list_conversations")) == [rooms[1], rooms[0], rooms[3], rooms[2]]
        page = call(db, me.id, "list_conversations", limit=2, offset=1)
        assert ids(page) == [rooms[0], rooms[3]] and page["total"] == 4
        assert call(db, me.id, "list_conversations", offset=4)["conversations"] == []

    def test_nobody_yet(self, db, new_person):
        assert call(db, new_person().id, "list_conversations") == {"conversations": [], "total": 0}

    def test_left_and_archived_ones_are_not_listed_until_a_new_message(self, db, new_person):
        me, ann, bob = new_person(), new_person(), new_person()
        left = call(db, ann.id, "send_message", body="x", to_user_id=me.id)["conversation"]["id"]
        archived = call(db, bob.id, "send_message", body="x", to_user_id=me.id)["conversation"]["id"]
        change = "update public.conversation_members set {} = now() where user_id = %s and conversation_id = %s"
        db.execute(change.format("left_at"), [me.id, left])
        db.execute(change.format("archived_at"), [me.id, archived])
        assert call(db, me.id, "list_conversations") == {"conversations": [], "total": 0}
        call(db, bob.id, "send_message", body="y", to_user_id=me.id)
        assert ids(call(db, me.id, "list_conversations")) == [archived]
        db.execute(
            "update public.conversation_members set archived_at = now(), muted_until = now() + interval '1 day' "
            "where user_id = %s and conversation_id = %s",
            [me.id, archived],
        )
        call(db, bob.id, "send_message", body="z", to_user_id=me.id)
        assert call(db, me.id, "list_conversations")["total"] == 0

    @pytest.mark.parametrize(
        ("params", "pointer"),
        [({"limit": 0}, "/limit"), ({"limit": 101}, "/limit"), ({"limit": None}, "/limit"),
         ({"offset": -1}, "/offset"), ({"offset": 1_000_001}, "/offset"), ({"offset": None}, "/offset")],
    )  # fmt: skip
    def test_bounds(self, db, new_person, params, pointer):
        with refused(400, "validation_failed") as said:
            call(db, new_person().id, "list_conversations", **params)
        assert said["hint"] == pointer


class TestGetConversation:
    def test_newest_page_ascending(self, db, new_person):
        ann, bob = new_person("Ann"), new_person("Bob")
        for number in range(31):
            sent = call(
                db, (ann, bob)[number % 2].id, "send_message", body=str(number), to_user_id=(bob, ann)[number % 2].id
            )
        there = sent["conversation"]["id"]
        shown = call(db, ann.id, "get_conversation", conversation_id=there)["conversation"]
        assert [m["seq"] for m in shown["messages"]] == list(range(2, 32))
        assert shown["hasMore"] is True and shown["pending"] == []
        assert shown["messages"][-1] == shown["lastMessage"]
        assert {(m["sender"]["displayName"], m["fromUserId"]) for m in shown["messages"]} == {
            ("Ann", ann.id),
            ("Bob", bob.id),
        }
        assert {r["userId"] for r in shown["receipts"]} == {ann.id, bob.id}
        listed = call(db, ann.id, "list_conversations")["conversations"][0]
        assert listed == {k: v for k, v in shown.items() if k not in ("messages", "receipts", "hasMore", "pending")}

    def test_whole_conversation_has_no_more(self, db, new_person):
        ann, bob = new_person(), new_person()
        sent = call(db, ann.id, "send_message", body="only", to_user_id=bob.id)
        shown = call(db, bob.id, "get_conversation", conversation_id=sent["conversation"]["id"])["conversation"]
        assert shown["hasMore"] is False and len(shown["messages"]) == 1

    def test_begins_where_the_reader_may_begin(self, db, new_person):
        ann, bob = new_person(), new_person()
        for number in range(3):
            there = call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)["conversation"]["id"]
        db.execute("update public.conversation_members set visible_from_seq = 3 where user_id = %s", [bob.id])
        shown = call(db, bob.id, "get_conversation", conversation_id=there)["conversation"]
        assert ([m["seq"] for m in shown["messages"]], shown["firstSeq"], shown["hasMore"]) == ([3], 3, False)
        db.execute("update public.conversation_members set visible_from_seq = 4 where user_id = %s", [bob.id])
        shown = call(db, bob.id, "get_conversation", conversation_id=there)["conversation"]
        assert (shown["messages"], shown["lastMessage"], shown["hasMore"]) == ([], None, False)
        with refused(404, "not_found"):
            call(
                db,
                bob.id,
                "mark_read",
                message_id=call(db, ann.id, "list_conversations")["conversations"][0]["lastMessage"]["id"],
            )

    def test_fallback_for_a_missing_profile(self, db, new_person):
        ann, bob = new_person("Ann"), new_person("Bob")
        there = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"]
        db.execute("delete from public.profiles where user_id = %s", [ann.id])
        shown = call(db, bob.id, "get_conversation", conversation_id=there)["conversation"]
        card = {"id": ann.id, "displayName": "Member", "avatarUrl": None, "isFallback": True}
        assert shown["messages"][0]["sender"] == card and card in shown["members"]

    def test_foreign_imaginary_and_former_look_alike(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        there = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"]
        db.execute("update public.conversation_members set left_at = now() where user_id = %s", [bob.id])
        said = []
        for person, target in ((eve, there), (eve, str(uuid.uuid4())), (bob, there), (eve, None)):
            with refused(404, "not_found") as one:
                call(db, person.id, "get_conversation", conversation_id=target)
            said.append(one)
        assert all(one == said[0] for one in said)


def ids(page):
    return [conversation["id"] for conversation in page["conversations"]]
