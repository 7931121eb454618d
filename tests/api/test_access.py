"""Tokens, limits, CORS, health and documentation over real HTTP."""

import base64
import json
import time
import uuid
from typing import Any

import jwt
import pytest

from tests.api.conftest import ORIGIN

SEND = "/api/messages/send"
LIST = "/api/messages/conversations"


def test_without_a_token(http: Any, refused: Any) -> None:
    for method, path in (
        ("POST", SEND), ("POST", LIST), ("GET", f"{LIST}/{uuid.uuid4()}"),
        ("PATCH", f"/api/messages/{uuid.uuid4()}/read"),
        ("PATCH", f"{LIST}/{uuid.uuid4()}/read-all"),
    ):  # fmt: skip
        answer = http.request(method, path)
        refused(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="messages"'


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "anon"}, {"aud": None}, {"iss": "https://other.example/auth/v1"}, {"iss": None},
        {"role": "service_role"},
        {"role": "anon"}, {"role": None}, {"sub": "ada"}, {"exp": None}, {"nbf": int(time.time()) + 600},
    ],
)  # fmt: skip
def test_foreign_tokens(http: Any, mint_token: Any, refused: Any, claims: Any) -> None:
    token = mint_token(claims.pop("sub", str(uuid.uuid4())), **claims)
    answer = http.post(LIST, headers={"Authorization": f"Bearer {token}"}, json={})
    refused(answer, 401, "unauthenticated")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_tokens_that_were_tampered_with(http: Any, person: Any, refused: Any, supabase_stack: Any) -> None:
    ada = person()
    head, payload, signature = ada.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": person().id}).encode()).rstrip(b"=").decode()
    for token in (
        f"{head}.{other}.{signature}", f"{head}.{payload}.", f"{head}.{payload}", "a.b.c", "x" * 9000,
        jwt.encode(claims, None, algorithm="none"), jwt.encode(claims, "y" * 40),
        jwt.encode(claims, supabase_stack.jwt_secret, "HS512"),
        supabase_stack.publishable_key, supabase_stack.secret_key,
    ):  # fmt: skip
        refused(http.post(LIST, headers={"Authorization": f"Bearer {token}"}, json={}), 401, "unauthenticated")
    refused(http.post(LIST, headers={"apikey": supabase_stack.secret_key}, json={}), 401, "unauthenticated")


def test_expired_token_is_told_apart(http: Any, mint_token: Any, person: Any, refused: Any) -> None:
    now = int(time.time())
    for age_s, status in ((5, 200), (120, 401)):
        person_id = person().id
        token = mint_token(person_id, iat=now - 3600, exp=now - age_s)
        answer = http.post(LIST, headers={"Authorization": f"Bearer {token}"}, json={"userId": person_id})
        assert answer.status_code == status
    refused(answer, 401, "token_expired")


def test_account_that_is_gone_may_not_write(http: Any, mint_token: Any, person: Any, refused: Any) -> None:
    headers = {"Authorization": f"Bearer {mint_token(str(uuid.uuid4()))}"}
    answer = http.post(SEND, headers=headers, json={"toUserId": person().id, "body": "Hello"})
    refused(answer, 403, "account_unavailable")


def test_limit_of_an_anonymous_address(http: Any, refused: Any, person: Any) -> None:
    statuses = [http.post(SEND, json={}).status_code for _ in range(63)]
    assert set(statuses[:60]) == {401}
    assert 429 in statuses[60:]
    last = http.post(SEND, json={})
    if last.status_code == 429:
        assert refused(last, 429, "rate_limited")["retryAfterS"] == 1
    assert (
        http.post(LIST, headers=person().headers, json={}).status_code == 400
    )  # the person behind it is another matter
    assert http.get("/health/live").status_code == 200


def test_limit_of_a_person(http: Any, person: Any) -> None:
    ada = person()
    answers = [http.get(f"{LIST}/x", headers=ada.headers) for _ in range(5)]
    assert answers[0].headers["ratelimit-policy"] == '"person";q=600;w=60'
    left = [int(answer.headers["ratelimit"].split(";")[1][2:]) for answer in answers]
    assert left[0] == 599
    assert left == sorted(left, reverse=True)


def test_cors(http: Any, person: Any) -> None:
    ask = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization",
    }
    for _ in range(70):  # more than an anonymous address may ask otherwise
        answer = http.options(f"/api/messages/{uuid.uuid4()}/read", headers=ask)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert http.post(SEND, json={}, headers={"Origin": ORIGIN}).headers["access-control-allow-origin"] == ORIGIN
    other = http.options(SEND, headers={**ask, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_health(http: Any) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}


def test_documentation(http: Any) -> None:
    assert http.get("/schema/openapi.json").json()["openapi"] == "3.1.0"
    page = http.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert f'"/docs/{asset}"' in page.text
        assert http.get(f"/docs/{asset}").status_code == 200
