"""What a request costs: one call of the data API each, and in the database one statement, whatever is on the page."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest

from app import routes
from tests.sql.desk import appoint
from tests.unit.fakes import Asked, Upstream, config, serving, upstream
from tests.unit.fakes import http as answer_of

LIST = "/api/messages/conversations"
DESK = "/api/moderation"


# One request per function, in an order in which each finds what it needs; names in braces are ids met on the way.
REQUESTS: list[tuple[str, str, str, Any]] = [
    ("send_message", "POST", "/api/messages/send", {"body": "Hello", "toUserId": "{ben}"}),
    ("list_conversations", "POST", LIST, {"userId": "{ada}"}),
    ("list_inbox", "GET", f"{LIST}?limit=100&unread=false&q=person", None),
    ("get_conversation", "GET", LIST + "/{room}", None),
    ("list_messages", "GET", LIST + "/{room}/messages?around=1", None),
    ("update_conversation", "PATCH", LIST + "/{room}", {"pinned": True, "archived": False}),
    ("mark_read", "PATCH", "/api/messages/{message}/read", None),
    ("mark_all_read", "PATCH", LIST + "/{room}/read-all", {}),
    ("edit_message", "PATCH", "/api/messages/{message}", {"body": "Hello again"}),
    ("message_history", "GET", "/api/messages/{message}/history", None),
    ("delete_message", "DELETE", "/api/messages/{message}", None),
    ("unread_counts", "GET", "/api/messages/unread", None),
    ("get_limits", "GET", "/api/messages/limits", None),
    ("create_group", "POST", f"{LIST}/group", {"title": "Crew", "memberIds": ["{ben}"]}),
    ("add_members", "POST", LIST + "/{crew}/members", {"userIds": ["{cyd}"], "role": "admin"}),
    ("list_members", "GET", LIST + "/{crew}/members?limit=1", None),
    ("remove_member", "DELETE", LIST + "/{crew}/members/{cyd}", None),
    ("sync", "POST", "/api/messages/sync", {}),
    ("mark_delivered", "PATCH", "/api/messages/delivered", {"receipts": [{"conversationId": "{room}", "seq": 1}]}),
    ("set_typing", "POST", LIST + "/{room}/typing", None),
    ("report_message", "POST", "/api/messages/{theirs}/report", {"reason": "spam"}),
    ("report_user", "POST", "/api/users/{ben}/report", {"reason": "other", "note": "x"}),
    ("list_moderation_queue", "GET", DESK + "/queue?userId={ben}&kind=message_report", None),
    ("get_moderation_item", "GET", DESK + "/items/{item}", None),
    ("decide_moderation_item", "POST", DESK + "/items/{item}/decide", {"decision": "dismiss"}),
    ("sanction_user", "POST", DESK + "/users/{ben}/sanctions", {"kind": "mute", "durationS": 60, "reason": "x"}),
    ("lift_sanction", "DELETE", DESK + "/sanctions/{sanction}", None),
    ("moderate_hide_message", "POST", DESK + "/messages/{theirs}/hide", {"note": "x"}),
    ("moderate_restore_message", "POST", DESK + "/messages/{theirs}/restore", {"note": "x"}),
    ("undo_moderation_action", "POST", DESK + "/actions/{action}/undo", None),
    ("list_moderation_actions", "GET", DESK + "/actions?userId={ben}", None),
    ("get_profile", "GET", "/api/profile", None),
    ("update_profile", "PATCH", "/api/profile", {"displayName": "Ada"}),
    ("block_user", "POST", "/api/users/{ben}/block", None),
    ("list_blocked", "GET", "/api/users/blocked?limit=1", None),
    ("unblock_user", "DELETE", "/api/users/{ben}/block", None),
]


def filled(value: Any, ids: dict[str, str]) -> Any:
    """The same with ids in place of their names."""
    if isinstance(value, str):
        return value.format(**ids)
    if isinstance(value, list):
        return [filled(item, ids) for item in value]
    return {key: filled(item, ids) for key, item in value.items()} if isinstance(value, dict) else value


@asynccontextmanager
async def counted(stack: Any, loses_answers: bool = False) -> AsyncIterator[tuple[httpx.AsyncClient, Upstream]]:
    """Our service with a proxy between it and the data API, which remembers every request.

    With `loses_answers` it hangs up instead of passing on the first answer to the same request, which was done.
    """
    seen: set[str] = set()
    async with httpx.AsyncClient(base_url=stack.url) as data_api:

        async def forward(asked: Asked, _: Any) -> bytes | None:
            kept = {n: v for n, v in asked.headers.items() if n in ("authorization", "apikey", "content-type")}
            answer = await data_api.request(asked.method, asked.path, headers=kept, content=asked.body)
            if loses_answers and asked.method == "POST" and asked.headers["x-request-id"] not in seen:
                seen.add(asked.headers["x-request-id"])
                return None
            return answer_of(answer.status_code, answer.content)

        async with upstream(forward) as proxy:
            settings = config(
                proxy.url,
                supabase_publishable_key=stack.publishable_key,
                supabase_jwt_secret=stack.api_settings()["SUPABASE_JWT_SECRET"] or None,
                supabase_jwt_issuer=f"{stack.url}/auth/v1",
            )
            async with serving(settings) as client:
                yield client, proxy


async def ask_everything(
    client: httpx.AsyncClient, proxy: Upstream, person: Any, db: Any
) -> dict[str, tuple[int, int]]:
    """Make every request as a moderator; answers status and number of calls of the data API by function."""
    ada, ben = person(), person()
    appoint(db, ada.id)
    ids, found = {"ada": ada.id, "ben": ben.id, "cyd": person().id}, {}
    # With asymmetric keys the first token makes the service fetch the key set, once for all.
    theirs = await client.post(
        "/api/messages/send", headers=ben.headers, json={"body": "Hello", "toUserId": ada.id}
    )  # fmt: skip
    ids["theirs"] = theirs.json()["message"]["id"]
    for name, method, path, body in REQUESTS:
        proxy.asked.clear()
        answer = await client.request(method, filled(path, ids), headers=ada.headers, json=filled(body, ids))
        assert {(asked.method, asked.path) for asked in proxy.asked} == {("POST", f"/rest/v1/rpc/{name}")}
        found[name] = (answer.status_code, len(proxy.asked))
        if name == "send_message":
            ids |= {"room": answer.json()["conversation"]["id"], "message": answer.json()["message"]["id"]}
        if name == "create_group":
            ids["crew"] = answer.json()["conversation"]["id"]
        if name == "list_moderation_queue":
            ids["item"] = answer.json()["items"][0]["id"]
        if name == "sanction_user":
            ids["sanction"] = answer.json()["sanction"]["id"]
        if name == "moderate_restore_message":
            ids["action"] = answer.json()["action"]["id"]
    return found


def test_every_function_is_asked_for() -> None:
    handlers = [handler for group in routes.API.values() for handler in group]
    assert {name for name, *_ in REQUESTS} == {handler.fn.__name__ for handler in handlers}


async def test_one_call_of_the_data_api_per_request(supabase_stack: Any, person: Any, db: Any) -> None:
    async with counted(supabase_stack) as (client, proxy):
        found = await ask_everything(client, proxy, person, db)
        made = {"send_message", "create_group", "report_message", "report_user", "sanction_user"}
        expected = {name: 201 if name in made else 204 if name == "set_typing" else 200 for name, *_ in REQUESTS}
        assert found == {name: (status, 1) for name, status in expected.items()}
        # What is refused for its shape or its token costs nothing, what SQL refuses costs one call and no retry.
        headers = person().headers
        for path, token, status, calls in (
            (f"{LIST}?limit=0", headers, 400, 0), (f"{LIST}/x/messages", headers, 400, 0),
            (f"{LIST}?limit=1", {}, 401, 0), (f"{LIST}?cursor=x", headers, 400, 1),
            (f"{LIST}/{uuid.uuid4()}/messages", headers, 404, 1),
        ):  # fmt: skip
            proxy.asked.clear()
            assert (await client.get(path, headers=token)).status_code == status
            assert len(proxy.asked) == calls


async def test_a_lost_answer_is_asked_for_once_more_where_that_is_safe(
    supabase_stack: Any, person: Any, db: Any
) -> None:
    async with counted(supabase_stack, loses_answers=True) as (client, proxy):
        found = await ask_everything(client, proxy, person, db)
        # A second removal would find nobody; reading all without a bound could read what nobody has seen.
        once = {"remove_member", "mark_all_read"}
        status = {"set_typing": 204}
        assert found == {name: (503, 1) if name in once else (status.get(name, 200), 2) for name, *_ in REQUESTS}


# The data API itself looks now and then whether it is still connected; that belongs to no request.
STATEMENTS = """
select s.query, s.calls
from extensions.pg_stat_statements as s
where s.toplevel and s.dbid = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
"""


@pytest.fixture
def statements(db: psycopg.Connection[Any], http: httpx.Client) -> Any:
    """`statements(person, path)`: which statements a GET made the data API send, and how often each."""

    def count(person: Any, path: str) -> dict[str, int]:
        db.execute(
            "select extensions.pg_stat_statements_reset(dbid => d.oid) from pg_catalog.pg_database as d"
            " where d.datname = current_database()"
        )
        assert http.get(path, headers=person.headers).status_code == 200
        return {query: calls for query, calls in db.execute(STATEMENTS).fetchall() if "pg_stat_statements" not in query}

    return count


def test_one_statement_whatever_is_on_the_page(person: Any, send: Any, group: Any, http: Any, statements: Any) -> None:
    ada, ben = person(), person()
    room, crew = send(ada, "1", toUserId=ben.id).json()["conversation"]["id"], group(ada)["id"]
    pages = {
        "list_inbox": f"{LIST}?limit=100",
        "list_messages": f"{LIST}/{room}/messages?limit=100",
        "get_conversation": f"{LIST}/{room}",
        "list_members": f"{LIST}/{crew}/members?limit=100",
        "unread_counts": "/api/messages/unread",
    }
    small = {name: statements(ada, path) for name, path in pages.items()}
    others = [person() for _ in range(20)]
    for number, other in enumerate(others):
        send(other, "Hello", toUserId=ada.id)
        send(ben, f"{number}", conversationId=room)
    http.post(f"{LIST}/{crew}/members", headers=ada.headers, json={"userIds": [other.id for other in others]})
    for name, path in pages.items():
        found = statements(ada, path)
        assert found == small[name]
        # The rest is the frame of the data API: begin, claims, the role, commit.
        assert [calls for query, calls in found.items() if "public." in query] == [1]
        assert sum(calls for query, calls in found.items() if f"public.{name}(" in query) == 1
