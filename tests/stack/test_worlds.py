"""The migrations end with the same grants under today's default privileges and under those before 30 October 2026."""

from __future__ import annotations

from typing import Any

import psycopg

GRANTS = """
    select 'table ' || c.oid::regclass, a.grantee::regrole::text, a.privilege_type
    from pg_class as c, aclexplode(c.relacl) as a
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm', 'S')
    union all
    select 'column ' || t.attrelid::regclass || '.' || t.attname, a.grantee::regrole::text, a.privilege_type
    from pg_attribute as t join pg_class as c on c.oid = t.attrelid, aclexplode(t.attacl) as a
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    union all
    select 'function ' || p.oid::regprocedure, a.grantee::regrole::text, a.privilege_type
    from pg_proc as p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
    where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    order by 1, 2, 3
"""


def grants(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(GRANTS).fetchall()


def open_by_default(url: str) -> bool:
    """Whether a table made by `postgres` now would be readable by anon."""
    with psycopg.connect(url) as connection:
        connection.execute("create table public.probe_default (n int)")
        row = connection.execute("select has_table_privilege('anon', 'public.probe_default', 'select')").fetchone()
        connection.rollback()
    return bool(row and row[0])


def test_the_two_worlds_differ(old_acl_database, new_acl_database):
    assert open_by_default(old_acl_database)
    assert not open_by_default(new_acl_database)


def test_the_grants_do_not(old_acl_database, new_acl_database):
    assert grants(old_acl_database) == grants(new_acl_database)
