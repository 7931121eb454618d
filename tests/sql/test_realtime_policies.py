"""Who may join and speak on which topic, asked the way Realtime asks: rows under the role and claims of who joins."""

import json
import uuid

import psycopg
import pytest

from tests.sql.rpc import call


def probe(admin, user_id, topic, role="authenticated"):
    """(read broadcast, read presence, write broadcast, write presence), as Realtime finds out; nothing remains."""
    ids = {extension: uuid.uuid4() for extension in ("broadcast", "presence")}
    claims = json.dumps({"role": role} | ({"sub": str(user_id)} if user_id else {}))
    with admin.transaction(force_rollback=True):
        for extension, row_id in ids.items():
            admin.execute(
                "insert into realtime.messages (id, topic, extension, inserted_at, updated_at) values (%s, %s, %s, now(), now())",
                [row_id, topic, extension],
            )
        admin.execute(
            "select set_config('realtime.topic', %s, true), set_config('request.jwt.claims', %s, true), "
            "set_config('request.jwt.claim.sub', %s, true), set_config('request.jwt.claim.role', %s, true), "
            "set_config('role', %s, true)",
            [topic, claims, str(user_id or ""), role, role],
        )
        readable = {
            row[0] for row in admin.execute("select id from realtime.messages where id = any(%s)", [list(ids.values())])
        }
        writable = []
        for extension in ids:
            try:
                with admin.transaction():
                    admin.execute(
                        "insert into realtime.messages (topic, extension, inserted_at, updated_at) values (%s, %s, now(), now())",
                        [topic, extension],
                    )
                writable.append(True)
            except psycopg.errors.InsufficientPrivilege:
                writable.append(False)
        return (*(row_id in readable for row_id in ids.values()), *writable)


NOTHING = (False, False, False, False)
ALL = (True, True, True, True)


@pytest.fixture
def admin(supabase_stack, cluster):
    with psycopg.connect(cluster.cluster.url(supabase_stack.database, "supabase_admin"), autocommit=True) as conn:
        yield conn


@pytest.fixture
def group(db, new_person):
    owner, member, gone, outsider = (new_person() for _ in range(4))
    there = call(db, owner.id, "create_group", title="Crew", member_ids=[member.id, gone.id])["conversation"]["id"]
    call(db, gone.id, "remove_member", conversation_id=there, user_id=gone.id)
    return there, owner, member, gone, outsider


class TestUserTopic:
    def test_its_owner_listens_and_nobody_speaks(self, admin, new_person):
        ann, bob = new_person(), new_person()
        topic = f"user:{ann.id}"
        assert probe(admin, ann.id, topic) == (True, False, False, False)
        assert probe(admin, bob.id, topic) == NOTHING
        assert probe(admin, None, topic, "anon") == NOTHING
        assert probe(admin, None, topic) == NOTHING


class TestLiveTopic:
    def test_current_members_listen_and_speak(self, admin, group):
        there, owner, member, gone, outsider = group
        current = f"conversation:{there}:live:2"
        assert probe(admin, owner.id, current) == probe(admin, member.id, current) == ALL
        assert probe(admin, gone.id, current) == probe(admin, outsider.id, current) == NOTHING
        assert probe(admin, None, current, "anon") == NOTHING

    def test_an_old_name_is_worth_nothing(self, admin, group):
        there, owner, *_ = group
        for epoch in ("1", "3", "0", "02", "-2", "2147483648", "99999999999999999999"):
            assert probe(admin, owner.id, f"conversation:{there}:live:{epoch}") == NOTHING, epoch


class TestAnythingElse:
    def test_is_denied_and_never_an_error(self, admin, group):
        there, owner, *_ = group
        for topic in (
            "user:", f"user:{owner.id.upper()}", f"user:{owner.id}:x", f" user:{owner.id}", "user:not-a-uuid", "", ":", "conversation",
            f"conversation:{there}", f"conversation:{there}:live", f"conversation:{there}:live:", f"conversation:{there}:live:2:x",
            f"conversation:{there.upper()}:live:2", "conversation:x:live:1", f"conversation:{there}:live:2\n", "room:1", "é" * 300,
        ):  # fmt: skip
            assert probe(admin, owner.id, topic) == NOTHING, topic

    def test_other_extensions_are_not_granted_by_accident(self, admin, group):
        there, owner, *_ = group
        with admin.transaction(force_rollback=True):
            topic = f"conversation:{there}:live:2"
            row = admin.execute(
                "insert into realtime.messages (topic, extension) values (%s, 'postgres_changes') returning id", [topic]
            ).fetchone()[0]
            admin.execute(
                "select set_config('realtime.topic', %s, true), set_config('request.jwt.claims', %s, true), "
                "set_config('role', 'authenticated', true)",
                [topic, json.dumps({"sub": owner.id, "role": "authenticated"})],
            )
            assert admin.execute("select 1 from realtime.messages where id = %s", [row]).fetchall() == []


def test_messages_are_published_for_postgres_changes(db):
    assert ("public", "messages") in db.execute(
        "select schemaname, tablename from pg_publication_tables where pubname = 'supabase_realtime'"
    ).fetchall()
