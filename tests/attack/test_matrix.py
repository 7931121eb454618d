"""Every role at every door, held against matrix.txt. Failures are collected: one run tells all of them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.attack.matrix import Matrix, catalogue_problems, functions_of, privilege_problems, sql_role, tables_of
from tests.attack.world import ROLES, World, outcome


def none_of(problems: list[str]) -> None:
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)


def test_everything_that_exists_is_named_and_granted_as_written(db: Any, matrix: Matrix) -> None:
    none_of(catalogue_problems(db, matrix))


def test_sql_roles_can_do_nothing_but_what_is_written(db: Any, matrix: Matrix, attacked: World) -> None:
    none_of(privilege_problems(db, matrix, attacked.ids["member"]))


def test_a_project_with_the_older_default_privileges_is_no_different(
    old_acl_database: str, matrix: Matrix, attacked: World
) -> None:
    with psycopg.connect(old_acl_database, autocommit=True) as conn:
        none_of(catalogue_problems(conn, matrix) + privilege_problems(conn, matrix, attacked.ids["member"]))


def readable(db: Any, matrix: Matrix, table: str, role: str, world: World) -> set[tuple[str, ...]]:
    """The primary keys a role should get, found out as postgres."""
    word = matrix.selects(table)[role]
    if word in ("none", "denied"):
        return set()
    key, mine = matrix.rows[table]
    condition = "true" if word == "all" else world.fill(mine.replace("$me", "'$me'"), role)
    rows = db.execute(f"select {key} from {table} as t where {condition}")
    return {tuple(map(str, row)) for row in rows}


def test_tables_show_each_role_its_rows(db: Any, matrix: Matrix, attacked: World) -> None:
    problems, seen_by_members = [], 0
    for table in sorted(name for name in tables_of(db) if name.startswith("public.")):
        key = matrix.rows[table][0].replace(" ", "")
        for role in ROLES:
            answer = attacked.ask(role, "GET", f"/rest/v1/{table.removeprefix('public.')}?select={key}")
            word, expected = matrix.selects(table)[role], readable(db, matrix, table, role, attacked)
            if word == "denied":
                if outcome(answer) != "denied":
                    problems.append(f"{role} reads {table}: {answer.status_code} {answer.text[:100]}")
                continue
            found = {tuple(row[each] for each in key.split(",")) for row in answer.json()}
            # One answer has at most 1,000 rows; the count below is of all.
            if found != expected and not (found < expected and len(found) == 1000):
                problems.append(f"{role} reads {len(found)} rows of {table}, not {len(expected)}")
            seen_by_members += len(found) * (role == "member")
            counted = attacked.ask(
                role, "HEAD", f"/rest/v1/{table.removeprefix('public.')}", headers={"Prefer": "count=exact"}
            )
            if counted.headers.get("content-range", "").partition("/")[2] != str(len(expected)):
                problems.append(f"{role} counts {counted.headers.get('content-range')} rows of {table}")
    assert seen_by_members > 5, "the world is there"
    none_of(problems)


# What client libraries and curl can ask a table to do, each on all rows or a row that would be new.
WRITES: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "insert": ("POST", "", "row", {}),
    "insert many": ("POST", "", "rows", {"Prefer": "return=representation"}),
    "insert columns": ("POST", "?columns={key}", "rows", {"Prefer": "missing=default"}),
    "merge": ("POST", "?on_conflict={key}", "row", {"Prefer": "resolution=merge-duplicates"}),
    "ignore": ("POST", "", "rows", {"Prefer": "resolution=ignore-duplicates,return=minimal"}),
    "put": ("PUT", "?{filters}", "row", {}),
    "update": ("PATCH", "?{first}=not.is.null", "row", {}),
    "update one": ("PATCH", "?{first}=eq.{nobody}", "row", {"Prefer": "max-affected=1"}),
    "delete": ("DELETE", "?{first}=not.is.null", None, {}),
    "delete none": ("DELETE", "?{first}=eq.{nobody}", None, {"Prefer": "return=representation"}),
}


def test_no_role_writes_a_table_through_the_data_api(db: Any, matrix: Matrix, attacked: World) -> None:
    problems = []
    for table in sorted(name for name in tables_of(db) if name.startswith("public.")):
        name, key = table.removeprefix("public."), matrix.rows[table][0].replace(" ", "")
        nobody, first = attacked.ids["nobody"], key.split(",")[0]
        row = dict.fromkeys(key.split(","), nobody)
        bodies = {"row": row, "rows": [row], None: None}
        before = db.execute(f"select count(*), max(t.xmin::text::bigint) from {table} as t").fetchone()
        for what, (method, query, body, headers) in WRITES.items():
            filters = "&".join(f"{each}=eq.{nobody}" for each in key.split(","))
            path = f"/rest/v1/{name}{query.format(key=key, first=first, nobody=nobody, filters=filters)}"
            for role in ROLES:
                answer = attacked.ask(role, method, path, json=bodies[body], headers=headers)
                if outcome(answer) != "denied":
                    problems.append(f"{role}: {what} on {table}: {answer.status_code} {answer.text[:120]}")
        after = db.execute(f"select count(*), max(t.xmin::text::bigint) from {table} as t").fetchone()
        if before != after:
            problems.append(f"{table} was changed")
    none_of(problems)


def test_functions_answer_each_role_as_written(matrix: Matrix, attacked: World) -> None:
    problems = []
    for function, arguments, outcomes in matrix.calls():
        for role, expected in outcomes.items():
            answer = attacked.rpc(role, function, **attacked.fill(arguments, role))
            if outcome(answer) != expected:
                problems.append(
                    f"{role}: {function} {arguments}: {outcome(answer)}, not {expected}; {answer.text[:150]}"
                )
    none_of(problems)


@pytest.mark.parametrize(
    "schema", ["private", "auth", "storage", "realtime", "extensions", "pg_catalog", "graphql_public"]
)
def test_other_schemas_are_not_offered(attacked: World, schema: str) -> None:
    """Naming a schema in a header leads nowhere, whoever asks and whatever is asked for."""
    problems = []
    for role in ROLES:
        for method, path in (
            ("GET", "/rest/v1/settings"), ("POST", "/rest/v1/settings"), ("PATCH", "/rest/v1/settings"),
            ("DELETE", "/rest/v1/settings"), ("GET", "/rest/v1/rpc/uuid_v7"), ("POST", "/rest/v1/rpc/uuid_v7"),
        ):  # fmt: skip
            for name in ("Accept-Profile", "Content-Profile"):
                if (name == "Accept-Profile") != (method == "GET"):
                    continue
                told = {} if method in ("POST", "PATCH") else None
                answer = attacked.ask(role, method, path, headers={name: schema}, json=told)
                if outcome(answer) != "PGRST106":
                    problems.append(f"{role}: {method} {path} of {schema}: {answer.status_code} {answer.text[:100]}")
    none_of(problems)


def test_private_objects_cannot_be_reached_by_name(db: Any, matrix: Matrix, attacked: World) -> None:
    """Not as tables or functions of public, not qualified, not with a profile."""
    problems = []
    public = {name.partition("(")[0] for name in functions_of(db) if name.startswith("public.")} | set(tables_of(db))
    private = {name.partition("(")[0] for name in functions_of(db) if name.startswith("private.")}
    for role in ("anon", "service", "moderator", "member"):
        for name in sorted(name for name in tables_of(db) if name.startswith("private.")):
            for asked in {name, name.removeprefix("private.")} - {each.removeprefix("public.") for each in public}:
                if attacked.ask(role, "GET", f"/rest/v1/{asked}").is_success:
                    problems.append(f"{role} reads {name} as {asked}")
    for role, schema in (("anon", {}), ("service", {}), ("member", {}), ("moderator", {"Content-Profile": "private"})):
        for name in sorted(private):
            short = name.removeprefix("private.")
            if not schema and f"public.{short}" in public:
                continue
            answer = attacked.ask(role, "POST", f"/rest/v1/rpc/{short}", json={}, headers=schema)
            if outcome(answer) != ("PGRST106" if schema else "PGRST202"):
                problems.append(f"{role} calls {name} as {short}: {answer.text[:100]}")
    none_of(problems)


def test_sql_roles_are_those_of_the_columns() -> None:
    assert {sql_role(role) for role in ROLES} == {"anon", "authenticated", "service_role"}
