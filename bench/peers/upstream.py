"""The upstream of `make bench`: a Supabase that answers at once, by path, with what its functions would have said.

    python -m bench.peers.upstream <port>

No parsing beyond framing, so that it is never what sets the pace. It counts what it was asked: a peer that answers
without asking, or asks without a token, is found out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop

PEOPLE = [f"0198c0de-0000-7000-8000-{number:012x}" for number in range(16)]
CONVERSATION = "0198c0de-0000-7000-8000-0000000c0417"
KEY = "0198c0de-0000-7000-8000-00000000004e"
PAGE = 30
_AT = "2026-03-01T09:30:00.123456Z"
_LINES = (
    "Is Saturday at ten still good for you?",
    "Yes! Bring the long ladder, the ceiling is higher than it looks in the pictures. The key is with the neighbour.",
    "Grüße aus Köln – ich bin gegen elf da. 👍",
    "Could you send me the measurements of the room again? I would like to order the paint before Thursday, and the "
    "shop only takes back what is still closed.",
)


def _person(number: int) -> dict[str, Any]:
    return {
        "id": PEOPLE[number % len(PEOPLE)],
        "displayName": f"Person {number}",
        "avatarUrl": f"https://cdn.example/avatars/{number}.jpg",
        "isFallback": False,
    }


def _message(number: int) -> dict[str, Any]:
    return {
        "id": f"0198c0de-0000-7000-8001-{number:012x}", "conversationId": CONVERSATION, "seq": number + 1,
        "eventSeq": number + 1, "fromUserId": PEOPLE[0], "toUserId": PEOPLE[1], "gigId": None, "clientMessageId": KEY,
        "body": _LINES[number % len(_LINES)], "state": "visible", "warning": None, "masked": False, "sensitive": False,
        "unreadable": False, "status": "sent", "sender": _person(0), "editedAt": None, "deletedAt": None,
        "createdAt": _AT,
    }  # fmt: skip


def _conversation(number: int) -> dict[str, Any]:
    return {
        "id": f"0198c0de-0000-7000-8002-{number:012x}", "kind": "direct", "gigId": None, "title": None,
        "members": [_person(number), _person(number + 1)], "memberCount": 2, "lastMessage": _message(number),
        "lastMessageAt": _AT, "unreadCount": number % 3, "markedUnread": False, "myRole": "member", "myLastReadSeq": 0,
        "canSend": True, "liveTopic": f"conversation:{CONVERSATION}:live:1", "lastSeq": 1, "firstSeq": 1, "eventSeq": 1,
        "archivedAt": None, "mutedUntil": None, "pinnedAt": None, "createdAt": _AT,
    }  # fmt: skip


# What every peer has to answer, by the name of the measurement.
MEANT: dict[str, dict[str, Any]] = {
    "send": {"message": _message(0), "conversation": _conversation(0)},
    "inbox": {"conversations": [_conversation(n) for n in range(PAGE)], "nextCursor": "eyJhdCI6IjIwMjYifQ"},
    "history": {"messages": [_message(n) for n in range(PAGE)], "hasMoreBefore": True, "hasMoreAfter": False},
}
FUNCTIONS = {"send": "send_message", "inbox": "list_inbox", "history": "list_messages"}
_SENT = {
    **MEANT["send"],
    "created": True,
    "held": False,
    "pace": {"limit": 100, "remaining": 99, "windowS": 60, "resetS": 60},
}


def body(told: Any) -> bytes:
    """JSON as Postgres and JavaScript write it: as UTF-8, without spaces."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _http(status: bytes, content: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(content)) + content


ANSWERS = {
    f"/rest/v1/rpc/{function}".encode(): _http(b"200 OK", body(_SENT if name == "send" else MEANT[name]))
    for name, function in FUNCTIONS.items()
}
_WRONG = _http(b"400 Bad Request", b'{"code":"PGRST100","message":"not what was meant"}')
# The least a call must bring along: who asks, and with what.
_MARKS = {f"/rest/v1/rpc/{FUNCTIONS[name]}".encode(): mark for name, mark in (
    ("send", b'"p_body"'), ("inbox", b'"p_limit"'), ("history", b'"p_conversation_id"'),
)}  # fmt: skip
_asked = dict.fromkeys(ANSWERS, 0)


def asked() -> dict[str, int]:
    """How often each kind was asked for, by callers who meant it."""
    return {name: _asked[f"/rest/v1/rpc/{function}".encode()] for name, function in FUNCTIONS.items()}


class Upstream(asyncio.Protocol):
    """One connection: one request after the other, bodies by Content-Length."""

    def __init__(self) -> None:
        self._came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        self._came += data
        while (end := self._came.find(b"\r\n\r\n")) >= 0:
            head = self._came[:end]
            names = head.lower()
            at = names.find(b"\r\ncontent-length:")
            length = int(names[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._came) < whole:
                return
            told, self._came = self._came[end + 4 : whole], self._came[whole:]
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            if path in ANSWERS:
                meant = b"\r\nauthorization: bearer " in names and _MARKS[path] in told
                _asked[path] += meant
                self._transport.write(ANSWERS[path] if meant else _WRONG)
            elif path == b"/asked":
                self._transport.write(_http(b"200 OK", body(asked())))
            else:
                self._transport.write(_WRONG)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
