"""The data API as `service_role` sees it, for processes beside the service: no request waits for them.

Loaded only by who uses it: postgrest and httpx would be most of the service's start.
"""

import asyncio
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx
import msgspec
from postgrest import AsyncPostgrestClient

from app.pool import secret_key_headers, verifying

T = TypeVar("T")


class Away(Exception):
    """The data API did not do what it was asked; the message is one word."""


class ServiceRole:
    """The functions of the data API that only the secret key may call."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        # Goes where it is sent and nowhere else, whatever the answer or the environment says.
        session = httpx.AsyncClient(
            verify=verifying(),
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            headers={"accept-encoding": "identity"},
            timeout=None,  # noqa: S113 - one deadline for all of a call is set below
        )
        self._postgrest = AsyncPostgrestClient(
            f"{url}/rest/v1", headers=secret_key_headers(key), http_client=session, retry_enabled=False
        )

    async def close(self) -> None:
        await self._postgrest.aclose()

    async def rpc(self, name: str, params: Mapping[str, Any], returns: type[T]) -> T:
        """Call one SQL function, once.

        Shape:  params are the function's arguments; the answer is decoded strictly, members we do not know are ignored.
        Errors: APIError with the code of a refusal, or the status of an answer that is nobody's refusal; Away.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._postgrest.rpc(name, dict(params)).execute()
            return msgspec.convert(answer.data, returns)
        except TimeoutError:
            raise Away("timeout") from None
        except httpx.HTTPError:
            raise Away("unreachable") from None
        except (ValueError, RecursionError):
            # Not JSON, or not of this shape: msgspec's errors are ValueErrors, too.
            raise Away("unusable") from None
