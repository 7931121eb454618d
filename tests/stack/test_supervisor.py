"""`make run` seen from outside: refusals, signals, crashes. Each test has a stack of its own: .local and ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest
from websockets.sync.client import connect

from stack.places import ROOT
from stack.processes import Ledger, free_port, identity
from stack.scratch import scratch_directory

READY_S = 60.0


class Run:
    """`python -m stack run` as a child process in a session of its own."""

    def __init__(self, local: Path, words: tuple[str, ...] = ("run", "--no-service"), **environment: str) -> None:
        self.local = local
        self.ports = {name: str(free_port()) for name in ("STACK_API_PORT", "STACK_DB_PORT", "PORT")}
        self.environment = {**os.environ, "STACK_LOCAL": str(local), **self.ports, **environment}
        self.words = words
        self.output = local / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Run:
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stack", *self.words],
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        Ledger(self.local / "processes-test.json").add("a tested stack", self.process.pid, signal.SIGTERM)
        return self

    def said(self) -> str:
        return self.output.read_text()

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S
        while not true():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def until_ready(self) -> Run:
        self.until(lambda: "\nRunning. " in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def wait(self) -> int:
        return self.process.wait(READY_S)

    def database(self) -> psycopg.Connection:
        password = json.loads((self.local / "keys.json").read_text())["database_password"]
        url = f"postgresql://postgres:{password}@127.0.0.1:{self.environment['STACK_DB_PORT']}/postgres"
        return psycopg.connect(url, autocommit=True)

    def children(self) -> dict[str, int]:
        return {entry["name"]: entry["pid"] for entry in json.loads((self.local / "processes.json").read_text())}

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same .local."""
        return subprocess.run(
            [sys.executable, "-m", "stack", *words],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=READY_S, check=False,
        )  # fmt: skip


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    """A factory of runs; whatever they leave is ended. Not in tmp_path: another pytest may close that to others."""
    local = scratch_directory()
    made: list[Run] = []

    def new(**environment: str) -> Run:
        made.append(Run(local, **environment))
        return made[-1]

    yield new
    for each in made:
        each.command("reset")
        if each.process:
            each.process.wait(READY_S)
    shutil.rmtree(local, ignore_errors=True)


class TestRefusals:
    """One sentence, exit code 1, no traceback."""

    def refused(self, run: Run) -> str:
        assert run.start().wait() == 1
        assert "Traceback" not in run.said()
        return run.said()

    @pytest.mark.parametrize("name", ["STACK_API_PORT", "STACK_DB_PORT"])
    def test_a_taken_port(self, run, name):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            number = taken.getsockname()[1]
            said = self.refused(run(**{name: str(number)}))
        assert f"Port {number}" in said
        assert f"{name}=" in said
        assert len(said.splitlines()) == 1

    @pytest.mark.parametrize("number", ["0", "65536", "eighty", "-1"])
    def test_a_bad_port(self, run, number):
        assert "STACK_DB_PORT must be a port number" in self.refused(run(STACK_DB_PORT=number))

    def test_the_same_port_twice(self, run):
        assert "three different ports" in self.refused(run(STACK_DB_PORT="54321", STACK_API_PORT="54321"))

    def test_no_postgres_there(self, run, tmp_path):
        assert "STACK_POSTGRES_BIN" in self.refused(run(STACK_POSTGRES_BIN=str(tmp_path)))

    def test_serve_without_a_project(self, run):
        one = run()
        for name in [name for name in one.environment if name.startswith("SUPABASE_")]:
            del one.environment[name]
        one.words = ("serve",)
        assert "SUPABASE_URL and SUPABASE_PUBLISHABLE_KEY" in self.refused(one)

    def test_an_unknown_command(self, run):
        answer = run().command("dance")
        assert (answer.returncode, "Traceback" in answer.stderr) == (2, False)


def test_keys_are_made_once_and_for_nobody_else(run):
    one = run()
    first, second = one.command("env"), one.command("env")
    assert first.stdout == second.stdout
    told = dict(line.split("=", 1) for line in first.stdout.splitlines())
    assert list(told) == [
        "API_URL", "SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET",
        "DATABASE_URL",
    ]  # fmt: skip
    # With asymmetric keys there is no shared secret that a client could know.
    assert len(told["SUPABASE_JWT_SECRET"]) >= 32 or os.environ.get("STACK_JWT_ALG") == "ES256"
    assert told["SUPABASE_PUBLISHABLE_KEY"].startswith("sb_publishable_")
    assert told["SUPABASE_SECRET_KEY"].startswith("sb_secret_")
    assert (one.local / "keys.json").stat().st_mode & 0o077 == 0


class TestLife:
    @pytest.mark.parametrize(
        "how",
        [signal.SIGINT, *(pytest.param(other, marks=pytest.mark.slow) for other in (signal.SIGTERM, signal.SIGHUP))],
    )
    def test_a_signal_stops_everything_and_keeps_the_data(self, run, how):
        one = run().start().until_ready()
        children = one.children()
        with one.database() as connection:
            connection.execute("create table public.kept (n int); insert into public.kept values (1)")
        one.process.send_signal(how)
        assert one.wait() == 0
        assert all(identity(pid) is None for pid in children.values())
        assert one.children() == {}
        began = time.monotonic()
        one.start().until_ready()
        assert time.monotonic() - began < 10
        assert "Making" not in one.said()
        with one.database() as connection:
            assert connection.execute("select n from public.kept").fetchone() == (1,)

    def test_a_worker_runs_only_when_there_is_a_classifier(self, run):
        one = run().start().until_ready()
        assert "The worker" not in one.children()
        one.process.send_signal(signal.SIGINT)
        assert one.wait() == 0
        other = run(CLASSIFIER_URL="http://127.0.0.1:9/").start().until_ready()
        log = other.local / "log" / "worker.log"
        other.until(lambda: log.exists() and "worker_started" in log.read_text())
        assert "The worker" in other.children()
        other.process.send_signal(signal.SIGINT)
        assert other.wait() == 0
        assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == [
            "worker_started",
            "worker_stopped",
        ]

    def test_after_kill_9_the_next_run_clears_up_and_has_what_was_acknowledged(self, run):
        one = run().start().until_ready()
        first = one.children()
        with one.database() as connection:
            connection.execute("create table public.kept (n int)")
            for number in range(200):
                connection.execute("insert into public.kept values (%s)", (number,))
            one.process.kill()
            os.kill(first["Postgres"], signal.SIGKILL)
        one.wait()
        one.start().until_ready()
        assert all(identity(pid) is None for pid in first.values())
        with one.database() as connection:
            assert connection.execute("select count(*) from public.kept").fetchone() == (200,)

    def test_a_stale_lock_file_whose_number_went_to_a_stranger(self, run):
        one = run().start().until_ready()
        one.process.kill()
        os.kill(one.children()["Postgres"], signal.SIGKILL)
        one.wait()
        lock = one.local / "pg" / "postmaster.pid"
        lines = lock.read_text().splitlines()
        with subprocess.Popen(["sleep", "300"]) as stranger:
            lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            one.start().until_ready()
            assert stranger.poll() is None
            stranger.kill()

    def test_an_interrupted_first_start_is_started_over(self, run):
        one = run().start()
        one.until(lambda: (one.local / "pg").exists())
        one.process.kill()
        one.wait()
        assert not (one.local / "bootstrap.stamp").exists()
        one.start().until_ready()
        assert "starting it over" in one.said()

    def test_what_ends_by_itself_is_started_again(self, run):
        one = run().start().until_ready()
        health = f"http://127.0.0.1:{one.environment['STACK_API_PORT']}/health"
        for name in ("The data API", "Realtime", "Postgres"):
            was = one.children()[name]
            os.kill(was, signal.SIGKILL)
            one.until(lambda name=name, was=was: one.children().get(name, was) != was)

            def healthy() -> bool:
                with suppress(httpx.HTTPError):
                    return httpx.get(health, timeout=5).status_code == 200
                return False

            one.until(healthy)
        assert one.process.poll() is None

    @pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
    def test_a_subscriber_outlives_a_restart_of_postgres(self, run, how):
        one = run().start().until_ready()
        key = json.loads((one.local / "keys.json").read_text())["publishable_key"]
        url = f"ws://127.0.0.1:{one.environment['STACK_API_PORT']}/realtime/v1/websocket?vsn=1.0.0&apikey={key}"
        join = {"topic": "realtime:x", "event": "phx_join", "payload": {}, "ref": "1", "join_ref": "1"}
        with connect(url, proxy=None) as socket:
            socket.send(json.dumps(join))
            assert json.loads(socket.recv(READY_S))["payload"]["status"] == "ok"
            was = one.children()["Postgres"]
            os.kill(was, how)
            one.until(lambda: one.children().get("Postgres", was) != was)

            def streaming() -> bool:
                with suppress(psycopg.OperationalError), one.database() as connection:
                    return connection.execute("select from pg_replication_slots where active").fetchone() is not None
                return False

            one.until(streaming)
            with one.database() as connection:
                connection.execute("select realtime.send('{}', 'after', 'x', false)")
            assert json.loads(socket.recv(READY_S))["payload"]["event"] == "after"
        one.process.send_signal(signal.SIGINT)
        assert one.wait() == 0

    def test_a_second_run_of_the_same_checkout_is_refused(self, run):
        one = run().start().until_ready()
        second = one.command("run")
        assert second.returncode == 1
        assert "already running" in second.stderr
        assert dict(line.split("=", 1) for line in one.command("env").stdout.splitlines())["SUPABASE_URL"].endswith(
            one.environment["STACK_API_PORT"]
        )
        assert one.command("stop").returncode == 0
        assert one.wait() == 0
        assert "Traceback" not in one.said()
