"""One Postgres cluster: make it, start it, stop it. TCP on 127.0.0.1 only, never as root."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from stack.console import StackError
from stack.places import postgres_bin
from stack.processes import Ledger, Process, end, identity, run

READY_S = 120.0  # crash recovery of a large data directory is part of starting
START_ATTEMPTS = 3
SUPERUSER = "supabase_admin"


def version() -> int:
    """The major version of the chosen binaries."""
    said = subprocess.run([postgres_bin() / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\) (\d+)", said.stdout)
    if said.returncode != 0 or not found:
        raise StackError(f"{postgres_bin() / 'postgres'} does not run here: {(said.stderr or said.stdout).strip()}")
    if int(found[1]) < 15:
        raise StackError(f"Postgres 15 or newer is needed, and {postgres_bin()} holds {found[1]}.")
    return int(found[1])


@dataclass(frozen=True)
class Unprivileged:
    """How to run Postgres as somebody else than root: words before the command, arguments for Popen."""

    prefix: tuple[str, ...] = ()
    popen: Mapping[str, Any] | None = None
    uid: int | None = None
    gid: int | None = None


def unprivileged(data: Path) -> Unprivileged:
    """As an ordinary user: nothing to do. As root: the user nobody, or, where nobody may not enter a directory
    above the binaries or the data (0700), a user namespace in which root's files belong to another number.
    """
    if os.geteuid() != 0:
        return Unprivileged()
    with suppress(KeyError):
        nobody = pwd.getpwnam("nobody")
        popen = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        reaches = subprocess.run(
            ["/bin/sh", "-c", 'test -x "$1" && exec "$2" --version', "sh", data.parent, postgres_bin() / "postgres"],
            capture_output=True,
            cwd="/",
            **popen,  # type: ignore[call-overload]
        )
        if reaches.returncode == 0:
            return Unprivileged(popen=popen, uid=nobody.pw_uid, gid=nobody.pw_gid)
    prefix = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
        return Unprivileged(prefix=prefix)
    raise StackError(
        f"Postgres refuses to run as root, and the user nobody may not enter {data.parent}: "
        "run this as an ordinary user, or from a directory that everybody may enter."
    )


class Cluster:
    """A data directory and the server on it. `durable=False` drops fsync, for throw-away clusters only."""

    def __init__(self, data: Path, port: int, password: str, log: Path, ledger: Ledger, *, durable: bool) -> None:
        self.data, self.port, self.password, self.log = data, port, password, log
        self.ledger, self.durable = ledger, durable
        self.process: Process | None = None

    def url(self, database: str = "postgres", role: str = "postgres") -> str:
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", role: str = SUPERUSER) -> psycopg.Connection[Any]:
        """An autocommit connection, by default as the superuser."""
        return psycopg.connect(self.url(database, role), autocommit=True, connect_timeout=10)

    def init(self) -> None:
        """Make the data directory: beside its place and renamed at the end, so that it is whole or not there."""
        draft = self.data.with_name(self.data.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        how = unprivileged(self.data)
        draft.mkdir(mode=0o700)
        secret = self.data.with_name(self.data.name + ".password")
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.password)
        if how.uid is not None and how.gid is not None:
            os.chown(draft, how.uid, how.gid)
            os.chown(secret, how.uid, how.gid)
        # One collation everywhere: code points. Case and character classes follow Unicode.
        if version() >= 17:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        else:
            locale = ["--locale=C.UTF-8", "--lc-collate=C", "--lc-messages=C"]
        try:
            run(
                "initdb",
                [
                    *how.prefix, str(postgres_bin() / "initdb"), "-D", str(draft), "-U", SUPERUSER,
                    "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", *locale,
                    *([] if self.durable else ["--no-sync"]),
                ],
                log=self.log.with_name("initdb.log"),
                ledger=self.ledger,
                cwd=Path("/"),
                **(how.popen or {}),
            )  # fmt: skip
        finally:
            secret.unlink(missing_ok=True)
        draft.rename(self.data)

    def check_version(self) -> None:
        """Raise StackError when the data directory was made by another major version than the chosen binaries."""
        try:
            made_by = int((self.data / "PG_VERSION").read_text())
        except PermissionError as error:
            raise StackError(
                f"{self.data} belongs to another user: run this as the user who first did, or delete it as that user."
            ) from error
        if made_by != version():
            raise StackError(
                f"The data in {self.data} was made by Postgres {made_by} and the chosen binaries are {version()}: "
                "choose the old ones with STACK_POSTGRES_BIN, or forget the data with `make reset`."
            )

    def clear_stale_lock(self) -> None:
        """End a server that a killed run left here; drop a lock file whose process number went to a stranger."""
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return
        known_as = identity(pid)
        if known_as and str(self.data) in _command_line(pid):
            end(pid, known_as, signal.SIGINT, 20.0)
        # Postgres replaces the lock file of a dead process itself, but takes for alive a stranger, and a dead one that
        # nobody collected (usual in containers). Without the file it still refuses while old backends hold its memory.
        lock.unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server and wait until it answers. Raises StackError with the end of its log when it does not."""
        self.clear_stale_lock()
        how = unprivileged(self.data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # a socket path is limited to 107 bytes; a checkout's is not
            "wal_level": "logical",
            "max_wal_senders": "40",  # Realtime takes two of each, and every test process has one
            "max_replication_slots": "40",
            "max_connections": "200",
            "shared_preload_libraries": "pg_stat_statements",
            "synchronous_commit": "on",
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
            "log_min_messages": "warning",
            "log_line_prefix": "%m [%p] %u@%d ",
            "timezone": "UTC",
        }
        self.process = Process(
            "Postgres",
            [
                *how.prefix, str(postgres_bin() / "postgres"), "-D", str(self.data), "-p", str(self.port),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            log=self.log,
            ledger=self.ledger,
            cwd=Path("/"),
            stop_signal=signal.SIGINT,  # "fast": end sessions, write a checkpoint
            stop_s=20.0,
            popen=how.popen or {},
        )  # fmt: skip
        for attempt in range(START_ATTEMPTS):
            self.process.start()
            try:
                self.process.wait_until(self.answers, READY_S)
                return
            except StackError:  # after a `kill -9`, old backends need a moment to notice and leave
                if self.process.exit_code() is None or attempt == START_ATTEMPTS - 1:
                    raise
                self.process.stop()
                time.sleep(1)

    def answers(self) -> bool:
        """True when a connection succeeds."""
        try:
            self.connect().close()
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise StackError(
                    f"The database in {self.data} has another password than keys.json beside it: run `make reset`."
                ) from error
            return False
        return True

    def stop(self) -> None:
        if self.process:
            self.process.stop()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return listed.stdout
