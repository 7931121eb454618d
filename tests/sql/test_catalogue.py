"""Questions to the catalogue: what every table, function and policy of ours must have. New objects cannot be forgotten."""

import re
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
MIGRATIONS = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))

# Everything an API role may do. What is not listed here is granted to nobody.
API = {
    "add_members": "p_conversation_id uuid, p_user_ids uuid[], p_role text",
    "block_user": "p_user_id uuid",
    "create_group": "p_title text, p_member_ids uuid[], p_gig_id uuid, p_client_group_id uuid",
    "decide_moderation_item": "p_item_id uuid, p_decision text, p_note text",
    "delete_message": "p_message_id uuid",
    "edit_message": "p_message_id uuid, p_body text",
    "get_conversation": "p_conversation_id uuid",
    "get_limits": "",
    "get_moderation_item": "p_item_id uuid",
    "get_profile": "",
    "lift_sanction": "p_sanction_id uuid, p_note text",
    "list_blocked": "p_limit integer, p_cursor text",
    "list_conversations": "p_limit integer, p_offset integer",
    "list_inbox": "p_limit integer, p_cursor text, p_unread boolean, p_archived boolean, p_gig_id uuid, p_with_user_id uuid, p_q text",
    "list_members": "p_conversation_id uuid, p_limit integer, p_cursor text",
    "list_messages": "p_conversation_id uuid, p_before bigint, p_after bigint, p_around bigint, p_limit integer",
    "list_moderation_actions": "p_user_id uuid, p_item_id uuid, p_limit integer, p_cursor text",
    "list_moderation_queue": "p_status text, p_kind text, p_user_id uuid, p_limit integer, p_cursor text",
    "mark_all_read": "p_conversation_id uuid, p_up_to_seq bigint",
    "mark_delivered": "p_receipts jsonb",
    "mark_read": "p_message_id uuid",
    "message_history": "p_message_id uuid",
    "moderate_hide_message": "p_message_id uuid, p_note text",
    "moderate_restore_message": "p_message_id uuid, p_note text",
    "remove_member": "p_conversation_id uuid, p_user_id uuid",
    "report_message": "p_message_id uuid, p_reason text, p_note text",
    "report_user": "p_user_id uuid, p_reason text, p_note text",
    "sanction_user": "p_user_id uuid, p_kind text, p_duration_s integer, p_reason text",
    "send_message": "p_body text, p_conversation_id uuid, p_to_user_id uuid, p_gig_id uuid, p_client_message_id uuid, p_envelope jsonb",
    "set_typing": "p_conversation_id uuid",
    "sync": "p_cursor text, p_limit integer",
    "undo_moderation_action": "p_action_id uuid, p_note text",
    "unblock_user": "p_user_id uuid",
    "unread_counts": "",
    "update_conversation": "p_conversation_id uuid, p_changes jsonb",
    "update_profile": "p_changes jsonb",
}
# What only servers with the secret key may do: the host application's, the worker, our own reading of the rules.
SERVICE_API = {
    "allow_contact": "p_conversation_id uuid, p_is_allowed boolean",
    "claim_classifications": "p_limit integer, p_lease_s integer",
    "fail_classification": "p_message_id uuid, p_lease uuid, p_error text",
    "finish_classification": "p_message_id uuid, p_lease uuid, p_outcome jsonb",
    "get_moderation_rules": "",
    "list_envelopes": "p_below_version integer, p_after uuid, p_limit integer",
    "release_classification": "p_message_id uuid, p_lease uuid",
    "rewrap_envelopes": "p_envelopes jsonb",
}
FUNCTIONS_FOR_SERVICE = {
    f"{schema}.{name}({arguments})" for name, arguments in SERVICE_API.items() for schema in ("public", "private")
}
FUNCTIONS_FOR_AUTHENTICATED = {
    f"{schema}.{name}({arguments})" for name, arguments in API.items() for schema in ("public", "private")
} | {
    "private.may_keep_avatar(p_name text)", "private.may_use_live_topic(p_topic text)",
    "private.may_write_live_topic(p_topic text, p_extension text)", "private.has_account()", "private.my_contact_ids()",
    "private.my_conversation_ids()",
}  # fmt: skip
TABLES_TO_READ = {"public.conversation_members", "public.conversations", "public.messages", "public.profiles"}


@pytest.fixture(params=["new default privileges", "old default privileges"])
def world(request, db):
    """Both kinds of hosted project: default privileges in public from before and after 30 October 2026."""
    if request.param.startswith("new"):
        yield db
    else:
        with psycopg.connect(request.getfixturevalue("old_acl_database"), autocommit=True) as conn:
            yield conn


def ours(db, query):
    return {row[0] for row in db.execute(query)}


class TestPrivileges:
    def test_functions(self, world):
        found = world.execute(
            """
            select n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
                   array(select r from unnest(array['anon', 'authenticated', 'service_role']) as r
                         where has_function_privilege(r, p.oid, 'execute')) as roles
            from pg_proc as p inner join pg_namespace as n on n.oid = p.pronamespace
            where n.nspname in ('public', 'private') and pg_get_userbyid(p.proowner) = 'postgres'
            """
        ).fetchall()
        assert {name: tuple(roles) for name, roles in found if roles} == {
            **dict.fromkeys(FUNCTIONS_FOR_AUTHENTICATED, ("authenticated",)),
            **dict.fromkeys(FUNCTIONS_FOR_SERVICE, ("service_role",)),
        }

    def test_tables(self, world):
        found = world.execute(
            """
            select n.nspname || '.' || c.relname, r,
                   array(select p from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p
                         where has_table_privilege(r, c.oid, p) or (p in ('select', 'insert', 'update', 'references')
                               and has_any_column_privilege(r, c.oid, p)))
            from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace,
                 unnest(array['anon', 'authenticated', 'service_role']) as r
            where n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
            """
        ).fetchall()
        granted = {(table, role): privileges for table, role, privileges in found if privileges}
        assert granted == {
            (table, role): ["select"] for table in TABLES_TO_READ for role in ("authenticated", "service_role")
        }

    def test_nobody_may_use_the_private_schema(self, world):
        for role in ("anon", "authenticated", "service_role"):
            assert (
                world.execute("select has_schema_privilege(%s, 'private', 'usage, create')", [role]).fetchone()[0]
                is False
            )

    def test_later_functions_are_not_public_by_default(self, sql):
        sql.execute("create function public.later() returns int language sql as 'select 1'")
        assert sql.execute("select has_function_privilege('anon', 'public.later()', 'execute')").fetchone()[0] is False


class TestTables:
    def test_row_security_is_on(self, db):
        assert ours(db, "select oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace "
                        "and relkind in ('r', 'p') and not relrowsecurity") == set()  # fmt: skip

    def test_everything_is_commented(self, db):
        assert ours(db, """
            select c.oid::regclass::text || coalesce('.' || a.attname, '')
            from pg_class as c
            left join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p')
              and (obj_description(c.oid, 'pg_class') is null or col_description(c.oid, a.attnum) is null)
              and a.attname not in ('is_only_row')
        """) == set()  # fmt: skip

    def test_foreign_keys_are_indexed(self, db):
        assert ours(db, """
            select k.conname from pg_constraint as k
            where k.contype = 'f' and k.connamespace in ('public'::regnamespace, 'private'::regnamespace)
              and not exists (select 1 from pg_index as i where i.indrelid = k.conrelid and i.indpred is null
                              and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] = k.conkey)
        """) == set()  # fmt: skip

    def test_no_foreign_key_to_auth(self, db):
        assert ours(db, """
            select conname from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace
              and confrelid in (select oid from pg_class where relnamespace = 'auth'::regnamespace)
        """) == set()  # fmt: skip

    def test_the_indexes_others_rely_on(self, db):
        indexes = "\n".join(
            ours(db, "select indexdef from pg_indexes where schemaname = 'public' and tablename = 'messages'")
        )
        assert "(conversation_id, seq)" in indexes and "(gig_id, created_at DESC)" in indexes


class TestFunctions:
    @pytest.fixture
    def functions(self, db):
        return db.execute(
            """
            select p.oid::regprocedure::text, n.nspname, p.prosecdef, p.proconfig, obj_description(p.oid, 'pg_proc')
            from pg_proc as p inner join pg_namespace as n on n.oid = p.pronamespace
            where n.nspname in ('public', 'private') and pg_get_userbyid(p.proowner) = 'postgres'
            """
        ).fetchall()

    def test_search_path_is_pinned_and_comment_present(self, functions):
        assert [name for name, _, _, config, _ in functions if 'search_path=""' not in (config or [])] == []
        assert [name for name, _, _, _, comment in functions if not comment] == []

    def test_definers_live_in_private_and_say_why(self, functions):
        definers = [(name, schema, comment) for name, schema, definer, _, comment in functions if definer]
        assert definers
        assert [name for name, schema, _ in definers if schema != "private"] == []
        assert [name for name, _, comment in definers if "Definer, " not in comment] == []

    def test_the_caller_is_never_an_argument(self, db):
        """Everything the API may call asks auth.uid(), on its first lines of work, who is there."""
        for name in API:
            body = db.execute("select prosrc from pg_proc where oid = %s::regproc", [f"private.{name}"]).fetchone()[0]
            asked = re.search(r"private\.require_(?:(caller|account|moderator)\(\)|writer\(v_settings\))", body)
            assert asked, name
            assert asked.start() < max(body.index("begin") + 100, 200), name
            changes = db.execute("select provolatile = 'v' from pg_proc where oid = %s::regproc", [f"private.{name}"])
            # A token outlives its account: whatever changes something asks for the account as well.
            assert not changes.fetchone()[0] or asked[1] != "caller" or "private.require_writer(" in body, name
            assert "auth.uid()" not in body, name

    def test_volatility_and_security_are_written(self):
        for path in MIGRATIONS:
            for statement in re.findall(
                r"^create (?:or replace )?function .*?(?=^as |^return )", path.read_text(), re.M | re.S
            ):
                assert re.search(r"^(volatile|stable|immutable)$", statement, re.M), (path.name, statement)
                assert "set search_path = ''" in statement, (path.name, statement)


class TestPolicies:
    POLICIES = "select schemaname || '.' || tablename, policyname, permissive, roles::text, cmd, qual, with_check from pg_policies where schemaname in ('public', 'storage', 'realtime')"

    def test_the_mirror_is_equal_both_ways(self, sql):
        before = set(sql.execute(self.POLICIES).fetchall())
        assert before
        for table, name, *_ in before:
            sql.execute(f'drop policy "{name}" on {table}')
        for path in sorted((ROOT / "supabase" / "policies").glob("*.sql")):
            sql.execute(path.read_text())
        assert set(sql.execute(self.POLICIES).fetchall()) == before

    def test_the_mirror_repairs(self, sql):
        before = set(sql.execute(self.POLICIES).fetchall())
        for table, name, _, _, command, *_ in before:
            clause = "with check" if command == "INSERT" else "using"
            sql.execute(f'alter policy "{name}" on {table} {clause} (true)')
        assert set(sql.execute(self.POLICIES).fetchall()) != before
        for path in sorted((ROOT / "supabase" / "policies").glob("*.sql")):
            sql.execute(path.read_text())
        assert set(sql.execute(self.POLICIES).fetchall()) == before

    def test_one_policy_per_table_command_and_role(self, db):
        policies = db.execute(
            "select tablename, cmd, roles::text from pg_policies where schemaname = 'public'"
        ).fetchall()
        assert len(policies) == len(set(policies))
        assert {(cmd, roles) for _, cmd, roles in policies} == {("SELECT", "{authenticated}")}


def header_of(path):
    """The comment that a migration begins with."""
    return re.match(r"(?:--.*\n)+", path.read_text())[0]


class TestMigrations:
    @pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.name)
    def test_header(self, path):
        text = path.read_text()
        for line in ("-- Purpose:", "-- Consumers:", "-- Locks:", "-- Undo:"):
            assert line in header_of(path), line
        # Making an index concurrently takes a file without any other statement, and blocks nobody.
        assert "set lock_timeout = '4s';" in text or "index concurrently" in text

    def test_no_index_is_made_while_others_wait(self):
        """On a table that may have rows: concurrently, which takes a file without any other statement."""
        for path in MIGRATIONS:
            text = re.sub("--.*", "", path.read_text())
            new = set(re.findall(r"create table ([\w.]+)", text))
            for concurrently, table in re.findall(r"create (?:unique )?index (concurrently )?\w+\s+on ([\w.]+)", text):
                assert bool(concurrently) != (table in new), f"{path.name}: an index on {table}"
                assert not concurrently or text.strip().count(";") == 1, path.name

    def test_undo_lines_undo_everything(self, sql):
        """The headers, newest migration first, leave nothing of ours behind."""
        for path in reversed(MIGRATIONS):
            undo = re.split(r"\n--\s*\n", header_of(path).split("-- Undo:")[1])[0].replace("\n--", "\n")
            sql.execute(undo)
        assert sql.execute("select to_regnamespace('private')").fetchone()[0] is None
        assert (
            ours(
                sql,
                "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v')",
            )
            == set()
        )
        assert ours(sql, "select p.oid::regprocedure::text from pg_proc as p where p.pronamespace = 'public'::regnamespace "
                         "and pg_get_userbyid(p.proowner) = 'postgres'") == set()  # fmt: skip
        assert (
            ours(sql, "select tgname from pg_trigger where tgrelid = 'auth.users'::regclass and not tgisinternal")
            == set()
        )

    def test_every_code_raised_is_in_the_catalogue(self):
        from app.problems import CATALOGUE

        raised = {
            (int(status), code)
            for path in MIGRATIONS
            for status, code in re.findall(r"raise sqlstate 'PT(\d{3})' using\s+message = '(\w+)'", path.read_text())
        }
        everything = sum(path.read_text().count("raise sqlstate") for path in MIGRATIONS)
        matched = sum(
            len(re.findall(r"raise sqlstate 'PT(\d{3})' using\s+message = '(\w+)'", path.read_text()))
            for path in MIGRATIONS
        )
        assert everything == matched > 0, "every refusal is written in the form this test reads"
        assert {(status, code) for status, code in raised if CATALOGUE[code].status != status} == set()
