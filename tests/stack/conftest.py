"""Whatever answers as Supabase, for tests that run unchanged against a hosted project."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest


@dataclass(frozen=True)
class Project:
    """Whatever answers as Supabase: the stand-in, or a real project named by the environment."""

    url: str
    publishable_key: str
    secret_key: str
    client: httpx.Client

    def sign_up(self) -> dict[str, Any]:
        answer = self.client.post(
            "/auth/v1/signup", json={"email": f"{uuid.uuid4()}@example.com", "password": "a-good-password"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="session")
def project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """The project of SUPABASE_URL when STACK_TEST_HOSTED=1 and its keys are set; otherwise this worker's stand-in."""
    if os.environ.get("STACK_TEST_HOSTED") == "1":
        url, key = os.environ["SUPABASE_URL"], os.environ["SUPABASE_PUBLISHABLE_KEY"]
        secret = os.environ["SUPABASE_SECRET_KEY"]
    else:
        stack = request.getfixturevalue("supabase_stack")
        url, key, secret = stack.url, stack.publishable_key, stack.secret_key
    with httpx.Client(base_url=url, headers={"apikey": key}, timeout=30) as client:
        yield Project(url, key, secret, client)
