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
SECTIONS = ("tables", "rows", "functions", "private functions", "buckets", "topics", "published")
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
            if section == "published":
                found.published.add(fields[0])
            elif section == "private functions":
                found.grants[fields[0]] = fields[1]
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
        select n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
               array(select r from unnest(%s::text[]) as r where has_function_privilege(r, p.oid, 'execute'))
        from pg_proc as p inner join pg_namespace as n on n.oid = p.pronamespace
        where n.nspname in ('public', 'private')
    """
    for function, may in conn.execute(query, [list(SQL_ROLES)]).fetchall():
        if function in functions and set(may) != matrix.may_execute(function):
            problems.append(f"function {function} is executable by {sorted(may)}")
    return problems


def _one(conn: psycopg.Connection[Any], query: str, values: list[Any]) -> Any:
    row = conn.execute(query, values).fetchone()
    return row[0] if row else None


TABLE_STATEMENTS = {
    "select": "select * from {name} limit 1",
    "insert": "insert into {name} default values",
    "ignore": "insert into {name} default values on conflict do nothing",
    "merge": "merge into {name} using (select 1) as s on false when not matched then insert default values",
    "update": "update {name} set {column} = {column}",
    "update nothing": "update {name} set {column} = {column} where false",
    "delete": "delete from {name}",
    "delete nothing": "delete from {name} where false",
    "truncate": "truncate {name}",
    "lock": "lock table {name} in row exclusive mode",
    "share": "select 1 from {name} for key share",
}
SEQUENCE_STATEMENTS = {
    "select": "select * from {name}",
    "next": "select nextval('{name}')",
    "set": "select setval('{name}', 1)",
}


def privilege_problems(conn: psycopg.Connection[Any], matrix: Matrix, someone: str) -> list[str]:
    """Every statement on every table and a call of every function, as each SQL role; nothing remains.

    `someone` is the id that the claims of `authenticated` name.
    """
    problems: list[str] = []
    for name, kind in sorted(tables_of(conn).items()):
        if name not in matrix.named("tables"):
            continue  # said already
        seen = matrix.selects(name)
        reading = {sql_role(role) for role, word in seen.items() if word != "denied"}
        column = _one(
            conn,
            "select quote_ident(attname) from pg_attribute where attrelid = %s::regclass and attnum > 0 "
            "and not attisdropped and attgenerated = '' order by attnum limit 1",
            [name],
        )
        for role in SQL_ROLES:
            statements = SEQUENCE_STATEMENTS if kind == "S" else TABLE_STATEMENTS
            for operation, statement in statements.items():
                happened = attempt(conn, role, someone, statement.format(name=name, column=column))
                expected = "ok" if operation == "select" and role in reading else "42501"
                if happened != expected:
                    problems.append(f"{role} tries {operation} on {name}: {happened}, not {expected}")
    for function, types in sorted(functions_of(conn).items()):
        for role in set(SQL_ROLES) - matrix.may_execute(function):
            arguments = ", ".join(f"null::{each}" for each in types)
            happened = attempt(conn, role, someone, f"select {function.partition('(')[0]}({arguments})")
            if happened not in ("42501", "42809"):  # 42809: a procedure, which cannot be selected
                problems.append(f"{role} calls {function}: {happened}, not 42501")
        if function in matrix.grants:
            # Granted or not: without USAGE on the schema nobody can name it.
            arguments = ", ".join(f"null::{each}" for each in types)
            for role in SQL_ROLES:
                happened = attempt(conn, role, someone, f"select {function.partition('(')[0]}({arguments})")
                if happened != "42501":
                    problems.append(f"{role} names {function}: {happened}, not 42501")
    return problems


def attempt(conn: psycopg.Connection[Any], role: str, someone: str, statement: str) -> str:
    """`ok` or the SQLSTATE of one statement as that role, undone in either case."""
    claims = {"role": role} | ({"sub": someone} if role == "authenticated" else {})
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
            conn.execute(f"set local role {role}")
            conn.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or type(error).__name__
    return "ok"
