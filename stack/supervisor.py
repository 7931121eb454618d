"""`make run`: starts everything in order, watches it, stops it in reverse order; and `env`, `stop`, `reset`.

State under .local/: pg (the data), project (working directory of the data API, with Storage's bytes), keys.json, log/,
processes.json (what runs now), run.lock (held while a supervisor lives) and *.stamp (what is done already).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

import psycopg

from stack import dataapi, database, demo, keys
from stack.console import StackError, say, step, tail
from stack.places import LOCAL, LOGS, ROOT, Ports, ports
from stack.postgres import Cluster
from stack.processes import Ledger, Process, end, free_port, identity, require_free

POLL_S = 0.25
PARTITIONS_EVERY_S = 3600.0
RESTARTS_MAX = 5
RESTARTS_WINDOW_S = 60.0
STOP_S = 60.0

BOOTSTRAP_STAMP = LOCAL / "bootstrap.stamp"
MIGRATIONS_STAMP = LOCAL / "migrations.stamp"
SEED_STAMP = LOCAL / "seed.stamp"
LOCK = LOCAL / "run.lock"


class Stop(BaseException):
    """Raised by SIGINT, SIGTERM and SIGHUP: leave in order."""


def _raise_stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stop


# ----- one supervisor per .local -----


def running() -> dict[str, Any] | None:
    """What the supervisor of this checkout wrote when it started; None when none is running."""
    try:
        with LOCK.open() as lock:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            told: dict[str, Any] = json.loads(lock.read() or "{}")
            return told
    except FileNotFoundError:
        return None


@contextmanager
def _only_one(chosen: Ports) -> Iterator[None]:
    """Hold the lock of this checkout. The kernel lets go of it even after a `kill -9`."""
    LOCAL.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = running() or {}
            raise StackError(
                f"The stack of this checkout is already running (process {other.get('pid')}): "
                "stop it with Ctrl-C there or with `make stop` here."
            ) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "identity": identity(os.getpid()), "ports": asdict(chosen)}))
        lock.flush()
        yield


# ----- making the data once -----


def _done(stamp: Any, want: str) -> bool:
    return bool(stamp.exists() and stamp.read_text() == want)


def _prepare_cluster(cluster: Cluster, project: Any, all_keys: keys.Keys) -> None:
    """initdb, start, bootstrap, migrations. What was interrupted is started over; what is done is not."""
    if cluster.data.exists() and not BOOTSTRAP_STAMP.exists():
        say("the first set-up of the database was interrupted: starting it over")
        shutil.rmtree(cluster.data)
    if not cluster.data.exists():
        MIGRATIONS_STAMP.unlink(missing_ok=True)
        SEED_STAMP.unlink(missing_ok=True)
        with step("Making the database"):
            cluster.init()
    cluster.check_version()
    cluster.start()
    want = database.bootstrap_digest()
    if not BOOTSTRAP_STAMP.exists():
        with step("Making the roles and schemas of a Supabase project"):
            database.bootstrap_cluster(cluster)
            database.bootstrap_database(cluster, "postgres", project, all_keys)
        BOOTSTRAP_STAMP.write_text(want)
    elif not _done(BOOTSTRAP_STAMP, want):
        say("the stack's own SQL changed since this data was made; `make reset` gives a fresh database")
    database.ensure_realtime_partitions(cluster)
    want = database.migrations_digest()
    if not _done(MIGRATIONS_STAMP, want):
        with step("Applying the migrations"):
            database.migrate(cluster, "postgres", project)
        MIGRATIONS_STAMP.write_text(want)
    database.register_message_keys(cluster, "postgres", all_keys)
    if not SEED_STAMP.exists():
        with step("Writing the demo data"):
            database.seed(cluster)
        SEED_STAMP.write_text("done")


# ----- running -----


class Supervisor:
    """The children of one `make run`, in the order in which they start."""

    def __init__(self, chosen: Ports, *, with_service: bool) -> None:
        self.ports, self.with_service = chosen, with_service
        self.keys = keys.load()
        self.ledger = Ledger(LOCAL / "processes.json")
        self.cluster = Cluster(
            LOCAL / "pg",
            chosen.database,
            self.keys.database_password,
            LOGS / "postgres.log",
            self.ledger,
            durable=True,
        )
        self.environment = environment(chosen, self.keys)
        self.servers: list[Process] = []
        self.restarts: deque[float] = deque(maxlen=RESTARTS_MAX)

    def start(self) -> None:
        self.ledger.reap()
        self.cluster.clear_stale_lock()
        require_free(self.ports.database, "the database", "STACK_DB_PORT")
        require_free(self.ports.api, "the data API", "STACK_API_PORT")
        if self.with_service:
            require_free(self.ports.service, "the service", "PORT")
        project = database.project_directory(LOCAL / "project")
        _prepare_cluster(self.cluster, project, self.keys)
        realtime_port = free_port()
        api = dataapi.data_api(
            self.cluster,
            "postgres",
            project,
            self.keys,
            self.ports.api,
            LOGS / "data-api.log",
            self.ledger,
            realtime_port,
        )
        realtime = dataapi.realtime(
            self.cluster, "postgres", self.keys, realtime_port, LOGS / "realtime.log", self.ledger
        )
        self.servers += [realtime, api]
        if self.with_service:
            self.servers.append(
                dataapi.service(
                    {**self.environment, "MESSAGE_KEYS": self.keys.message_keys},
                    self.ports.service,
                    LOGS / "service.log",
                    self.ledger,
                )
            )
        with step("Starting the servers"):
            for server in self.servers:
                server.start()
            realtime.wait_until(lambda: dataapi.realtime_ready(realtime_port), dataapi.READY_S)
            api.wait_until(lambda: dataapi.data_api_ready(self.ports.api, self.keys), dataapi.READY_S)
            if self.with_service:
                url = f"{self.ports.service_url}/health/ready"
                self.servers[-1].wait_until(lambda: dataapi.answers(url), dataapi.READY_S)
        if os.environ.get("CLASSIFIER_URL"):
            self.servers.append(dataapi.worker(self.environment, LOGS / "worker.log", self.ledger))
            self.servers[-1].start()
        demo.store_avatar(self.ports.supabase_url, self.keys.secret_key, self.cluster.url())

    def watch(self) -> None:
        """Start again what ends by itself. Raises StackError when that happens too often."""
        partitions_at = time.monotonic() + PARTITIONS_EVERY_S
        while True:
            time.sleep(POLL_S)
            postgres = self.cluster.process
            if postgres and postgres.exit_code() is not None:
                self._again(postgres, self.cluster.start)
            for server in self.servers:
                if server.exit_code() is not None:
                    self._again(server, server.start)
            if time.monotonic() > partitions_at:
                partitions_at += PARTITIONS_EVERY_S
                with suppress(psycopg.Error):
                    database.ensure_realtime_partitions(self.cluster)

    def _again(self, process: Process, start: Callable[[], None]) -> None:
        code, now = process.exit_code(), time.monotonic()
        if len(self.restarts) == RESTARTS_MAX and now - self.restarts[0] < RESTARTS_WINDOW_S:
            raise StackError(
                f"{process.name} keeps ending (exit code {code}). The end of {process.log}:\n{tail(process.log)}"
            )
        if self.restarts and now - self.restarts[-1] < 5:
            time.sleep(1)
        self.restarts.append(now)
        say(f"{process.name} ended by itself (exit code {code}): starting it again; its log is {process.log}")
        process.stop()
        start()

    def stop(self) -> bool:
        """Stop what runs, last started first. False when nothing had been started."""
        for server in reversed(self.servers):
            server.stop()
        self.cluster.stop()
        return self.cluster.process is not None


def run(*, with_service: bool = True) -> None:
    """Start, serve until a signal, stop. Raises StackError; leaves nothing running either way."""
    chosen = ports()
    with _only_one(chosen):
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, _raise_stop)
        supervisor: Supervisor | None = None
        try:
            supervisor = Supervisor(chosen, with_service=with_service)
            supervisor.start()
            print(demo.welcome(supervisor.environment, supervisor.cluster.url(), with_service=with_service), flush=True)
            supervisor.watch()
        except Stop:
            print(file=sys.stderr)
        finally:
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
            if supervisor and supervisor.stop():
                say("stopped; the data is kept (`make reset` forgets it)")


# ----- the small commands -----


def environment(chosen: Ports, all_keys: keys.Keys) -> dict[str, str]:
    """NAME=value of the stack on these ports."""
    url = f"postgresql://postgres:{all_keys.database_password}@127.0.0.1:{chosen.database}/postgres"
    return dataapi.client_environment(chosen.supabase_url, chosen.service_url, url, all_keys)


def print_environment() -> None:
    """`make env`: of the running stack, or of the next one."""
    other = running()
    chosen = Ports(**other["ports"]) if other and "ports" in other else ports()
    for name, value in environment(chosen, keys.load()).items():
        print(f"{name}={value}")


def stop() -> bool:
    """End the running stack of this checkout, if there is one, and wait for it."""
    other = running()
    if not other or "pid" not in other:
        return False
    end(other["pid"], other["identity"], signal.SIGTERM, STOP_S)
    return True


def reset() -> None:
    """`make reset`: stop, end leftovers, and forget the data, the files in Storage, the keys and the logs."""
    if stop():
        say("stopped the running stack")
    Ledger(LOCAL / "processes.json").reap()
    for name in ("pg", "pg.draft", "project", "log"):
        shutil.rmtree(LOCAL / name, ignore_errors=True)
        if (LOCAL / name).exists():
            raise StackError(f"{LOCAL / name} could not be deleted: it belongs to another user.")
    for file in (BOOTSTRAP_STAMP, MIGRATIONS_STAMP, SEED_STAMP, LOCAL / "keys.json"):
        file.unlink(missing_ok=True)
    say("forgot the data; the next `make run` starts afresh")


def serve() -> None:
    """`make serve`: only our service, against the project in SUPABASE_URL. Replaces this process."""
    missing = [name for name in ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY") if not os.environ.get(name)]
    if missing:
        raise StackError(
            f"`make serve` needs {' and '.join(missing)}; .env.example lists all names. (`make run` needs nothing.)"
        )
    port = ports().service
    require_free(port, "the service", "PORT")
    os.chdir(ROOT)
    os.execve(sys.executable, dataapi.SERVICE_COMMAND, {**os.environ, "PORT": str(port)})
