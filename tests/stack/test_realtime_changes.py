"""Postgres Changes: who is told what of a changed row."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from realtime import AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent as Event

from stack.places import node
from stack.realtime_changes import Filter, parse_filters
from tests.stack.realtime_world import SETUP_SQL, TEARDOWN_SQL, Raw, World, until

TABLES_SQL = """
create table public.probe_rows (
  id int primary key, owner uuid, text text, wide bigint, exact numeric, flag boolean, at timestamptz, doc jsonb,
  tags text[], hidden text
);
create table public.probe_open (id int primary key, text text);
create table public.probe_keyless (text text);
create table public.probe_closed (id int primary key);
create table public.probe_private (id int primary key);
alter table public.probe_rows enable row level security;
alter table public.probe_rows replica identity full;
alter table public.probe_open replica identity full;
create policy probe_rows_select on public.probe_rows for select to authenticated using (owner = (select auth.uid()));
revoke all on public.probe_rows, public.probe_open, public.probe_keyless, public.probe_closed from anon, authenticated;
grant select (id, owner, text, wide, exact, flag, at, doc, tags) on public.probe_rows to authenticated;
grant select on public.probe_open, public.probe_keyless to authenticated;
alter publication supabase_realtime add table
  public.probe_rows, public.probe_open, public.probe_keyless, public.probe_closed;
"""
DROP_SQL = (
    "drop table public.probe_rows, public.probe_open, public.probe_keyless, public.probe_closed, public.probe_private"
)


@pytest.fixture(scope="module")
def world(realtime_stack: Any, mint_token: Callable[..., str]) -> Iterator[World]:
    with psycopg.connect(realtime_stack.database_url, autocommit=True) as connection:
        connection.execute(SETUP_SQL + TABLES_SQL)
        yield World(realtime_stack.url, realtime_stack.publishable_key, connection, mint_token)
        connection.execute(TEARDOWN_SQL + DROP_SQL)


@pytest.fixture
def insert(world) -> Callable[..., int]:
    """`insert(owner, text="...")`: a row with every kind of value; returns its id."""
    world.connection.execute("truncate public.probe_rows, public.probe_open")

    def new(owner: str, text: str = "é") -> int:
        row = world.connection.execute(
            "insert into public.probe_rows values ((select coalesce(max(id), 0) + 1 from public.probe_rows), %s, %s,"
            " 9007199254740993, 1.10, true, '2026-01-02 03:04:05.678+00', '{\"a\": [1.50]}', '{x,\"y z\"}', 'hidden')"
            " returning id",
            (owner, text),
        ).fetchone()
        return int(row[0])

    return new


def rows(event: str = "*", table: str = "probe_rows", **more: Any) -> dict[str, Any]:
    return {"event": event, "schema": "public", "table": table, **more}


async def subscribed(
    socket: Raw, *bindings: dict[str, Any], token: str | None = None, topic: str = "rows"
) -> list[int]:
    """Join and wait for the system message; returns the ids."""
    reply = await socket.join(topic, token, postgres_changes=list(bindings))
    assert reply["status"] == "ok"
    echo = reply["response"]["postgres_changes"]
    assert [{name: value for name, value in each.items() if name != "id"} for each in echo] == list(bindings)
    system = (await socket.next("system"))[4]
    assert (system["status"], system["message"]) == ("ok", "Subscribed to PostgreSQL"), system
    assert (system["extension"], system["channel"]) == ("postgres_changes", topic)
    return [each["id"] for each in echo]


async def test_values_columns_and_who_sees_an_insert(world, insert):
    ann, eve = str(uuid.uuid4()), str(uuid.uuid4())
    async with world.socket(world.mint(ann)) as ours, world.socket(world.mint(eve)) as theirs, world.socket() as anon:
        (binding,) = await subscribed(ours, rows())
        for socket in (theirs, anon):
            await subscribed(socket, rows())
        row_id = insert(ann)
        frame = await ours.connection.recv()
        told = json.loads(frame, parse_float=Decimal)
        assert told[:4] == [None, None, "realtime:rows", "postgres_changes"]
        assert told[4]["ids"] == [binding]
        data = told[4]["data"]
        assert {name: data[name] for name in ("schema", "table", "type", "errors")} == {
            "schema": "public", "table": "probe_rows", "type": "INSERT", "errors": None,
        }  # fmt: skip
        assert datetime.strptime(data["commit_timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ")
        assert data["record"] == {
            "id": row_id, "owner": ann, "text": "é", "wide": 9007199254740993, "exact": Decimal("1.10"), "flag": True,
            "at": "2026-01-02T03:04:05.678+00:00", "doc": {"a": [Decimal("1.50")]}, "tags": ["x", "y z"],
        }  # fmt: skip
        types = {each["name"]: each["type"] for each in data["columns"]}
        assert types == {
            "id": "int4", "owner": "uuid", "text": "text", "wide": "int8", "exact": "numeric", "flag": "bool",
            "at": "timestamptz", "doc": "jsonb", "tags": "_text",
        }  # fmt: skip
        assert (await anon.next())[4]["data"]["errors"] == ["Error 401: Unauthorized"]
        await theirs.silent()


async def test_updates_and_deletes(world, insert):
    ann, eve = str(uuid.uuid4()), str(uuid.uuid4())
    row_id = insert(ann)
    async with world.socket(world.mint(ann)) as ours, world.socket(world.mint(eve)) as theirs:
        await subscribed(ours, rows())
        await subscribed(theirs, rows())
        world.connection.execute("update public.probe_rows set text = 'new' where id = %s", (row_id,))
        data = (await ours.next())[4]["data"]
        assert (data["type"], data["record"]["text"], data["old_record"]["text"]) == ("UPDATE", "new", "é")
        assert "hidden" not in data["old_record"]
        await theirs.silent()
        world.connection.execute("delete from public.probe_rows where id = %s", (row_id,))
        for socket in (ours, theirs):  # a delete ignores RLS, and so tells no more than the key
            data = (await socket.next())[4]["data"]
            assert (data["type"], data["old_record"], data.get("record")) == ("DELETE", {"id": row_id}, None)


async def test_filters_events_and_selections(world, insert):
    ann = str(uuid.uuid4())
    filters = [
        ("text=eq.50% off", True), ("text=neq.x", True), ("text=like.50%", True), ("text=not.like.50%", False),
        ("id=in.(1,2)", True), ("id=gt.5", False), ("id=gte.1,flag=is.true", True),
        ("text=imatch.^50% OFF$", True), ("at=gt.2027-01-01", False), (f"owner=eq.{ann}", True), ("exact=eq.1.1", True),
        ("text=isdistinct.x", True), ("text=in.(\"a\",50% off)", True),
    ]  # fmt: skip
    bindings = [rows("INSERT", filter=each) for each, _ in filters]
    async with world.socket(world.mint(ann)) as socket, world.socket(world.mint(ann)) as narrow:
        ids = await subscribed(socket, *bindings, rows("UPDATE"), rows("DELETE"))
        await subscribed(narrow, rows(select=["id", "text", "hidden"]))
        insert(ann, "50% off")
        told = (await socket.next())[4]["ids"]
        assert told == [number for number, (_, right) in zip(ids, filters, strict=False) if right]
        assert (await narrow.next())[4]["data"]["record"] == {"id": 1, "text": "50% off"}
        await socket.silent(0.2)


@pytest.mark.parametrize("condition", ["hidden=is.null", "hidden=like.%", "id=gt.0,hidden=not.is.null"])
async def test_a_filter_names_only_columns_one_may_read(world, condition):
    """Otherwise what matches would tell what is in there."""
    async with world.socket(world.mint(str(uuid.uuid4()))) as socket:
        await socket.join("rows", postgres_changes=[rows(filter=condition)])
        assert (await socket.next("system"))[4]["status"] == "error"


async def test_tables_without_rls_key_or_grant(world, insert):
    async with world.socket(world.mint(str(uuid.uuid4()))) as socket:
        await subscribed(socket, rows(table="*"))
        world.connection.execute("insert into public.probe_open values (1, 'a')")
        assert (await socket.next())[4]["data"]["record"] == {"id": 1, "text": "a"}
        world.connection.execute("delete from public.probe_open")
        assert (await socket.next())[4]["data"]["old_record"] == {"id": 1, "text": "a"}
        world.connection.execute("insert into public.probe_keyless values ('a')")
        assert (await socket.next())[4]["data"]["errors"] == ["Error 400: Bad Request, no primary key"]
        world.connection.execute("insert into public.probe_closed values (1)")
        data = (await socket.next())[4]["data"]
        assert (data["errors"], data["record"], data["columns"]) == (["Error 401: Unauthorized"], {}, [])
        world.connection.execute("insert into public.probe_private values (1)")
        await socket.silent()


async def test_a_large_record_keeps_its_small_values(world, insert):
    async with world.socket(world.mint(str(uuid.uuid4())), max_size=None) as socket:
        await subscribed(socket, rows(table="probe_open"))
        world.connection.execute("insert into public.probe_open values (2, repeat('x', 1100000))")
        data = (await socket.next())[4]["data"]
        assert (data["record"], data["errors"]) == ({"id": 2}, ["Error 413: Payload Too Large"])
        world.connection.execute("update public.probe_open set id = 3 where id = 2")
        assert (await socket.next())[4]["data"]["record"]["id"] == 3


async def test_a_new_token_changes_what_is_seen(world, insert):
    ann, bob = str(uuid.uuid4()), str(uuid.uuid4())
    async with world.socket() as socket:
        await subscribed(socket, rows(), token=world.mint(ann))
        insert(bob, "before")
        await socket.silent()
        await socket.say("realtime:rows", "access_token", {"access_token": world.mint(bob)}, "1")
        await socket.say("phoenix", "heartbeat", {})
        await socket.next("phx_reply")
        insert(bob, "after")
        assert (await socket.next())[4]["data"]["record"]["text"] == "after"


async def test_commit_order_and_rollbacks(world, insert):
    ann = str(uuid.uuid4())
    async with world.socket(world.mint(ann)) as socket:
        await subscribed(socket, rows())
        with pytest.raises(psycopg.errors.DivisionByZero), world.connection.transaction():
            insert(ann, "undone")
            world.connection.execute("select 1 / 0")
        with world.connection.transaction():
            for n in range(50):
                insert(ann, str(n))
        heard = [(await socket.next())[4]["data"]["record"]["text"] for _ in range(50)]
        assert heard == [str(n) for n in range(50)]


async def test_what_can_never_deliver_is_said(world):
    async with world.socket(world.mint(str(uuid.uuid4()))) as socket:
        for n, binding in enumerate(
            (
                rows(table="nowhere"), rows(table="probe_private"), rows(filter="nothing=eq.1"), rows(filter="id=eq.x"),
                rows(filter="id=sounds.like"), rows("TRUNCATE"), rows(filter="id=like.1", select=["nothing"]),
            )
        ):  # fmt: skip
            assert (await socket.join(f"wrong:{n}", postgres_changes=[binding]))["status"] == "ok"
            told = (await socket.next("system"))[4]
            assert (told["extension"], told["status"]) == ("postgres_changes", "error")
            assert told["message"].startswith("Unable to subscribe to changes with given parameters. ")


async def test_a_broken_policy_hides_the_row_and_nothing_else(world, insert):
    ann = str(uuid.uuid4())
    async with world.socket(world.mint(ann)) as socket:
        await subscribed(socket, rows(table="*"))
        world.connection.execute(
            "create policy probe_zz on public.probe_rows for select to authenticated using (1 / (id - 1) > 0)"
        )
        try:
            insert(str(uuid.uuid4()))
            world.connection.execute("insert into public.probe_open values (9, 'next')")
            assert (await socket.next())[4]["data"]["record"] == {"id": 9, "text": "next"}
        finally:
            world.connection.execute("drop policy probe_zz on public.probe_rows")


async def test_wait_for_changes_before_the_reply(world, insert):
    ann = str(uuid.uuid4())
    async with world.socket(world.mint(ann)) as socket:
        reply = await socket.join("wait", postgres_changes=[rows()], postgres_changes_options={"wait": True})
        assert reply["status"] == "ok"
        insert(ann)
        assert (await socket.next("postgres_changes"))[4]["data"]["type"] == "INSERT"


async def test_the_python_client(world, insert):
    ann = str(uuid.uuid4())
    heard: list[Any] = []
    systems: list[Any] = []
    client = AsyncRealtimeClient(f"{world.url}/realtime/v1", world.key)
    try:
        await client.set_auth(world.mint(ann))
        channel = client.channel("rows")
        channel.on_postgres_changes(Event.Insert, heard.append, table="probe_rows", filter=f"owner=eq.{ann}")
        channel.on_postgres_changes(Event.All, heard.append, table="probe_open")
        channel.on_system(systems.append)
        states: list[Any] = []
        await channel.subscribe(lambda state, error: states.append((state.value, error)))
        assert states == [("SUBSCRIBED", None)]
        await until(lambda: bool(systems))
        row_id = insert(ann)
        await until(lambda: bool(heard))
        assert heard[0]["data"]["record"]["id"] == row_id
    finally:
        await client.close()


async def test_supabase_js(world, insert):
    ann, eve = str(uuid.uuid4()), str(uuid.uuid4())
    told = {"tokens": {"ann": world.mint(ann), "eve": world.mint(eve)}, "owner": ann}
    script = Path(__file__).with_name("realtime_changes.mjs")
    process = await asyncio.create_subprocess_exec(node(), script, world.url, world.key, stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(json.dumps(told).encode() + b"\n")
    try:
        said = await asyncio.wait_for(process.stdout.readline(), 20)
        assert said == b"subscribed\n", (await process.stderr.read()).decode()
        row_id = insert(ann)
        for statement in (
            "update public.probe_rows set text = 'new' where id = %s",
            "delete from public.probe_rows where id = %s",
        ):
            await asyncio.sleep(0.5)  # as on hosted, what is gone when the policies are asked is seen by nobody
            world.connection.execute(statement, (row_id,))
        await asyncio.sleep(0.5)
        process.stdin.write(b"done\n")
        out, error = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, error.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    heard = json.loads(out)
    kinds = [each if isinstance(each, str) else each["eventType"] for each in heard["ann"]]
    assert sorted(kinds[:2]) == ["INSERT", "filtered"]
    assert kinds[2:] == ["UPDATE", "DELETE"]
    inserted = next(each for each in heard["ann"] if each != "filtered")
    assert (inserted["new"]["text"], inserted["new"]["flag"], inserted["new"]["tags"]) == ("é", True, ["x", "y z"])
    assert heard["eve"] == [
        {"eventType": "DELETE", "where": "public.probe_rows", "new": {}, "old": {"id": row_id}, "errors": None}
    ]


def test_filters_are_read_as_clients_write_them():
    assert parse_filters("a=eq.1,b=not.in.(x,y),c=is.null") == (
        Filter("a", "eq", "1", False), Filter("b", "in", ("x", "y"), True), Filter("c", "is", "null", False),
    )  # fmt: skip
    for bad in ("", "a", "a=1", "a=eq", "=eq.1", "a=or.1", "a=is.maybe", "a=in.1", f"a=in.({','.join('x' * 101)})"):
        with pytest.raises(ValueError):
            parse_filters(bad)
