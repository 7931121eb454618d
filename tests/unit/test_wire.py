"""Bodies: strict JSON into structs, a pointer to what is wrong, and never anything but a 400."""

import json
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from app.problems import Problem
from app.shapes import GivenId
from app.wire import changes, decode, given_id
from tests.unit.fakes import ADA


class Inner(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    up_to: int


class Shape(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    body: str
    to_user_id: GivenId | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 30
    receipts: list[Inner] = []
    by_name: dict[str, int] = {}
    kind: Literal["one", "two"] = "one"


def fault(body: bytes) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        decode(body, Shape)
    assert caught.value.code == "validation_failed"
    assert caught.value.errors is not None
    found = caught.value.errors[0]
    return found.pointer, found.detail


def test_good_body() -> None:
    data = decode(b' {"toUserId": "%s", "body": "x\\u0000y", "limit": 100}\n' % ADA.upper().encode(), Shape)
    assert (data.body, data.to_user_id, data.limit) == ("x\x00y", ADA.upper(), 100)


@pytest.mark.parametrize("number", [b"36.0", b"36e0", b"3.6E+1", b"360e-1"])
def test_an_integer_may_be_written_with_a_fraction_of_nothing(number: bytes) -> None:
    assert decode(b'{"body": "x", "limit": %b, "receipts": [{"upTo": %b}]}' % (number, number), Shape).limit == 36
    assert fault(b'{"body": "x", "limit": %b, "limit": 1}' % number) == ("", "A member occurs twice.")


NOT_JSON = ("", "The body is not valid JSON in UTF-8.")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{", NOT_JSON), (b'{"body": "x"} x', NOT_JSON), (b"\xef\xbb\xbf{}", NOT_JSON), (b'{"body": NaN}', NOT_JSON),
        (b'{"body": "\xff"}', NOT_JSON), (b'{"\xff": 1}', NOT_JSON), (b'{"body": "\\ud800"}', NOT_JSON),
        (b'{"body": "\\udc00\\ud800"}', NOT_JSON), (b'{"body": "a\x01"}', NOT_JSON), (b"{'body': 'x'}", NOT_JSON),
        (b'{"body": "x", "limit": Infinity}', NOT_JSON), (b'{"body": "x",}', NOT_JSON), (b"\x00", NOT_JSON),
        (b"null", ("", "Expected object, got null.")), (b"[]", ("", "Expected object, got array.")),
        (b'"x"', ("", "Expected object, got str.")), (b"1", ("", "Expected object, got int.")),
        (b"{}", ("/body", "This member is missing.")),
        (b'{"body": "x", "extra": 1}', ("/extra", "There is no such member.")),
        (b'{"body": "x", "to_user_id": null}', ("/to_user_id", "There is no such member.")),
        (b'{"body": "x", "a/b~c": 1}', ("/a~1b~0c", "There is no such member.")),
        (b'{"body": 1}', ("/body", "Expected str, got int.")),
        (b'{"body": null}', ("/body", "Expected str, got null.")),
        (b'{"body": "x", "limit": 0}', ("/limit", "Expected int >= 1.")),
        (b'{"body": "x", "limit": 101}', ("/limit", "Expected int <= 100.")),
        (b'{"body": "x", "limit": 1.5}', ("/limit", "Expected int, got float.")),
        (b'{"body": "x", "limit": 5.0, "receipts": [{"upTo": 9e15}, {"upTo": 1e16}]}',
         ("/receipts/1/upTo", "Expected int, got float.")),
        (b'{"body": "x", "limit": 0.0}', ("/limit", "Expected int >= 1.")),
        # The second reading is as strict as the first.
        (b'{"limit": 5.0, "body": "\\ud800"}', NOT_JSON), (b'{"limit": 5.0, "body": NaN}', NOT_JSON),
        (b'{"limit": 5.0, "body": "x", "toUserId": NaN}', NOT_JSON),
        (b'{"limit": 5.0, "body": "x", "toUserId": 1e999}', NOT_JSON),
        (b'{"limit": 5.0, "body": "x", "toUserId": %b}' % (b"9" * 400), ("/toUserId", "Number out of range.")),
        (b'{"limit": 5.0, "body": "x", "toUserId": %b}' % (b"9" * 5000), NOT_JSON),
        (b'{"limit": 5.0, "body": "x", "toUserId": %b}' % (b"[" * 9000 + b"]" * 9000), NOT_JSON),
        (b'{"limit": 5.0, "body": "x", "a": 1}', ("/a", "There is no such member.")),
        (b'{"body": "x", "limit": "5"}', ("/limit", "Expected int, got str.")),
        (b'{"body": "x", "limit": true}', ("/limit", "Expected int, got bool.")),
        (b'{"body": "x", "toUserId": "ada"}', ("/toUserId", "Expected a UUID in its canonical form.")),
        (b'{"body": "x", "receipts": [{"upTo": 1}, {"upTo": "x"}]}', ("/receipts/1/upTo", "Expected int, got str.")),
        (b'{"body": "x", "receipts": [{}]}', ("/receipts/0/upTo", "This member is missing.")),
        (b'{"body": "x", "receipts": [{"upTo": 1, "x": 1}]}', ("/receipts/0/x", "There is no such member.")),
        # Names and values that look like msgspec's own words get into the pointer at the most, cut and escaped.
        (b'{"body": "x", "a - at `$.b": 1}', ("/b/a", "There is no such member.")),
        (b'{"body": "x", "a` - at `$.b": 1}', ("/b/a", "There is no such member.")),
        (b'{"body": "x", "a - at `$.b.c.d.e.f.g": 1}', ("/b/c/d/e/a", "There is no such member.")),
        (b'{"body": "x", "kind": "secret"}', ("/kind", "This is not one of the values that can be given.")),
        (b'{"body": "x", "kind": "z - at `$.y"}', ("/kind", "This is not one of the values that can be given.")),
        (b'{"body": "x", "body": "y"}', ("", "A member occurs twice.")),
        (b'{"body": "x", "\\u0062ody": "y"}', ("", "A member occurs twice.")),
        (b'{"body": "x", "receipts": [{"upTo": 1, "upTo": 1}]}', ("", "A member occurs twice.")),
    ],
)  # fmt: skip
def test_pointer_and_sentence(body: bytes, found: tuple[str, str]) -> None:
    assert fault(body) == found


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000, b'{"a":' * 10_000, b'{"body":' + b"[" * 10_000,
        b'{"body":"x","x":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
        b'{"body":"x","limit":' + b"9" * 50_000 + b"}", b'{"body":"x","limit":1e99999}',
        b'{"body":"x","limit":-0.0e-1}',
        b'{"body":"x","byName":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001, b'{"' + b"k" * 60_000 + b'": 1}',
    ],
)  # fmt: skip
def test_hostile_bodies_are_refused(body: bytes) -> None:
    pointer, detail = fault(body)
    assert len(pointer) <= 300
    assert "k" * 200 not in detail


@pytest.mark.parametrize("given", ["", "ada", ADA[:-1], ADA + "\n", ADA.replace("-", ""), "{" + ADA + "}", ADA + "0"])
def test_ids_are_canonical(given: str) -> None:
    assert fault(json.dumps({"body": "x", "toUserId": given}).encode())[0] == "/toUserId"
    with pytest.raises(Problem) as caught:
        given_id(given, "/id")
    assert caught.value.errors is not None
    assert caught.value.errors[0].pointer == "/id"
    assert given_id(ADA.upper(), "/id") == ADA


def test_names_that_are_shown_again_are_harmless() -> None:
    pointer, _ = fault(json.dumps({"body": "x", "a\x1b[31m\u202e" + "b" * 500: 1}).encode())
    assert pointer == "/a?[31m?" + "b" * 93


class Wish(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    display_name: str | UnsetType = UNSET
    muted_until: str | UnsetType | None = UNSET
    pinned: bool | UnsetType = UNSET


def test_changes_are_what_was_named() -> None:
    named = changes(decode(b'{"displayName": "A\\u0000da", "mutedUntil": null}', Wish))
    assert named == {"displayName": "Ada", "mutedUntil": None}
    assert changes(decode(b"{}", Wish)) == {}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.binary() | anything.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    with suppress(Problem):
        decode(body, Shape)


@given(st.fixed_dictionaries({"body": anything, "toUserId": anything, "limit": anything, "receipts": anything}))
def test_values_of_any_type_are_read_or_refused(members: dict[str, Any]) -> None:
    with suppress(Problem):
        decode(json.dumps(members).encode(), Shape)
