"""What the person at the keyboard sees: progress of long steps, and refusals in one clear sentence.

Standard library only, because stack/setup.py uses it before anything is installed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TAIL_LINES = 15


class StackError(Exception):
    """Something the person can act on; printed as one sentence, exit code 1, never a traceback."""


def say(text: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f"stack: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str, quiet_below_s: float = 0.3) -> Iterator[None]:
    """Announce a step and say how long it took, unless it was too quick to mention."""
    began = time.monotonic()
    say(f"{what} ...")
    yield
    took = time.monotonic() - began
    if took >= quiet_below_s:
        say(f"{what}: done in {took:.1f} s")


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented, for an error message."""
    try:
        text = log.read_text(errors="replace").strip()
    except OSError:
        text = ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (no output)"
