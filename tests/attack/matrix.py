"""Reads matrix.txt, and holds the catalogue of a database against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.attack.world import ROLES

FILE = Path(__file__).with_name("matrix.txt")
SECTIONS = ("tables", "rows", "columns", "functions", "private functions", "buckets", "topics", "published")
SHORT = {
    "nf": "not_found", "fb": "forbidden", "un": "account_unavailable", "ru": "recipient_unavailable",
    "mu": "account_muted", "vf": "validation_failed", "ng": "not_a_group",
}  # fmt: skip
SQL_ROLES = ("anon", "authenticated", "service_role")


class Line(NamedTuple):
    """One line: an object, what is done with it, and the outcome for each role."""

    object: str
    what: str
    outcomes: dict[str, str]


@dataclass
class Matrix:
    """The sections of matrix.txt."""

    lines: dict[str, list[Line]] = field(default_factory=lambda: {name: [] for name in SECTIONS})
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    columns: dict[str, set[str]] = field(default_factory=dict)
    grants: dict[str, str] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, text: str | None = None) -> Matrix:
        """Parse the file, or a text like it. Raises ValueError with the line that cannot be read."""
        found, section = cls(), ""
        for line in (text if text is not None else FILE.read_text()).splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if line.startswith("["):
                section = line.strip("[] ")
                if section not in SECTIONS:
                    raise ValueError(line)
                continue
            fields = [each.strip() for each in line.split(" | ")]
            if len(fields) != {"published": 1, "private functions": 2, "columns": 2}.get(section, 3):
                raise ValueError(line)
            if section == "published":
                found.published.add(fields[0])
            elif section == "private functions":
                found.grants[fields[0]] = fields[1]
            elif section == "columns":
                found.columns[fields[0]] = set(fields[1].split())
            elif section == "rows":
                found.rows[fields[0]] = (fields[1], fields[2])
            else:
                words = [SHORT.get(word, word) for word in fields[2].split()]
                words = words * len(ROLES) if len(words) == 1 else words
                if len(words) != len(ROLES):
                    raise ValueError(line)
                found.lines[section].append(Line(fields[0], fields[1], dict(zip(ROLES, words, strict=True))))
        return found

    def named(self, section: str) -> set[str]:
        return {line.object for line in self.lines[section]}

    def calls(self) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
        """(name, arguments, outcomes) of the functions people can ask for."""
        for line in self.lines["functions"]:
            yield line.object.partition("(")[0].removeprefix("public."), json.loads(line.what), line.outcomes

    def selects(self, table: str) -> dict[str, str]:
        """What each role sees of a table."""
        return next(line.outcomes for line in self.lines["tables"] if line.object == table and "select" in line.what)

    def may_execute(self, function: str) -> set[str]:
        """Which SQL roles the lines of a function give EXECUTE to."""
        if function in self.grants:
            return set() if self.grants[function] == "nobody" else {self.grants[function]}
        allowed: set[str] = set()
        for line in self.lines["functions"]:
            if line.object == function:
                allowed |= {sql_role(role) for role, word in line.outcomes.items() if word != "denied"}
        return allowed


def sql_role(role: str) -> str:
    """The role that PostgREST runs a column of the matrix as."""
    return {"anon": "anon", "service": "service_role"}.get(role, "authenticated")


NOT_OF_AN_EXTENSION = "not exists (select from pg_depend as d where d.objid = {}.oid and d.deptype = 'e')"


def tables_of(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Name and kind of everything with columns in public and private: tables, views, sequences, foreign tables."""
    query = f"""
        select n.nspname || '.' || c.relname, c.relkind::text
        from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
            and {NOT_OF_AN_EXTENSION.format("c")}
    """
    return dict(conn.execute(query).fetchall())


def functions_of(conn: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """Functions and procedures of public and private, with their types: {name(types): [type, ...]}."""
    query = f"""
        select n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
               array(select format_type(t, null) from unnest(p.proargtypes::oid[]) as t)
        from pg_proc as p inner join pg_namespace as n on n.oid = p.pronamespace
        where n.nspname in ('public', 'private') and {NOT_OF_AN_EXTENSION.format("p")}
    """
    return dict(conn.execute(query).fetchall())


def compared(kind: str, named: set[str], there: set[str]) -> list[str]:
    """What exists and is not named, and the other way round."""
    return [f"{kind} {name} is not in the matrix" for name in sorted(there - named)] + [
        f"{kind} {name} is in the matrix and not in the database" for name in sorted(named - there)
    ]


def catalogue_problems(conn: psycopg.Connection[Any], matrix: Matrix) -> list[str]:
    """Where the catalogue and the matrix disagree: what exists, row security, who may execute what."""
    tables, functions = tables_of(conn), functions_of(conn)
    problems = compared("table", matrix.named("tables"), set(tables))
    problems += compared("function", matrix.named("functions") | set(matrix.grants), set(functions))
    readable = conn.execute(
        "select 'public.' || c.relname, array_agg(a.attname::text) from pg_class as c "
        "inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped "
        "where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') group by 1"
    )
    for table, names in readable.fetchall():
        if table in matrix.named("tables") and any(word != "denied" for word in matrix.selects(table).values()):
            problems += compared(f"column of {table},", matrix.columns.get(table, set()), set(names))
    buckets = {row[0] for row in conn.execute("select id from storage.buckets")}
    problems += compared("bucket", matrix.named("buckets"), buckets)
    published = conn.execute(
        "select schemaname || '.' || tablename from pg_publication_tables where pubname = 'supabase_realtime'"
    )
    problems += compared("published table", matrix.published, {row[0] for row in published})
    for name in conn.execute(
        "select format('%I.%I', n.nspname, c.relname) from pg_class as c "
        "inner join pg_namespace as n on n.oid = c.relnamespace "
        "where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relrowsecurity"
    ):
        problems.append(f"table {name[0]} has no row security")
    for name in conn.execute(
        "select format('%I.%I', n.nspname, c.relname) from pg_class as c "
        "inner join pg_namespace as n on n.oid = c.relnamespace "
        "where n.nspname in ('public', 'private') and c.relkind = 'v' "
        "and not coalesce(c.reloptions @> array['security_invoker=true'], false)"
    ):
        problems.append(f"view {name[0]} runs as its owner, past row security")
    query = """
        select n.nspname || '.' || c.relname, r, array(
            select p
            from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p
            where has_table_privilege(r, c.oid, p)
                or (p in ('select', 'insert', 'update', 'references') and has_any_column_privilege(r, c.oid, p))
        )
        from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace, unnest(%s::text[]) as r
        where n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v', 'm', 'f')
    """
    for name, role, may in conn.execute(query, [list(SQL_ROLES)]).fetchall():
        if name in matrix.named("tables"):
            reads = any(sql_role(each) == role and word != "denied" for each, word in matrix.selects(name).items())
            if may != ["select"] * reads:
                problems.append(f"table {name} gives {role} {may}")
    query = """
        select n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
               array(select r from unnest(%s::text[]) as r where has_function_privilege(r, p.oid, 'execute'))
        from pg_proc as p inner join pg_namespace as n on n.oid = p.pronamespace
        where n.nspname in ('public', 'private')
    """
    for function, may in conn.execute(query, [list(SQL_ROLES)]).fetchall():
        if function in functions and set(may) != matrix.may_execute(function):
            problems.append(f"function {function} is executable by {sorted(may)}")
    return problems


TABLE_STATEMENTS = {
    "select": "select 1 from {name} limit 1",
    "insert": "insert into {name} default values",
    "ignore": "insert into {name} default values on conflict do nothing",
    "update": "update {name} set {column} = null",
    "update nothing": "update {name} set {column} = null where false",
    "delete": "delete from {name}",
    "delete nothing": "delete from {name} where false",
    "lock": "lock table {name} in row exclusive mode",
}
ONLY_TABLES = {
    "merge": "merge into {name} using (select 1) as s on false when not matched then insert default values",
    "truncate": "truncate {name}",
    "share": "select 1 from {name} for key share",
}
SEQUENCE_STATEMENTS = {
    "select": "select * from {name}",
    "next": "select nextval('{name}')",
    "set": "select setval('{name}', 1)",
}
# What one statement does as a role with claims, undone in either case: ok, a SQLSTATE, or `rows` when row security
# refused it.
ATTEMPT = """
create or replace function pg_temp.attempt(p_role text, p_claims text, p_statement text) returns text
language plpgsql
as $$
begin
    perform set_config('request.jwt.claims', p_claims, true), set_config('role', p_role, true);
    execute p_statement;
    raise exception 'done' using errcode = 'ZZ000';
exception
    when others then
        return case
            when sqlstate = 'ZZ000' then 'ok'
            when sqlerrm like '%row-level security%' then 'rows'
            else sqlstate
        end;
end
$$
"""


def privilege_problems(conn: psycopg.Connection[Any], matrix: Matrix, someone: str) -> list[str]:
    """Every statement on every table and a call of every function, as each SQL role; nothing remains.

    `someone` is the id that the claims of `authenticated` name.
    """
    tried: list[tuple[str, str, str, set[str]]] = []
    columns = dict(
        conn.execute(
            "select c.oid::regclass::text, min(quote_ident(a.attname)) from pg_class as c "
            "inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped "
            "and a.attgenerated = '' "
            "where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) group by 1"
        ).fetchall()
    )
    for name, kind in sorted(tables_of(conn).items()):
        if name not in matrix.named("tables"):
            continue  # said already
        reading = {sql_role(role) for role, word in matrix.selects(name).items() if word != "denied"}
        statements = SEQUENCE_STATEMENTS if kind == "S" else TABLE_STATEMENTS | (ONLY_TABLES if kind in "rpf" else {})
        for role in SQL_ROLES:
            for operation, statement in statements.items():
                column = columns.get(name, columns.get(name.removeprefix("public."), ""))
                expected = "ok" if operation == "select" and role in reading else "42501"
                what = f"{role} tries {operation} on {name}"
                tried.append((what, role, statement.format(name=name, column=column), {expected}))
    for function, types in sorted(functions_of(conn).items()):
        arguments = ", ".join(f"null::{each}" for each in types)
        statement = f"select {function.partition('(')[0]}({arguments})"
        # Without USAGE on the schema nobody can name what is private, granted or not.
        is_private = function.startswith("private.")
        for role in SQL_ROLES if is_private else set(SQL_ROLES) - matrix.may_execute(function):
            expect = {"42501"} if is_private else {"42501", "42809"}  # a procedure cannot be selected
            tried.append((f"{role} calls {function}", role, statement, expect))
    conn.execute(ATTEMPT)
    claims = {
        role: json.dumps({"role": role} | ({"sub": someone} if role == "authenticated" else {})) for role in SQL_ROLES
    }
    happened = conn.execute(
        "select pg_temp.attempt(t.role, t.claims, t.statement) "
        "from unnest(%s::text[], %s::text[], %s::text[]) with ordinality as t (role, claims, statement, place) "
        "order by place",
        [
            [role for _, role, _, _ in tried],
            [claims[role] for _, role, _, _ in tried],
            [each for _, _, each, _ in tried],
        ],
    ).fetchall()
    return [
        f"{what}: {word}, not {min(expected)}"
        for (what, _, _, expected), (word,) in zip(tried, happened, strict=True)
        if word not in expected
    ]
