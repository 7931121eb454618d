"""The edge: what happens before and after every route, in one raw ASGI layer and one hook.

`Edge` wraps the whole application, so that an unknown path, a preflight or a crash gets the same request id, headers
and log line as a message. `Admission` runs once the route is known: token, then pace, before any I/O and any body.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, Message, Receive, Scope, Send

from app import limits, log, problems
from app.auth import Verifier
from app.problems import Problem
from app.settings import Settings
from app.supabase import crowded

if TYPE_CHECKING:
    from app.shared_limits import SharedBuckets

_ALWAYS = [
    (b"cache-control", b"private, no-store"),
    (b"x-content-type-options", b"nosniff"),
]
_CORS_ALLOW = [
    (b"access-control-allow-methods", b"GET, HEAD, POST, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, X-Request-Id, traceparent"),
    # Browsers keep a preflight for at most two hours; ten minutes are enough to save most of them.
    (b"access-control-max-age", b"600"),
]
_CORS_EXPOSE = (
    b"access-control-expose-headers",
    b"RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, Server-Timing",
)


# Ours are below 150. The router remembers the last 1,024 paths, however long: 8 MiB at the most.
_PATH_BYTES_MAX = 8 * 1024


class Edge:
    """The outermost ASGI application."""

    def __init__(
        self, app: Litestar, cors_origins: Sequence[str], is_crowded: Callable[[], bool] = lambda: False
    ) -> None:
        self.app = app
        self._is_crowded = is_crowded
        self._origins = frozenset(origin.encode() for origin in cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == ScopeType.HTTP:
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = log.Exchange(scope["method"], scope["headers"])
        log.begin(exchange)
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if exchange.method == "OPTIONS" and "path_template" in scope:
                    message["headers"] = self._allowing(scope["path_template"])
                # The last word on headers: those below replace what a route or the framework may have said.
                message = {**message, "headers": [*message["headers"], *self._headers(exchange)]}
            await send(message)

        if scope["method"] == "HEAD":
            # Whatever can be read can be asked for its headers; the server leaves out the body by its own scope.
            scope = cast(HTTPScope, {**scope, "method": "GET"})
        try:
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in exchange.headers:
                await _respond(finish, 204, self._preflight(exchange), b"")
            elif len(scope["raw_path"]) > _PATH_BYTES_MAX:
                await _refuse(finish, "not_found", exchange)
            elif scope["method"] != "OPTIONS" and scope["path"].startswith("/api/") and self._is_crowded():
                # Before token, route and body: turning away four fifths of a storm must not cost those let in.
                exchange.route = "crowded"
                await _refuse(finish, crowded(), exchange)
            else:
                await self.app(scope, receive, finish)
        except asyncio.CancelledError:
            # The process ends, and this took longer than any deadline of ours.
            if status == 0:
                await _refuse(finish, "upstream_timeout", exchange)
        except Exception as error:
            log.unexpected(error)
            if status == 0:
                await _refuse(finish, "internal_error", exchange)
        finally:
            exchange.route = scope.get("path_template") or exchange.route
            log.request_line(exchange, status, time.perf_counter() - exchange.started_s)

    def _allowing(self, path: str) -> list[tuple[bytes, bytes]]:
        # Litestar's own answer to OPTIONS knows only the first handler of a path.
        methods = [m for r in self.app.routes if isinstance(r, HTTPRoute) and r.path_format == path for m in r.methods]
        return [(b"allow", problems.allowed(", ".join(methods)).encode())]

    def _headers(self, exchange: log.Exchange) -> list[tuple[bytes, bytes]]:
        headers = everywhere(exchange)
        if exchange.pace is not None:
            policy, rest = exchange.pace
            headers += [(b"ratelimit-policy", policy.encode()), (b"ratelimit", rest.encode())]
        if self._origins:
            headers.append((b"vary", b"Origin"))
            origin = exchange.headers.get(b"origin")
            if origin in self._origins:
                headers += [(b"access-control-allow-origin", origin), _CORS_EXPOSE]
        return headers

    def _preflight(self, exchange: log.Exchange) -> list[tuple[bytes, bytes]]:
        exchange.route = "preflight"
        return _CORS_ALLOW if exchange.headers.get(b"origin") in self._origins else []


def everywhere(exchange: log.Exchange) -> list[tuple[bytes, bytes]]:
    """The headers of every answer, whoever gives it."""
    total_ms = (time.perf_counter() - exchange.started_s) * 1000
    return [
        *_ALWAYS,
        (b"x-request-id", exchange.request_id.encode()),
        (b"server-timing", b"upstream;dur=%.2f, total;dur=%.2f" % (exchange.upstream_s * 1000, total_ms)),
    ]


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    start = [*headers] if status == 204 else [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _refuse(send: Send, refusal: str | Problem, exchange: log.Exchange) -> None:
    problem = Problem(refusal) if isinstance(refusal, str) else refusal
    exchange.code = problem.code
    status, headers, body = problems.render(problem, exchange.request_id)
    await _respond(send, status, [(k.encode(), v.encode()) for k, v in headers.items()], body)


class Admission:
    """Token, then pace: the `before_request` of the API's router."""

    def __init__(self, settings: Settings, verifier: Verifier, shared: "SharedBuckets | None") -> None:
        self._verifier = verifier
        self._shared = shared
        self._people = limits.Limiter("person", settings.person_requests_per_minute)
        self._strangers = limits.Limiter("address", settings.anonymous_requests_per_minute)
        self._addresses = limits.ClientAddresses(settings.trusted_proxies)

    async def __call__(self, request: Request[Any, Any, Any]) -> None:
        """Let the request in as `request.user`, or raise the Problem that keeps it out."""
        if request.method == "OPTIONS":
            return
        exchange = log.current()
        try:
            caller = await self._verifier.caller(exchange.headers.get(b"authorization"))
        except Problem:
            await self._take(self._strangers, self._address(request, exchange), exchange)
            raise
        exchange.caller_id = caller.id
        await self._take(self._people, caller.id, exchange)
        request.scope["user"] = caller

    def _address(self, request: Request[Any, Any, Any], exchange: log.Exchange) -> str:
        client = request.scope.get("client")
        forwarded = exchange.headers.get(b"x-forwarded-for")
        return self._addresses.key(client[0] if client else None, forwarded.decode("latin-1") if forwarded else None)

    async def _take(self, limiter: limits.Limiter, key: str, exchange: log.Exchange) -> None:
        now_s = time.monotonic()
        verdict = await self._shared.take(limiter, key, now_s) if self._shared else limiter.take(key, now_s)
        exchange.pace = (limiter.policy, limits.item(limiter.name, verdict.remaining, verdict.reset_s))
        if not verdict.allowed:
            detail = f"At most {limiter.quota} requests in 60 seconds."
            raise Problem("rate_limited", detail, retry_after_s=verdict.retry_after_s)


def handle(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's handler for every exception: the one renderer, and a log entry when nobody expected it."""
    exchange = log.current()
    problem = problems.from_exception(error)
    exchange.code = problem.code
    if problem.code == "internal_error" and not isinstance(error, Problem):
        log.unexpected(error)
    status, headers, body = problems.render(problem, exchange.request_id)
    return Response(body, status_code=status, headers=headers, media_type=headers.pop("content-type"))
