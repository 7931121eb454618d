"""Every parser of the service: whatever comes in, a value or a Problem comes out, and what came in is not repeated."""

import asyncio
import base64
import io
import ipaddress
import json
import logging
import re
import string
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm
from msgspec import Struct

from app import limits, log, text
from app.auth import KeySet, Verifier
from app.edge import everywhere
from app.limits import ClientAddresses, Limiter
from app.main import create_app
from app.problems import CATALOGUE, Problem, render
from app.routes.messages import _key
from app.settings import MessageKey, Settings, SettingsError, load, message_keys
from app.supabase import Caller, problem_of
from app.vault import About, Text, Vault, opened
from app.wire import ApiRequest, changes, decode, given_id, struct_of
from app.worker import Verdict as WorkerVerdict
from app.worker import _decode_verdict
from tests.unit.fakes import ADA, KEY, SECRET, config

# Nothing of ours contains it; where it turns up, an input was repeated.
MARK = "qZ7xWvK"
APP = create_app(config("https://abc.supabase.co")).app
HANDLERS = [handler for route in APP.routes for handler in getattr(route, "route_handlers", ())]
BODIES = sorted(
    {struct_of(h.parsed_data_field.annotation) for h in HANDLERS if h.parsed_data_field is not None},
    key=lambda shape: shape.__name__,
)
QUERIES = sorted({h.opt["query"] for h in HANDLERS if "query" in h.opt}, key=lambda shape: shape.__name__)

scalar = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(MARK) | st.just(ADA)
    | st.sampled_from(["\x00", "\ud800", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:60Z",
                       36.0, 1e400, 2**53, -(2**63), 10**30, "x" * 5000, "\u0316\u0300" * 300])
)  # fmt: skip
anything = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
header = st.binary(max_size=80) | st.text(alphabet=string.printable, max_size=80).map(str.encode)


def harmless(problem: Problem) -> Problem:
    """A problem that can be rendered into headers and JSON, and says nothing of what was sent."""
    status, headers, body = render(problem, "request")
    assert 400 <= status < 500
    assert all(re.fullmatch(r"[ -~]*", f"{name}: {value}") for name, value in headers.items())
    told = json.loads(body)
    assert MARK not in told["detail"]
    for fault in told.get("errors", ()):
        assert MARK not in fault["detail"]
        # The names of unknown members are the client's own; nothing but those is in a pointer, and not much of them.
        assert len(fault["pointer"]) < 300
        assert fault["pointer"].isprintable()
    return problem


@pytest.mark.parametrize("shape", BODIES, ids=lambda shape: shape.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_bodies(shape: Any, data: st.DataObject) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(shape)]
    # Names and values that look like the decoder's own words about a path.
    imitation = st.text("`$.[] -at0", max_size=12).map(lambda end: f"\x1b - at `$.{end}")
    value = anything | imitation | imitation.map(MARK.__add__)
    members = st.fixed_dictionaries({}, optional=dict.fromkeys(names, value)) | anything
    members |= st.dictionaries(st.sampled_from(names) | imitation, value, max_size=4)
    if "receipts" in names:
        receipt = st.fixed_dictionaries({}, optional={"conversationId": scalar, "seq": scalar})
        members |= st.fixed_dictionaries({"receipts": st.lists(receipt, max_size=3)})
    raw = members.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    body = data.draw(raw | members.map(lambda value: json.dumps(value).encode()) | st.binary() | cut(raw))
    try:
        read = decode(body, shape)
    except Problem as problem:
        assert harmless(problem).code == "validation_failed"
        return
    assert type(read) is shape
    # What was let in can be sent on.
    json.loads(msgspec.json.encode(read))
    changes(read)


def cut(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The same with a piece missing, doubled or replaced."""
    return st.builds(
        lambda raw, at, length, other: raw[: at % (len(raw) + 1)] + other + raw[at % (len(raw) + 1) + length :],
        whole, st.integers(0, 400), st.integers(0, 20), st.binary(max_size=6),
    )  # fmt: skip


@pytest.mark.parametrize("shape", BODIES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"[" * 50_000 + b"]" * 50_000, b'{"a":' * 50_000, b'{"body":' * 9_000 + b"1" + b"}" * 9_000,
     b'{"receipts":' + b"[" * 60_000, b"9" * 60_000, b'{"limit":1e' + b"9" * 60_000 + b"}",
     b'{"limit":1.0,"x":' + b"[" * 60_000, b'{"' + b"\\ud83d\\ude00" * 5_000 + b'":1}', b"\xff" * 60_000],
    ids=range(10),
)  # fmt: skip
def test_bodies_of_the_largest_size(shape: Any, body: bytes) -> None:
    began_s = time.process_time()
    with pytest.raises(Problem) as caught:
        decode(body, shape)
    assert harmless(caught.value).code == "validation_failed"
    assert time.process_time() - began_s < 0.5


def request(query: bytes) -> ApiRequest:
    return ApiRequest({"type": "http", "query_string": query, "headers": [], "path": "/", "method": "GET"})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("shape", QUERIES, ids=lambda shape: shape.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_queries(shape: type[Struct], data: st.DataObject) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(shape)]
    name = st.sampled_from(names) | st.text(max_size=5)
    value = st.text(max_size=8) | st.integers().map(str) | st.sampled_from(
        [MARK, ADA, "null", "true", "%00", "%ff", "%", "%zz", "1%2e0", "\u0663", "+1", "nan", "\ud800"]
    )  # fmt: skip
    pairs = data.draw(st.lists(st.tuples(name, value), max_size=6))
    joined = "&".join(f"{key}={given}" for key, given in pairs).encode("utf-8", "surrogatepass")
    query = data.draw(st.just(joined) | cut(st.just(joined)) | st.binary())
    try:
        asked = request(query).asked(shape)
    except Problem as problem:
        assert harmless(problem).code == "validation_failed"
        return
    assert "\x00" not in json.dumps(msgspec.to_builtins(asked))


@given(st.text() | st.from_regex(r"[0-9a-fA-F-]{30,40}\n?") | st.uuids().map(str).map(str.upper))
@example(ADA.replace("0", "\u0660"))
@example(ADA + "\n")
def test_ids(given_text: str) -> None:
    try:
        found = given_id(given_text, "/id")
    except Problem as problem:
        assert harmless(problem).code == "validation_failed"
    else:
        assert found == given_text.lower()
        assert re.fullmatch("[0-9a-f-]{36}", found)


@given(st.none() | st.just(KEY), st.none() | header | st.just(KEY.upper().encode()))
def test_idempotency_keys(in_body: str | None, in_header: bytes | None) -> None:
    try:
        key = _key(in_body, in_header)
    except Problem as problem:
        assert harmless(problem).code == "validation_failed"
    else:
        assert re.fullmatch("[0-9a-f-]{36}", key)


# ----- who is asking -----

EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True) | {"kid": "one"}


def verifier(*keys: Any) -> Verifier:
    async def fetch() -> bytes:
        return json.dumps({"keys": keys}).encode()

    return Verifier(config("https://abc.supabase.co"), KeySet(fetch))


VERIFIER = verifier(PUBLIC)
segment = st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=")) | anything.map(
    lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
)
claim = anything | st.sampled_from([
    ADA, ADA.upper(), ADA.replace("-", ""), "authenticated", ["authenticated"], "anon", "service_role",
    "https://abc.supabase.co/auth/v1", 0, -1, 1e308, 10**400, 4102444800, 4102444800.5, True, "4102444800",
])  # fmt: skip
GOOD: dict[str, Any] = {
    "sub": ADA, "aud": "authenticated", "role": "authenticated", "iss": "https://abc.supabase.co/auth/v1",
    "exp": 4102444800,
}  # fmt: skip


def asks(authorization: bytes | None) -> Caller | None:
    log.begin(log.Exchange("GET", []))
    try:
        return asyncio.run(VERIFIER.caller(authorization))
    except Problem as problem:
        assert harmless(problem).code in ("unauthenticated", "token_expired")
        return None


@given(
    header
    | st.builds(lambda *parts: b"Bearer " + b".".join(parts), segment, segment, segment)
    | st.builds(lambda scheme, rest: scheme + rest, st.sampled_from([b"Bearer ", b"bearer  ", b"Basic "]), header)
)
@example(b"Bearer " + b"a" * 9000 + b".b.c")
@example(b"Bearer \xff.\xfe.\xfd")
def test_authorization(authorization: bytes) -> None:
    assert asks(authorization) is None


@settings(max_examples=200)
@given(st.data())
def test_signed_claims(data: st.DataObject) -> None:
    """Whatever a token that is signed properly says: only the one good form is let in."""
    names = st.sampled_from([*GOOD, "nbf", "iat", "jti", "aud", "crit"])
    claims = {**GOOD, **data.draw(st.dictionaries(names, claim, max_size=3))}
    for name in data.draw(st.lists(st.sampled_from(list(GOOD)), max_size=1)):
        del claims[name]
    heads = st.dictionaries(st.sampled_from(["kid", "typ", "jku", "jwk", "x5u", "crit", "b64"]), anything, max_size=3)
    head = {**data.draw(st.just({}) | heads), "alg": "HS256"}
    if "b64" in head:
        head.pop("b64")  # the library signs something else then
    try:
        signed = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, algorithm="HS256", headers=head)
    except (ValueError, TypeError, jwt.PyJWTError):
        return
    caller = asks(f"Bearer {signed}".encode())
    if caller is not None:
        assert (claims["sub"].lower(), claims["role"], claims["iss"]) == (ADA, GOOD["role"], GOOD["iss"])
        assert claims["aud"] == "authenticated" or "authenticated" in claims["aud"]
        assert claims["exp"] > time.time() - 31


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "b64", "zip"]), anything, max_size=5)
)
@example({"alg": "none"})
@example({"alg": "ES256", "kid": "one"})
@example({"alg": "RS256", "kid": "one"})
def test_token_headers_that_are_not_signed(head: dict[str, Any]) -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, GOOD)]
    for signature in (b"AA", base64.urlsafe_b64encode(bytes(64)).rstrip(b"=")):
        assert asks(b"Bearer " + b".".join([*parts, signature])) is None


@given(
    st.binary()
    | anything.map(lambda value: json.dumps(value).encode())
    | st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "kid", "alg", "use", "crv", "x", "y", "n", "e", "k", "d", "key_ops"]),
            anything
            | st.sampled_from(["EC", "RSA", "oct", "OKP", "P-256", "P-384", "ES256", "RS256", "one", "sig", "AQAB",
                               "AA", "", PUBLIC["x"], PUBLIC["y"], "_" * 43, "A" * 342]),
            max_size=7,
        )
        | st.dictionaries(st.sampled_from(["alg", "use", "x", "y", "crv", "kty"]), anything, max_size=2).map(
            lambda changed: {**PUBLIC, **changed}
        ),
        max_size=3,
    ).map(lambda keys: json.dumps({"keys": keys}).encode())
)  # fmt: skip
def test_key_sets(document: bytes) -> None:
    """Somebody else's document: the usable keys are used, the rest is passed over, nothing is raised."""

    async def fetch() -> bytes:
        return document

    log.begin(log.Exchange("GET", []))
    keys = KeySet(fetch)
    if asyncio.run(keys.refresh()):
        for algorithm, key in (keys._keys or {}).values():
            assert algorithm in ("ES256", "RS256")
            assert key.key_size >= 256


address = st.ip_addresses().map(str) | st.text(max_size=20) | st.sampled_from(
    ["", "unknown", "[::1]:80", "[::1", "1.2.3.4:5", "::ffff:1.2.3.4", "fe80::1%eth0", '"[2001:db8::1]:9"', "1.2.3.4, "]
)  # fmt: skip
TRUSTED = [ipaddress.ip_network(net) for net in ("10.0.0.0/8", "fd00::/8")]


@given(st.none() | address, st.none() | st.lists(address, max_size=40).map(",".join))
def test_client_addresses(peer: str | None, forwarded: str | None) -> None:
    for trusted in (TRUSTED, []):
        key = ClientAddresses(trusted).key(peer, forwarded)
        assert key == "unknown" or ipaddress.ip_network(key)
    assert key == ClientAddresses([]).key(peer, None), "nobody is believed who is not trusted"


# ----- what we write -----


@given(
    st.integers(1, 10**6),
    st.lists(st.floats(0, 1e9), min_size=1, max_size=20).map(sorted),
    st.lists(st.integers(), min_size=4, max_size=4),
)
def test_pace_headers(quota: int, times_s: list[float], numbers: list[int]) -> None:
    field = re.compile(r'"[a-z]+";q=-?\d+;w=-?\d+|"[a-z]+";r=\d+;t=\d+')
    limiter = Limiter("person", quota, buckets_count_max=2)
    for number, now_s in enumerate(times_s):
        verdict = limiter.take(str(number % 3), now_s)
        assert (verdict.retry_after_s > 0) != verdict.allowed
        assert 0 <= verdict.remaining <= quota
        assert field.fullmatch(limits.item("person", verdict.remaining, verdict.reset_s))
    for item in (*limits.sends(*numbers), *limits.sends_refused(numbers[0])):
        assert field.fullmatch(item)


@given(st.text(), st.text(max_size=5))
def test_texts(given_text: str, more: str) -> None:
    normal = text.normalize(given_text)
    assert normal is not None
    assert text.normalize(normal) == normal
    assert (text.refusal(given_text) is None) == (0 < len(normal) <= text.CHARS_MAX)
    assert MARK not in (text.refusal(MARK * 1000) or "")


@pytest.fixture(scope="module")
def written() -> Iterator[io.BytesIO]:
    """Where our log goes; other tests' logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level, logger = root.handlers[:], root.level, log._logger
    stream = io.BytesIO()
    log.configure(stream)
    yield stream
    root.handlers[:], log._logger = handlers, logger
    root.setLevel(level)


@given(
    method=st.text(max_size=10),
    headers=st.lists(
        st.tuples(st.sampled_from([b"x-request-id", b"traceparent", b"user-agent", b"authorization"]), header),
        max_size=5,
    ),
    route=st.text(),
    code=st.text(),
)
@example("GET", [(b"x-request-id", b'","level":"error"')], "/\n{}", "\x1b[31m\u2028")
def test_log_lines_and_ids(
    written: io.BytesIO, method: str, headers: list[tuple[bytes, bytes]], route: str, code: str
) -> None:
    exchange = log.Exchange(method, headers)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{8,128}", exchange.request_id)
    assert exchange.traceparent is None or re.fullmatch(
        r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", exchange.traceparent
    )
    assert all(re.fullmatch(rb"[ -~]*", value) for _, value in everywhere(exchange))
    exchange.route, exchange.code = route, code
    written.seek(0)
    written.truncate()
    log.request_line(exchange, 200, 0.1)
    line = written.getvalue()
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line
    told = json.loads(line)
    assert (told["method"], told["route"], told["code"], told["level"]) == (method, route, code, "info")


# ----- sensitive texts -----

VAULT = Vault([MessageKey(1, bytes(32)), MessageKey(2, b"k" * 32)])
ABOUT = About(ADA, KEY, None, ADA, None)
SEALED = msgspec.to_builtins(VAULT.seal(Text(MARK), ABOUT))
member = st.sampled_from(sorted(SEALED))


@given(anything | st.dictionaries(member, anything | st.sampled_from(["AAAA", "", 1, 2, 3]), max_size=4).map(
    lambda changed: {**SEALED, **changed}
))  # fmt: skip
@example(SEALED)
def test_sealed_envelopes(envelope: Any) -> None:
    """Only what was sealed is opened, and an answer of SQL is passed on whatever its envelopes are."""
    log.begin(log.Exchange("GET", []))
    text_of = VAULT.open(envelope)
    assert (text_of is not None) == (VAULT.rewrap(envelope) is not None)
    if text_of is not None:
        assert text_of.body == MARK
        assert {name: envelope[name] for name in ("ciphertext", "nonce", "target")}.items() <= SEALED.items()
    for vault in (VAULT, None):
        answer = {"messages": [{"envelope": envelope, "masked": True}, {"envelope": envelope}]}
        for message in opened(answer, vault)["messages"]:
            assert message.keys() <= {"body", "unreadable", "masked"}
            assert message["unreadable"] == (message["body"] is None)


@given(st.text(), st.text() | st.none())
def test_sealing(body: str, masked: str | None) -> None:
    sealed = VAULT.seal(Text(body, masked) if masked is not None else Text(body), ABOUT)
    # As it is kept and comes back.
    read = VAULT.open(json.loads(msgspec.json.encode(sealed)))
    assert read is not None
    assert (read.body, read.masked) == (body, masked)


@given(
    st.binary()
    | anything.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(["action", "label", "score", "model"]), scalar, max_size=4).map(
        lambda value: json.dumps(value).encode()
    )
)
@example(b"[" * 100_000)
def test_verdicts_of_the_classifier(answer: bytes) -> None:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        assert isinstance(_decode_verdict(answer), WorkerVerdict)


# ----- what the other side answers, and what the environment says -----


@given(
    st.integers(100, 999),
    st.binary()
    | anything.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "code": anything
            | st.sampled_from(["PT400", "PT429", "PT999", "PT500", "22P02", "42501", "PGRST301", "40001", "57014"]),
            "message": anything | st.sampled_from(sorted(CATALOGUE)),
            "details": anything,
            "hint": anything | st.sampled_from(["/body", "17", "00000", "99999", "999999", "-1", "\u0663"]),
        },
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
@example(400, b"[" * 100_000)
@example(400, b'{"code":' * 50_000)
@example(400, b"\xff")
def test_refusals_of_the_data_api(status: int, answer: bytes) -> None:
    log.begin(log.Exchange("GET", []))
    problem = problem_of(status, answer, Caller(ADA, "token", 4102444800.0))
    status, headers, body = render(problem, "request")
    assert all(re.fullmatch(r"[ -~]*", f"{name}: {value}") for name, value in headers.items())
    told = json.loads(body)
    assert told["code"] in CATALOGUE
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = msgspec.json.decode(answer)
        if not (isinstance(said, dict) and str(said.get("code")).startswith("PT")):
            assert MARK not in json.dumps({**told, "errors": None})


NEEDED = {"SUPABASE_URL": "https://x.example", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}


@given(
    st.dictionaries(
        st.sampled_from([field.name.upper() for field in msgspec.structs.fields(Settings)]),
        st.text(max_size=30)
        | st.integers().map(str)
        | st.sampled_from([
            MARK, f"https://{MARK}:1/", f"https://a:{MARK}@b", f"https://[{MARK}", f"http://a:{MARK}",
            f"10.0.0.0/{MARK}", f"{MARK},10.0.0.0/8", "https://x.example", "x" * 32, "nan", "inf", "1e400", "\ud800",
            "https://\u2100.example",
        ]),
    )
)  # fmt: skip
@example({"SUPABASE_URL": f"https://a:{MARK}"})
@example({"TRUSTED_PROXIES": MARK})
def test_settings(environment: dict[str, str]) -> None:
    try:
        loaded = load(NEEDED | environment)
    except SettingsError as error:
        assert MARK not in str(error)
        assert "\n" not in str(error)
    else:
        assert 0 < loaded.upstream_timeout_s <= 60
        assert all(re.fullmatch(r"https?://[^/?#@\s]+", url) for url in (loaded.supabase_url, *loaded.cors_origins))


ENTRIES = [MARK, f"1:{MARK}", "1:" + "A" * 43 + "=", "2:" + "B" * 43 + "=", "0:x", ":", ","]


@given(st.text() | st.lists(st.sampled_from(ENTRIES)).map(",".join))
@example("1:" + "A" * 43 + "=,1:" + "B" * 43 + "=")
def test_message_keys(told: str) -> None:
    try:
        keys = message_keys({"MESSAGE_KEYS": told})
    except SettingsError as error:
        assert MARK not in str(error)
    else:
        assert all(len(key.secret) == 32 and key.version > 0 for key in keys)
        assert len({key.version for key in keys}) == len(keys)
