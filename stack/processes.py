"""Children that are watched, stopped in order, and found again after a crash without ever hitting a stranger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stack.console import StackError, say, tail

LOG_BYTES_MAX = 5_000_000
POLL_S = 0.02
TICK_S = 10.0


def identity(pid: int) -> str | None:
    """What tells process `pid` from any later one with the same number; None when it is not alive.

    Boot id and start tick on Linux, the start time as `ps` prints it elsewhere.
    """
    proc = Path("/proc")
    if (proc / "self/stat").exists():
        try:
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = listed.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def end(pid: int, known_as: str, gentle: signal.Signals, wait_s: float) -> None:
    """End a process that is not our child, and its group when it leads one: gently, then with SIGKILL.

    Does nothing when the number is somebody else's by now.
    """
    for how, patience_s in ((gentle, wait_s), (signal.SIGKILL, 5.0)):
        if identity(pid) != known_as:
            return
        with suppress(ProcessLookupError):
            (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, how)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and identity(pid) == known_as:
            time.sleep(POLL_S)


class Ledger:
    """The file that names the living children, so that the next run can clear up after a `kill -9`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return []
        return entries if isinstance(entries, list) else []

    def _write(self, entries: list[dict[str, Any]]) -> None:
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(entries, indent=1))
        draft.rename(self.path)

    def add(self, name: str, pid: int, stop_signal: signal.Signals) -> None:
        self._write([*self.read(), {"name": name, "pid": pid, "identity": identity(pid), "signal": stop_signal.name}])

    def remove(self, pid: int) -> None:
        self._write([entry for entry in self.read() if entry.get("pid") != pid])

    def reap(self) -> None:
        """End what an earlier, crashed run left behind, last started first, and forget it."""
        for entry in reversed(self.read()):
            if identity(entry["pid"]) == entry["identity"] and entry["identity"]:
                say(f"ending {entry['name']} (process {entry['pid']}), left over from a run that was killed")
                end(entry["pid"], entry["identity"], signal.Signals[entry["signal"]], 20.0)
        self.path.unlink(missing_ok=True)


def run(
    what: str,
    argv: Sequence[str],
    *,
    log: Path,
    ledger: Ledger,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    **popen: Any,
) -> None:
    """Run one long command to its end, output into `log`, a sign of life every ten seconds.

    Raises StackError with the end of its output when it fails. Whatever interrupts us ends the command too, and what
    a `kill -9` leaves running, the next `ledger.reap()` ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    next_tick_s = TICK_S
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=None if env is None else dict(env),
            start_new_session=True,
            **popen,
        )
        ledger.add(what, child.pid, signal.SIGTERM)
        try:
            while True:
                try:
                    code = child.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() - began >= next_tick_s:
                        say(f"  {what}: still at it after {next_tick_s:.0f} s")
                        next_tick_s += TICK_S
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            ledger.remove(child.pid)
    if code != 0:
        raise StackError(f"{what} failed (exit code {code}). The end of {log}:\n{tail(log)}")


@dataclass
class Process:
    """One child with its own session, its own log and nothing on standard input."""

    name: str
    argv: Sequence[str]
    log: Path
    ledger: Ledger
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s: float = 10.0
    popen: Mapping[str, Any] = field(default_factory=dict)
    _child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(
                list(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
                **self.popen,
            )
        self.ledger.add(self.name, self._child.pid, self.stop_signal)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def exit_code(self) -> int | None:
        """None while it runs (or was never started)."""
        return self._child.poll() if self._child else None

    def stop(self) -> None:
        """Ask it to end, wait, insist. Does nothing when it is not running."""
        child, self._child = self._child, None
        if child is None:
            return
        for how, patience_s in ((self.stop_signal, self.stop_s), (signal.SIGKILL, 5.0)):
            if child.poll() is not None:
                break
            child.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                child.wait(patience_s)
        self.ledger.remove(child.pid)

    def wait_until(self, ready: Callable[[], bool], within_s: float) -> None:
        """Wait until `ready` answers True. Raises StackError when the child ends first or time runs out."""
        deadline = time.monotonic() + within_s
        while not ready():
            code = self.exit_code()
            if code is not None:
                raise StackError(
                    f"{self.name} ended at once (exit code {code}). The end of {self.log}:\n{tail(self.log)}"
                )
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name} was not ready within {within_s:.0f} s. The end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(POLL_S)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, what: str, variable: str) -> None:
    """Raise StackError when somebody already listens on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    if not taken:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken = True
    if taken:
        raise StackError(
            f"Port {port} ({what}) is taken by another program: stop that, or choose another port, "
            f"for example `{variable}={port + 100} make run`."
        )
