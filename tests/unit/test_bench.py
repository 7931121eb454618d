"""The pieces of `make bench`: the upstream of all, what every peer must answer, and a loop that reads what it gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from litestar.testing import AsyncTestClient

from app.routes.conversations import Inbox, MessagePage
from app.routes.messages import MessageSent
from bench import closedloop, http
from bench.peers import constant
from bench.peers import upstream as peers
from tests.unit.fakes import bearer, config, serving


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(peers.Upstream, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(("kind", "shape"), [("send", MessageSent), ("inbox", Inbox), ("history", MessagePage)])
def test_what_is_meant_is_our_shape(kind: str, shape: Any) -> None:
    decoded = msgspec.json.decode(peers.body(peers.MEANT[kind]), type=shape)
    assert msgspec.json.decode(msgspec.json.encode(decoded)) == peers.MEANT[kind]


@pytest.mark.parametrize("kind", list(http.KINDS))
async def test_ours_and_the_constant_answer_what_is_meant(kind: str) -> None:
    what = http.KINDS[kind]
    body = {"content": what.body, "headers": {"content-type": "application/json"}} if what.body else {}
    async with upstream() as url, serving(config(url)) as client:
        client.headers.update(bearer(url))
        ours = await client.request(what.method, what.path, **body)
    assert (ours.status_code, ours.json()) == (what.status, peers.MEANT[kind])
    async with AsyncTestClient(constant.APP) as client:
        floor = await client.request(what.method, what.path, **body)
    assert (floor.status_code, floor.json()) == (what.status, peers.MEANT[kind])


def call(url: str, token: str = "x", body: bytes = b'{"p_body": "x"}') -> bytes:
    told = {"Authorization": f"Bearer {token}"} if token else {}
    return closedloop.request(url, "POST", "/rest/v1/rpc/send_message", told, body)


async def test_the_loop_asks_until_its_time_is_over() -> None:
    async with upstream() as url:
        meant = {**peers.MEANT["send"], "created": True, "held": False}
        meant["pace"] = {"limit": 100, "remaining": 99, "windowS": 60, "resetS": 60}
        before = peers.asked()["send"]
        askers = await closedloop.connect(url, [call(url)] * 3, 200, meant)
        took_s = await closedloop.ask_for(askers, 0.05)
        assert len(took_s) == peers.asked()["send"] - before > 3
        for asker in askers:
            asker.close()


@pytest.mark.parametrize(
    ("request_", "status", "meant"),
    [
        ({}, 201, None),
        ({}, 200, {"another": "answer"}),
        ({"token": ""}, 200, None),
        ({"body": b'{"p_bod": 1}'}, 200, None),
    ],
)
async def test_a_wrong_answer_is_noticed(request_: dict[str, Any], status: int, meant: Any) -> None:
    async with upstream() as url:
        askers = await closedloop.connect(url, [call(url, **request_)], status, meant)
        with pytest.raises(closedloop.Wrong):
            await closedloop.ask_for(askers, 0.05)
