"""Sensitive messages end to end: members read them through the API, and their text is nowhere else."""

import base64
import json
import os
import re
import secrets
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app import keys, settings
from app.settings import MessageKey
from app.vault import About, Vault, Verdict, base64_of
from stack.dataapi import READY_S, answers
from stack.processes import Process, free_port
from tests.live.device import Device
from tests.sql.desk import appoint

SEND = "/api/messages/send"
ALLOW = Verdict("allow", None, None, [])


def secret() -> str:
    """A text nobody else has, with a word that can be searched for."""
    return f"The code of the door is {word()}."


def word() -> str:
    return "wo" + secrets.token_hex(12)


@pytest.fixture
def seal(send: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """`seal(person, body, **members)`: one sensitive message."""

    def post(person: Any, body: str, **members: Any) -> httpx.Response:
        return send(person, body, sensitive=True, **members)

    return post


@pytest.fixture
def direct(supabase_stack: Any) -> Callable[..., httpx.Response]:
    """`direct(person, method, path, json)`: past our service, as a browser with a token can."""

    def call(person: Any, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {**person.headers, "apikey": supabase_stack.publishable_key}
        return httpx.request(method, f"{supabase_stack.url}/rest/v1/{path}", headers=headers, json=body, timeout=30)

    return call


@pytest.fixture
def vault(supabase_stack: Any) -> Vault:
    return Vault(settings.message_keys({"MESSAGE_KEYS": supabase_stack.attached.keys.message_keys}))


@pytest.fixture
def another_service(supabase_stack: Any, worker: str) -> Iterator[Callable[..., httpx.Client]]:
    """`another_service(**settings)`: a client of one more copy of the service, with other settings."""
    running: list[Process] = []
    attached = supabase_stack.attached

    def start(**changes: str) -> httpx.Client:
        port = free_port()
        told = {**supabase_stack.api_settings(), "HOST": "127.0.0.1", "PORT": str(port), **changes}
        process = Process(
            "Another service",
            [sys.executable, "-m", "app", "serve"],
            log=attached.directory / "log" / f"api-service-{worker}-{len(running)}.log",
            ledger=attached.ledger,
            env={**os.environ, **told},
        )
        process.start()
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/health/ready"), READY_S)
        return httpx.Client(base_url=url, timeout=30)

    yield start
    for process in running:
        process.stop()


def in_every_route(http: httpx.Client, person: Any, conversation_id: str) -> list[dict[str, Any]]:
    """The newest message of this person's only conversation, from every route that carries messages."""

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = http.request(method, f"/api/messages/{path}", headers=person.headers, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return [
        ask("POST", "conversations", {"userId": person.id})["conversations"][0]["lastMessage"],
        ask("GET", "conversations")["conversations"][0]["lastMessage"],
        ask("GET", f"conversations/{conversation_id}")["conversation"]["lastMessage"],
        ask("GET", f"conversations/{conversation_id}")["conversation"]["messages"][-1],
        ask("PATCH", f"conversations/{conversation_id}", {"pinned": False})["conversation"]["lastMessage"],
        ask("GET", f"conversations/{conversation_id}/messages")["messages"][-1],
        ask("POST", "sync", {})["conversations"][0]["lastMessage"],
    ]


class TestMembers:
    def test_read_it_in_every_route(self, person: Any, seal: Any, http: Any) -> None:
        ada, ben, text = person("Ada"), person("Ben"), secret()
        cursor = http.post("/api/messages/sync", headers=ben.headers, json={}).json()["cursor"]
        sent = seal(ada, f"  {text}\r\n", toUserId=ben.id)
        assert sent.status_code == 201, sent.text
        message, there = sent.json()["message"], sent.json()["conversation"]["id"]
        assert (message["body"], message["sensitive"]) == (text, True)
        assert (message["unreadable"], message["masked"]) == (False, False)
        assert sent.json()["conversation"]["lastMessage"] == message
        assert "envelope" not in sent.text
        for reader in (ada, ben):
            assert in_every_route(http, reader, there) == [message] * 7
        changed = http.post("/api/messages/sync", headers=ben.headers, json={"cursor": cursor}).json()["messages"]
        assert changed == [message]
        history = http.get(f"/api/messages/{message['id']}/history", headers=ben.headers).json()["versions"]
        assert [(each["version"], each["body"]) for each in history] == [(1, text)]

    def test_a_retry_is_the_same_message(self, person: Any, seal: Any, send: Any, refused: Any) -> None:
        ada, ben, key, text = person(), person(), str(uuid.uuid4()), secret()
        first = seal(ada, text, toUserId=ben.id, clientMessageId=key)
        again = seal(ada, f" {text} ", toUserId=ben.id, clientMessageId=key.upper())
        elsewhere = seal(ada, text, conversationId=first.json()["conversation"]["id"], clientMessageId=key)
        assert [each.status_code for each in (first, again, elsewhere)] == [201, 200, 200]
        assert first.json()["message"] == again.json()["message"] == elsewhere.json()["message"]
        refused(seal(ada, text + "!", toUserId=ben.id, clientMessageId=key), 409, "idempotency_conflict")
        refused(send(ada, text, toUserId=ben.id, clientMessageId=key), 409, "idempotency_conflict")
        plain = str(uuid.uuid4())
        assert send(ada, text, toUserId=ben.id, clientMessageId=plain).status_code == 201
        refused(seal(ada, text, toUserId=ben.id, clientMessageId=plain), 409, "idempotency_conflict")

    def test_the_same_key_at_once_is_one_message(self, person: Any, seal: Any) -> None:
        ada, ben, key, text = person(), person(), str(uuid.uuid4()), secret()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: seal(ada, text, toUserId=ben.id, clientMessageId=key), range(16)))
        assert sorted(answer.status_code for answer in found) == [200] * 15 + [201]
        assert {answer.json()["message"]["body"] for answer in found} == {text}

    def test_it_is_deleted_and_not_edited(self, person: Any, seal: Any, http: Any, refused: Any) -> None:
        ada, ben, text = person(), person(), secret()
        sent = seal(ada, text, toUserId=ben.id).json()
        path = f"/api/messages/{sent['message']['id']}"
        refused(http.patch(path, headers=ada.headers, json={"body": "x"}), 422, "message_sensitive")
        gone = http.delete(path, headers=ada.headers)
        assert (gone.json()["message"]["body"], gone.json()["message"]["state"]) == (None, "deleted")
        for reader in (ada, ben):
            assert {found["body"] for found in in_every_route(http, reader, sent["conversation"]["id"])} == {None}
            assert http.get(f"{path}/history", headers=reader.headers).json() == {"versions": []}

    def test_in_a_group(self, person: Any, seal: Any, http: Any, group: Any, alike: Any) -> None:
        ada, ben, eve, text = person(), person(), person(), secret()
        there = group(ada, ben)["id"]
        sent = seal(ada, text, conversationId=there)
        assert sent.status_code == 201
        assert {found["body"] for found in in_every_route(http, ben, there)} == {text}
        path = f"/api/messages/conversations/{there}/messages"
        alike(
            http.get(path, headers=eve.headers), http.get(path.replace(there, str(uuid.uuid4())), headers=eve.headers)
        )
        # Whoever comes later does not see what was before.
        http.post(f"/api/messages/conversations/{there}/members", headers=ada.headers, json={"userIds": [eve.id]})
        assert text not in http.get(path, headers=eve.headers).text

    def test_who_blocks_its_author_does_not_read_it_in_a_group(
        self, person: Any, seal: Any, http: Any, group: Any, db: Any
    ) -> None:
        ada, ben, text = person(), person(), secret()
        there = group(ada, ben)["id"]
        seal(ada, text, conversationId=there)
        db.execute("insert into private.blocks (blocker_id, blocked_id) values (%s, %s)", [ben.id, ada.id])
        found = http.get(f"/api/messages/conversations/{there}/messages", headers=ben.headers)
        assert (found.json()["messages"][-1]["body"], found.json()["messages"][-1]["state"]) == (None, "hidden")
        assert text not in found.text

    @pytest.mark.parametrize("value", ["yes", 1, "true", None, [True]])
    def test_it_is_asked_for_with_true(self, person: Any, http: Any, refused: Any, value: Any) -> None:
        body = {"body": "x", "toUserId": person().id, "sensitive": value}
        refused(http.post(SEND, headers=person().headers, json=body), 400, "validation_failed", "/sensitive")

    def test_false_is_an_ordinary_message(self, person: Any, send: Any, db: Any) -> None:
        message = send(person(), "Hello", toUserId=person().id, sensitive=False).json()["message"]
        assert (message["sensitive"], message["body"]) == (False, "Hello")
        assert db.execute("select body from public.messages where id = %s", [message["id"]]).fetchone() == ("Hello",)

    @pytest.mark.parametrize("body", ["", " \n", "\u202e", "x" * 4001, "\u0301" * 300])
    def test_texts_have_the_same_bounds(self, person: Any, seal: Any, refused: Any, body: str) -> None:
        refused(seal(person(), body, toUserId=person().id), 400, "validation_failed", "/body")

    def test_the_longest_text(self, person: Any, seal: Any, http: Any) -> None:
        ada, ben, text = person(), person(), "\U0001f5dd" * 4000
        assert seal(ada, text, toUserId=ben.id).json()["message"]["body"] == text


def needles(found: str) -> list[bytes]:
    """How a word may be written down: as it is, in hex, in base64 at any place."""
    raw = found.encode()
    inside = [base64.b64encode(b"-" * shift + raw)[4:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), *inside]


def tables_with(db: Any, found: str) -> set[str]:
    """Tables of any schema with that word in any column of any row."""
    tables = db.execute(
        "select c.oid::regclass::text from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace "
        "where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
    ).fetchall()
    assert len(tables) > 20
    words = [f"%{needle.decode()}%" for needle in needles(found)]
    query = "select exists (select from {} as t where t::text like any(%s))"
    return {table for (table,) in tables if db.execute(query.format(table), [words]).fetchone()[0]}


def files_with(directory: Any, found: str) -> set[str]:
    """Files of the cluster, its write-ahead log and all logs with that word in them."""
    pattern = re.compile(b"|".join(map(re.escape, needles(found))))
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and pattern.search(path.read_bytes())
    }


class TestNowhereElse:
    def test_not_in_the_database_nor_its_files_nor_any_log(
        self, person: Any, send: Any, seal: Any, http: Any, db: Any, supabase_stack: Any
    ) -> None:
        ada, ben, sealed, control, refused_word = person(), person(), word(), word(), word()
        sent = seal(ada, f"code {sealed}", toUserId=ben.id).json()
        key = str(uuid.uuid4())
        seal(ada, f"code {sealed} again", toUserId=ben.id, clientMessageId=key)
        seal(ada, f"code {refused_word}", toUserId=ben.id, clientMessageId=key)
        seal(ada, f"code {refused_word}", toUserId=str(uuid.uuid4()))
        send(ada, f"plain {control}", toUserId=ben.id)
        in_every_route(http, ben, sent["conversation"]["id"])
        http.delete(f"/api/messages/{sent['message']['id']}", headers=ada.headers)
        assert "messages" in tables_with(db, control)
        assert tables_with(db, sealed) == tables_with(db, refused_word) == set()
        directory = supabase_stack.attached.directory
        assert files_with(directory, control)
        assert files_with(directory, sealed) == files_with(directory, refused_word) == set()

    def test_not_for_direct_callers(self, person: Any, seal: Any, direct: Any) -> None:
        ada, ben, hidden = person(), person(), word()
        sent = seal(ada, f"code {hidden}", toUserId=ben.id).json()
        there = sent["conversation"]["id"]
        rows = direct(ben, "GET", f"messages?id=eq.{sent['message']['id']}&select=*")
        assert (rows.json()[0]["body"], rows.json()[0]["is_sensitive"]) == (None, True)
        page = direct(ben, "POST", "rpc/list_messages", {"p_conversation_id": there})
        assert (page.json()["messages"][0]["body"], page.json()["messages"][0]["sensitive"]) == (None, True)
        others = [
            direct(ben, "POST", "rpc/get_conversation", {"p_conversation_id": there}),
            direct(ben, "POST", "rpc/sync", {}),
            direct(ben, "POST", "rpc/list_inbox", {}),
            direct(ben, "POST", "rpc/message_history", {"p_message_id": sent["message"]["id"]}),
        ]
        for answer in (rows, page, *others):
            assert answer.status_code == 200, answer.text
            assert not any(needle.decode() in answer.text for needle in needles(hidden))
        for table in ("envelopes", "envelope_keys"):
            assert direct(ben, "GET", table).status_code == 404

    @pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")
    async def test_not_in_events(self, person: Any, seal: Any, http: Any, realtime_stack: Any) -> None:
        ada, ben, hidden = person(), person(), word()
        device = await Device.open(realtime_stack.url, realtime_stack.publishable_key, ben)
        try:
            own, changes = await device.own(), await device.changes()
            sent = seal(ada, f"code {hidden}", toUserId=ben.id).json()["message"]
            http.delete(f"/api/messages/{sent['id']}", headers=ada.headers)
            seal(ada, f"code {hidden}", toUserId=ben.id)
            events = await own.hears(3)
            assert [(each["message"]["body"], each["message"]["sensitive"]) for each in events] == [(None, True)] * 3
            assert events[0]["message"] == {**sent, "body": None}
            heard = json.dumps([own.heard, changes.rows], default=str)
            assert "envelope" not in heard
            assert hidden not in heard
            assert "ciphertext" not in heard
        finally:
            await device.close()


class TestForgery:
    @pytest.fixture
    def sends(self, direct: Any, db: Any) -> Callable[..., httpx.Response]:
        def call(person: Any, envelope: Any, about: About, **changes: Any) -> httpx.Response:
            told = {
                "p_envelope": envelope,
                "p_client_message_id": about.client_message_id,
                "p_to_user_id": about.to_user_id,
                **changes,
            }
            answer: httpx.Response = direct(person, "POST", "rpc/send_message", told)
            return answer

        return call

    def made(self, vault: Vault, about: About, db: Any, verdict: Verdict = ALLOW) -> Any:
        revision = db.execute("select private.moderation_revision()").fetchone()[0]
        return vault.signed(about, "Hello", verdict, verdict, text_digest=None, has_link=False, rules_revision=revision)

    def test_what_the_service_signed_is_accepted(self, person: Any, sends: Any, vault: Vault, db: Any) -> None:
        ada, ben = person(), person()
        about = About(ada.id, str(uuid.uuid4()), to_user_id=ben.id)
        answer = sends(ada, self.made(vault, about, db), about)
        assert answer.status_code == 200, answer.text
        assert answer.json()["message"]["body"] is None

    def test_nothing_else_is(self, person: Any, sends: Any, vault: Vault, db: Any) -> None:
        ada, ben, eve = person(), person(), person()
        about = About(ada.id, str(uuid.uuid4()), to_user_id=ben.id)
        good = self.made(vault, about, db)
        stranger = Vault([MessageKey(vault.version, secrets.token_bytes(32))])
        reject = self.made(vault, about, db, Verdict("reject", None, "No.", []))
        turned = reject | {"signed": reject["signed"].replace('"reject"', '"allow"')}
        for person_, envelope, changes in (
            (ada, self.made(stranger, about, db), {}),
            (ada, good | {"signature": ""}, {}),
            (ada, {"signed": good["signed"]}, {}),
            (ada, {}, {}),
            (ada, turned, {}),
            (eve, good, {}),
            (ada, good, {"p_to_user_id": eve.id}),
            (ada, good, {"p_client_message_id": str(uuid.uuid4())}),
            (ada, good, {"p_gig_id": str(uuid.uuid4())}),
        ):
            answer = sends(person_, envelope, about, **changes)
            assert (answer.status_code, answer.json()["message"]) == (403, "envelope_invalid"), answer.text
        count = "select count(*) from public.messages where from_user_id = any(%s)"
        assert db.execute(count, [[ada.id, eve.id]]).fetchone() == (0,)

    def test_not_both_a_body_and_an_envelope(self, person: Any, sends: Any, vault: Vault, db: Any) -> None:
        ada, ben = person(), person()
        about = About(ada.id, str(uuid.uuid4()), to_user_id=ben.id)
        answer = sends(ada, self.made(vault, about, db), about, p_body="Something else")
        assert (answer.status_code, answer.json()["message"]) == (400, "validation_failed")

    def test_the_api_takes_no_envelopes(self, person: Any, http: Any, refused: Any) -> None:
        body = {"body": "x", "toUserId": person().id, "envelope": {"signed": "x"}}
        refused(http.post(SEND, headers=person().headers, json=body), 400, "validation_failed", "/envelope")


class TestKeys:
    def test_without_keys(self, person: Any, another_service: Any, seal: Any, http: Any, refused: Any) -> None:
        ada, ben, text = person(), person(), secret()
        there = seal(ada, text, toUserId=ben.id).json()["conversation"]["id"]
        for lacks in (
            {"MESSAGE_KEYS": ""},
            {"SUPABASE_SECRET_KEY": ""},
            {"SUPABASE_SECRET_KEY": "sb_secret_of_nobody"},
        ):
            with another_service(**lacks) as client:
                body = {"body": text, "toUserId": ben.id, "sensitive": True}
                answer = client.post(SEND, headers=ada.headers, json=body)
                refused(answer, 503, "sensitive_unavailable")
                assert int(answer.headers["retry-after"]) > 0
                if "MESSAGE_KEYS" in lacks:
                    for found in in_every_route(client, ben, there):
                        assert (found["body"], found["unreadable"], found["sensitive"]) == (None, True, True)
                    assert client.get(f"/api/messages/{found['id']}/history", headers=ben.headers).status_code == 200
                else:
                    assert {found["body"] for found in in_every_route(client, ben, there)} == {text}

    def test_with_a_key_the_database_does_not_know(self, person: Any, another_service: Any, refused: Any) -> None:
        ada, ben = person(), person()
        with another_service(MESSAGE_KEYS=f"9000:{base64_of(secrets.token_bytes(32))}") as client:
            body = {"body": "x", "toUserId": ben.id, "sensitive": True}
            refused(client.post(SEND, headers=ada.headers, json=body), 503, "sensitive_unavailable")

    async def test_rotation_without_downtime(
        self, person: Any, another_service: Any, seal: Any, http: Any, db: Any, supabase_stack: Any, refused: Any
    ) -> None:
        """Old and new copies of the service side by side, then only new ones, then the old key is gone."""
        old_entry = supabase_stack.attached.keys.message_keys
        version = 10_000 + secrets.randbelow(10**8)
        new_entry = f"{version}:{base64_of(secrets.token_bytes(32))}"
        ada, ben = person(), person()
        texts = [secret() for _ in range(4)]
        keys_used = [str(uuid.uuid4()) for _ in texts]
        sent = [
            seal(ada, text, toUserId=ben.id, clientMessageId=key).json()
            for text, key in zip(texts, keys_used, strict=True)
        ]
        there = sent[0]["conversation"]["id"]

        def read(client: httpx.Client) -> list[str | None]:
            page = client.get(f"/api/messages/conversations/{there}/messages", headers=ben.headers).json()["messages"]
            return [each["body"] for each in page]

        def again(client: httpx.Client, number: int) -> httpx.Response:
            body = {"body": texts[number], "toUserId": ben.id, "sensitive": True, "clientMessageId": keys_used[number]}
            return client.post(SEND, headers=ada.headers, json=body)

        both = settings.load({**supabase_stack.api_settings(), "MESSAGE_KEYS": f"{new_entry},{old_entry}"})
        db.execute(keys.registration(Vault(both.message_keys)))
        # First every copy learns the new key, and goes on sealing with the old one.
        with (
            another_service(MESSAGE_KEYS=f"{old_entry},{new_entry}") as knows,
            another_service(MESSAGE_KEYS=f"{new_entry},{old_entry}") as turns,
            another_service(MESSAGE_KEYS=new_entry) as fresh,
        ):
            assert read(http) == read(knows) == read(turns) == texts
            assert again(turns, 0).status_code == again(knows, 0).status_code == 200
            body = {"body": secret(), "toUserId": ben.id, "sensitive": True}
            texts.append(body["body"])
            assert turns.post(SEND, headers=ada.headers, json=body).status_code == 201
            assert read(knows) == read(turns) == texts
            # A copy that was left behind: a clear state, no error.
            assert read(http) == [*texts[:-1], None]
            assert read(fresh) == [None] * 4 + texts[-1:]
            rewrapped, _ = await keys.rotate(both, Vault(both.message_keys))
            assert rewrapped >= 4
            assert read(fresh) == read(knows) == read(turns) == texts
            # Retries of sends from before, with the old key gone, are still retries.
            answer = again(fresh, 1)
            assert (answer.status_code, answer.json()["message"]["id"]) == (200, sent[1]["message"]["id"])
            assert again(turns, 2).status_code == 200
            db.execute("update private.envelope_keys set retired_at = now() where version = %s", [version])
            try:
                refused(again(fresh, 1), 503, "sensitive_unavailable")
                assert read(fresh) == texts
            finally:
                db.execute("update private.envelope_keys set retired_at = null where version = %s", [version])


class TestModeration:
    @pytest.fixture
    def rule(self, db: Any) -> Iterator[Callable[[str], str]]:
        """`rule(action)`: a term that this rule is about."""
        made: list[str] = []

        def insert(action: str) -> str:
            term = "t" + "".join(secrets.choice("bcdfghjklmnpqrstvwxyz") for _ in range(14))
            made.append(term)
            db.execute(
                "insert into private.moderation_rules (name, kind, action, label, explanation, terms) "
                "values (%s, 'term', %s, 'test', 'Not with this word.', array[%s])",
                [term, action, term],
            )
            return term

        yield insert
        db.execute("delete from private.moderation_rules where name = any(%s)", [made])

    def test_what_is_refused_leaves_a_verdict_without_its_text(
        self, person: Any, seal: Any, rule: Any, db: Any, refused: Any, http: Any
    ) -> None:
        ada, ben, key, term = person(), person(), str(uuid.uuid4()), rule("reject")
        problem = refused(seal(ada, f"A {term} b", toUserId=ben.id, clientMessageId=key), 422, "message_rejected")
        assert problem["detail"] == "Not with this word."
        row = db.execute("select action, rules, body from private.verdicts where user_id = %s", [ada.id]).fetchall()
        assert [(action, rules[0]["name"], body) for action, rules, body in row] == [("reject", term, None)]
        for table, column in (("send_keys", "from_user_id"), ("envelopes", "sender_id")):
            assert db.execute(f"select count(*) from private.{table} where {column} = %s", [ada.id]).fetchone() == (0,)
        assert http.get("/api/messages/conversations", headers=ada.headers).json()["conversations"] == []

    def test_rules_are_in_force_at_once(self, person: Any, seal: Any, rule: Any, refused: Any) -> None:
        """The service keeps rules in memory; SQL makes it fetch them anew."""
        ada, ben = person(), person()
        assert seal(ada, "One", toUserId=ben.id).status_code == 201
        for _ in range(3):
            refused(seal(ada, f"x {rule('reject')}", toUserId=ben.id), 422, "message_rejected")

    def test_a_warning(self, person: Any, seal: Any, rule: Any) -> None:
        ada, ben, term = person(), person(), rule("warn")
        message = seal(ada, f"A {term}", toUserId=ben.id).json()["message"]
        assert (message["warning"], message["body"]) == ("test", f"A {term}")

    def test_contact_details_are_masked_until_contact_is_allowed(
        self, person: Any, seal: Any, http: Any, supabase_stack: Any, db: Any
    ) -> None:
        ada, ben, text = person(), person(), "Write to ada.moreau@example.com, please"
        sent = seal(ada, text, toUserId=ben.id)
        message, there = sent.json()["message"], sent.json()["conversation"]["id"]
        assert message["masked"] is True
        assert "•••" in message["body"]
        assert "moreau" not in message["body"]
        assert in_every_route(http, ben, there) == [message] * 7
        history = f"/api/messages/{message['id']}/history"
        assert "moreau" not in http.get(history, headers=ben.headers).text

        secret_key = supabase_stack.secret_key
        allowed = httpx.post(
            f"{supabase_stack.url}/rest/v1/rpc/allow_contact",
            headers={"apikey": secret_key, "Authorization": f"Bearer {secret_key}"},
            json={"p_conversation_id": there, "p_is_allowed": True},
        )
        assert allowed.status_code == 200, allowed.text
        for reader in (ada, ben):
            for found in in_every_route(http, reader, there):
                assert (found["body"], found["masked"]) == (text, False)
                assert found["eventSeq"] > message["eventSeq"]
        assert http.get(history, headers=ben.headers).json()["versions"][0]["body"] == text
        # And from then on.
        again = seal(ben, text, conversationId=there).json()["message"]
        assert (again["body"], again["masked"]) == (text, False)

    def test_held_then_released(self, person: Any, seal: Any, http: Any, rule: Any, db: Any) -> None:
        ada, ben, key, term = person(), person(), str(uuid.uuid4()), rule("hold")
        text = f"A {term}, ada.moreau@example.com"
        first = seal(ada, text, toUserId=ben.id, clientMessageId=key)
        assert first.status_code == 202, first.text
        message, there = first.json()["message"], first.json()["conversation"]["id"]
        assert (message["state"], message["seq"], message["body"], message["sensitive"]) == ("pending", 0, text, True)
        assert seal(ada, text, toUserId=ben.id, clientMessageId=key).json()["message"] == message
        mine = http.get(f"/api/messages/conversations/{there}", headers=ada.headers).json()["conversation"]
        assert mine["pending"] == [message]
        assert http.get("/api/messages/conversations", headers=ben.headers).json()["conversations"] == []
        assert tables_with(db, term) == {"private.moderation_rules", "private.moderation_rule_versions"} | (
            tables_with(db, term) & {"private.moderation_terms", "private.moderation_words", "private.verdicts"}
        )
        assert db.execute("select private.release_pending(%s)", [message["id"]]).fetchone() == ("released",)
        for reader in (ada, ben):
            for found in in_every_route(http, reader, there):
                assert (found["id"], found["state"], found["masked"]) == (message["id"], "visible", True)
                assert term in found["body"]
                assert "moreau" not in found["body"]
        assert seal(ada, text, toUserId=ben.id, clientMessageId=key).status_code == 200

    def test_held_then_withdrawn(self, person: Any, seal: Any, http: Any, rule: Any) -> None:
        ada, ben, term = person(), person(), rule("hold")
        message = seal(ada, f"A {term}", toUserId=ben.id).json()["message"]
        gone = http.delete(f"/api/messages/{message['id']}", headers=ada.headers).json()["message"]
        assert (gone["state"], gone["body"], gone["unreadable"]) == ("deleted", None, False)

    def test_hidden_and_shown_again(self, person: Any, seal: Any, http: Any, db: Any) -> None:
        ada, ben, text = person(), person(), secret()
        sent = seal(ada, text, toUserId=ben.id).json()
        there, message_id = sent["conversation"]["id"], sent["message"]["id"]
        db.execute("select private.hide_message(%s)", [message_id])
        for reader in (ada, ben):
            for found in in_every_route(http, reader, there):
                assert (found["state"], found["body"], found["unreadable"]) == ("hidden", None, False)
            assert http.get(f"/api/messages/{message_id}/history", headers=reader.headers).json() == {"versions": []}
        db.execute("select private.restore_message(%s)", [message_id])
        assert {found["body"] for found in in_every_route(http, ben, there)} == {text}

    def test_the_same_text_to_many_is_noticed(self, person: Any, seal: Any) -> None:
        ada, text = person(), f"A very special offer, today only {secret()}"
        found = [seal(ada, text, toUserId=person().id).status_code for _ in range(10)]
        assert found == [201] * 9 + [202]


class TestModerators:
    """They judge the whole text, also when it is masked, held or gone meanwhile."""

    @pytest.fixture
    def reads(self, person: Any, db: Any, http: Any) -> Callable[[Any], str]:
        """`reads(author)`: what the desk shows about this person's one open case."""
        mo = person("Mo")
        appoint(db, mo.id)

        def ask(author: Any) -> str:
            queue = http.get(f"/api/moderation/queue?userId={author.id}", headers=mo.headers).json()["items"]
            item = http.get(f"/api/moderation/items/{queue[0]['id']}", headers=mo.headers)
            assert item.status_code == 200, item.text
            assert "ciphertext" not in item.text
            return str(item.text)

        return ask

    def test_a_report(self, person: Any, seal: Any, http: Any, reads: Any, db: Any) -> None:
        ada, ben, hidden = person(), person(), word()
        message = seal(ada, f"{hidden} or ada.moreau@example.com", toUserId=ben.id).json()["message"]
        report = {"reason": "scam", "note": "Look at it"}
        path = f"/api/messages/{message['id']}"
        assert http.post(f"{path}/report", headers=ben.headers, json=report).status_code == 201
        for _ in range(2):
            shown = reads(ada)
            assert hidden in shown
            assert "ada.moreau@example.com" in shown
            http.delete(path, headers=ada.headers)
        assert tables_with(db, hidden) == set()

    def test_a_held_message(self, person: Any, seal: Any, reads: Any, db: Any) -> None:
        ada, hidden = person(), word()
        text = f"See https://example.org/{hidden}"  # a link in a first message of a new account
        assert seal(ada, text, toUserId=person().id).status_code == 202
        assert hidden in reads(ada)
        assert tables_with(db, hidden) == set()
