"""The world that is attacked, built once per worker, and the matrix it is held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.attack.matrix import Matrix
from tests.attack.world import World, build


@pytest.fixture(scope="session")
def attacked(supabase_stack: Any, new_person: Any, mint_token: Any) -> Iterator[World]:
    """People, conversations and open doors; see world.py."""
    with (
        psycopg.connect(supabase_stack.database_url, autocommit=True) as db,
        httpx.Client(
            base_url=supabase_stack.url, headers={"apikey": supabase_stack.publishable_key}, timeout=30
        ) as client,
    ):
        yield build(supabase_stack, db, new_person, mint_token, client)


@pytest.fixture(scope="session")
def matrix() -> Matrix:
    """matrix.txt."""
    return Matrix.load()
