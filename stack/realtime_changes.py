"""Postgres Changes: row changes of the publication supabase_realtime, to whoever the SELECT policies let see them.

Per change: one query turns the row's text into JSON and evaluates the filters with Postgres' own types and operators,
one asks which roles may read which columns, and one runs the table's policies as every subscriber (not for DELETE,
which ignores RLS as on hosted, and tells only the primary key where RLS is on).
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import msgspec
import psycopg
from psycopg import sql

from stack.realtime_database import Connection, Database
from stack.realtime_stream import Change, Relation, Row
from stack.realtime_tokens import Claims, Refused
from stack.realtime_wire import dumps

log = logging.getLogger("realtime")

PUBLICATION = "supabase_realtime"
RECORD_BYTES_MAX = 1024 * 1024
LARGE_VALUE_BYTES = 64  # what is kept of a larger record
FILTERS_IN_MAX = 100
EVENTS = ("*", "INSERT", "UPDATE", "DELETE")

OPERATORS = {
    "eq": "=", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*", "isdistinct": "is distinct from",
}  # fmt: skip
IS_VALUES = ("null", "true", "false", "unknown")
ON_TEXT = ("like", "ilike", "match", "imatch")

_records: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class Subscriber(Protocol):
    """A joined channel."""

    claims: Claims

    def change(self, ids: list[int], data: dict[str, Any]) -> None:
        """Send one change."""


@dataclass(frozen=True, slots=True)
class Filter:
    """`column=not.operator.value`, or `column=in.(a,b)`."""

    column: str
    operator: str
    value: str | tuple[str, ...]
    negated: bool

    def condition(self, types: dict[str, str]) -> sql.Composed:
        """A condition on the row `r` whose columns have these types. Raises KeyError for a column that is not there."""
        column: sql.Composable = sql.SQL("r.{}").format(sql.Identifier(self.column))
        kind = sql.SQL(types[self.column])  # from format_type, never from a client
        if self.operator == "is":
            test = sql.SQL("{} is {}").format(column, sql.SQL(str(self.value)))
        elif self.operator == "in":
            values = sql.SQL(", ").join(sql.SQL("{}::{}").format(sql.Literal(each), kind) for each in self.value)
            test = sql.SQL("{} in ({})").format(column, values)
        else:
            if self.operator in ON_TEXT:
                column, kind = sql.SQL("{}::text").format(column), sql.SQL("text")
            operator = sql.SQL(OPERATORS[self.operator])
            test = sql.SQL("{} {} {}::{}").format(column, operator, sql.Literal(self.value), kind)
        return sql.SQL("coalesce({} ({}), false)").format(sql.SQL("not" if self.negated else ""), test)


def parse_filters(text: str) -> tuple[Filter, ...]:
    """The conditions of a filter, all of which must hold. Raises ValueError."""
    found = []
    for part in re.split(r",(?![^(]*\))", text):
        column, equals, rest = part.partition("=")
        negated = rest.startswith("not.")
        operator, dot, value = rest.removeprefix("not.").partition(".")
        if not (column and equals and dot):
            raise ValueError(f"{part!r} is not column=operator.value")
        if operator == "in":
            values = tuple(each.strip().strip('"') for each in value.removeprefix("(").removesuffix(")").split(","))
            if not (value.startswith("(") and value.endswith(")")) or len(values) > FILTERS_IN_MAX:
                raise ValueError(f"{part!r}: up to {FILTERS_IN_MAX} values in parentheses")
            found.append(Filter(column, operator, values, negated))
        elif operator in OPERATORS or (operator == "is" and value.lower() in IS_VALUES):
            found.append(Filter(column, operator, value, negated))
        else:
            raise ValueError(f"{part!r}: no such operator")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Binding:
    """One requested change feed of a channel."""

    id: int
    event: str
    schema: str
    table: str  # * for every table of the schema
    filters: tuple[Filter, ...]
    select: tuple[str, ...]
    told: dict[str, Any] = field(hash=False)

    def wants(self, change: Change) -> bool:
        return (
            self.event in ("*", change.kind)
            and self.schema in ("*", change.relation.schema)
            and self.table in ("*", change.relation.name)
        )


def binding_id(told: dict[str, Any]) -> int:
    """A number for what was asked, never 0 (clients take that for none)."""
    return zlib.crc32(dumps(sorted(told.items(), key=lambda item: item[0]))) or 1


def parse_binding(told: dict[str, Any]) -> Binding:
    """Raises ValueError for what hosted would refuse."""
    words = {name: told.get(name) for name in ("event", "schema", "table", "filter")}
    if not all(word is None or isinstance(word, str) for word in words.values()):
        raise ValueError("event, schema, table and filter are text")
    event, table, select = str(words["event"] or "*").upper(), words["table"] or "*", told.get("select") or []
    if isinstance(select, str):
        select = [each.strip() for each in select.split(",")]
    if event not in EVENTS:
        raise ValueError(f"there is no event {event}")
    if not isinstance(select, list) or not all(isinstance(each, str) for each in select):
        raise ValueError("select is a list of columns")
    if table == "*" and (words["filter"] or select):
        raise ValueError("a filter or a selection needs a table")
    filters = parse_filters(words["filter"]) if words["filter"] else ()
    return Binding(binding_id(told), event, words["schema"] or "public", table, filters, tuple(select), told)


@dataclass(frozen=True, slots=True)
class Table:
    """What the catalogue says of a relation: columns in order with (name of the type, type as SQL)."""

    columns: dict[str, tuple[str, str]]
    key: tuple[str, ...]
    rls: bool

    @property
    def types(self) -> dict[str, str]:
        return {name: kind for name, (_, kind) in self.columns.items()}


TABLE = """
    select a.attname, t.typname, format_type(a.atttypid, a.atttypmod), coalesce(a.attnum = any(i.indkey), false),
      c.relrowsecurity
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type as t on t.oid = a.atttypid
    left join pg_index as i on i.indrelid = c.oid and i.indisprimary
    where c.oid = %s::oid
    order by a.attnum
"""
PUBLISHED = """
    select c.oid
    from pg_publication_tables as p
    join pg_namespace as n on n.nspname = p.schemaname
    join pg_class as c on c.relnamespace = n.oid and c.relname = p.tablename
    where p.pubname = 'supabase_realtime'
      and %s::text in ('*', p.schemaname::text) and %s::text in ('*', p.tablename::text)
"""
READABLE = """
    select r.rolname, a.attname
    from pg_roles as r, pg_attribute as a
    where r.rolname = any(%s) and a.attrelid = %s::oid and a.attnum > 0 and not a.attisdropped
      and has_column_privilege(r.oid, a.attrelid, a.attnum, 'select')
      and has_schema_privilege(r.oid, (select relnamespace from pg_class where oid = a.attrelid), 'usage')
"""


class Changes:
    """The bindings of all channels, and what happens when a row changes."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.bindings: dict[Subscriber, list[Binding]] = {}
        self._tables: dict[int, tuple[Relation, Table]] = {}

    async def check(self, bindings: Iterable[Binding], role: str) -> None:
        """Raises ValueError when one could never deliver: its table is not published, its filter makes no sense.

        Also when `role` may not read a column its filter names: what matches would tell what is in there.
        """

        async def ask(connection: Connection) -> None:
            for each in bindings:
                found = await (await connection.execute(PUBLISHED, (each.schema, each.table))).fetchall()
                if not found:
                    raise ValueError(f"{each.schema}.{each.table} is not in the publication {PUBLICATION}")
                if each.filters or each.select:
                    table = await _table(connection, found[0][0])
                    if unknown := [name for name in each.select if name not in table.columns]:
                        raise ValueError(f"there is no column {unknown[0]}")
                    rows = await (await connection.execute(READABLE, ([role], found[0][0]))).fetchall()
                    hidden = {one.column for one in each.filters} - {name for _, name in rows}
                    if hidden:
                        raise ValueError(f"invalid column for filter {min(hidden)}")
                    await connection.execute(_conditions_on_nothing(table, each.filters))

        try:
            await self.database.run(ask)
        except KeyError as error:
            raise ValueError(f"there is no column {error}") from error
        except (psycopg.Error, Refused) as error:
            raise ValueError(str(error).strip()) from error

    def add(self, subscriber: Subscriber, bindings: list[Binding]) -> None:
        self.bindings[subscriber] = bindings

    def remove(self, subscriber: Subscriber) -> None:
        self.bindings.pop(subscriber, None)

    async def handle(self, change: Change) -> None:
        """Tell everybody who asked for it and may see it. Never raises: the stream goes on."""
        wanted = [
            (subscriber, binding)
            for subscriber, bindings in self.bindings.items()
            for binding in bindings
            if binding.wants(change)
        ]
        if not wanted:
            return
        try:
            await self.database.run(lambda connection: self._tell(connection, change, wanted))
        except Exception:
            log.exception("a change of %s.%s was not delivered", change.relation.schema, change.relation.name)

    async def _tell(self, connection: Connection, change: Change, wanted: list[tuple[Subscriber, Binding]]) -> None:
        relation, table = self._tables.get(change.relation.oid, (None, None))
        if relation is not change.relation or table is None:  # new, or altered since
            table = await _table(connection, change.relation.oid)
            self._tables[change.relation.oid] = (change.relation, table)
        filters = list({binding.filters for _, binding in wanted if binding.filters})
        subject = change.new if change.kind != "DELETE" else (change.old or {})
        record, holds = await _record(connection, table, subject, filters)
        # Where it was not sent, the old record of an update is the key, which did not change then.
        old_text = change.old
        if old_text is None and change.kind == "UPDATE":
            old_text = {name: change.new[name] for name in table.key if name in change.new}
        old_record, _ = (
            (record, []) if change.kind == "DELETE" else await _record(connection, table, old_text or {}, [])
        )
        matching = {filters[place] for place, held in enumerate(holds) if held}
        wanted = [(who, binding) for who, binding in wanted if not binding.filters or binding.filters in matching]
        roles = list({str(who.claims["role"]) for who, _ in wanted})
        readable: dict[str, set[str]] = defaultdict(set)
        for role, column in await (await connection.execute(READABLE, (roles, change.relation.oid))).fetchall():
            readable[role].add(column)
        seers = await self._seers(connection, change, table, [who for who, _ in wanted])

        grouped: dict[tuple[Subscriber, tuple[str, ...]], list[int]] = defaultdict(list)
        for who, binding in wanted:
            grouped[who, binding.select].append(binding.id)
        for (who, select), ids in grouped.items():
            if who not in self.bindings:  # left while the policies were asked
                continue
            mine = readable[str(who.claims["role"])]
            error = None
            if not table.key:
                error = "Error 400: Bad Request, no primary key"
            elif not mine.issuperset(table.key):
                error = "Error 401: Unauthorized"
            elif dumps(who.claims) not in seers:
                continue
            data = _data(change, table, record, old_record, mine, select, error)
            who.change(ids, data)

    async def _seers(self, connection: Connection, change: Change, table: Table, who: list[Subscriber]) -> set[bytes]:
        """The claims (as JSON) that may see the changed row as it is now. Everybody for DELETE."""
        viewers = {dumps(each.claims): each.claims for each in who}
        if change.kind == "DELETE" or not table.key or any(name not in change.new for name in table.key):
            return set(viewers)
        same = sql.SQL(" and ").join(
            sql.SQL("{} = {}::{}").format(
                sql.Identifier(name), sql.Literal(change.new[name]), sql.SQL(table.types[name])
            )
            for name in table.key
        )
        name = sql.Identifier(change.relation.schema, change.relation.name)
        query = sql.SQL("select exists (select from {} where {})").format(name, same).as_string(connection)
        async with connection.transaction(force_rollback=True):
            told = json.dumps(list(viewers.values()))
            places = await connection.execute("select pg_temp.audience(%s, %s::jsonb)", (query, told))
            order = list(viewers)
            return {order[row[0]] for row in await places.fetchall()}


async def _table(connection: Connection, oid: int) -> Table:
    rows = await (await connection.execute(TABLE, (oid,))).fetchall()
    columns = {name: (short, kind) for name, short, kind, _, _ in rows}
    return Table(columns, tuple(row[0] for row in rows if row[3]), bool(rows and rows[0][4]))


def _conditions_on_nothing(table: Table, filters: tuple[Filter, ...]) -> sql.Composed:
    """Evaluates the filters on a row of nulls: an operator or value that does not fit the type raises here."""
    nulls = sql.SQL(", ").join(
        sql.SQL("null::{} as {}").format(sql.SQL(kind), sql.Identifier(name)) for name, kind in table.types.items()
    )
    tests = sql.SQL(", ").join([sql.SQL("true"), *(each.condition(table.types) for each in filters)])
    return sql.SQL("select {} from (select {}) as r").format(tests, nulls)


async def _record(
    connection: Connection, table: Table, row: Row, filters: list[tuple[Filter, ...]]
) -> tuple[dict[str, Any], list[bool]]:
    """The row as Postgres writes it in JSON, and which filters it meets."""
    row = {name: value for name, value in row.items() if name in table.columns}
    if not row:
        return {}, [False] * len(filters)
    types = {name: kind for name, kind in table.types.items() if name in row}
    # Literals, not parameters: a % in a filter would be taken for one.
    columns = sql.SQL(", ").join(
        sql.SQL("{}::{} as {}").format(sql.Literal(value), sql.SQL(types[name]), sql.Identifier(name))
        for name, value in row.items()
    )
    wanted: list[sql.Composable] = [sql.SQL("to_jsonb(r)::text")]
    for group in filters:
        known = all(each.column in types for each in group)  # an old row holds only the replica identity
        conditions = [each.condition(types) for each in group] if known else [sql.SQL("false")]
        wanted.append(sql.SQL(" and ").join(conditions))
    query = sql.SQL("select {} from (select {}) as r").format(sql.SQL(", ").join(wanted), columns)
    answer = await (await connection.execute(query)).fetchone()
    record, *held = answer or ("{}",)
    return _records.decode(record), held


def _data(
    change: Change,
    table: Table,
    record: dict[str, Any],
    old_record: dict[str, Any],
    readable: set[str],
    select: tuple[str, ...],
    error: str | None,
) -> dict[str, Any]:
    """The `data` of one message for subscribers who may read these columns and asked for these."""
    visible = {} if error else {name: kind for name, kind in table.columns.items() if name in readable}
    if select:
        visible = {name: kind for name, kind in visible.items() if name in select}
    new = {name: value for name, value in record.items() if name in visible} if change.kind != "DELETE" else {}
    only_key = change.kind == "DELETE" and table.rls
    old = {name: value for name, value in old_record.items() if name in visible and (not only_key or name in table.key)}
    errors = [error] if error else None
    if len(dumps(new)) > RECORD_BYTES_MAX or len(dumps(old)) > RECORD_BYTES_MAX:
        errors = ["Error 413: Payload Too Large"]
        new, old = ({n: v for n, v in each.items() if len(dumps(v)) <= LARGE_VALUE_BYTES} for each in (new, old))
    data: dict[str, Any] = {
        "schema": change.relation.schema,
        "table": change.relation.name,
        "type": change.kind,
        "commit_timestamp": change.committed_at.strftime("%Y-%m-%dT%H:%M:%S.")
        + f"{change.committed_at.microsecond // 1000:03d}Z",
        "columns": [{"name": name, "type": kind} for name, (kind, _) in visible.items()],
        "errors": errors,
    }
    if change.kind != "DELETE":
        data["record"] = new
    if change.kind != "INSERT":
        data["old_record"] = old
    return data
