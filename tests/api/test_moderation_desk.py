"""The routes under /api/moderation on the real stack."""

import json
import os
import re
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest

from app import settings
from app.routes.moderation import ItemKind, Outcome, SanctionKind
from app.vault import About, Text, Vault
from tests.sql.desk import appoint, hold

DESK = "/api/moderation"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"
# Every route with a body that is well-formed.
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/queue", None),
    ("GET", f"/items/{SOMETHING}", None),
    ("POST", f"/items/{SOMETHING}/decide", {"decision": "dismiss"}),
    ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "durationS": None, "reason": "x"}),
    ("DELETE", f"/sanctions/{SOMETHING}", None),
    ("POST", f"/messages/{SOMETHING}/hide", {"note": "x"}),
    ("POST", f"/messages/{SOMETHING}/restore", {"note": "x"}),
    ("POST", f"/actions/{SOMETHING}/undo", None),
    ("GET", "/actions", None),
]


@pytest.fixture
def desk(http: Any) -> Any:
    """`desk(person, method, path, body=None)`: one request."""

    def ask(person: Any, method: str, path: str, body: Any = None) -> Any:
        return http.request(method, DESK + path, headers=person.headers, json=body)

    return ask


@pytest.fixture
def mod(db: Any, person: Any) -> Any:
    mo = person("Mo")
    appoint(db, mo.id)
    return mo


@pytest.fixture
def case(person: Any, send: Any, http: Any, desk: Any, mod: Any) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """Ada wrote to Ben, who reported it: both, the message and the item."""
    ada, ben = person("Ada"), person("Ben")
    message = send(ada, "See you on Friday", toUserId=ben.id).json()["message"]
    body = {"reason": "scam", "note": "Wants my card"}
    assert http.post(f"/api/messages/{message['id']}/report", headers=ben.headers, json=body).status_code == 201
    return ada, ben, message, desk(mod, "GET", f"/queue?userId={ada.id}").json()["items"][0]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda part: str(part)[:20])
def test_only_moderators(
    person: Any, desk: Any, http: Any, mod: Any, db: Any, refused: Any, method: str, path: str, body: Any
) -> None:
    refused(desk(person(), method, path, body), 403, "forbidden")
    refused(http.request(method, DESK + path, json=body), 401, "unauthenticated")
    answer = desk(mod, method, path, body)
    assert answer.status_code == (404 if SOMETHING in path else 200), answer.text
    db.execute("delete from private.moderators where user_id = %s", [mod.id])
    refused(desk(mod, method, path, body), 403, "forbidden")


def test_a_claim_makes_nobody_a_moderator(person: Any, http: Any, mint_token: Any, refused: Any) -> None:
    ada = person()
    token = mint_token(ada.id, app_metadata={"role": "admin", "moderator": True}, user_role="moderator")
    refused(http.get(f"{DESK}/queue", headers={"Authorization": f"Bearer {token}"}), 403, "forbidden")


@pytest.mark.parametrize(
    ("method", "path", "body"), [r for r in ROUTES if SOMETHING in r[1]], ids=lambda part: str(part)[:20]
)
def test_malformed_ids(mod: Any, desk: Any, refused: Any, method: str, path: str, body: Any) -> None:
    refused(desk(mod, method, path.replace(SOMETHING, "x"), body), 400, "validation_failed", "/id")


@pytest.mark.parametrize(
    ("method", "path", "body", "pointer"),
    [
        ("GET", "/queue?limit=0", None, "/limit"), ("GET", "/queue?limit=x", None, "/limit"),
        ("GET", "/queue?status=x", None, "/status"), ("GET", "/queue?kind=x", None, "/kind"),
        ("GET", "/queue?userId=x", None, "/userId"), ("GET", "/queue?kind=", None, "/kind"),
        ("GET", "/actions?limit=101", None, "/limit"), ("GET", "/actions?itemId=x", None, "/itemId"),
        ("POST", f"/items/{SOMETHING}/decide", {}, "/decision"),
        ("POST", f"/items/{SOMETHING}/decide", {"decision": "ban"}, "/decision"),
        ("POST", f"/items/{SOMETHING}/decide", {"decision": "hide", "note": 1}, "/note"),
        ("POST", f"/items/{SOMETHING}/decide", {"decision": "hide", "note": "x" * 1001}, "/note"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "reason": "x"}, "/durationS"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "ban", "durationS": 1, "reason": "x"}, "/kind"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "durationS": 0, "reason": "x"}, "/durationS"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "durationS": 2**40, "reason": "x"}, "/durationS"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "durationS": 1.5, "reason": "x"}, "/durationS"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "durationS": 1, "reason": " \x00"}, "/reason"),
        ("POST", f"/users/{SOMETHING}/sanctions", {"kind": "mute", "durationS": 1}, "/reason"),
        ("DELETE", f"/sanctions/{SOMETHING}", {"note": []}, "/note"),
        ("DELETE", f"/sanctions/{SOMETHING}", {"why": "x"}, "/why"),
        ("POST", f"/messages/{SOMETHING}/hide", {}, "/note"),
        ("POST", f"/messages/{SOMETHING}/hide", {"note": ""}, "/note"),
        ("POST", f"/messages/{SOMETHING}/restore", {"note": "\n"}, "/note"),
        ("POST", f"/actions/{SOMETHING}/undo", {"note": "x" * 1001}, "/note"),
    ],
)  # fmt: skip
def test_malformed(mod: Any, desk: Any, refused: Any, method: str, path: str, body: Any, pointer: str) -> None:
    refused(desk(mod, method, path, body), 400, "validation_failed", pointer)


def test_cursors(mod: Any, desk: Any, refused: Any) -> None:
    for path in ("/queue", "/actions"):
        refused(desk(mod, "GET", f"{path}?cursor=x"), 400, "cursor_invalid")


def test_from_the_queue_to_a_decision_and_back(case: Any, mod: Any, desk: Any, http: Any) -> None:
    ada, ben, message, item = case
    assert (item["kind"], item["user"]["displayName"], item["reportCount"]) == ("message_report", "Ada", 1)
    seen = desk(mod, "GET", f"/items/{item['id']}").json()
    assert seen["message"]["original"]["body"] == "See you on Friday"
    assert (seen["reports"][0]["reporter"]["id"], seen["reports"][0]["note"]) == (ben.id, "Wants my card")

    def text() -> Any:
        room = http.get(f"/api/messages/conversations/{message['conversationId']}", headers=ben.headers)
        return room.json()["conversation"]["messages"][0]["body"]

    decided = desk(mod, "POST", f"/items/{item['id']}/decide", {"decision": "hide", "note": "Scam"})
    assert decided.status_code == 200 and decided.json()["item"]["decision"] == "hide"
    assert text() is None
    assert desk(mod, "GET", f"/items/{item['id']}").json()["message"]["original"]["body"] == "See you on Friday"
    assert desk(mod, "GET", f"/queue?userId={ada.id}").json()["items"] == []
    assert desk(mod, "GET", f"/queue?userId={ada.id}&status=decided").json()["items"] == [decided.json()["item"]]
    undone = desk(mod, "POST", f"/actions/{decided.json()['action']['id']}/undo", {"note": "No"})
    assert undone.status_code == 200 and undone.json()["action"]["undoes"] == decided.json()["action"]["id"]
    assert text() == "See you on Friday"
    log = desk(mod, "GET", f"/actions?userId={ada.id}&limit=2").json()
    assert [line["action"] for line in log["actions"]] == ["restore", "hide"]
    rest = desk(mod, "GET", f"/actions?userId={ada.id}&limit=2&cursor={log['nextCursor']}").json()
    assert ([line["action"] for line in rest["actions"]], rest["nextCursor"]) == (["viewed"], None)


def test_held_messages(case: Any, mod: Any, desk: Any, db: Any, refused: Any) -> None:
    ada, _, message, _ = case
    held = [hold(db, message["conversationId"], ada.id, f"Call me {n}") for n in range(2)]
    items = desk(mod, "GET", f"/queue?userId={ada.id}&kind=held").json()["items"]
    assert [item["messageId"] for item in items] == held
    assert desk(mod, "GET", f"/items/{items[0]['id']}").json()["message"]["original"]["body"] == "Call me 0"
    refused(desk(mod, "POST", f"/items/{items[0]['id']}/decide", {"decision": "hide"}), 422, "decision_not_possible")
    released = desk(mod, "POST", f"/items/{items[0]['id']}/decide", {"decision": "release"}).json()
    refused(desk(mod, "POST", f"/actions/{released['action']['id']}/undo"), 409, "undo_not_possible")
    rejected = desk(mod, "POST", f"/items/{items[1]['id']}/decide", {"decision": "reject"}).json()
    assert desk(mod, "POST", f"/actions/{rejected['action']['id']}/undo").json()["action"]["action"] == "reopen"


def test_of_two_decisions_at_once_one_is_made(
    case: Any, mod: Any, desk: Any, db: Any, person: Any, refused: Any
) -> None:
    _, _, _, item = case
    others = [mod, *(person() for _ in range(3))]
    for other in others:
        appoint(db, other.id)
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda who: desk(who, "POST", f"/items/{item['id']}/decide", {"decision": "dismiss"}), others)
        )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    winner = next(who for who, answer in zip(others, answers, strict=True) if answer.status_code == 200)
    for answer in answers:
        if answer.status_code == 409:
            refused(answer, 409, "already_decided")
    again = desk(winner, "POST", f"/items/{item['id']}/decide", {"decision": "dismiss"})
    assert again.json() == next(answer for answer in answers if answer.status_code == 200).json()


def test_sanctions_work_at_once(case: Any, mod: Any, desk: Any, send: Any, http: Any, refused: Any) -> None:
    ada, ben, message, _ = case
    room = message["conversationId"]
    muted = {"kind": "mute", "durationS": 3600, "reason": "Loud"}
    first = desk(mod, "POST", f"/users/{ada.id}/sanctions", muted)
    assert first.status_code == 201 and first.json()["action"]["action"] == "mute"
    again = desk(mod, "POST", f"/users/{ada.id}/sanctions", muted)
    assert (again.status_code, again.json()) == (200, first.json())
    refused(desk(mod, "POST", f"/users/{ada.id}/sanctions", {**muted, "durationS": 5}), 409, "already_decided")
    assert (
        first.json()["sanction"]["endsAt"]
        in refused(send(ada, "x", conversationId=room), 403, "account_muted")["detail"]
    )
    lifted = desk(mod, "DELETE", f"/sanctions/{first.json()['sanction']['id']}", {"note": "Better"})
    assert lifted.json()["sanction"]["liftedAt"] and lifted.json()["action"]["note"] == "Better"
    assert send(ada, "x", conversationId=room).status_code == 201
    suspended = {"kind": "suspend", "durationS": None, "reason": "Fraud"}
    given = desk(mod, "POST", f"/users/{ada.id}/sanctions", suspended).json()
    assert given["sanction"]["endsAt"] is None
    refused(send(ada, "x", conversationId=room), 403, "account_unavailable")
    refused(send(ben, "x", conversationId=room), 403, "recipient_unavailable")
    opened = http.get(f"/api/messages/conversations/{room}", headers=ben.headers).json()["conversation"]
    assert opened["canSend"] is False
    assert desk(mod, "POST", f"/actions/{given['action']['id']}/undo").status_code == 200
    assert send(ben, "x", conversationId=room).status_code == 201


def test_moderators_among_themselves(mod: Any, desk: Any, db: Any, person: Any, refused: Any) -> None:
    other, admin = person(), person()
    appoint(db, other.id)
    appoint(db, admin.id, "admin")
    body = {"kind": "suspend", "durationS": 60, "reason": "x"}
    for who, whom in ((mod, other), (mod, mod), (mod, admin), (admin, admin)):
        refused(desk(who, "POST", f"/users/{whom.id}/sanctions", body), 403, "forbidden")
    assert desk(admin, "POST", f"/users/{other.id}/sanctions", body).status_code == 201
    refused(desk(other, "GET", "/queue"), 403, "account_unavailable")


def test_messages_without_an_item(case: Any, mod: Any, desk: Any, refused: Any) -> None:
    _, _, message, _ = case
    hidden = desk(mod, "POST", f"/messages/{message['id']}/hide", {"note": "Seen by chance"})
    assert hidden.status_code == 200 and hidden.json()["action"]["itemId"] is None
    assert desk(mod, "POST", f"/messages/{message['id']}/hide", {"note": "Again"}).json() == hidden.json()
    assert (
        desk(mod, "POST", f"/messages/{message['id']}/restore", {"note": "Fine"}).json()["action"]["action"]
        == "restore"
    )
    refused(desk(mod, "POST", f"/messages/{uuid.uuid4()}/hide", {"note": "x"}), 404, "not_found")


def test_moderators_read_what_is_sealed(
    mod: Any, desk: Any, person: Any, send: Any, http: Any, db: Any, supabase_stack: Any
) -> None:
    """The database cannot; the service opens it for them, in the message and in the evidence."""
    ada, ben = person(), person()
    message = send(ada, "Hello", toUserId=ben.id).json()["message"]
    vault = Vault(settings.message_keys({"MESSAGE_KEYS": supabase_stack.attached.keys.message_keys}))
    sealed = vault.seal(Text("Code 4711", "Code •"), About(ada.id, message["clientMessageId"], to_user_id=ben.id))
    db.execute(
        "update public.messages set is_sensitive = true, is_masked = true, body = null where id = %s", [message["id"]]
    )
    db.execute(
        "insert into private.envelopes (message_id, key_version, wrapped_key, nonce, ciphertext, sender_id,"
        " client_message_id, target) values (%s, %s, %s, %s, %s, %s, %s, %s)",
        [message["id"], sealed.key_version, sealed.wrapped_key, sealed.nonce, sealed.ciphertext, sealed.sender,
         sealed.client_message_id, sealed.target],
    )  # fmt: skip
    http.post(f"/api/messages/{message['id']}/report", headers=ben.headers, json={"reason": "scam"})
    item = desk(mod, "GET", f"/queue?userId={ada.id}").json()["items"][0]

    def opened() -> Any:
        seen = desk(mod, "GET", f"/items/{item['id']}").json()
        assert (seen["message"]["body"], seen["message"]["sensitive"]) == (None, True)
        return seen["message"]["original"], seen["reports"][0]["evidence"]["original"]

    text = {"body": "Code 4711", "unreadable": False}
    assert opened() == (text, text)
    db.execute("delete from private.envelopes where message_id = %s", [message["id"]])
    assert opened() == ({"body": None, "unreadable": True}, text), "the evidence outlives the message"


def test_the_page_for_operators_says_what_works(
    case: Any, mod: Any, desk: Any, person: Any, send: Any, service_url: str, db: Any
) -> None:
    """Every command of docs/moderation.md, as it is printed."""
    page = Path("docs/moderation.md").read_text()
    ada, _, message, item = case
    noise = send(ada, "More", conversationId=message["conversationId"]).json()["message"]["id"]
    muted = {"kind": "mute", "durationS": 60, "reason": "x"}
    environment = {
        "PATH": os.environ["PATH"],
        "API_URL": service_url,
        "TOKEN": mod.token,
        "ITEM": item["id"],
        "PERSON": ada.id,
        "MESSAGE": message["id"],
        "SANCTION": desk(mod, "POST", f"/users/{person().id}/sanctions", muted).json()["sanction"]["id"],
        "ACTION": desk(mod, "POST", f"/messages/{noise}/hide", {"note": "x"}).json()["action"]["id"],
    }
    commands = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert commands
    run = subprocess.run(["bash", "-euc", commands[1]], env=environment, capture_output=True, text=True, check=True)
    answers, rest = [], run.stdout
    while rest:
        answer, end = json.JSONDecoder().raw_decode(rest)
        answers.append(answer)
        rest = rest[end:]
    assert len(answers) == len(re.findall(r"^desk [A-Z]", commands[1], re.MULTILINE)) == 11
    assert [answer for answer in answers if "code" in answer] == []

    statements = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(statements) == 2
    with db.transaction(force_rollback=True):
        for statement in statements:
            db.execute(statement)


def test_the_page_names_what_there_is() -> None:
    page = Path("docs/moderation.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) >= set(get_args(ItemKind))
    assert set(re.findall(r"`(\w+)`", page)) >= set(get_args(Outcome)) | set(get_args(SanctionKind))
