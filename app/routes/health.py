"""Health: whether the process lives, and whether it can do its work."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from litestar import get
from msgspec import Struct

from app import problems
from app.problems import Problem
from app.wire import ApiRequest, Reply


class Live(Struct, frozen=True):
    """The process answers."""

    status: Literal["live"]


class Ready(Struct, frozen=True):
    """The data API, the database, our schema and the keys can be used."""

    status: Literal["ready"]


class Readiness:
    """Asks whether we can work, at most once a second however many wait for the answer.

    Shape:  `probe` returns None, or why not in one word.
    """

    # Load balancers of several kinds ask every few seconds; one question a second is what they can cost us.
    FRESH_S = 1.0

    def __init__(self, probe: Callable[[], Awaitable[str | None]], now_s: Callable[[], float] = time.monotonic) -> None:
        self._probe = probe
        self._now_s = now_s
        self._lock = asyncio.Lock()
        self._asked_at_s = float("-inf")
        self._answer: str | None = None
        self._leaves = False

    def leave(self) -> None:
        """From now on the answer is no: this process is about to end."""
        self._leaves = True

    async def why_not(self) -> str | None:
        """Why the service is not ready, in one word, or None when it is."""
        if self._leaves:
            return "draining"
        async with self._lock:
            if self._now_s() - self._asked_at_s >= self.FRESH_S:
                self._answer = await self._probe()
                self._asked_at_s = self._now_s()
            return self._answer


@get("/health/live", operation_id="getLive", opt=problems.answers(Live, {200: "The process lives."}, common=()))
async def live() -> Reply:
    """Answer without asking anybody."""
    return Reply(Live("live"))


@get(
    "/health/ready",
    operation_id="getReady",
    opt=problems.answers(Ready, {200: "Send traffic."}, "not_ready", common=()),
)
async def ready(request: ApiRequest) -> Reply:
    """Answer whether requests can be served now."""
    readiness: Readiness = request.app.state["readiness"]
    if why := await readiness.why_not():
        raise Problem("not_ready", f"Not usable: {why}.", retry_after_s=2)
    return Reply(Ready("ready"))
