"""Texts, and what the rules must say about them; the rules are those of the seed and two that an administrator may add.

`evasions.json`: by the name of a rule, what it must catch. `innocent.json`: what nothing may catch.
`third_batch.json`: more of both.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
EVASIONS: dict[str, list[str]] = json.loads((HERE / "evasions.json").read_text())
INNOCENT: list[str] = json.loads((HERE / "innocent.json").read_text())
# Written by somebody who had not seen the others: with what failed at first sight, and what still does, knowingly.
THIRD_BATCH = json.loads((HERE / "third_batch.json").read_text())
for _rule, _texts in THIRD_BATCH["evasions"].items():
    EVASIONS[_rule] = EVASIONS.get(_rule, []) + _texts
INNOCENT += THIRD_BATCH["innocent"]

# Words of several languages, phrases, and short words that many innocent ones contain.
# fmt: off
SAMPLE_TERMS = [
    "scam", "scammer", "idiot", "shit", "fuck", "ass", "cum", "penis", "rape", "tit", "cocaine", "viagra",
    "casino", "sex", "nazi", "bastard", "cock", "coon", "spic", "hell", "damn", "crap", "moron", "pay cash",
    "send nudes", "дурак", "мошенник", "骗子", "赌博", "사기꾼", "詐欺", "احتيال", "धोखा", "βλάκας", "lừa đảo",
    "aptal", "schwindel", "Müll", "คนโกง",
]
# fmt: on
DENIED_DOMAINS = ["evil.io", "bad-deals.com", "xn--mnchen-3ya.de"]
