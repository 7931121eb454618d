"""What the person at the keyboard sees: progress of long steps, and refusals in one clear sentence.

Standard library only and no syntax newer than Python 3.8, because stack/setup.py uses it before anything is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Mapping, Sequence

TICK_S = 10.0
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


def run(
    what: str,
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    **popen: object,
) -> None:
    """Run one long command to its end, output into `log`, a sign of life every ten seconds.

    Raises StackError with the end of its output when it fails. Whatever interrupts us ends the command too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    next_tick = TICK_S
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=None if env is None else dict(env),
            start_new_session=True,
            **popen,  # type: ignore[call-overload]
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() - began >= next_tick:
                        say(f"  {what}: still at it after {next_tick:.0f} s")
                        next_tick += TICK_S
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if code != 0:
        raise StackError(f"{what} failed (exit code {code}). The end of {log}:\n{tail(log)}")
