"""Follow what happens to one person with supabase-py: events as they come, sync for everything else."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx

from supabase import AsyncClientOptions, acreate_client


async def listen(
    supabase_url: str,
    publishable_key: str,
    api_url: str,
    email: str,
    password: str,
    changed: Callable[[dict[str, Any]], None],
) -> None:
    """Calls `changed` with pages of sync and with events, until it is cancelled. Merge both by id and eventSeq."""
    # Left alone, the client gives up for good after five attempts, about 15 seconds, and says nothing.
    http = httpx.AsyncClient()
    options = AsyncClientOptions(realtime={"max_retries": 10**9}, httpx_client=http)
    supabase = await acreate_client(supabase_url, publishable_key, options)
    session = (await supabase.auth.sign_in_with_password({"email": email, "password": password})).session
    await supabase.realtime.set_auth(session.access_token)

    look = asyncio.Event()
    closed = asyncio.Event()
    position = 0

    def heard(message: dict[str, Any]) -> None:
        nonlocal position
        event = message["payload"]
        if event["position"] <= position:
            return
        if event["previousPosition"] != position:
            look.set()
        position = event["position"]
        changed(event)

    def said(state: str, _: Exception | None) -> None:
        if state == "CLOSED":
            closed.set()
        look.set()

    async def join() -> None:
        closed.clear()
        channel = supabase.channel(f"user:{session.user.id}", {"config": {"private": True}})
        await channel.on_broadcast("*", heard).subscribe(said)

    await join()
    cursor = None
    try:
        while True:
            look.clear()
            token = (await supabase.auth.get_session()).access_token
            headers = {"Authorization": f"Bearer {token}"}
            with contextlib.suppress(httpx.TransportError):  # no connection: again in a minute
                answer = await http.post(f"{api_url}/api/messages/sync", json={"cursor": cursor}, headers=headers)
                if answer.status_code == 400 and answer.json()["code"] == "cursor_invalid":
                    cursor, position = None, 0
                    continue
                if answer.is_success:
                    page = answer.json()
                    cursor = page["cursor"]
                    changed(page)
                    if page["hasMore"]:
                        continue
                    # Everything up to here is in: what comes late says nothing new, and the next event follows this.
                    position = max(position, page["position"])
            if closed.is_set():
                # For good, as when a token has expired: with a new one, a new channel.
                await supabase.realtime.set_auth(token)
                await join()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(look.wait(), 60)
    finally:
        await supabase.realtime.close()
        await http.aclose()
