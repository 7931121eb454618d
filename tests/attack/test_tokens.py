"""Tokens nobody should take: the service, the data API, Storage, Auth, Realtime. See tests/unit/test_auth.py, too."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from app import log
from app.auth import KeySet, Verifier
from app.problems import Problem
from app.supabase import Supabase
from tests.attack.world import World, outcome
from tests.stack.realtime_world import World as Sockets
from tests.unit.fakes import Asked, config, token, upstream
from tests.unit.fakes import http as answer_of

EVIL = ec.generate_private_key(ec.SECP256R1())
EVIL_RSA = rsa.generate_private_key(65537, 2048)


def part(told: Any) -> str:
    raw = told if isinstance(told, bytes) else json.dumps(told).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hs256(header: Any, claims: Any, secret: bytes) -> str:
    head = f"{part(header)}.{part(claims)}"
    return f"{head}.{part(hmac.new(secret, head.encode(), hashlib.sha256).digest())}"


def evil_jwk(kid: str) -> dict[str, Any]:
    made: dict[str, Any] = ECAlgorithm.to_jwk(EVIL.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig", "alg": "ES256"}


class Forge:
    """Tokens for the owner that the owner did not get."""

    def __init__(self, stack: Any, owner: str) -> None:
        self.keys = stack.attached.keys
        self.secret = stack.jwt_secret.encode()
        now = int(time.time())
        self.claims = {
            "iss": f"{stack.url}/auth/v1", "sub": owner, "aud": "authenticated", "role": "authenticated",
            "iat": now, "exp": now + 3600,
        }  # fmt: skip
        self.good = self.keys.sign(self.claims)

    def variants(self) -> dict[str, str]:
        """By name."""
        head, body, seal = self.good.split(".")
        header = json.loads(base64.urlsafe_b64decode(head + "=="))
        kid = header.get("kid", "one")
        public = json.loads(self.keys.signing_jwk)
        public = {name: public[name] for name in ("kty", "crv", "x", "y")}
        pem = jwt.PyJWK(public, "ES256").key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        es = lambda **extra: jwt.encode(self.claims, EVIL, "ES256", headers={"kid": kid, **extra})  # noqa: E731
        found = {
            "no signature": f"{head}.{body}.",
            "no signature, no dot": f"{head}.{body}",
            "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
            "alg None": f"{part({'alg': 'None'})}.{body}.{seal}",
            "alg empty": f"{part({'alg': ''})}.{body}.",
            "alg missing": f"{part({'typ': 'JWT'})}.{body}.{seal}",
            "alg as a list": f"{part({'alg': ['HS256', 'none']})}.{body}.{seal}",
            "another body": f"{head}.{part({**self.claims, 'role': 'service_role'})}.{seal}",
            "another person": f"{head}.{part({**self.claims, 'sub': str(uuid.uuid4())})}.{seal}",
            "cut signature": f"{head}.{body}.{seal[:-6]}",
            "empty secret": hs256({"alg": "HS256", "typ": "JWT"}, self.claims, b""),
            "null secret": hs256({"alg": "HS256", "typ": "JWT"}, self.claims, b"\x00" * 32),
            "guessed secret": hs256({"alg": "HS256"}, self.claims, b"super-secret-jwt-token-with-at-least-32"),
            "public key as secret, PEM": hs256({"alg": "HS256", "kid": kid}, self.claims, pem),
            "public key as secret, JWK": hs256({"alg": "HS256", "kid": kid}, self.claims, json.dumps(public).encode()),
            "publishable key as secret": hs256({"alg": "HS256"}, self.claims, self.keys.publishable_key.encode()),
            "secret of another size": hs256({"alg": "HS512"}, self.claims, self.secret),
            "own key": es(),
            "own RSA key": jwt.encode(self.claims, EVIL_RSA, "RS256", headers={"kid": kid}),
            "own key in jwk": es(jwk=evil_jwk(kid)),
            "own key at jku": es(jku="http://127.0.0.1:9/jwks.json"),
            "own key at x5u": es(x5u="http://127.0.0.1:9/x.pem", x5c=["AAAA"]),
            "kid as a path": es(kid="../../../../dev/null"),
            "kid as a statement": es(kid="' union select 'x' --"),
            "kid as an address": es(kid="http://127.0.0.1:9/key"),
            "kid with a NUL": es(kid="x\x00y"),
            "a huge kid": es(kid="k" * 5000),
            "a critical header": hs256({"alg": "HS256", "crit": ["x"], "x": 1}, self.claims, self.secret),
            "detached": f"{head}..{seal}",
            "an encrypted token": f"{head}.{body}.{seal}.{body}.{seal}",
            "trailing data": f"{self.good}.AAAA",
            "trailing words": f"{self.good}, {self.good}",
            "json instead of compact": json.dumps({"protected": head, "payload": body, "signature": seal}),
            "huge": self.keys.sign({**self.claims, "x": "y" * 200_000}),
        }  # fmt: skip
        if not self.keys.es256:
            double = (
                b'{"sub":"'
                + str(uuid.uuid4()).encode()
                + b'",'
                + json.dumps({**self.claims, "role": "postgres"}).encode()[1:]
            )
            found["a duplicate claim, another role"] = hs256({"alg": "HS256"}, double, self.secret)
            found["deep"] = hs256({"alg": "HS256"}, b'{"a":' * 3000 + b"1" + b"}" * 3000, self.secret)
            found["no object"] = hs256({"alg": "HS256"}, [self.claims], self.secret)
            found["bytes that are no text"] = hs256({"alg": "HS256"}, b'{"sub":"\xff\xfe"}', self.secret)
        return found

    def signed(self) -> dict[str, dict[str, Any]]:
        """Claims that Auth would have to sign, and the service must refuse all the same."""
        now = int(time.time())
        return {
            "role service_role": {"role": "service_role"}, "role anon": {"role": "anon"},
            "role postgres": {"role": "postgres"},
            "role supabase_admin": {"role": "supabase_admin"}, "role authenticator": {"role": "authenticator"},
            "role as a list": {"role": ["authenticated"]}, "role with a space": {"role": "authenticated "},
            "no role": {"role": None}, "empty role": {"role": ""},
            "another audience": {"aud": "anon"}, "no audience": {"aud": None}, "another issuer": {"iss": "https://evil.example"},
            "no issuer": {"iss": None}, "expired": {"exp": now - 120}, "expired long ago": {"exp": 1},
            "not yet valid": {"nbf": now + 3600}, "no expiry": {"exp": None},
            "no subject": {"sub": None}, "subject no UUID": {"sub": "admin"}, "empty subject": {"sub": ""},
            "subject of SQL": {"sub": "' or '1'='1"},
        }  # fmt: skip


@pytest.fixture(scope="module")
def forge(supabase_stack: Any, attacked: World) -> Forge:
    return Forge(supabase_stack, attacked.ids["owner"])


def test_the_token_that_is_right_is_taken(http: httpx.Client, attacked: World, forge: Forge) -> None:
    headers = {"Authorization": f"Bearer {forge.good}"}
    assert http.get("/api/messages/unread", headers=headers).status_code == 200
    assert attacked.client.post("/rest/v1/rpc/unread_counts", json={}, headers=headers).status_code == 200


def is_sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def test_forged_tokens_open_neither_door(http: httpx.Client, attacked: World, forge: Forge) -> None:
    problems = []
    for name, forged in forge.variants().items():
        if not is_sendable(forged):
            continue
        headers = {"Authorization": f"Bearer {forged}"}
        doors = {
            "the service": lambda told: http.get("/api/messages/unread", headers=told),
            "the data API": lambda told: attacked.client.post("/rest/v1/rpc/unread_counts", json={}, headers=told),
            "Auth": lambda told: attacked.client.get("/auth/v1/user", headers=told),
            "Storage": lambda told: attacked.client.post(
                f"/storage/v1/object/avatars/{attacked.ids['owner']}/forged.png",
                content=b"x",
                headers={**told, "Content-Type": "image/png"},
            ),
        }
        for door, knock in doors.items():
            try:
                answer = knock(headers)
            except httpx.TransportError:
                # Servers hang up on headers of that size; their answer may be lost with the connection.
                assert len(forged) > 16_000, (door, name)
                continue
            if door == "Auth" and "duplicate" in name:
                continue  # well signed, and Auth asks who it is for, whatever the role
            refused = {"unauthenticated", "payload_too_large"} if name == "huge" else {"unauthenticated"}
            if answer.is_success or (door == "the service" and outcome(answer) not in refused):
                problems.append(f"{door} takes {name}: {answer.status_code} {answer.text[:100]}")
    assert not problems, "\n".join(problems)


def test_claims_that_are_not_a_persons_open_nothing(
    http: httpx.Client, attacked: World, forge: Forge, mint_token: Callable[..., str]
) -> None:
    """Even well signed. The data API knows roles and times only; what it lets in is nobody, or that very person."""
    problems = []
    for name, claims in forge.signed().items():
        try:
            raw = mint_token(**{"sub": attacked.ids["owner"], **claims})
        except TypeError:
            continue
        headers = {"Authorization": f"Bearer {raw}"}
        service = http.get("/api/messages/unread", headers=headers)
        expected = "token_expired" if name.startswith("expired") else "unauthenticated"
        if (service.status_code, service.json().get("code")) != (401, expected):
            problems.append(f"service takes {name}: {service.status_code} {service.text[:100]}")
        sent = attacked.client.post(
            "/rest/v1/rpc/send_message",
            headers=headers,
            json={"p_body": name, "p_conversation_id": attacked.ids["group"]},
        )
        if sent.is_success and not ({"aud", "iss"} & claims.keys() or name == "no expiry"):
            problems.append(f"data API takes {name}: {sent.text[:100]}")
    assert not problems, "\n".join(problems)


async def test_forged_tokens_join_no_topic(
    realtime_stack: Any, attacked: World, forge: Forge, db: Any, mint_token: Any
) -> None:
    sockets = Sockets(realtime_stack.url, realtime_stack.publishable_key, db, mint_token)
    topic, problems = f"user:{attacked.ids['owner']}", []
    async with sockets.socket() as raw:
        for name, forged in forge.variants().items():
            if name == "huge":
                continue
            reply = await raw.join(topic, forged, private=True)
            if reply["status"] == "ok":
                problems.append(f"Realtime takes {name}")
        for name, claims in forge.signed().items():
            # Realtime checks signature, role and expiry; audience and issuer are not its business.
            if {"aud", "iss", "nbf"} & claims.keys() or claims.get("role") == "service_role":
                continue
            try:
                forged = mint_token(**{"sub": attacked.ids["owner"], **claims})
            except TypeError:
                continue
            reply = await raw.join(topic, forged, private=True)
            if reply["status"] == "ok":
                problems.append(f"Realtime takes {name}")
        assert (await raw.join(topic, forge.good, private=True))["status"] == "ok"
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("header", ["apikey", "x-api-key", "Authorization"])
def test_a_persons_token_is_no_api_key_and_a_key_no_person(header: str, attacked: World, supabase_stack: Any) -> None:
    token_ = attacked.token("member")
    with httpx.Client(base_url=supabase_stack.url) as bare:
        value = f"Bearer {token_}" if header == "Authorization" else token_
        assert bare.get("/rest/v1/messages?select=id", headers={header: value}).status_code in (401, 403)
        keyed = bare.get("/rest/v1/messages?select=id", headers={header: supabase_stack.publishable_key})
        assert keyed.status_code in (401, 403)


@pytest.mark.parametrize(("role", "code"), [("suspended", "account_unavailable"), ("deleted", "account_unavailable")])
def test_a_token_that_outlives_its_account_writes_nothing(
    role: str, code: str, http: httpx.Client, attacked: World
) -> None:
    """Every writing route of the API, with ids that would do for an active account."""
    ids = attacked.ids
    routes: list[tuple[str, str, Any]] = [
        ("POST", "/api/messages/send", {"body": "x", "toUserId": ids["owner"]}),
        ("PATCH", f"/api/messages/{ids['message']}", {"body": "x"}),
        ("DELETE", f"/api/messages/{ids['message']}", None),
        ("PATCH", f"/api/messages/{ids['message']}/read", None),
        ("PATCH", f"/api/messages/conversations/{ids['group']}/read-all", {}),
        ("PATCH", f"/api/messages/conversations/{ids['group']}", {"pinned": True}),
        ("POST", "/api/messages/conversations/group", {"title": "x", "memberIds": [ids["owner"]]}),
        ("POST", f"/api/messages/conversations/{ids['group']}/members", {"userIds": [ids["outsider"]]}),
        ("DELETE", f"/api/messages/conversations/{ids['group']}/members/{ids[role]}", None),
        ("PATCH", "/api/messages/delivered", {"receipts": [{"conversationId": ids["group"], "seq": 1}]}),
        ("POST", f"/api/messages/conversations/{ids['group']}/typing", None),
        ("PATCH", "/api/profile", {"displayName": "x"}),
    ]
    document = http.get("/schema/openapi.json").json()["paths"]
    if "/api/users/{id}/block" in document:
        routes += [(method, f"/api/users/{ids['owner']}/block", None) for method in ("POST", "DELETE")]
    if "/api/users/{id}/report" in document:
        routes += [
            ("POST", f"/api/users/{ids['owner']}/report", {"reason": "spam"}),
            ("POST", f"/api/messages/{ids['message']}/report", {"reason": "spam"}),
        ]
    problems = []
    for method, path, body in routes:
        answer = http.request(method, path, headers=attacked.headers(role), json=body)
        if answer.status_code != 403 or answer.json()["code"] != code:
            problems.append(f"{method} {path}: {answer.status_code} {answer.text[:120]}")
    assert not problems, "\n".join(problems)


def test_a_demoted_moderator_may_nothing_more(db: Any, attacked: World, new_person: Any) -> None:
    """With the same token, at the next call: tables decide, not claims."""
    person = new_person()

    def ask() -> Any:
        return attacked.client.post("/rest/v1/rpc/list_moderation_queue", json={}, headers=person.headers)

    assert outcome(ask()) == "forbidden"
    db.execute("insert into private.moderators (user_id) values (%s)", [person.id])
    assert ask().status_code == 200
    db.execute("delete from private.moderators where user_id = %s", [person.id])
    assert outcome(ask()) == "forbidden"


class TestPoisonedKeySets:
    """What a key set may say, through the real door: only a good one replaces what is known."""

    POISON: ClassVar[dict[str, bytes]] = {
        "html": b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        "redirect": b"HTTP/1.1 302 Found\r\nlocation: EVIL\r\ncontent-length: 0\r\n\r\n",
        "permanent redirect": b"HTTP/1.1 308 X\r\nlocation: EVIL\r\ncontent-length: 0\r\n\r\n",
        "refresh": b"HTTP/1.1 200 OK\r\nrefresh: 0; url=EVIL\r\ncontent-length: 2\r\n\r\n{}",
        "error with keys": b"",
        "empty": answer_of(200, b""),
        "no object": answer_of(200, []),
        "keys of another kind": answer_of(200, {"keys": {"kid": "evil"}}),
        "keys as text": answer_of(200, {"keys": "evil"}),
        "huge": answer_of(200, b'{"keys": [' + b"1," * 3_000_000 + b"1]}"),
        "deep": answer_of(200, b'{"keys": ' + b"[" * 100_000),
        "cut off": b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{\"keys\": [",
        "not text": answer_of(200, b'{"keys": ["\xff"]}'),
    }  # fmt: skip

    @pytest.fixture(autouse=True)
    def exchange(self) -> None:
        log.begin(log.Exchange("GET", []))

    @pytest.mark.parametrize("poison", POISON)
    async def test_poison_adds_no_key_and_takes_none(self, poison: str) -> None:
        good = ec.generate_private_key(ec.SECP256R1())
        good_jwk = {**ECAlgorithm.to_jwk(good.public_key(), as_dict=True), "kid": "good", "use": "sig"}
        asked: list[str] = []
        answers = [answer_of(200, {"keys": [good_jwk]})]

        async def script(request: Asked, _: Any) -> bytes:
            asked.append(request.path)
            if request.path == "/evil":
                return answer_of(200, {"keys": [evil_jwk("evil")]})
            return answers[0]

        async with upstream(script) as up:
            bad = self.POISON[poison].replace(b"EVIL", f"{up.url}/evil".encode())
            answers_after = bad or answer_of(500, {"keys": [evil_jwk("evil")]})
            supabase = Supabase(config(up.url, upstream_timeout_s=0.5))
            supabase.open()
            now = [1000.0]
            keys = KeySet(supabase.key_set, lambda: now[0])
            verifier = Verifier(config(up.url, supabase_jwt_secret=None), keys)
            issuer = f"{up.url}/auth/v1"
            fine = f"Bearer {token(issuer, good, 'ES256', headers={'kid': 'good'})}".encode()
            forged = f"Bearer {token(issuer, EVIL, 'ES256', headers={'kid': 'evil'})}".encode()
            try:
                await verifier.caller(fine)
                answers[0] = answers_after
                for _ in range(3):
                    now[0] += 700
                    with pytest.raises(Problem) as caught:
                        await verifier.caller(forged)
                    assert caught.value.code == "unauthenticated"
                    assert await keys.find("good") is not None
                assert "/evil" not in asked
            finally:
                await supabase.close()

    async def test_of_two_keys_with_one_id_none_is_chosen_by_the_token(self) -> None:
        """Whichever counts, its own algorithm counts with it."""
        good = ec.generate_private_key(ec.SECP256R1())
        good_jwk = {**ECAlgorithm.to_jwk(good.public_key(), as_dict=True), "kid": "one"}
        symmetric = {"kty": "oct", "kid": "one", "k": part(b"x" * 32), "alg": "HS256"}

        async def fetch() -> bytes:
            await asyncio.sleep(0)
            return json.dumps({"keys": [good_jwk, symmetric]}).encode()

        verifier = Verifier(config("https://x.example", supabase_jwt_secret=None), KeySet(fetch))
        forged = token("https://x.example/auth/v1", "x" * 32, "HS256", headers={"kid": "one"})
        with pytest.raises(Problem):
            await verifier.caller(f"Bearer {forged}".encode())
        fine = token("https://x.example/auth/v1", good, "ES256", headers={"kid": "one"})
        assert await verifier.caller(f"Bearer {fine}".encode())
