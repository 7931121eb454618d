"""The service, joined once: settings, door, verifier, limits, routes, handlers. No logic."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from litestar import Litestar, Request, Router

from app import log, openapi, routes, settings
from app.auth import KeySet, Verifier
from app.edge import Admission, Edge, handle
from app.routes.health import Readiness
from app.sensitive import Sealer
from app.settings import Settings
from app.supabase import Supabase
from app.wire import ApiRequest

# A load balancer does not wait for a whole deadline to learn that there are no keys.
_KEYS_WAIT_S = 3.0


def create_app(config: Settings) -> Edge:
    """Build the ASGI application; nothing is connected before its lifespan starts."""
    supabase = Supabase(config)
    keys = KeySet(supabase.key_set)
    shared = None
    if config.redis_url:
        # Its client is loaded only by who uses it.
        from app.shared_limits import SharedBuckets

        shared = SharedBuckets(config.redis_url)
    admission = Admission(config, Verifier(config, keys), shared)

    async def probe() -> str | None:
        why = await supabase.why_not()
        if why is None and config.supabase_jwt_secret is None and not keys.are_known:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEYS_WAIT_S):
                    await keys.refresh()
            return None if keys.are_known else "keys"
        return why

    async def admit(request: Request[Any, Any, Any]) -> None:
        # Litestar copies a callable object, and all it holds, for each router; a function it takes as it is.
        await admission(request)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        supabase.open()
        yield
        await supabase.close()
        if shared is not None:
            await shared.close()

    app = Litestar(
        route_handlers=[
            *(Router(path, route_handlers=handlers, before_request=admit) for path, handlers in routes.API.items()),
            *routes.SERVICE,
        ],
        exception_handlers={Exception: handle},
        request_class=ApiRequest,
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )
    app.state["supabase"] = supabase
    app.state["sealer"] = Sealer(config, supabase)
    app.state["readiness"] = Readiness(probe)
    app.state["openapi"] = msgspec.json.encode(openapi.document(app))
    return Edge(app, config.cors_origins, supabase.is_crowded)


def __getattr__(name: str) -> Any:
    # `uvicorn app.main:app` reads the environment here; importing create_app does not.
    if name != "app":
        raise AttributeError(name)
    log.configure()
    globals()["app"] = create_app(settings.load())
    return globals()["app"]
