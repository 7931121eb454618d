"""app/moderation.py and private.judge_text agree: over the corpora, every letter of Unicode 14, and hostile texts."""

import re
import sys
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import moderation
from tests.moderation.conftest import insert_rule
from tests.moderation.corpus import EVASIONS, INNOCENT

# Hundreds of texts, each through both engines: longer than other tests on a busy machine.
pytestmark = pytest.mark.timeout(240)

TEXTS = [text for texts in EVASIONS.values() for text in texts] + INNOCENT
HYPOTHESIS = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow], "deadline": None}


def more_rules(connection):
    """One of each kind that masks, so that what is masked is compared as well."""
    insert_rule(connection, "masked_terms", "term", "mask", terms=["rude", "very rude", "грубо", "粗鲁"])
    insert_rule(connection, "masked_pattern", "pattern", "mask", pattern="(un)?pleas(e|ing) [0-9]{2,4}")
    insert_rule(connection, "only_ours", "link", "mask", domains=["example.org"], settings='{"mode": "allowOnly"}')


@pytest.fixture(scope="module")
def both(make_engines):
    return make_engines(more_rules)


def agree(engines, texts, contact_allowed=False):
    normal = [text for text in engines.normalized(texts) if text is not None]
    sql = engines.in_sql(normal, contact_allowed)
    for text, theirs, ours in zip(normal, sql, engines.in_python(normal, contact_allowed), strict=True):
        assert ours == theirs, f"{text!r}: {ours} is {theirs} in SQL"
    return normal, sql


# A sample for every run, all of it where slow tests run.
SAMPLES = pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])


@SAMPLES
def test_corpora(both, step):
    agree(both, TEXTS[::step])
    agree(both, TEXTS[::step], True)


def test_digests_and_links(both):
    texts = both.normalized(TEXTS)
    query = """
        select private.text_digest(f.t), private.has_link(f.t)
        from unnest(%s::text[]) with ordinality as x (t, n)
        cross join lateral (select private.moderation_fold(x.t)) as f (t)
        order by n
    """
    found = both.connection.execute(query, [texts]).fetchall()
    ours = [(moderation.text_digest(text, both.rules), moderation.has_link(text, both.rules)) for text in texts]
    assert ours == found
    assert any(digest is not None for digest, _ in ours)
    assert any(is_link for _, is_link in ours)


def code_points():
    """Every assigned character but NUL, surrogates and private use."""
    return [c for c in map(chr, range(1, sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]


@SAMPLES
def test_every_letter_is_folded_alike_and_once(both, step):
    letters = [letter for letter in dict.fromkeys(both.normalized(code_points()[::step])) if letter]
    # A small l between two capitals is the only letter that its neighbours change.
    assert moderation.fold("SHlT AlI lA Al", both.rules) == "shit aii la al"
    query = """
        select private.moderation_fold(t), private.moderation_fold(private.moderation_fold(t))
        from unnest(%s::text[]) with ordinality as x (t, n) order by n
    """
    for letter, (folded, twice) in zip(letters, both.connection.execute(query, [letters]), strict=True):
        assert folded == twice == moderation.fold(letter, both.rules), ascii(letter)
        assert len(folded) <= 4, ascii(letter)


def test_accents_and_forms_are_folded(both):
    """By Unicode's own data: a Latin letter with accents, or in another form, is that letter."""
    for letter in code_points():
        plain = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
        if len(plain) == 1 and plain.isascii() and plain.isalnum() and unicodedata.normalize("NFC", letter) == letter:
            # 🄰 and the flags are letters as well; the small y with a dot beneath is no exception.
            assert moderation.fold(letter, both.rules) == plain.lower(), ascii(letter)


pieces = st.sampled_from(
    [
        "scam", "s", "c", "a", "m", "$", "@", "1", "0", "5", "!", "*", ".", "..", "-", " ", "  ", "\n",
        "'", "s'", "'re", "(", ")", "[at]", " at ", " dot ", "gmail", ".com", "com", "evil.io", "https://",
        "www.", "xn--", "xn--vil-5cd.io", "/", "#", "?", "+49", "0151", "234", "5678", "o", "l", "zero ",
        "one ", "two ", "five ", "telegram", "insta", ":", " is ", "ada_b", "@ada_b", "add me on ", " as ",
        "order ", "tel ", "2026-11-22", "12.06.2026", "1.200,50", "€", "EUR", "rude", "very rude",
        "please 123", "грубо", "дурак", "ѕсаm", "粗鲁", "骗子", "一三八零零一三八零", "사기꾼입니다", "احتيال", "अ", "\u200b",
        "\u0301", "ß", "ﬃ", "𝓼𝓬", "🅢", "🔥", "•••", "İ", "Σ", "ｗｗｗ．", "\ufe0f", "카톡", "微信号", "skype:",
        "discord", "#1234",
    ]
)  # fmt: skip
anything = st.characters(exclude_categories=("Cs", "Cn", "Co"), exclude_characters="\x00")
hostile = st.lists(pieces | pieces | st.text(anything, max_size=3), max_size=25).map("".join)


LONG = ["a", "ab", "s c a m ", "@", "1 ", "ada@example.com ", "xn--", ".", "telegram: adab ", "f*ck ", "привет "]


@settings(max_examples=40, **HYPOTHESIS)
@given(st.lists(hostile, min_size=1, max_size=15), st.booleans())
@example([(piece * 4000)[:3999] + "x" for piece in LONG], False)
def test_any_text(both, texts, contact_allowed):
    _, verdicts = agree(both, texts, contact_allowed)
    # Masking again changes nothing more, whatever was masked; but a letter beside a mask may have become a word of its own,
    # and a mask behind the beginning of a link its end.
    masked = [masked for *_, masked in verdicts if masked is not None and not re.search(r"\w•|•\w|//\W*•", masked)]
    for text, (*_, again) in zip(masked, both.in_python(masked, contact_allowed), strict=True):
        assert again is None or again.replace("•", "") == text.replace("•", ""), (text, again)
