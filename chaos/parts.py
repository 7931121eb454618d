"""A whole stack with a link wherever two parts talk, whose processes may be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from chaos.links import Link, lasting_port
from stack import dataapi
from stack.console import StackError
from stack.postgres import Cluster
from stack.processes import Process, end, identity
from stack.scratch import TEMPLATE, Scratch

POSTGRES, DATA_API, REALTIME = "postgres", "data api", "realtime"
SERVICES = ("service 1", "service 2")
READY_S = 60.0
UNDER_WAY = "select from pg_stat_activity where application_name = 'data-api' and state <> 'idle'"
LOOK_S = 0.1


class Parts:
    """Postgres, data API, Realtime, two copies of the service, and the links between them.

    clients ── service 1, 2 ── data api ── postgres
    devices ────────────────── data api ── realtime ── postgres
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, self.keys = scratch, scratch.keys
        ports = {name: lasting_port() for name in (DATA_API, REALTIME, *SERVICES)}
        postgres = scratch.cluster.port
        self.links = {
            name: Link(name, to)
            for name, to in (
                *((f"clients - {service}", ports[service]) for service in SERVICES),
                ("service - data api", ports[DATA_API]),
                ("devices - data api", ports[DATA_API]),
                ("data api - postgres", postgres),
                ("data api - realtime", ports[REALTIME]),
                ("realtime - postgres", postgres),
            )
        }
        self.service_ports = [self.links[f"clients - {service}"].port for service in SERVICES]
        self.url = self._at("service - data api")
        self.devices_url = self._at("devices - data api")
        self.processes = self._processes(ports)
        self.ready: dict[str, Callable[[], bool]] = {
            REALTIME: lambda: dataapi.realtime_ready(ports[REALTIME]),
            DATA_API: lambda: dataapi.data_api_ready(ports[DATA_API], self.keys),
            **{
                service: lambda port=ports[service]: dataapi.answers(f"http://127.0.0.1:{port}/health/ready")  # type: ignore[misc]
                for service in SERVICES
            },
        }
        self.kept_down: set[str] = set()
        self.died: Counter[str] = Counter()  # parts that ended and nobody had killed them
        self.troubles: list[str] = []  # what could not be started at once
        self._stopped: set[int] = set()
        self._orphans: list[tuple[int, str]] = []
        self._starting = threading.Lock()  # the ledger of processes is one file

    def _at(self, link: str) -> str:
        return f"http://127.0.0.1:{self.links[link].port}"

    def _processes(self, ports: dict[str, int]) -> dict[str, Process]:
        scratch, keys, logs = self.scratch, self.keys, self.scratch.directory / "log"

        def behind(link: str) -> Cluster:
            cluster = copy.copy(scratch.cluster)
            cluster.port = self.links[link].port
            return cluster

        api = dataapi.data_api(
            behind("data api - postgres"), TEMPLATE, scratch.project, keys, ports[DATA_API], logs / "data-api.log",
            scratch.ledger, self.links["data api - realtime"].port,
        )  # fmt: skip
        realtime = dataapi.realtime(
            behind("realtime - postgres"), TEMPLATE, keys, ports[REALTIME], logs / "realtime.log", scratch.ledger,
            STACK_REALTIME_DENIAL_DELAY_S="0",
        )  # fmt: skip
        told = dataapi.client_environment(self.url, "", self.database_url, keys)
        services = {}
        for name in SERVICES:
            each = dataapi.service(told, ports[name], logs / f"{name.replace(' ', '-')}.log", scratch.ledger)
            services[name] = replace(each, env={**(each.env or {}), "PERSON_REQUESTS_PER_MINUTE": "1000000"})
        return {DATA_API: api, REALTIME: realtime, **services}

    @property
    def database_url(self) -> str:
        """Straight to Postgres, for those who look on."""
        return self.scratch.cluster.url(TEMPLATE)

    async def start(self) -> None:
        """Everything runs and answers."""
        for link in self.links.values():
            await link.open()
        await asyncio.to_thread(self.all_ready)

    # ----- processes -----

    def _process(self, part: str) -> Process | None:
        return self.scratch.cluster.process if part == POSTGRES else self.processes[part]

    def family(self, part: str) -> list[int]:
        """A part's process and its children: with Postgres all of its backends, which lead sessions of their own."""
        process = self._process(part)
        if process is None or process.pid is None or process.exit_code() is not None:
            return []
        return [process.pid, *_children(process.pid)]

    def kill(self, part: str, pids: Iterable[int]) -> None:
        """-9, at whatever they are doing; the part stays down until it is released."""
        self.kept_down.add(part)
        family = self.family(part)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if part == POSTGRES:
            self._orphans = [(pid, known_as) for pid in family[1:] if (known_as := identity(pid))]

    def release(self, part: str) -> None:
        """It may run again: the next look starts it when it does not."""
        self.kept_down.discard(part)

    def stop(self, pids: Iterable[int]) -> None:
        """SIGSTOP: they are there, hold their locks and connections, and say nothing."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._stopped.add(pid)

    def resume(self, pids: Iterable[int]) -> None:
        """SIGCONT."""
        for pid in self._stopped.intersection(pids):
            self._stopped.discard(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def revive(self) -> None:
        """What a supervisor does: start what does not run and may."""
        with self._starting:
            for part in (POSTGRES, *self.processes):
                process = self._process(part)
                if process is None or part in self.kept_down or (process.pid and process.exit_code() is None):
                    continue
                if process.pid and process.exit_code() != -signal.SIGKILL:
                    self.died[part] += 1
                process.stop()
                if part == POSTGRES:
                    self._start_postgres()
                else:
                    process.start()

    def _start_postgres(self) -> None:
        try:
            self.scratch.cluster.start()
        except StackError:
            # Backends that outlived their postmaster and still wait for somebody hold its memory.
            for pid, known_as in self._orphans:
                end(pid, known_as, signal.SIGKILL, READY_S)
            self.scratch.cluster.start()

    def drain(self) -> None:
        """Let the services answer what they were asked and end, and wait until nothing is under way in Postgres."""
        with self._starting:
            for service in SERVICES:
                self.processes[service].stop()
            deadline = time.monotonic() + READY_S
            with self.scratch.cluster.connect(TEMPLATE) as admin:
                while admin.execute(UNDER_WAY).fetchone() is not None:
                    if time.monotonic() > deadline:
                        raise StackError("a request is under way for ever")
                    time.sleep(LOOK_S)

    async def supervise(self) -> None:
        """Look for ever; what could not be started now is tried again."""
        while True:
            try:
                await asyncio.to_thread(self.revive)
            except (StackError, OSError) as error:
                self.troubles.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {error}")
            await asyncio.sleep(LOOK_S)

    def all_ready(self) -> None:
        """Wait until everything answers. Raises StackError after a while."""
        deadline = time.monotonic() + READY_S
        while True:
            self.revive()
            away = [part for part, ready in self.ready.items() if not ready()]
            if not away:
                return
            if time.monotonic() > deadline:
                raise StackError(f"{', '.join(away)} did not come back within {READY_S:.0f} s")
            time.sleep(LOOK_S)

    def unlink(self) -> None:
        """Close the links, while their loop runs."""
        for link in self.links.values():
            link.close()

    def close(self) -> None:
        """End all but Postgres, which is the scratch's."""
        self.resume(self._stopped)
        for process in self.processes.values():
            process.stop()


def _children(parent: int) -> list[int]:
    proc = Path("/proc")
    if (proc / "self/stat").exists():
        found = []
        for stat in proc.glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(stat.parent.name))
        return sorted(found)
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    return sorted(int(pid) for pid, above in map(str.split, listed.splitlines()) if int(above) == parent)
