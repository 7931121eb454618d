"""The floor: Litestar decodes the same request, looks nothing up, asks nobody, and answers the same bytes.

python -m bench.peers.constant <port>
"""

from __future__ import annotations

import sys

import uvicorn
from litestar import Litestar, Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Struct

from bench.peers.upstream import MEANT, body

_ANSWERS = {name: body(meant) for name, meant in MEANT.items()}


class SendMessage(Struct, rename="camel", forbid_unknown_fields=True):
    """The same members as ours."""

    body: str
    conversation_id: str | None = None
    to_user_id: str | None = None
    gig_id: str | None = None
    sensitive: bool = False
    client_message_id: str | None = None


def _answer(name: str, status: int) -> Response[bytes]:
    return Response(_ANSWERS[name], media_type="application/json", status_code=status)


@post("/api/messages/send")
async def send(data: JSONBody[SendMessage]) -> Response[bytes]:  # noqa: ARG001
    """Decode, and answer a constant."""
    return _answer("send", 201)


@get("/api/messages/conversations")
async def inbox(limit: FromQuery[int] = 30) -> Response[bytes]:  # noqa: ARG001
    """Answer a constant."""
    return _answer("inbox", 200)


@get("/api/messages/conversations/{id:str}/messages")
async def history(id: FromPath[str], limit: FromQuery[int] = 30) -> Response[bytes]:  # noqa: ARG001
    """Answer a constant."""
    return _answer("history", 200)


APP = Litestar([send, inbox, history], openapi_config=None, logging_config=None)

if __name__ == "__main__":
    uvicorn.run(
        APP,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )
