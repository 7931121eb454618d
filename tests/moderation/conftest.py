"""Both engines: SQL with the sample rules in a transaction, and the twin with what SQL tells about them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from app import moderation
from tests.moderation.corpus import DENIED_DOMAINS, SAMPLE_TERMS

INSERT = (
    "insert into private.moderation_rules (name, kind, action, label, explanation, terms, pattern, domains, settings)"
    " values (%(name)s, %(kind)s, %(action)s, 'test', 'For a test.', %(terms)s, %(pattern)s, %(domains)s, %(settings)s)"
    " returning id"
)


def insert_rule(connection: Any, name: str, kind: str, action: str = "warn", **rest: Any) -> str:
    """A rule as an administrator inserts it; returns its id."""
    rule = {"name": name, "kind": kind, "action": action, "terms": [], "pattern": None, "domains": [], "settings": "{}"}
    row = connection.execute(INSERT, {**rule, **rest}).fetchone()
    return str(row[0])


@dataclass(repr=False)  # hundreds of patterns: a failing example would not be readable
class Engines:
    """Shape: a verdict is (action, label, names of rules, masked text)."""

    connection: psycopg.Connection[Any]
    rules: moderation.Rules

    def normalized(self, texts: list[str]) -> list[str]:
        query = "select private.normalize_text(t) from unnest(%s::text[]) with ordinality as x (t, n) order by n"
        return [row[0] for row in self.connection.execute(query, [texts])]

    def in_sql(self, texts: list[str], contact_allowed: bool = False) -> list[tuple[Any, ...]]:
        query = """
            select (j).action, (j).label, (j).rules, (j).masked_body
            from (select n, private.judge_text(t, private.moderation_fold(t), %s) as j from unnest(%s::text[]) with ordinality as x (t, n)) as y
            order by n
        """
        return [
            (action, label, [rule["name"] for rule in rules], masked)
            for action, label, rules, masked in self.connection.execute(query, [contact_allowed, texts])
        ]

    def in_python(self, texts: list[str], contact_allowed: bool = False) -> list[tuple[Any, ...]]:
        verdicts = [moderation.judge(text, self.rules, contact_allowed) for text in texts]
        return [(v.action, v.label, [rule["name"] for rule in v.rules], v.masked_body) for v in verdicts]


@pytest.fixture(scope="module")
def make_engines(supabase_stack: Any) -> Iterator[Callable[..., Engines]]:
    """`make_engines(insert=None)`: the seeded rules, the sample ones, and what insert(connection) adds."""
    connections = []

    def make(insert: Callable[[Any], None] | None = None) -> Engines:
        connection = psycopg.connect(supabase_stack.database_url)
        connections.append(connection)
        connection.execute("set plan_cache_mode = 'force_generic_plan'")
        insert_rule(connection, "sample_terms", "term", terms=SAMPLE_TERMS)
        insert_rule(connection, "links_denied", "link", domains=DENIED_DOMAINS, settings='{"mode": "deny"}')
        if insert:
            insert(connection)
        row = connection.execute("select private.get_moderation_rules()").fetchone()
        assert row is not None
        return Engines(connection, moderation.Rules.parse(row[0]))

    yield make
    for connection in connections:
        connection.rollback()
        connection.close()


@pytest.fixture(scope="module")
def engines(make_engines: Callable[..., Engines]) -> Engines:
    return make_engines()
