"""Authentication: who is let in, who is not and why, and what is remembered for how long."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app import auth, log
from app.auth import LEEWAY_S, TOKEN_BYTES_MAX, KeySet, Verifier
from app.problems import Problem
from tests.unit.fakes import ADA, SECRET, config, token

URL = "https://abc.supabase.co"
ISSUER = f"{URL}/auth/v1"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_RSA_KEY = rsa.generate_private_key(65537, 1024)


@pytest.fixture(autouse=True)
def exchange() -> None:
    log.begin(log.Exchange("GET", []))


def jwk(key: Any, kid: str | None, **changes: Any) -> dict[str, Any]:
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    made = {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **changes}
    return {name: value for name, value in made.items() if value is not None}


class Project:
    """A project's key set, with a clock, a count of the questions and an outage."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys: list[Any] = list(keys)
        self.asked = 0
        self.away = False
        self.now_s = 1000.0
        self.raw: bytes | None = None

    async def fetch(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Problem("upstream_unavailable", retry_after_s=2)
        return self.raw if self.raw is not None else json.dumps({"keys": self.keys}).encode()

    def key_set(self) -> KeySet:
        return KeySet(self.fetch, lambda: self.now_s)


class Clock:
    def __init__(self) -> None:
        self.now_s = time.time()

    def __call__(self) -> float:
        return self.now_s


def verifier(project: Project | None = None, secret: str | None = SECRET, clock: Clock | None = None) -> Verifier:
    settings = config(URL, supabase_jwt_secret=secret)
    return Verifier(settings, (project or Project()).key_set(), clock or Clock())


async def refusal(made: Verifier, authorization: str | bytes | None) -> Problem:
    header = authorization.encode() if isinstance(authorization, str) else authorization
    with pytest.raises(Problem) as caught:
        await made.caller(header)
    return caught.value


async def test_shared_secret() -> None:
    raw = token(ISSUER, email="ada@example.com", session_id="x")
    caller = await verifier().caller(f"Bearer {raw}".encode())
    assert (caller.id, caller.token) == (ADA, raw)
    assert caller.expires_at_s > time.time()
    assert (await verifier().caller(f"bEaReR   {raw} ".encode())).id == ADA
    assert (await verifier().caller(f"Bearer {token(ISSUER, sub=ADA.upper())}".encode())).id == ADA
    assert (await verifier().caller(f"Bearer {token(ISSUER, aud=['other', 'authenticated'])}".encode())).id == ADA


@pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")])
async def test_key_of_the_project(key: Any, algorithm: str) -> None:
    project = Project(jwk(OTHER_EC_KEY, "other"), jwk(key, "current", alg=algorithm))
    made = verifier(project, secret=None)
    raw = token(ISSUER, key, algorithm, headers={"kid": "current"})
    for _ in range(3):
        assert (await made.caller(f"Bearer {raw}".encode())).id == ADA
    assert project.asked == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "anon"}, {"aud": None}, {"aud": ["other"]}, {"iss": "https://evil.example/auth/v1"}, {"iss": None},
        {"iss": ISSUER + "/"}, {"role": "service_role"}, {"role": "anon"}, {"role": None}, {"role": ["authenticated"]},
        {"sub": None}, {"sub": "ada"}, {"sub": ""}, {"sub": ADA.replace("-", "")}, {"sub": "{" + ADA + "}"},
        {"sub": "urn:uuid:" + ADA}, {"exp": None}, {"exp": "tomorrow"}, {"exp": True}, {"exp": [1]},
        {"nbf": int(time.time()) + 86_400}, {"nbf": "soon"},
    ],
)  # fmt: skip
async def test_wrong_claims_are_refused(claims: dict[str, Any]) -> None:
    try:
        raw = token(ISSUER, **claims)
    except TypeError:  # PyJWT does not write such a claim
        parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": ADA, "aud": "authenticated", "iss": ISSUER, **claims}]
        raw = signed(parts[0], parts[1])
    problem = await refusal(verifier(), f"Bearer {raw}")
    assert problem.code == "unauthenticated"


def signed(header: Any, payload: Any, secret: bytes = SECRET.encode()) -> str:
    """A compact token of anything, signed with HMAC."""
    encode = lambda part: base64.urlsafe_b64encode(part).rstrip(b"=")  # noqa: E731
    head = b".".join(encode(json.dumps(part).encode()) for part in (header, payload))
    return (head + b"." + encode(hmac.new(secret, head, hashlib.sha256).digest())).decode()


CLAIMS = {"sub": ADA, "aud": "authenticated", "role": "authenticated", "iss": ISSUER, "exp": 4_000_000_000}


@pytest.mark.parametrize("exp", ["4000000000", None, {"a": 1}, float("inf"), float("nan"), 10**400])
async def test_expiry_that_is_no_number(exp: Any) -> None:
    raw = signed({"alg": "HS256"}, {**CLAIMS, "exp": exp})
    assert (await refusal(verifier(), f"Bearer {raw}")).code == "unauthenticated"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": ""}, {"alg": None}, {"alg": 7}, {}, {"alg": "HS384"},
        {"alg": "HS512"},
        {"alg": "hs256"}, {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {"alg": "RS256"}, {"alg": "RS256", "kid": 5}, {"alg": "ES256", "kid": "unknown"},
        {"alg": "PS256", "kid": "rsa"},        {"alg": ["HS256"]}, "HS256", [], None,
    ],
)  # fmt: skip
async def test_header_cannot_choose(header: Any) -> None:
    made = verifier(Project(jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec")))
    assert (await refusal(made, f"Bearer {signed(header, CLAIMS)}")).code == "unauthenticated"


async def test_no_algorithm_and_no_signature() -> None:
    raw = jwt.encode(CLAIMS, None, algorithm="none")
    assert (await refusal(verifier(), f"Bearer {raw}")).code == "unauthenticated"


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_public_key_is_no_shared_secret(secret: str | None) -> None:
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    made = verifier(Project(jwk(RSA_KEY, "rsa")), secret=secret)
    for key in (pem, json.dumps(jwk(RSA_KEY, "rsa")).encode()):
        raw = signed({"alg": "HS256", "kid": "rsa"}, CLAIMS, key)
        assert (await refusal(made, f"Bearer {raw}")).code == "unauthenticated"


async def test_secret_counts_only_when_configured() -> None:
    assert (await refusal(verifier(secret=None), f"Bearer {token(ISSUER)}")).code == "unauthenticated"
    assert (await refusal(verifier(secret="y" * 40), f"Bearer {token(ISSUER)}")).code == "unauthenticated"


async def test_algorithm_is_pinned_to_the_key() -> None:
    project = Project(jwk(RSA_KEY, "one"), jwk(EC_KEY, "two"))
    raw = token(ISSUER, RSA_KEY, "RS256", headers={"kid": "two"})
    assert (await refusal(verifier(project), f"Bearer {raw}")).code == "unauthenticated"
    raw = token(ISSUER, OTHER_EC_KEY, "ES256", headers={"kid": "two"})
    assert (await refusal(verifier(project), f"Bearer {raw}")).code == "unauthenticated"


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (EC_KEY, {"kid": None}), (EC_KEY, {"use": "enc"}), (EC_KEY, {"alg": "RS256"}), (EC_KEY, {"x": "AAAA"}),
        (EC_KEY, {"kty": "oct", "k": "AAAA"}), (P384_KEY, {}), (WEAK_RSA_KEY, {}), (EC_KEY, {"kty": 5}),
    ],
)  # fmt: skip
async def test_unusable_keys_are_passed_over(key: Any, changes: Any) -> None:
    project = Project(jwk(key, "bad") | changes, jwk(RSA_KEY, "good"))
    project.keys = [{k: v for k, v in entry.items() if v is not None} for entry in project.keys]
    keys = project.key_set()
    assert await keys.find("bad") is None
    assert (await keys.find("good") or ("",))[0] == "RS256"


async def test_key_set_is_bounded() -> None:
    project = Project(*[jwk(EC_KEY, f"k{n}") for n in range(200)])
    keys = project.key_set()
    assert await keys.find("k31") is not None
    assert await keys.find("k32") is None


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"Bearer", b"Bearer ", b"Basic YTpi", b"Bearer a.b", b"Bearer a.b.c", b"Bearer a b c",
        b"Bearer \xff",
        "Bearer é".encode(), b"Bearer " + b"x" * (TOKEN_BYTES_MAX + 1), b"token abc", b"Bearer " + b"." * 5000,
        b"Bearer a.b.c, Bearer d.e.f",
    ],
)  # fmt: skip
async def test_no_token_at_all(header: bytes | None) -> None:
    problem = await refusal(verifier(), header)
    assert problem.code == "unauthenticated"
    assert problem.headers == ({"www-authenticate": 'Bearer realm="messages"'} if header is None else {})


@pytest.mark.parametrize("mark", ["\x01", "\t", "\n", "=", "\u00e9", " ", "+", "/"])
async def test_token_with_a_foreign_character(mark: str) -> None:
    raw = token(ISSUER)
    for at in (3, len(raw) // 2, len(raw) - 3):
        given = f"Bearer {raw[:at]}{mark}{raw[at:]}"
        assert (await refusal(verifier(), given)).code == "unauthenticated"


async def test_expired_is_told_apart_after_the_leeway() -> None:
    clock = Clock()
    raw = token(ISSUER, exp=int(clock.now_s) + 100)
    clock.now_s += 100 + LEEWAY_S - 1
    assert (await verifier(clock=clock).caller(f"Bearer {raw}".encode())).id == ADA
    clock.now_s += 2
    assert (await refusal(verifier(clock=clock), f"Bearer {raw}")).code == "token_expired"
    forged = raw[:-4] + ("AAAA" if not raw.endswith("AAAA") else "BBBB")
    assert (await refusal(verifier(clock=clock), f"Bearer {forged}")).code == "unauthenticated"


async def test_not_before_has_the_same_leeway() -> None:
    clock = Clock()
    raw = token(ISSUER, nbf=int(clock.now_s) + LEEWAY_S - 5)
    assert (await verifier(clock=clock).caller(f"Bearer {raw}".encode())).id == ADA


async def test_verified_token_is_remembered_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, verified = Clock(), 0
    real = jwt.decode

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal verified
        verified += 1
        return real(*given, **options)

    monkeypatch.setattr(auth.jwt, "decode", counted)
    made = verifier(clock=clock)
    header = f"Bearer {token(ISSUER, exp=int(clock.now_s) + 60)}".encode()
    first = await made.caller(header)
    assert await made.caller(header) is first
    assert verified == 1
    clock.now_s += 60 + LEEWAY_S + 1
    assert (await refusal(made, header)).code == "token_expired"
    assert verified == 2


async def test_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_CACHE_COUNT_MAX", 3)
    made = verifier()
    headers = [f"Bearer {token(ISSUER, session_id=str(n))}".encode() for n in range(5)]
    for header in headers:
        await made.caller(header)
        await made.caller(headers[0])
    assert len(made._callers) == 3
    assert hashlib.sha256(headers[0][7:]).digest() in made._callers


async def test_refused_tokens_are_not_remembered() -> None:
    made = verifier()
    for n in range(20):
        await refusal(made, f"Bearer {token(ISSUER, aud='anon', session_id=str(n))}")
    assert len(made._callers) == 0


# ----- the key set over time -----


async def test_key_set_is_asked_once_for_all_who_wait() -> None:
    project = Project(jwk(EC_KEY, "one"))
    keys = project.key_set()
    found = await asyncio.gather(*(keys.find("one") for _ in range(50)))
    assert all(found)
    assert project.asked == 1


async def test_unknown_key_is_asked_for_every_thirty_seconds_at_most() -> None:
    project = Project(jwk(EC_KEY, "one"))
    keys = project.key_set()
    for n in range(100):
        assert await keys.find(f"invented-{n}") is None
    assert project.asked == 1
    project.now_s += 29
    assert await keys.find("two") is None
    project.keys.append(jwk(OTHER_EC_KEY, "two"))
    project.now_s += 1
    assert await keys.find("two") is not None
    assert project.asked == 2


async def test_keys_are_kept_ten_minutes() -> None:
    project = Project(jwk(EC_KEY, "one"))
    keys = project.key_set()
    for second in (0, 300, 599):
        project.now_s = 1000.0 + second
        await keys.find("one")
    assert project.asked == 1
    project.now_s = 1000.0 + 601
    await keys.find("one")
    assert project.asked == 2


async def test_known_keys_survive_an_outage() -> None:
    project = Project(jwk(EC_KEY, "one"))
    keys = project.key_set()
    await keys.find("one")
    project.away = True
    for minute in range(11, 100):
        project.now_s = 1000.0 + 60 * minute
        assert await keys.find("one") is not None
    project.raw = b"<html>"
    project.away = False
    project.now_s += 60
    assert await keys.find("one") is not None


async def test_keys_nobody_has_ever_seen() -> None:
    project = Project()
    project.away = True
    made = verifier(project, secret=None)
    raw = token(ISSUER, EC_KEY, "ES256", headers={"kid": "one"})
    assert (await refusal(made, f"Bearer {raw}")).code == "upstream_unavailable"
    project.away = False
    project.keys.append(jwk(EC_KEY, "one"))
    assert (await refusal(made, f"Bearer {raw}")).code == "upstream_unavailable"  # not asked again so soon
    assert project.asked == 1
    project.now_s += 2
    assert (await made.caller(f"Bearer {raw}".encode())).id == ADA


async def test_withdrawn_key_ends_its_tokens() -> None:
    project = Project(jwk(EC_KEY, "one"), jwk(OTHER_EC_KEY, "two"))
    made = verifier(project, secret=None)
    header = f"Bearer {token(ISSUER, EC_KEY, 'ES256', headers={'kid': 'one'})}".encode()
    other = f"Bearer {token(ISSUER, OTHER_EC_KEY, 'ES256', headers={'kid': 'two'})}".encode()
    await made.caller(header)
    project.keys.pop(0)
    project.now_s += 601
    assert (await made.caller(other)).id == ADA
    assert (await refusal(made, header)).code == "unauthenticated"
    assert (await made.caller(other)).id == ADA
