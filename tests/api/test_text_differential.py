"""app/text.py and private.normalize_text(text) agree, over every code point of Unicode 14 and over hostile strings."""

import itertools
import sys
import unicodedata
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.text import normalize

BATCH = 20_000


def in_sql(db: psycopg.Connection[Any], texts: list[str]) -> list[str | None]:
    """The normal forms according to SQL, in order."""
    query = "select array_agg(private.normalize_text(t) order by n) from unnest(%s::text[]) with ordinality as x (t, n)"
    row = db.execute(query, [texts]).fetchone()
    assert row is not None
    found: list[str | None] = row[0]
    return found


def assert_equal(db: psycopg.Connection[Any], texts: list[str]) -> None:
    for text, ours, theirs in zip(texts, map(normalize, texts), in_sql(db, texts), strict=True):
        assert ours == theirs, f"{text.encode('unicode-escape')!r}: {ours!r} is {theirs!r} in SQL"


def code_points() -> list[str]:
    """Every assigned character except NUL, which PostgreSQL cannot hold, and surrogates, which JSON cannot carry."""
    every = map(chr, range(1, sys.maxunicode + 1))
    return [c for c in every if unicodedata.category(c) not in ("Cn", "Cs")]


# Alone; between letters; with a mark that composes and one that has to be sorted before it.
@pytest.mark.parametrize("form", ["{}", "a{}b", "{}\u0301\u0323"])
def test_every_code_point(db: psycopg.Connection[Any], form: str) -> None:
    for batch in itertools.batched(code_points(), BATCH) if sys.version_info >= (3, 12) else _batched(code_points()):
        assert_equal(db, [form.format(c) for c in batch])


def _batched(values: list[str]) -> list[list[str]]:
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


spiced = st.text(
    st.sampled_from(
        "\r\n\t \x01\x7f\x85\u00a0\u2028\u202e\u2066\ufeff\u200d\ufe0fae\u0301\u0323\u0345\u1100\u1161\u11a8\u0958"
    )
    | st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="\x00"),
    max_size=60,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(spiced, min_size=1, max_size=40))
@example(["e" + "\u0301" * n for n in (253, 254, 255, 256)])
@example(["\u0301" * 254 + "x" + "\u0301" * 254, "\u0301\x01" * 255, "a" * 254 + "\u0301", ""])
def test_any_text(db: psycopg.Connection[Any], texts: list[str]) -> None:
    assert_equal(db, texts)
