"""Who may read which rows, from both sides, and that nobody may write a table."""

import psycopg
import pytest

from tests.sql.rpc import acting, call

TABLES = ("profiles", "conversations", "conversation_members", "messages")


def rows(db, person, table, condition="true"):
    with acting(db, person.id if person else None):
        return db.execute(f"select * from public.{table} as t where {condition}").fetchall()


@pytest.fixture
def talk(db, new_person):
    """Ann and Bob talk; Eve talks to somebody else."""
    ann, bob, eve = new_person("Ann"), new_person("Bob"), new_person("Eve")
    there = call(db, ann.id, "send_message", body="hi", to_user_id=bob.id)["conversation"]["id"]
    call(db, bob.id, "send_message", body="hi", to_user_id=ann.id)
    call(db, eve.id, "send_message", body="other", to_user_id=new_person().id)
    return ann, bob, eve, there


class TestMembers:
    def test_member_reads_the_conversation_and_outsider_nothing(self, db, talk):
        ann, bob, eve, there = talk
        for table, column, expected in (
            ("conversations", "id", 1), ("messages", "conversation_id", 2), ("conversation_members", "conversation_id", 1),
        ):  # fmt: skip
            condition = f"{column} = '{there}'"
            assert [len(rows(db, p, table, condition)) for p in (ann, bob, eve)] == [expected, expected, 0], table

    def test_only_ones_own_member_row(self, db, talk):
        ann, bob, _, _there = talk
        assert rows(db, ann, "conversation_members", f"user_id = '{bob.id}'") == []
        assert len(rows(db, ann, "conversation_members")) == 1

    def test_former_member_reads_nothing(self, db, talk):
        ann, bob, _, there = talk
        db.execute(
            "update public.conversation_members set left_at = now() where conversation_id = %s and user_id = %s",
            [there, bob.id],
        )
        assert [rows(db, bob, table) for table in TABLES if table != "profiles"] == [[], [], []]
        assert len(rows(db, ann, "messages")) == 2
        assert [len(rows(db, bob, "profiles")), len(rows(db, ann, "profiles"))] == [1, 1]

    def test_messages_begin_at_visible_from_seq(self, db, talk):
        ann, bob, _, _there = talk
        db.execute("update public.conversation_members set visible_from_seq = 2 where user_id = %s", [bob.id])
        assert [len(rows(db, ann, "messages")), len(rows(db, bob, "messages"))] == [2, 1]

    def test_profiles_of_contacts_only(self, db, talk):
        ann, bob, eve, _ = talk
        assert len(rows(db, ann, "profiles")) == 2
        assert [len(rows(db, p, "profiles", f"user_id = '{bob.id}'")) for p in (ann, bob, eve)] == [1, 1, 0]


class TestNobodyElse:
    @pytest.mark.parametrize("table", TABLES)
    def test_anon_gets_nothing(self, db, table):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(db, None, table)

    @pytest.mark.parametrize("table", TABLES)
    def test_a_token_without_a_subject_reads_nothing(self, db, talk, table):
        with db.transaction():
            db.execute("set local role authenticated")
            db.execute("select set_config('request.jwt.claims', '{}', true)")
            assert db.execute(f"select * from public.{table}").fetchall() == []

    @pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
    @pytest.mark.parametrize("table", TABLES)
    @pytest.mark.parametrize(
        "statement",
        [
            "insert into public.{} default values",
            "update public.{} set {} = {}",
            "delete from public.{}",
            "truncate public.{}",
        ],
    )
    def test_no_role_writes_a_table(self, sql, role, table, statement):
        column = "user_id" if table in ("profiles", "conversation_members") else "id"
        sql.execute(f"set local role {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(statement.format(table, column, column))

    @pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
    @pytest.mark.parametrize("what", ["private.settings", "private.heads", "private.paces", "private.send_keys"])
    def test_nothing_in_private_can_be_named(self, sql, role, what):
        sql.execute(f"set local role {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema private"):
            sql.execute(f"select * from {what}")


class TestForgery:
    def test_claims_decide_who_writes(self, db, talk):
        """send_message has no argument for the author: whoever the token names is the author."""
        ann, bob, _eve, there = talk
        arguments = db.execute("select pg_get_function_arguments('public.send_message'::regproc)").fetchone()[0]
        assert "from" not in arguments and "user_id" in arguments
        assert {row[0] for row in db.execute(
            "select from_user_id::text from public.messages where conversation_id = %s", [there]
        )} == {ann.id, bob.id}  # fmt: skip

    def test_planned_counts_do_not_tell_how_much_a_stranger_writes(self, db, new_person):
        """Row estimates come from statistics over everybody's rows, so there must be none on columns that name people."""
        busy, quiet, eve = new_person(), new_person(), new_person()
        for number in range(60):
            call(db, busy.id, "send_message", body=str(number), to_user_id=quiet.id)
        db.execute("analyze public.messages, public.conversations, public.conversation_members")

        def estimate(table, column, value):
            with acting(db, eve.id):
                plan = db.execute(
                    f"explain (format json) select 1 from public.{table} where {column} = '{value}'"
                ).fetchone()[0]
            return plan[0]["Plan"]["Plan Rows"]

        for table, column in (
            ("messages", "from_user_id"), ("messages", "to_user_id"), ("conversation_members", "user_id"),
            ("conversations", "direct_low"), ("conversations", "direct_high"), ("conversations", "created_by"),
        ):  # fmt: skip
            assert estimate(table, column, busy.id) == estimate(table, column, eve.id), (table, column)
