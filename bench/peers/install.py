"""Installs the peers that need more than this repository has: Next.js by npm, FastAPI in an environment of its own.

Both from locks with checksums, into places that git ignores, and only when the lock changed since.
"""

from __future__ import annotations

import os
import sys

from stack.console import StackError, step
from stack.places import LOCAL, LOGS, ROOT, node
from stack.processes import Ledger, run
from stack.setup import fingerprint, npm_ci

PEERS = ROOT / "bench" / "peers"
NEXTJS = PEERS / "nextjs"
LOCK = PEERS / "requirements.lock"
VENV = LOCAL / "bench-venv"
LEDGER = Ledger(LOCAL / "bench-processes.json")
_NEXT = NEXTJS / "node_modules" / "next" / "dist" / "bin" / "next"


def nextjs() -> None:
    """Install and build it. Errors: StackError with the end of the log."""
    modules, built = NEXTJS / "node_modules" / ".stamp", NEXTJS / ".next" / ".stamp"
    want = fingerprint(NEXTJS / "package-lock.json", NEXTJS / "package.json")
    sources = sorted(path for path in NEXTJS.rglob("*.js") if not {"node_modules", ".next"} & {*path.parts})
    want_built = fingerprint(want, *sources)
    if not (modules.exists() and modules.read_text() == want):
        with step("Installing Next.js (the first time about 20 s)"):
            _run("Installing Next.js", npm_ci(), "npm-nextjs.log", "no package registry for npm?")
        modules.write_text(want)
    if not (built.exists() and built.read_text() == want_built):
        with step("Building the Next.js peer (about 20 s)"):
            _run("Building the Next.js peer", [str(node()), str(_NEXT), "build"], "next-build.log", "see there")
        built.write_text(want_built)


def fastapi() -> None:
    """Install it. Errors: StackError with the end of the log."""
    stamp = VENV / ".stamp"
    want = fingerprint(LOCK, sys.version)
    if stamp.exists() and stamp.read_text() == want:
        return
    with step("Installing FastAPI and supabase-py (the first time about half a minute)"):
        _run("Making its venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], "bench-venv.log", "see there")
        command = [
            str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
            "--progress-bar", "off", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK),
        ]  # fmt: skip
        _run("Installing FastAPI", command, "bench-pip.log", "no package index for pip?")
    stamp.write_text(want)


def _run(what: str, command: list[str], log: str, why: str) -> None:
    environment = {**os.environ, "NEXT_TELEMETRY_DISABLED": "1"}
    try:
        run(what, command, log=LOGS / log, ledger=LEDGER, cwd=NEXTJS, env=environment)
    except StackError as error:
        raise StackError(f"{error}\nWithout this peer ({why}): make bench PEERS=ours,constant") from None


def nextjs_command(port: int) -> list[str]:
    """How it is served."""
    return [str(node()), str(_NEXT), "start", "-H", "127.0.0.1", "-p", str(port)]


def fastapi_command(port: int) -> list[str]:
    """How it is served."""
    return [
        str(VENV / "bin" / "python"), "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(PEERS), "--port", str(port),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
