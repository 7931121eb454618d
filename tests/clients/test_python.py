"""The Python example of docs/realtime.md, as it is printed there, on the real stack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from clients.python.listen import listen


async def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline, "never"
        await asyncio.sleep(0.01)


async def test_listen(realtime_stack: Any, service_url: str, new_person: Any) -> None:
    ann = new_person("Ann")
    account = {"email": f"{ann.id}@example.org", "password": "a-password-of-bob"}
    url, key = realtime_stack.url, realtime_stack.publishable_key
    async with httpx.AsyncClient() as http:
        made = await http.post(f"{url}/auth/v1/signup", json=account, headers={"apikey": key})
    bob_id = made.json()["user"]["id"]

    told: list[dict[str, Any]] = []

    def bodies() -> list[str]:
        return [each["message"]["body"] for each in told if each.get("type") == "message.created"]

    def send(body: str) -> None:
        sent = {"toUserId": bob_id, "body": body}
        httpx.post(f"{service_url}/api/messages/send", json=sent, headers=ann.headers).raise_for_status()

    task = asyncio.create_task(listen(url, key, service_url, **account, changed=told.append))
    try:
        await until(lambda: any("cursor" in page for page in told))
        await asyncio.to_thread(send, "one")
        await until(lambda: bodies() == ["one"])
        await asyncio.to_thread(send, "two")
        await until(lambda: bodies() == ["one", "two"])
        assert all(not page["hasMore"] for page in told if "cursor" in page)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
