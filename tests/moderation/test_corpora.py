"""What must be caught is, by the rule named; what is innocent is left alone; SQL and Python say the same."""

import pytest

from tests.moderation.corpus import EVASIONS, INNOCENT


@pytest.mark.parametrize("engine", ["in_sql", "in_python"])
@pytest.mark.parametrize("rule", sorted(EVASIONS))
def test_evasions(engines, engine, rule):
    texts = engines.normalized(EVASIONS[rule])
    verdicts = getattr(engines, engine)(texts)
    missed = [text for text, (_, _, names, _) in zip(texts, verdicts, strict=True) if rule not in names]
    assert missed == []


@pytest.mark.parametrize("engine", ["in_sql", "in_python"])
def test_innocent(engines, engine):
    texts = engines.normalized(INNOCENT)
    verdicts = getattr(engines, engine)(texts)
    wrong = [(text, names) for text, (_, _, names, _) in zip(texts, verdicts, strict=True) if names]
    assert wrong == []


def test_the_corpora_are_large_enough():
    assert sum(len(set(texts)) for texts in EVASIONS.values()) >= 150
    assert len(set(INNOCENT)) >= 300


def test_contact_is_masked_and_nothing_else(engines):
    texts = engines.normalized(EVASIONS["contact_details"])
    for text, (action, label, _, masked) in zip(texts, engines.in_sql(texts), strict=True):
        assert (action, label) == ("mask", "contact_details"), text
        assert "•••" in masked
        # What is left of the text stands in it in the same order.
        at = 0
        for part in masked.split("•••"):
            assert part in text[at:], (text, masked)
            at = text.index(part, at) + len(part)


def test_contact_is_left_alone_where_it_is_allowed(engines):
    texts = engines.normalized(EVASIONS["contact_details"])
    for engine in (engines.in_sql, engines.in_python):
        assert {names for _, _, found, _ in engine(texts, True) for names in found} <= {"links_denied"}


def test_details_go_and_words_around_them_stay(engines):
    said = {
        "Mail me at ada@example.com, please.": "Mail me at •••, please.",
        "Call +49 151 23456789 or 0170/1234567 after 5pm": "Call ••• or ••• after 5pm",
        "Ça va? Écris à ａｄａ＠ｅｘａｍｐｌｅ．ｃｏｍ, merci 🙂": "Ça va? Écris à •••, merci 🙂",
        "On 12.06.2026 it costs 1.200,50 €; tel. 030 1234567": "On 12.06.2026 it costs 1.200,50 €; tel. •••",
        "my insta is @ada_b ok": "my insta is ••• ok",
        "zero one five one two three four five, thanks": "•••, thanks",
    }
    texts = engines.normalized(list(said))
    for engine in (engines.in_sql, engines.in_python):
        assert [masked for *_, masked in engine(texts)] == list(said.values())
