"""A throw-away cluster with a migrated template database, for tests, `make schema` and `make advisors`.

It lives in a temporary directory, on a free port, without fsync unless asked for. One that a killed run left behind is
found by the next one: its processes are ended and its directory is deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from stack import database, keys
from stack.places import SUPABASE
from stack.postgres import Cluster
from stack.processes import POLL_S, Ledger, free_port, identity

PREFIX = "gig-messaging-scratch-"
TEMPLATE = "template_migrated"
SLOT_GONE_S = 10.0


def scratch_directory() -> Path:
    """A temporary directory that names its owner, so that `sweep` may delete it once that process is gone."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    directory.chmod(0o755)  # as root, Postgres runs as the user nobody and must come in
    (directory / "owner.json").write_text(json.dumps({"pid": os.getpid(), "identity": identity(os.getpid())}))
    return directory


class _Databases:
    """What an owner and an attached worker both do with the cluster."""

    cluster: Cluster
    project: Path
    keys: keys.Keys

    def create(self, name: str, acl: database.DefaultAcl = "new") -> None:
        """A new database with the migrations applied, in one of the two worlds of default privileges."""
        with self.cluster.connect() as connection:
            connection.execute(f'create database "{name}" owner postgres template template0')
        database.bootstrap_database(self.cluster, name, self.project, self.keys, acl)
        database.migrate(self.cluster, name, self.project)
        database.register_message_keys(self.cluster, name, self.keys)


class Scratch(_Databases):
    """A context manager: the cluster runs and TEMPLATE is migrated inside the `with` block."""

    def __init__(self, supabase: Path = SUPABASE, *, durable: bool = False) -> None:
        sweep()
        self.supabase = supabase
        self.directory = scratch_directory()
        self.keys = keys.generate()
        self.ledger = Ledger(self.directory / "processes.json")
        self.project = database.project_directory(self.directory / "project", supabase)
        log = self.directory / "log" / "postgres.log"
        self.cluster = Cluster(
            self.directory / "pg", free_port(), self.keys.database_password, log, self.ledger, durable=durable
        )

    def __enter__(self) -> Scratch:
        try:
            self.cluster.init()
            self.cluster.start()
            database.bootstrap_cluster(self.cluster)
            self.create(TEMPLATE)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        self.cluster.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def address(self) -> dict[str, Any]:
        """What another process needs for `Attached`."""
        return {"directory": str(self.directory), "port": self.cluster.port, "keys": asdict(self.keys)}


class Attached(_Databases):
    """The scratch cluster of another process: clones of the template, never its life."""

    def __init__(self, address: dict[str, Any], worker: str) -> None:
        self.directory = Path(address["directory"])
        self.keys = keys.Keys(**address["keys"])
        self.worker = worker
        self.ledger = Ledger(self.directory / f"processes-{worker}.json")
        self.project = database.project_directory(self.directory / f"project-{worker}")
        log = self.directory / "log" / f"{worker}.log"
        self.cluster = Cluster(
            self.directory / "pg", address["port"], self.keys.database_password, log, self.ledger, durable=False
        )

    def clone(self, name: str) -> str:
        """A copy of the template database; returns its name."""
        with self.cluster.connect() as connection:
            connection.execute(f'create database "{name}" template {TEMPLATE} owner postgres strategy file_copy')
        return name

    def drop(self, name: str) -> None:
        with self.cluster.connect() as connection:
            # `force` ends connections, but a slot in use refuses it; that of a Realtime just stopped needs a moment.
            deadline = time.monotonic() + SLOT_GONE_S
            slots = "select from pg_replication_slots where database = %s"
            while connection.execute(slots, (name,)).fetchone() is not None and time.monotonic() < deadline:
                time.sleep(POLL_S)
            connection.execute(f'drop database if exists "{name}" with (force)')


def sweep() -> None:
    """Clear up after runs whose process is gone."""
    for directory in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with suppress(OSError, ValueError, KeyError):
            if directory.stat().st_uid != os.geteuid():
                continue
            owner = json.loads((directory / "owner.json").read_text())
            if identity(owner["pid"]) == owner["identity"]:
                continue
            for file in directory.glob("processes*.json"):
                Ledger(file).reap()
            shutil.rmtree(directory, ignore_errors=True)
