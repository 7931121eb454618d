"""Text: what is refused, what stays, and that it is cheap."""

import itertools
import re
import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.text import CHARS_MAX, VISIBLE, normalize, refusal

LONG_RUN = "e" + "\u0316\u0300" * 8000


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("hello", "hello"),
        ("  a\t\n b  ", "a\t\n b"),
        ("a\r\nb\rc\n\rd", "a\nb\nc\n\nd"),
        ("a\x00b\x07c\x1bd\x7fe\x85f\x9fg", "abcdefg"),
        ("\u202aabc\u202e\u2066def\u2069", "abcdef"),
        ("cafe\u0301", "café"),
        ("\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeffx\ufeff\u3000", "x"),
        ("👩\u200d👩\u200d👧\ufe0f", "👩\u200d👩\u200d👧\ufe0f"),  # joiners and variation selectors stay
        ("\u200bx\u200b", "\u200bx\u200b"),  # a zero width space is not white space
        ("\u0958", "\u0915\u093c"),  # NFC can make a text longer
        ("سلام שלום 你好 नमस्ते", "سلام שלום 你好 नमस्ते"),
        ("\x00\r\n \u202e", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalize(text) == normal
    assert (refusal(text) is None) == (normal != "")


def test_the_documented_pattern_is_what_normalisation_leaves() -> None:
    visible = re.compile(VISIBLE)
    for point in itertools.chain(range(0xD800), range(0xE000, 0x110000)):
        assert (visible.search(chr(point)) is not None) == (normalize(chr(point)) != ""), hex(point)


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\x00", "\u202e\u2066", "\u3000\ufeff", "\r\n\r\n"])
def test_nothing_visible_is_refused(text: str) -> None:
    assert refusal(text) == "A message needs at least one visible character."


@pytest.mark.parametrize("unit", ["a", "é", "😀", "a\u0301", "\u0958"])
def test_limit_counts_code_points_after_normalisation(unit: str) -> None:
    size = len(normalize(unit) or "")
    fits = unit * (CHARS_MAX // size)
    assert refusal(f"  {fits}\x00  ") is None
    assert refusal(fits + "b" * (CHARS_MAX % size + 1)) == "A message has at most 4000 characters."


@pytest.mark.parametrize("text", [" " * 60_000 + "a", "\x00" * 60_000 + "a", "a\r\n" * 2000, "\u1f82" * 4000])
def test_long_before_but_not_after(text: str) -> None:
    assert refusal(text) is None


def test_a_run_of_marks_is_refused_and_costs_little() -> None:
    began = time.perf_counter()
    assert refusal(LONG_RUN) == "A message has fewer than 255 combining marks in a row."
    assert normalize(LONG_RUN) is None
    assert time.perf_counter() - began < 0.1
    assert refusal("e" + "\u0301" * 254) is None
    assert refusal("e" + "\u0301" * 255) is not None


@given(st.text(max_size=6000))
@example("\u0958" * 1334)
@example("a\u0301" * 4001)
@example("\u03b1\u0313\u0300\u0345" * 4000)
@example("\u03b1\u0313\u0300\u0345" * 4001)
def test_refusal_agrees_with_the_normal_form(text: str) -> None:
    normal = normalize(text)
    assert (refusal(text) is None) == (normal is not None and 1 <= len(normal) <= CHARS_MAX)


@given(st.text(max_size=300))
def test_normal_form_is_stable(text: str) -> None:
    normal = normalize(text)
    assert normal is not None
    assert normalize(normal) == normal
    assert unicodedata.is_normalized("NFC", normal)
