"""The people of the attack suite, what they have to do with each other, and how they knock at every door."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from tests.sql.rpc import call

# Columns of matrix.txt, from who should be able to do nothing to who may do most.
ROLES = (
    "anon", "service", "anonymous", "outsider", "former", "deleted",
    "suspended", "muted", "blocked", "moderator", "member", "owner",
)  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def has_table(db: psycopg.Connection[Any], name: str) -> bool:
    row = db.execute("select to_regclass(%s) is not null", [name]).fetchone()
    return bool(row and row[0])


@dataclass
class World:
    """One group and a few direct conversations; `ids` holds what matrix.txt calls $name."""

    people: dict[str, Any]
    ids: dict[str, str]
    client: httpx.Client
    secret_key: str
    topics: dict[str, str] = field(default_factory=dict)

    def token(self, role: str) -> str | None:
        """The bearer token of a role; None for anon."""
        return self.secret_key if role == "service" else getattr(self.people.get(role), "token", None)

    def headers(self, role: str) -> dict[str, str]:
        """What a client library sends: the API key, and the token of who is signed in."""
        if role == "service":
            return {"apikey": self.secret_key, "Authorization": f"Bearer {self.secret_key}"}
        return self.people[role].headers if role in self.people else {}

    def ask(
        self, role: str, method: str, path: str, *, headers: dict[str, str] | None = None, **told: Any
    ) -> httpx.Response:
        """A request straight to the stack as that role."""
        return self.client.request(method, path, headers={**self.headers(role), **(headers or {})}, **told)

    def rpc(self, role: str, function: str, /, **params: Any) -> httpx.Response:
        """Call public.<function> through the data API with arguments p_<name>."""
        return self.ask(role, "POST", f"/rest/v1/rpc/{function}", json={f"p_{k}": v for k, v in params.items()})

    def fill(self, value: Any, role: str) -> Any:
        """A value of matrix.txt with $name replaced; $me is the role's own id, $new a new UUID."""
        if isinstance(value, dict):
            return {name: self.fill(each, role) for name, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each, role) for each in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        own = {"me": getattr(self.people.get(role), "id", str(uuid.UUID(int=0))), "new": str(uuid.uuid4())}
        for name, word in sorted((self.ids | own).items(), reverse=True):
            value = value.replace(f"${name}", word)
        assert "$" not in value, value
        return value


def outcome(answer: httpx.Response) -> str:
    """What a door said, in one word: `ok`, `denied` by privilege, a code of ours, or PostgREST's or HTTP's own."""
    if answer.is_success:
        return "ok"
    try:
        told = answer.json()
    except ValueError:
        return str(answer.status_code)
    code = told.get("code") if isinstance(told, dict) else None
    if code == "42501":
        return "denied"
    if isinstance(code, str) and code.startswith("PT"):
        assert code == f"PT{answer.status_code}", answer.text
        return str(told["message"])
    return str(code or told.get("statusCode") or answer.status_code)


def build(
    stack: Any,
    db: psycopg.Connection[Any],
    new_person: Callable[..., Any],
    mint: Callable[..., str],
    client: httpx.Client,
) -> World:
    """Everybody, in the state that gives the column its name."""
    people = {role: new_person(role.title()) for role in ROLES if role not in ("anon", "service")}
    id_of = {role: person.id for role, person in people.items()}
    owner = id_of["owner"]
    crew = ["former", "deleted", "suspended", "muted", "member"]
    group = call(db, owner, "create_group", title="Crew", member_ids=[id_of[r] for r in crew])["conversation"]["id"]
    message = call(db, owner, "send_message", body="The plan", conversation_id=group)["message"]["id"]
    call(db, id_of["member"], "send_message", body="Agreed", conversation_id=group)
    direct = call(db, owner, "send_message", body="Hello", to_user_id=id_of["member"])["conversation"]["id"]
    blocked = call(db, id_of["blocked"], "send_message", body="Hey you", to_user_id=owner)
    with_deleted = call(db, owner, "send_message", body="Bye", to_user_id=id_of["deleted"])["conversation"]["id"]
    extra = new_person("Extra").id
    call(db, owner, "add_members", conversation_id=group, user_ids=[extra])
    doomed = call(db, owner, "send_message", body="To be deleted", conversation_id=group)["message"]["id"]

    call(db, owner, "remove_member", conversation_id=group, user_id=id_of["former"])
    db.execute("delete from auth.users where id = %s", [id_of["deleted"]])
    db.execute("update auth.users set is_anonymous = true where id = %s", [id_of["anonymous"]])
    people["anonymous"] = type(people["anonymous"])(
        id_of["anonymous"], "", "Anonymous", mint(id_of["anonymous"], is_anonymous=True)
    )
    if has_table(db, "private.sanctions"):
        for role, kind in (("suspended", "suspend"), ("muted", "mute")):
            db.execute(
                "insert into private.sanctions (user_id, kind, reason, starts_at) values (%s, %s, 'test', now())",
                [id_of[role], kind],
            )
    else:
        db.execute("update auth.users set banned_until = now() + interval '1 day' where id = %s", [id_of["suspended"]])
    if has_table(db, "private.blocks"):
        db.execute("insert into private.blocks (blocker_id, blocked_id) values (%s, %s)", [owner, id_of["blocked"]])
    if has_table(db, "private.moderators"):
        db.execute("insert into private.moderators (user_id, role) values (%s, 'moderator')", [id_of["moderator"]])

    ids = {
        **id_of,
        "group": group, "message": message, "direct": direct, "doomed": doomed, "extra": extra,
        "blockedtalk": blocked["conversation"]["id"], "blockedmessage": blocked["message"]["id"],
        "deletedtalk": with_deleted, "nobody": str(uuid.uuid4()),
    }  # fmt: skip
    topics = {
        "own": "user:$me", "other": "user:$owner",
        "bare": "conversation:$group", "room": "room:1",
    }  # fmt: skip
    return World(people, ids, client, stack.secret_key, topics)


def told_of(answer: httpx.Response) -> str:
    """Everything a stranger learns from an answer but times and ids made for it, for comparing two of them."""
    kept = ("content-range", "content-location", "location", "preference-applied", "www-authenticate", "allow")
    return json.dumps([answer.status_code, answer.text, {k: v for k, v in answer.headers.items() if k in kept}])
