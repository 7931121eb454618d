"""Whoever may call a function can do with it what it is for, and nothing else: no argument, header or form of request
decides who wrote something, when, where it stands, or who belongs to what."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import psycopg
import pytest

from tests.attack.matrix import functions_of
from tests.attack.test_matrix import none_of
from tests.attack.world import World, outcome
from tests.sql.rpc import call

# What somebody might hope to decide.
HOPED = {
    "from_user_id": "$owner", "user_id": "$owner", "sender": "$owner", "author_id": "$owner", "me": "$owner", "seq": 1,
    "event_seq": 1, "id": "$message", "message": {}, "created_at": "2001-01-01T00:00:00Z", "edited_at": None,
    "state": "visible", "position": 1, "changed_position": 1, "unread_count": 0, "last_read_seq": 0, "role": "owner",
    "is_moderator": True, "verdict": "allow", "action": "allow", "warning": None, "masked": False, "now": "2001-01-01",
    "limits": {"send_count_max": 10000}, "settings": {}, "left_at": None, "visible_from_seq": 1, "viewer_id": "$owner",
}  # fmt: skip


@pytest.fixture
def facts(db: psycopg.Connection[Any], attacked: World) -> Any:
    """`facts()`: everything in the group that is not the forger's to change, as comparable rows."""

    def read() -> list[Any]:
        there = attacked.ids["group"]
        found = []
        for query in (
            "select * from public.messages where conversation_id = %s order by seq",
            "select conversation_id, user_id, role, visible_from_seq, joined_at, left_at, last_read_seq, "
            "shared_read_seq from public.conversation_members where conversation_id = %s order by user_id",
            "select id, kind, title, created_by, last_seq, first_seq, live_epoch "
            "from public.conversations where id = %s",
        ):
            found.append(db.execute(query, [there]).fetchall())
        return found

    return read


def test_arguments_that_do_not_exist_are_refused(db: Any, attacked: World, facts: Any) -> None:
    """With one unknown argument no function is found, so nothing of the call is done."""
    before, problems = facts(), []
    functions = {
        name.partition("(")[0].removeprefix("public.") for name in functions_of(db) if name.startswith("public.")
    }
    for function in sorted(functions):
        names = db.execute(
            "select proargnames from pg_proc where oid = %s::regproc", [f"public.{function}"]
        ).fetchone()[0]
        hoped = {name: attacked.fill(HOPED[name], "outsider") for name in HOPED if f"p_{name}" not in (names or [])}
        for told in (hoped, {"from_user_id": attacked.ids["owner"]}, {"now": "2001-01-01"}):
            answer = attacked.rpc("outsider", function, **told)
            if (answer.status_code, outcome(answer)) != (404, "PGRST202"):
                problems.append(f"{function} with {list(told)}: {answer.status_code} {answer.text[:100]}")
    none_of(problems)
    assert facts() == before


FORMS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("", {}),
    "one object": ("", {"Prefer": "params=single-object"}),
    "many objects": ("", {"Prefer": "params=multiple-objects"}),
    "rolled back": ("", {"Prefer": "tx=rollback"}),
    "committed": ("", {"Prefer": "tx=commit,handling=lenient"}),
    "minimal": ("", {"Prefer": "return=minimal"}),
    "headers only": ("", {"Prefer": "return=headers-only"}),
    "ignoring duplicates": ("", {"Prefer": "resolution=ignore-duplicates"}),
    "merging": ("?on_conflict=id", {"Prefer": "resolution=merge-duplicates,missing=default"}),
    "columns": ("?columns=p_body,p_conversation_id,p_from_user_id", {}),
    "no rows": ("?limit=0", {}),
    "offset": ("?offset=5", {}),
    "at most none": ("", {"Prefer": "handling=strict,max-affected=0"}),
    "counted": ("", {"Prefer": "count=exact"}),
    "a late range": ("", {"Range-Unit": "items", "Range": "5-9"}),
    "one row": ("", {"Accept": "application/vnd.pgrst.object+json"}),
    "one row of none": ("?limit=0", {"Accept": "application/vnd.pgrst.object+json"}),
    "a plan": ("", {"Accept": 'application/vnd.pgrst.plan+json; options=analyze|verbose; for="application/json"'}),
    "csv": ("", {"Accept": "text/csv"}),
    "selected": ("?select=nothing", {}),
    "filtered": ("?id=eq.1", {}),
    "ordered": ("?order=id", {}),
    "embedded": ("?select=*,conversations(*)", {}),
    "a time zone": ("", {"Prefer": "timezone=Pacific/Kiritimati"}),
    "another method": ("", {"X-HTTP-Method-Override": "PATCH"}),
    "another schema": ("", {"Content-Profile": "private"}),
    "a role": ("", {"role": "service_role", "x-role": "postgres", "X-Supabase-Role": "service_role"}),
    "claims": ("", {"request.jwt.claims": '{"sub": "$owner"}', "X-Forwarded-User": "$owner", "sb-user": "$owner"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_send_writes_at_most_one_message_of_the_caller(
    form: str, db: Any, attacked: World, new_person: Any
) -> None:
    """However it is asked for, a send is none or one, by the caller, at the next place, and its key says which."""
    ann, bob = new_person("Ann"), new_person("Bob")
    there = call(db, ann.id, "send_message", body="first", to_user_id=bob.id)["conversation"]["id"]
    query, headers = FORMS[form]
    key = str(uuid.uuid4())
    answer = attacked.client.post(
        f"/rest/v1/rpc/send_message{query}",
        headers={**ann.headers, **attacked.fill(headers, "outsider")},
        json={"p_body": "forged", "p_conversation_id": there, "p_client_message_id": key},
    )
    assert answer.status_code < 500, answer.text
    rows = db.execute(
        "select seq, from_user_id::text, body from public.messages where conversation_id = %s order by seq", [there]
    ).fetchall()
    assert rows in ([(1, ann.id, "first")], [(1, ann.id, "first"), (2, ann.id, "forged")]), answer.text
    keys = db.execute(
        "select count(*) from private.send_keys where from_user_id = %s and client_message_id = %s", [ann.id, key]
    ).fetchone()[0]
    assert keys == len(rows) - 1
    if answer.is_success and answer.headers.get("content-type", "").startswith("application/json") and answer.content:
        told = answer.json()
        assert not isinstance(told, dict) or "message" not in told or len(rows) == 2, "what is answered has happened"


BODIES: dict[str, Any] = {
    "an array of calls": [{"p_body": "a", "p_to_user_id": "$owner"}, {"p_body": "b", "p_to_user_id": "$owner"}],
    "an array of one": [{"p_body": "a", "p_to_user_id": "$owner"}],
    "an empty array": [],
    "a string": "p_body=a",
    "null": None,
    "a number": 7,
    "nested": {"p_body": {"p_body": "a"}, "p_to_user_id": "$owner"},
    "arrays as values": {"p_body": ["a"], "p_to_user_id": ["$owner"]},
    "other case": {"P_BODY": "a", "P_TO_USER_ID": "$owner"},
    "positions": {"1": "a", "3": "$owner"},
    "sql": {"p_body": "a'); delete from public.messages; --", "p_conversation_id": "$group'; drop table x; --"},
}


@pytest.mark.parametrize("form", BODIES)
def test_bodies_of_other_shapes_forge_nothing(form: str, attacked: World, facts: Any) -> None:
    before = facts()
    body = attacked.fill(BODIES[form], "muted")
    for content_type in (
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/octet-stream",
    ):
        answer = attacked.ask("outsider", "POST", "/rest/v1/rpc/send_message", content=json.dumps(body),
                              headers={"Content-Type": content_type})  # fmt: skip
        assert answer.status_code < 500 or outcome(answer) == "XX000", answer.text
    assert facts() == before


def test_reading_methods_write_nothing(db: Any, attacked: World, facts: Any) -> None:
    """GET and HEAD run in a read-only transaction, so that a link or a picture cannot act for who looks at it."""
    before, problems = facts(), []
    group, owner = attacked.ids["group"], attacked.ids["owner"]
    asked = {
        "send_message": f"p_body=x&p_conversation_id={group}",
        "mark_all_read": f"p_conversation_id={group}",
        "edit_message": f"p_message_id={attacked.ids['message']}&p_body=x",
        "delete_message": f"p_message_id={attacked.ids['message']}",
        "remove_member": f"p_conversation_id={group}&p_user_id={attacked.ids['member']}",
        "create_group": f"p_title=x&p_member_ids={{{owner}}}",
        "add_members": f"p_conversation_id={group}&p_user_ids={{{attacked.ids['outsider']}}}",
        "set_typing": f"p_conversation_id={group}",
        "update_conversation": f"p_conversation_id={group}&p_changes=%7B%22title%22:%22x%22%7D",
        "update_profile": "p_changes=%7B%22displayName%22:%22x%22%7D",
    }
    for function, query in asked.items():
        for method in ("GET", "HEAD"):
            answer = attacked.ask("owner", method, f"/rest/v1/rpc/{function}?{query}")
            if answer.is_success:
                problems.append(f"{method} {function}: {answer.status_code} {answer.text[:100]}")
    none_of(problems)
    assert facts() == before
    volatile = {
        row[0]
        for row in db.execute(
            "select proname from pg_proc where pronamespace = 'public'::regnamespace and provolatile = 'v' "
            "and pg_get_userbyid(proowner) = 'postgres'"
        )
    }
    assert set(asked) <= volatile


@pytest.mark.parametrize("function", ["update_conversation", "update_profile"])
def test_changes_name_only_what_they_are_for(function: str, attacked: World, facts: Any) -> None:
    before, problems = facts(), []
    told = {"conversation_id": attacked.ids["group"]} if function == "update_conversation" else {}
    names = {*HOPED, "unreadCount", "lastReadSeq", "liveEpoch", "live_epoch", "kind", "userId", "isFallback",
             "search_name", "createdAt", "is_archived", "archived_at", "__proto__", "member_ids"}  # fmt: skip
    for name in sorted(names):
        answer = attacked.rpc("owner", function, **told, changes={name: attacked.fill(HOPED.get(name, 1), "owner")})
        if outcome(answer) != "validation_failed":
            problems.append(f"{function} {name}: {answer.status_code} {answer.text[:100]}")
    none_of(problems)
    assert facts() == before


def test_watermarks_of_others_do_not_move(db: Any, attacked: World) -> None:
    """Receipts name conversations and places, never people; places beyond the newest message are the newest."""
    group, member = attacked.ids["group"], attacked.ids["member"]
    others = "select * from public.conversation_members where user_id <> %s and conversation_id = any(%s) order by 1, 2"
    watched = [member, [group, attacked.ids["direct"], attacked.ids["blockedtalk"]]]
    strip = lambda: [  # noqa: E731
        (row[0], row[1], row[6], row[7], row[8]) for row in db.execute(others, watched).fetchall()
    ]
    before = strip()
    receipts = [
        {"conversationId": group, "seq": 2**53, "userId": attacked.ids["owner"], "user_id": attacked.ids["owner"]},
        {"conversationId": attacked.ids["blockedtalk"], "seq": 1},
    ]
    answer = attacked.rpc("member", "mark_delivered", receipts=receipts)
    assert answer.status_code == 200, answer.text
    assert {each["userId"] for each in answer.json()["receipts"]} == {member}
    assert [each["conversationId"] for each in answer.json()["receipts"]] == [group]
    newest = db.execute("select last_seq from public.conversations where id = %s", [group]).fetchone()[0]
    assert answer.json()["receipts"][0]["lastDeliveredSeq"] <= newest
    read = attacked.rpc("member", "mark_all_read", conversation_id=group, up_to_seq=2**53).json()
    assert read["receipt"] == {"userId": member, "lastReadSeq": newest, "lastDeliveredSeq": newest}
    assert strip() == before


@pytest.mark.parametrize(
    "claims",
    [
        {"app_metadata": {"role": "admin", "roles": ["moderator", "admin"]}},
        {"user_metadata": {"role": "moderator", "is_moderator": True, "sub": "$owner"}},
        {"is_moderator": True, "moderator": True, "user_role": "admin", "groups": ["moderators"], "scope": "admin"},
        {
            "user_id": "$owner",
            "uid": "$owner",
            "email": "owner@example.com",
            "sub_": "$owner",
            "act": {"sub": "$owner"},
        },
        {"request.jwt.claims": {"sub": "$owner"}, "request.jwt.claim.sub": "$owner", "": "$owner"},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_other_claims_of_a_token_count_for_nothing(claims: Any, db: Any, attacked: World, mint_token: Any) -> None:
    """Only `sub` says who calls, and only tables say what they may."""
    token = mint_token(attacked.ids["outsider"], **attacked.fill(claims, "outsider"))
    headers = {"Authorization": f"Bearer {token}"}
    asked = {"p_conversation_id": attacked.ids["group"]}
    answer = attacked.client.post("/rest/v1/rpc/get_conversation", json=asked, headers=headers)
    assert outcome(answer) == "not_found"
    of_the_group = f"/rest/v1/messages?select=id&conversation_id=eq.{attacked.ids['group']}"
    assert attacked.client.get(of_the_group, headers=headers).json() == []
    profile = attacked.client.post("/rest/v1/rpc/get_profile", json={}, headers=headers).json()["profile"]
    assert profile["id"] == attacked.ids["outsider"]
    moderators = {
        row[0]
        for row in db.execute(
            "select proname from pg_proc as p where pronamespace = 'public'::regnamespace and exists (select from "
            "pg_proc as q where q.proname = p.proname and q.pronamespace = 'private'::regnamespace "
            "and q.prosrc like '%require_moderator%')"
        )
    }
    for function in moderators:
        refused = attacked.client.post(f"/rest/v1/rpc/{function}", json={}, headers=headers)
        assert outcome(refused) == "forbidden", (function, refused.text)


def test_settings_of_the_session_are_out_of_reach(attacked: World) -> None:
    for function in (
        "set_config",
        "current_setting",
        "pg_sleep",
        "pg_read_file",
        "lo_import",
        "dblink",
        "query_to_xml",
    ):
        for schema in ({}, {"Content-Profile": "pg_catalog"}, {"Content-Profile": "extensions"}):
            answer = attacked.ask("member", "POST", f"/rest/v1/rpc/{function}", headers=schema,
                                  json={"setting_name": "request.jwt.claims", "new_value": "{}"})  # fmt: skip
            assert outcome(answer) in ("PGRST202", "PGRST106"), answer.text


@pytest.mark.parametrize(
    "path", ["/graphql/v1", "/pg", "/pg-meta/default/query", "/_system", "/%5Fsystem", "/functions/v1/x"]
)
def test_no_other_door_is_open(attacked: World, path: str) -> None:
    for role in ("anon", "member", "service"):
        for method in ("GET", "POST"):
            answer = attacked.ask(role, method, path, json={"query": "select 1"} if method == "POST" else None)
            assert answer.status_code in (401, 403, 404), (role, path, answer.status_code)


class TestAccounts:
    """What a person can tell Auth about themselves decides nothing here."""

    @pytest.fixture
    def sign_up(self, attacked: World) -> Any:
        def up(**told: Any) -> httpx.Response:
            body = {"email": f"{uuid.uuid4()}@example.com", "password": "a-good-password", **told}
            return attacked.client.post("/auth/v1/signup", json=body)

        return up

    def test_signing_up_gives_no_role(self, sign_up: Any, db: Any, attacked: World) -> None:
        answer = sign_up(
            id=attacked.ids["owner"], role="service_role", aud="x", is_super_admin=True, app_metadata={"role": "admin"},
            banned_until=None, is_anonymous=False, data={"role": "service_role", "sub": attacked.ids["owner"]},
        )  # fmt: skip
        user = answer.json()["user"]
        row = db.execute(
            "select role, coalesce(is_super_admin, false) from auth.users where id = %s", [user["id"]]
        ).fetchone()
        assert user["id"] != attacked.ids["owner"]
        assert row == ("authenticated", False)
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert attacked.client.get("/rest/v1/messages?select=id", headers=headers).json() == []

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)", "data:text/html,x", "ftp://x/y", "//evil", "http://x/y.png", "https://x\n.evil",
            "https://a@b/x.png", "https://x/\u00e9.png", "https:/x", "x" * 3000, {"a": 1},
            "https://x.supabase.co/storage/v1/object/public/avatars/00000000-0000-4000-8000-00000000000a/a.png",
        ],
    )  # fmt: skip
    def test_a_picture_named_at_sign_up_is_a_link_or_nothing(self, sign_up: Any, db: Any, url: Any) -> None:
        answer = sign_up(data={"avatar_url": url, "display_name": "\u202eevil\u0000" if url == "//evil" else "A"})
        if answer.is_success:
            row = db.execute(
                "select avatar_url, display_name from public.profiles where user_id = %s", [answer.json()["user"]["id"]]
            ).fetchone()
            assert row[0] is None
            assert "\u202e" not in (row[1] or "")

    def test_a_person_cannot_change_what_they_are(self, sign_up: Any, db: Any, attacked: World) -> None:
        session = sign_up().json()
        headers = {"Authorization": f"Bearer {session['access_token']}"}
        db.execute(
            "update auth.users set banned_until = now() + interval '1 day' where id = %s", [session["user"]["id"]]
        )
        before = db.execute(
            "select id, role, banned_until, is_anonymous, is_super_admin from auth.users where id = %s",
            [session["user"]["id"]],
        ).fetchone()
        for told in (
            {"role": "service_role"}, {"app_metadata": {"role": "admin"}}, {"banned_until": None},
            {"ban_duration": "none"},
            {"is_anonymous": False, "is_super_admin": True}, {"id": attacked.ids["owner"]}, {"deleted_at": None},
        ):  # fmt: skip
            attacked.client.put("/auth/v1/user", json=told, headers=headers)
            attacked.client.put(f"/auth/v1/admin/users/{session['user']['id']}", json=told, headers=headers)
        after = db.execute(
            "select id, role, banned_until, is_anonymous, is_super_admin from auth.users where id = %s",
            [session["user"]["id"]],
        ).fetchone()
        assert after == before
        sent = attacked.client.post(
            "/rest/v1/rpc/send_message", headers=headers, json={"p_body": "x", "p_to_user_id": attacked.ids["owner"]}
        )
        assert outcome(sent) == "account_unavailable"
