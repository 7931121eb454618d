"""How the SQL tests call functions: as the data API does, in a transaction with the caller's role and claims."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql


@contextmanager
def acting(conn: psycopg.Connection[Any], user_id: str | UUID | None) -> Iterator[None]:
    """Run the block in one transaction (or savepoint) as this person; None is the role anon."""
    role = "authenticated" if user_id else "anon"
    claims = {"role": role} | ({"sub": str(user_id)} if user_id else {})
    with conn.transaction():
        conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        yield
        conn.execute("reset role")


def call(conn: psycopg.Connection[Any], user_id: str | UUID | None, function: str, /, **params: Any) -> Any:
    """Call public.<function> with named arguments p_<name> as this person; answers its one value."""
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder()) for name in params
    )
    query = sql.SQL("select public.{}({})").format(sql.Identifier(function), arguments)
    with acting(conn, user_id):
        row = conn.execute(query, list(params.values())).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def refused(status: int, code: str) -> Iterator[dict[str, str | None]]:
    """The block must raise PT<status> with this code; yields a dict that then holds detail and hint."""
    said: dict[str, str | None] = {}
    with pytest.raises(psycopg.Error) as caught:
        yield said
    diag = caught.value.diag
    assert (diag.sqlstate, diag.message_primary) == (f"PT{status}", code), caught.value
    assert diag.message_detail, "a refusal explains itself"
    said.update(detail=diag.message_detail, hint=diag.message_hint)


def make_group(db: psycopg.Connection[Any], member_ids: list[str]) -> str:
    """A group straight in the tables, as the function that makes groups will leave it."""
    row = db.execute(
        "insert into public.conversations (kind, title, created_by) values ('group', 'Crew', %s) returning id",
        [member_ids[0]],
    ).fetchone()
    assert row is not None
    for member_id in member_ids:
        db.execute(
            "insert into public.conversation_members (conversation_id, user_id) values (%s, %s)", [row[0], member_id]
        )
    db.execute("select private.create_heads(%s::uuid[])", [member_ids])
    return str(row[0])


def state(db: psycopg.Connection[Any], conversation_id: str, *people: str) -> list[Any]:
    """Everything a send writes, as comparable rows."""
    rows: list[Any] = []
    for table, column, value in (
        ("public.conversations", "id", conversation_id),
        ("public.conversation_members", "conversation_id", conversation_id),
        ("public.messages", "conversation_id", conversation_id),
        *(
            (table, column, person)
            for person in people
            for table, column in (
                ("private.heads", "user_id"),
                ("private.paces", "user_id"),
                ("private.send_keys", "from_user_id"),
            )
        ),
    ):
        rows.append(
            db.execute(f"select t.*, t.xmin from {table} as t where {column} = %s order by t::text", [value]).fetchall()
        )
    return rows
