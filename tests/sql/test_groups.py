"""Groups: who may make them, enter, rule, leave; and what each then sees."""

import threading
import uuid

import psycopg
import pytest

from tests.sql.rpc import call, refused, state


def create(db, owner, *members, title="Crew", **more):
    ids = [member.id for member in members]
    return call(db, owner.id, "create_group", title=title, member_ids=ids, **more)


def roles(db, person, there):
    return {m["id"]: m["role"] for m in call(db, person.id, "list_members", conversation_id=there)["members"]}


def add(db, me, there, *people, **more):
    return call(db, me.id, "add_members", conversation_id=there, user_ids=[p.id for p in people], **more)


def remove(db, me, there, person):
    return call(db, me.id, "remove_member", conversation_id=there, user_id=person.id)


def say(db, me, there, body="x"):
    return call(db, me.id, "send_message", body=body, conversation_id=there)


@pytest.fixture
def group(db, new_person):
    """An owner, an admin and two members."""
    people = [new_person(name) for name in ("Owner", "Admin", "Member", "Other")]
    there = create(db, *people)["conversation"]["id"]
    add(db, people[0], there, people[1], role="admin")
    return there, *people


class TestCreate:
    def test_the_maker_owns_it(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        made = create(db, ann, bob, eve, bob, ann, title=" The\ncrew ", gig_id=uuid.UUID(int=9))
        shown = made["conversation"]
        assert made["created"] and (shown["kind"], shown["title"], shown["myRole"]) == ("group", "The crew", "owner")
        assert (shown["memberCount"], shown["gigId"]) == (3, str(uuid.UUID(int=9)))
        assert (shown["lastSeq"], shown["firstSeq"], shown["lastMessage"], shown["unreadCount"]) == (0, 1, None, 0)
        assert roles(db, bob, shown["id"]) == {ann.id: "owner", bob.id: "member", eve.id: "member"}
        assert call(db, eve.id, "list_inbox")["conversations"][0]["id"] == shown["id"]
        assert say(db, eve, shown["id"])["message"]["seq"] == 1

    def test_a_retry_is_the_same_group(self, db, new_person):
        ann, bob = new_person(), new_person()
        key = uuid.uuid4()
        first = create(db, ann, bob, client_group_id=key)
        before = state(db, first["conversation"]["id"], ann.id, bob.id)
        again = create(db, ann, bob, title="  Crew ", client_group_id=key)
        assert again == {"conversation": first["conversation"], "created": False}
        assert state(db, first["conversation"]["id"], ann.id, bob.id) == before
        with refused(409, "idempotency_conflict"):
            create(db, ann, client_group_id=key)
        remove(db, ann, first["conversation"]["id"], ann)
        with refused(404, "not_found"):
            create(db, ann, bob, client_group_id=key)

    def test_one_key_at_the_same_instant(self, supabase_stack, new_person):
        ann, bob = new_person(), new_person()
        key, answers = uuid.uuid4(), []

        def make():
            with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                answers.append(create(conn, ann, bob, client_group_id=key))

        threads = [threading.Thread(target=make) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len({a["conversation"]["id"] for a in answers}) == 1 and sum(a["created"] for a in answers) == 1

    @pytest.mark.parametrize("title", [None, "", " \n", "x" * 121])
    def test_title(self, db, new_person, title):
        with refused(400, "validation_failed") as said:
            create(db, new_person(), title=title)
        assert said["hint"] == "/title"

    def test_size(self, db, new_person):
        db.execute("update private.settings set group_size_max = 3")
        try:
            ann, people = new_person(), [new_person() for _ in range(3)]
            there = create(db, ann, *people[:2])["conversation"]["id"]
            with refused(422, "group_full"):
                create(db, ann, *people)
            with refused(422, "group_full"):
                add(db, ann, there, people[2])
            assert len(add(db, ann, there, people[0])["members"]) == 1
        finally:
            db.execute("update private.settings set group_size_max = 64")

    def test_nobody_is_added_who_cannot_be_written_to(self, db, new_person):
        ann, gone = new_person(), new_person()
        db.execute("delete from auth.users where id = %s", [gone.id])
        with refused(403, "recipient_unavailable"):
            create(db, ann, gone)
        assert call(db, ann.id, "list_inbox")["conversations"] == []

    def test_paces(self, db, new_person):
        ann, bob = new_person(), new_person()
        for _ in range(30):
            create(db, ann)
        with refused(429, "rate_limited"):
            create(db, ann)
        for _ in range(30):
            create(db, new_person(), bob)
        with refused(429, "rate_limited"):
            create(db, new_person(), bob)


class TestMembers:
    def test_who_may_add_and_give_roles(self, db, group, new_person):
        there, owner, admin, member, other = group
        added = add(db, admin, there, new := new_person("New"))["members"]
        assert [(m["id"], m["displayName"], m["role"]) for m in added] == [(new.id, "New", "member")]
        with refused(403, "forbidden"):
            add(db, member, there, new_person())
        with refused(403, "forbidden"):
            add(db, admin, there, new_person(), role="admin")
        assert add(db, owner, there, member, role="admin")["members"][0]["role"] == "admin"
        assert add(db, owner, there, member)["members"][0]["role"] == "admin", "no role named, none changed"
        assert add(db, admin, there, other, role="member")["members"][0]["role"] == "member"
        with refused(404, "not_found"):
            add(db, new_person(), there, new_person())

    def test_members_see_from_when_they_came(self, db, group, new_person):
        there, owner, *_ = group
        for number in range(3):
            say(db, owner, there, str(number))
        late = new_person()
        add(db, owner, there, late)
        shown = call(db, late.id, "get_conversation", conversation_id=there)["conversation"]
        assert (shown["messages"], shown["firstSeq"], shown["unreadCount"], shown["lastMessage"]) == ([], 4, 0, None)
        say(db, owner, there, "welcome")
        shown = call(db, late.id, "get_conversation", conversation_id=there)["conversation"]
        assert ([m["body"] for m in shown["messages"]], shown["unreadCount"]) == (["welcome"], 1)

    def test_who_comes_back_begins_anew(self, db, group):
        there, owner, _, member, _ = group
        say(db, owner, there, "before")
        remove(db, member, there, member)
        say(db, owner, there, "meanwhile")
        assert call(db, member.id, "list_inbox")["conversations"] == []
        with refused(404, "not_found"):
            call(db, member.id, "get_conversation", conversation_id=there)
        add(db, owner, there, member)
        say(db, owner, there, "after")
        shown = call(db, member.id, "get_conversation", conversation_id=there)["conversation"]
        assert [m["body"] for m in shown["messages"]] == ["after"] and shown["unreadCount"] == 1

    def test_paged(self, db, group):
        there, *people = group
        seen, cursor = [], None
        while True:
            page = call(db, people[3].id, "list_members", conversation_id=there, limit=3, cursor=cursor)
            seen += [m["id"] for m in page["members"]]
            if (cursor := page["nextCursor"]) is None:
                break
        assert sorted(seen) == sorted(p.id for p in people) and seen[0] == people[0].id

    @pytest.mark.parametrize(
        ("params", "pointer"),
        [({"user_ids": []}, "/userIds"), ({"user_ids": [uuid.UUID(int=1)], "role": "king"}, "/role")],
    )
    def test_shape(self, db, group, params, pointer):
        there, owner, *_ = group
        with refused(400, "validation_failed") as said:
            call(db, owner.id, "add_members", conversation_id=there, **params)
        assert said["hint"] == pointer

    def test_direct_conversations_have_no_members_to_manage(self, db, new_person):
        ann, bob = new_person(), new_person()
        there = call(db, ann.id, "send_message", body="x", to_user_id=bob.id)["conversation"]["id"]
        with refused(422, "not_a_group"):
            add(db, ann, there, new_person())
        with refused(422, "not_a_group"):
            remove(db, ann, there, bob)
        assert len(call(db, ann.id, "list_members", conversation_id=there)["members"]) == 2


class TestLeaving:
    def test_who_may_remove_whom(self, db, group, new_person):
        there, owner, admin, member, other = group
        with refused(403, "forbidden"):
            remove(db, member, there, other)
        with refused(403, "forbidden"):
            remove(db, admin, there, owner)
        assert remove(db, admin, there, other) == {"conversationId": there, "userId": other.id}
        assert remove(db, owner, there, admin)
        said = []
        for target in (other, new_person()):
            with refused(404, "not_found") as one:
                remove(db, owner, there, target)
            said.append(one)
        assert said[0] == said[1]
        with refused(404, "not_found"):
            remove(db, other, there, other)

    def test_the_live_topic_changes(self, db, group):
        there, owner, _, member, _ = group
        before = call(db, owner.id, "get_conversation", conversation_id=there)["conversation"]["liveTopic"]
        remove(db, member, there, member)
        after = call(db, owner.id, "get_conversation", conversation_id=there)["conversation"]["liveTopic"]
        assert (before, after) == (f"conversation:{there}:live:1", f"conversation:{there}:live:2")

    def test_the_last_owner_hands_over(self, db, group):
        there, owner, admin, member, other = group
        remove(db, owner, there, owner)
        assert roles(db, member, there) == {admin.id: "owner", member.id: "member", other.id: "member"}
        remove(db, admin, there, admin)
        assert "owner" in roles(db, member, there).values()
        remove(db, member, there, member)
        remove(db, other, there, other)
        assert db.execute(
            "select count(*) from public.conversation_members where conversation_id = %s and left_at is null", [there]
        ).fetchone() == (0,)

    def test_one_of_two_owners_may_go(self, db, group):
        there, owner, admin, *_ = group
        add(db, owner, there, admin, role="owner")
        remove(db, owner, there, owner)
        assert sorted(roles(db, admin, there).values()) == ["member", "member", "owner"]

    def test_status_is_of_current_members(self, db, group):
        there, owner, admin, member, other = group
        sent = say(db, owner, there)["message"]
        for reader in (admin, member):
            call(db, reader.id, "mark_read", message_id=sent["id"])
        assert call(db, owner.id, "list_messages", conversation_id=there)["messages"][0]["status"] == "sent"
        remove(db, owner, there, other)
        assert call(db, owner.id, "list_messages", conversation_id=there)["messages"][0]["status"] == "read"

    def test_an_ended_account_leaves_its_groups(self, db, group):
        there, owner, admin, member, other = group
        second = create(db, owner, other)["conversation"]["id"]
        db.execute("delete from auth.users where id = %s", [owner.id])
        assert roles(db, member, there) == {admin.id: "owner", member.id: "member", other.id: "member"}
        assert roles(db, other, second) == {other.id: "owner"}
        db.execute("update auth.users set deleted_at = now() where id = %s", [other.id])
        assert other.id not in roles(db, member, there)

    def test_a_lost_membership_moves_the_head_of_who_lost_it(self, db, group):
        there, owner, _, member, _ = group
        head = "select position from private.heads where user_id = %s"
        before = db.execute(head, [member.id]).fetchone()[0]
        remove(db, owner, there, member)
        row = db.execute(
            "select changed_position, left_at is not null from public.conversation_members where conversation_id = %s and user_id = %s",
            [there, member.id],
        ).fetchone()
        assert row == (db.execute(head, [member.id]).fetchone()[0], True) and row[0] > before


def test_whoever_is_removed_while_their_send_waits_does_not_write(db, group, supabase_stack):
    there, owner, _, member, _ = group
    answers = []
    with psycopg.connect(supabase_stack.database_url, autocommit=True) as other:

        def send():
            with refused(404, "not_found"):
                say(other, member, there)
            answers.append("refused")

        with db.transaction():
            remove(db, owner, there, member)
            thread = threading.Thread(target=send)
            thread.start()
            waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
            while db.execute(waits, [other.info.backend_pid]).fetchone() == (0,):
                assert thread.is_alive()
        thread.join(10)
    assert answers == ["refused"]
    assert db.execute("select count(*) from public.messages where conversation_id = %s", [there]).fetchone() == (0,)
