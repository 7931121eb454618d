"""Text of messages: the early no. SQL normalises (`private.normalize_text`); this refuses what SQL would refuse.

The steps, in this order: CRLF and CR become LF; controls except TAB and LF, and the marks that turn text around, are
removed; then NFC; then white space at both ends. ZWJ, variation selectors and every script stay.
A differential test holds the two implementations together over every code point.
"""

import re
import unicodedata

CHARS_MAX = 4000
# For the OpenAPI document: a code point that normalisation leaves, so that something is left of the text.
VISIBLE = r"[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028-\u202f\u205f\u2066-\u2069\u3000\ufeff]"

# C0 except TAB, LF and CR (which becomes LF), DEL, C1, U+202A-202E and U+2066-2069.
_REMOVED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")
_TRIMMED = "\t\n \u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"
# NFC makes a text at most 3 times longer and at least 4 times shorter (in code points).
_NFC_GROWS_MAX, _NFC_SHRINKS_MAX = 3, 4
# Sorting combining marks takes the square of their run: 16,000 in a row would hold up everybody for half a second.
# No script stacks more than a handful; SQL refuses such a run as well.
_MARKS_RUN = re.compile(rb"[^\x00]{255}")
_MARKS_RUN_CHARS = 255


def normalize(text: str) -> str | None:
    """What SQL will store for this text; None when 255 combining marks follow each other, which nobody normalises."""
    clean = _cleaned(text)
    return None if _has_long_run(clean) else unicodedata.normalize("NFC", clean).strip(_TRIMMED)


def _cleaned(text: str) -> str:
    return _REMOVED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _has_long_run(clean: str) -> bool:
    if clean.isascii() or len(clean) < _MARKS_RUN_CHARS:
        return False
    return _MARKS_RUN.search(bytes(map(unicodedata.combining, clean))) is not None


def refusal(text: str) -> str | None:
    """One sentence about why this text cannot be a message, or None.

    Units:  at most 4,000 code points, counted after normalisation.
    """
    if text.isascii() and text.isprintable():
        length = len(text.strip(" "))
    else:
        clean = _cleaned(text)
        if _has_long_run(clean):
            return "A message has fewer than 255 combining marks in a row."
        length = len(clean.strip(_TRIMMED))
        if CHARS_MAX / _NFC_GROWS_MAX < length <= CHARS_MAX * _NFC_SHRINKS_MAX and not clean.isascii():
            length = len(unicodedata.normalize("NFC", clean).strip(_TRIMMED))
    if length == 0:
        return "A message needs at least one visible character."
    if length > CHARS_MAX:
        return f"A message has at most {CHARS_MAX} characters."
    return None
