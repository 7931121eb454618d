"""Devices on the fixtures' stack, and the few requests the tests of the live part are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.live.device import Device


@pytest.fixture
async def device(realtime_stack: Any) -> AsyncIterator[Callable[[Any], Awaitable[Device]]]:
    """`await device(person)`: one more device of somebody; a second one is a second tab."""
    opened: list[Device] = []

    async def new(person: Any) -> Device:
        opened.append(await Device.open(realtime_stack.url, realtime_stack.publishable_key, person))
        return opened[-1]

    yield new
    for each in opened:
        await each.close()


class Calls:
    """Our API as a person's front end calls it. Blocks the loop meanwhile, which no test minds."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def __call__(self, person: Any, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        answer = self.client.request(method, f"/api{path}", headers=person.headers, json=body)
        assert answer.status_code == status if status else answer.is_success, answer.text
        return answer.json() if answer.content else None

    def send(self, person: Any, body: str, **to: Any) -> dict[str, Any]:
        """{message, conversation}."""
        sent: dict[str, Any] = self(person, "POST", "/messages/send", {"body": body, **to}, 201)
        return sent

    def group(self, owner: Any, *members: Any) -> dict[str, Any]:
        told = {"title": "Crew", "memberIds": [each.id for each in members]}
        made: dict[str, Any] = self(owner, "POST", "/messages/conversations/group", told)["conversation"]
        return made

    def sync(self, person: Any, cursor: str | None = None) -> dict[str, Any]:
        page: dict[str, Any] = self(person, "POST", "/messages/sync", {"cursor": cursor})
        return page


@pytest.fixture
def api(http: httpx.Client) -> Calls:
    """`api(person, method, path, body)` and short words for what every test does."""
    return Calls(http)
