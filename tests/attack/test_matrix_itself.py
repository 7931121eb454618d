"""The suite tests itself: each slip somebody could make in a migration is made here, and must be noticed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.attack.matrix import FILE, Matrix, catalogue_problems, privilege_problems
from tests.attack.world import ROLES

NOBODY = "00000000-0000-4000-8000-000000000001"


def problems(sql: Any, matrix: Matrix) -> str:
    conn = sql.connection
    return "\n".join(catalogue_problems(conn, matrix) + privilege_problems(conn, matrix, NOBODY))


def naming(**lines: str) -> Matrix:
    """The matrix, as somebody would complete it who believes that all is well."""
    text = FILE.read_text()
    for section, line in lines.items():
        heading = f"[{section.replace('_', ' ')}]\n"
        assert heading in text
        text = text.replace(heading, f"{heading}{line}\n")
    return Matrix.load(text)


def test_as_it_is_there_is_nothing_to_say(sql: Any) -> None:
    assert problems(sql, Matrix.load()) == ""


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("create table public.forgotten (id int)", "table public.forgotten is not in the matrix"),
        ("create table private.forgotten (id int)", "table private.forgotten is not in the matrix"),
        ("create view public.forgotten as select 1 as id", "table public.forgotten is not in the matrix"),
        ("create materialized view public.forgotten as select 1 as id", "table public.forgotten is not in the matrix"),
        ("create sequence public.forgotten", "table public.forgotten is not in the matrix"),
        (
            "create function public.forgotten() returns int language sql return 1",
            "function public.forgotten() is not in the matrix",
        ),
        (
            "create function public.get_profile(p_id uuid) returns int language sql return 1",
            "function public.get_profile(uuid) is not in the matrix",
        ),
        (
            "create procedure public.forgotten() language sql begin atomic select 1; end",
            "function public.forgotten() is not in the matrix",
        ),
        (
            "alter table public.messages add column original text",
            "column of public.messages, original is not in the matrix",
        ),
        (
            "alter table public.profiles drop column locale",
            "column of public.profiles, locale is in the matrix and not in the database",
        ),
        ("insert into storage.buckets (id, name) values ('forgotten', 'forgotten')", "bucket forgotten is not in"),
        (
            "alter publication supabase_realtime add table public.profiles",
            "published table public.profiles is not in the matrix",
        ),
        ("drop table private.last_seen cascade", "table private.last_seen is in the matrix and not in the database"),
        ("drop function public.get_profile()", "function public.get_profile() is in the matrix and not in"),
    ],
)
def test_what_is_not_named_and_what_is_gone(sql: Any, made: str, said: str) -> None:
    sql.execute(made)
    assert said in "\n".join(catalogue_problems(sql.connection, Matrix.load()))


TABLE = "public.slip | select write | denied"


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        ("", "table public.slip has no row security"),
        ("", "authenticated tries truncate on public.slip: ok"),  # the default privileges of a hosted project
        ("grant select on public.slip to anon", "anon tries select on public.slip: ok"),
        ("grant select (id) on public.slip to public", "anon tries select on public.slip: ok"),
        ("grant insert on public.slip to authenticated", "authenticated tries insert on public.slip: rows"),
        ("grant update (id) on public.slip to service_role", "service_role tries update on public.slip"),
        ("grant update (id) on public.slip to anon", "table public.slip gives anon ['update']"),
        ("grant trigger on public.slip to anon", "table public.slip gives anon ['trigger']"),
        ("grant delete, select on public.slip to anon", "anon tries delete on public.slip: ok"),
    ],
)
def test_a_table_with_a_slip(sql: Any, slip: str, said: str) -> None:
    sql.execute("create table public.slip (id int primary key default 1)")
    if slip:
        sql.execute("revoke all on public.slip from public, anon, authenticated, service_role")
        sql.execute("alter table public.slip enable row level security")
        sql.execute(slip)
    assert said in problems(sql, naming(tables=TABLE))


def test_a_table_made_with_care_passes(sql: Any) -> None:
    sql.execute("create table public.slip (id int primary key default 1)")
    sql.execute("revoke all on public.slip from public, anon, authenticated, service_role")
    sql.execute("alter table public.slip enable row level security")
    assert problems(sql, naming(tables=TABLE)) == ""


def test_a_grant_on_a_table_of_ours(sql: Any) -> None:
    sql.execute("grant insert (body), update (seq) on public.messages to authenticated")
    assert "table public.messages gives authenticated ['select', 'insert', 'update']" in problems(sql, Matrix.load())


@pytest.mark.parametrize("table", ["public.profiles", "public.conversations", "public.messages"])
def test_row_security_that_is_switched_off(sql: Any, table: str) -> None:
    sql.execute(f"alter table {table} disable row level security")
    assert f"table {table} has no row security" in problems(sql, Matrix.load())


def test_a_view_past_row_security(sql: Any) -> None:
    sql.execute("create view public.slip as select id, body from public.messages")
    sql.execute("revoke all on public.slip from public, anon, authenticated, service_role")
    named = naming(tables=TABLE)
    assert "view public.slip runs as its owner" in problems(sql, named)
    sql.execute("alter view public.slip set (security_invoker = true)")
    assert problems(sql, named) == ""


def test_a_sequence_that_may_be_used(sql: Any) -> None:
    sql.execute("create sequence public.slip")  # the default privileges give update on it
    assert "anon tries next on public.slip: ok" in problems(sql, naming(tables=TABLE))


def test_a_function_that_everybody_may_execute(sql: Any) -> None:
    sql.execute("create function public.slip() returns int language sql return 1")
    named = naming(functions="public.slip() | {} | denied")
    assert problems(sql, named) == ""
    sql.execute("grant execute on function public.slip() to public")
    assert "function public.slip() is executable by ['anon', 'authenticated', 'service_role']" in problems(sql, named)


def test_a_definer_that_somebody_may_execute(sql: Any) -> None:
    sql.execute("grant execute on function private.read_up_to(uuid, uuid, bigint) to authenticated")
    assert "private.read_up_to(uuid, uuid, bigint) is executable by ['authenticated']" in problems(sql, Matrix.load())


def test_usage_on_the_private_schema(sql: Any) -> None:
    sql.execute("grant usage on schema private to authenticated")
    assert "authenticated calls private.my_contact_ids()" in problems(sql, Matrix.load())


def test_a_line_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"public.x \| select \| all all"):
        Matrix.load("[tables]\npublic.x | select | all all")
    with pytest.raises(ValueError, match="nowhere"):
        Matrix.load("[nowhere]")
    assert len(Matrix.load("[tables]\npublic.x | select | all").lines["tables"][0].outcomes) == len(ROLES)
