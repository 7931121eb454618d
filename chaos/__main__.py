"""`make chaos`: people send and retry while the parts of a whole stack are killed, stopped, cut off and slowed.

A throw-away stack with fsync on, two copies of the service and a link between any two parts. People write to each
other and to groups until so many sends are acknowledged; faults follow each other as a seed draws them. Then everything
is checked: what was acknowledged, what is stored, and what devices hold that synced meanwhile. Exit code 1 on any
complaint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvloop

from bench.report import finish, summary, table, write_section
from chaos import checker
from chaos.checker import Complaint, History
from chaos.faults import Storm
from chaos.links import lasting_port
from chaos.parts import SERVICES, Parts
from chaos.people import Client, Failover, Person, World, acquaint, history, sign_up, sync_now_and_then
from stack.console import StackError, say, step
from stack.scratch import Scratch
from tests.live.recorder import Recorder

SENDS, MINUTES = 100_000, 60.0
WRITERS, GUESTS = 40, 2
LIVE, SYNCING = 5, 11  # devices that listen to Realtime, and devices that only sync
SETTLED_S = 60.0
SLICE_S = 0.25
TELL_EVERY_S = 15.0
SHOWN_MAX = 20


class Run:
    """One storm on one stack, and what came of it."""

    def __init__(self, scratch: Scratch, seed: int, sends: int, minutes: float) -> None:
        self.parts, self.seed, self.minutes = Parts(scratch), seed, minutes
        self.world = World(sends)
        self.storm = Storm(self.parts, self.world, seed)
        self.devices: dict[str, Recorder] = {}
        self.took_s = 0.0
        self.complaints: list[Complaint] = []

    async def go(self) -> None:
        """Everything, to the last check."""
        world, chance = self.world, random.Random(f"people {self.seed}")
        async with AsyncExitStack() as stack:
            stack.callback(self.parts.unlink)
            with step("Starting a throw-away stack, durable and with a link between any two parts"):
                await self.parts.start()
            with psycopg.connect(self.parts.database_url, autocommit=True) as db:
                issuer = f"{self.parts.url}/auth/v1"
                people = sign_up(db, self.parts.keys, issuer, chance, WRITERS + GUESTS)

            def api(number: int) -> httpx.AsyncClient:
                transport = Failover(self.parts.service_ports, number)
                return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=10)

            writers, guests = people[:WRITERS], people[WRITERS:]
            clients = [
                Client(world, person, api(number), random.Random(f"{self.seed} {person.id}"))
                for number, person in enumerate(writers)
            ]
            await self._open_devices([*guests, *writers], api)
            await acquaint(clients, guests, chance)
            supervising = asyncio.create_task(self.parts.supervise())
            stack.callback(supervising.cancel)
            began_s = time.monotonic()
            asyncio.get_running_loop().call_later(self.minutes * 60, world.over.set)
            tasks = [asyncio.create_task(client.live(), name=f"person {n}") for n, client in enumerate(clients)]
            tasks += [
                asyncio.create_task(sync_now_and_then(device, world, random.Random(f"{self.seed} {name}")), name=name)
                for name, device in self.devices.items()
                if name.startswith("syncing")
            ]
            for device in self.devices.values():
                stack.push_async_callback(device.stop)
            telling = asyncio.create_task(self._tell(began_s))
            stack.callback(telling.cancel)
            storming = asyncio.create_task(self.storm.rage())
            await asyncio.wait({storming, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            world.over.set()
            await storming  # what it has done is undone
            telling.cancel()
            self.took_s = time.monotonic() - began_s
            await self._settle(tasks)
            supervising.cancel()
            if not self._fatal():
                await self._final_sync()
            await asyncio.to_thread(self._check)

    async def _open_devices(self, people: Sequence[Person], api: Any) -> None:
        """Devices of the first people, guests among them: each syncs once before anything is written."""
        for number, person in enumerate(people[: LIVE + SYNCING]):
            live = number % 4 == 0 and number < 4 * LIVE
            device = Recorder(self.parts.devices_url, self.parts.keys.publishable_key, api(number), person)
            await device.sync()
            if live:
                await device.start()
            self.devices[f"{'live' if live else 'syncing'} device {number}"] = device

    async def _tell(self, began_s: float) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            say(
                f"  {time.monotonic() - began_s:6.0f} s  {self.world.acknowledged:7,} acknowledged,"
                f" {sum(self.world.attempts.values()):7,} attempts, {len(self.storm.log):4} episodes,"
                f" served {self.availability():.0%} of the time"
            )

    async def _settle(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Nothing is wrong any more: everybody gets an answer, or there is a reason to complain."""
        for link in self.parts.links.values():
            await link.mend()
        try:
            await asyncio.to_thread(self.parts.all_ready)
        except StackError as error:
            self.complaints.append(Complaint("stuck", str(error)))
        _, waiting = await asyncio.wait(tasks, timeout=SETTLED_S)
        for task in waiting:
            task.cancel()
            self.complaints.append(
                Complaint("stuck", f"{task.get_name()} was not answered in {SETTLED_S:.0f} s of calm")
            )
        for task in tasks:
            if task.done() and not task.cancelled() and (fault := task.exception()):
                self.complaints.append(Complaint("stuck", f"{task.get_name()} ended with {fault!r}"))
        if self.storm.stuck:
            self.complaints.append(Complaint("stuck", self.storm.stuck))
        for service in SERVICES:
            if self.parts.died[service]:
                self.complaints.append(
                    Complaint("stuck", f"{service} ended by itself {self.parts.died[service]} times")
                )

    def _fatal(self) -> bool:
        return any(complaint.kind == "stuck" for complaint in self.complaints)

    async def _final_sync(self) -> None:
        """Requests that were given up come to an end, then every device syncs once more."""
        with step("Everything under way comes to its end, and all devices sync"):
            await asyncio.to_thread(self.parts.drain)
            await asyncio.to_thread(self.parts.all_ready)
            for name, device in self.devices.items():
                await device.stop()
                async with asyncio.timeout(SETTLED_S):
                    await device.sync()
                for error in device.errors:
                    self.complaints.append(Complaint("device", f"{name} failed: {error!r}"))

    def histories(self) -> list[History]:
        return [history(name, device) for name, device in self.devices.items()]

    def _check(self) -> None:
        with (
            step("Checking every message, chain, count and device"),
            psycopg.connect(self.parts.database_url) as db,
        ):
            db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            db.execute("set statement_timeout = 0")
            histories = [] if self._fatal() else self.histories()
            self.complaints += [*self.world.complaints, *checker.check(db, self.world.account, histories)]

    # ----- what came of it -----

    def availability(self) -> float:
        """The share of slices of time in which somebody's send was acknowledged."""
        slices = {int(at / SLICE_S) for at in self.world.at_s}
        return len(slices) / (max(slices) - min(slices) + 1) if slices else 0.0

    def found(self) -> dict[str, Any]:
        """The last line."""
        world, count = self.world, Counter(complaint.kind for complaint in self.complaints)
        attempts = sum(world.attempts.values())
        waits = [wait for each in self.storm.recovery_s.values() for wait in each]
        return {
            "chaos": "sends",
            "seed": self.seed,
            "sends": len(world.account.sends),
            "acknowledged": world.acknowledged,
            "unknown": len(world.account.sends) - world.acknowledged,
            "attempts": attempts,
            "retries": attempts - len(world.account.sends),
            "seconds": round(self.took_s, 1),
            "availability": round(self.availability(), 3),
            "episodes": len(self.storm.log),
            "faults": dict(self.storm.done),
            "recovery_s": summary(waits) if len(waits) > 1 else {},
            "answer_ms": summary(world.answer_ms) if len(world.answer_ms) > 1 else {},
            "send_to_acknowledged_ms": summary(world.send_ms) if len(world.send_ms) > 1 else {},
            "ended_by_themselves": dict(self.parts.died),
            "devices": len(self.devices),
            "device_messages": sum(len(device.messages) for device in self.devices.values()),
            **{kind: count[kind] for kind in checker.KINDS},
            "complaints": len(self.complaints),
        }

    def section(self) -> str:
        """For docs/performance.md."""
        found = self.found()
        rows = [
            (name, len(waits), f"{sorted(waits)[len(waits) // 2]:.2f}", f"{max(waits):.2f}")
            for name, waits in sorted(self.storm.recovery_s.items())
        ]
        answer, send = found["answer_ms"], found["send_to_acknowledged_ms"]
        told = (
            f"Seed {self.seed}: {found['acknowledged']:,} sends of {WRITERS} people acknowledged in {self.took_s:.0f} s"
            f" and {found['attempts']:,} attempts, {found['unknown']:,} given up; {found['episodes']} episodes of"
            f" faults, with sends acknowledged in {found['availability']:.0%} of all quarters of a second."
            f" Lost {found['lost']}, doubled {found['doubled']}, reordered {found['reordered']}, complaints"
            f" {found['complaints']};"
            f" {found['devices']} devices hold {found['device_messages']:,} messages, all as the database has them.",
            f"An attempt that was acknowledged took {answer['p50']:.0f} ms (p50) and {answer['p99']:.0f} ms (p99); from"
            " the first attempt to the acknowledgement, outages included,"
            f" {send['p50']:.0f} ms and {send['p99']:.0f} ms.",
            table(("fault", "times", "served again after, median s", "worst s"), rows),
        )
        return "\n\n".join(told)

    def keep(self) -> Path:
        """Logs of all parts, what was asked, faults and complaints, where the next run does not sweep them away."""
        kept = Path(tempfile.mkdtemp(prefix=f"gig-messaging-chaos-{self.seed}-"))
        shutil.copytree(self.parts.scratch.directory / "log", kept / "log", dirs_exist_ok=True)
        (kept / "faults.txt").write_text("\n".join([*self.storm.log, *self.parts.troubles]) + "\n")
        (kept / "complaints.txt").write_text("\n".join(map(str, self.complaints)) + "\n")
        with (kept / "sends.jsonl").open("w") as file:
            file.writelines(json.dumps(asdict(send)) + "\n" for send in self.world.account.sends)
        return kept


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--sends", type=int, default=SENDS, help="how many must be acknowledged (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="end earlier then (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(2**32), help="of people and faults (default: random)"
    )
    parser.add_argument("--keep", action="store_true", help="keep logs and faults also when there is no complaint")
    chosen = parser.parse_args()
    say(f"seed {chosen.seed}: repeat with `python -m chaos --seed {chosen.seed} --sends {chosen.sends}`")
    with step("Making a throw-away cluster"):
        scratch = Scratch(durable=True)
        scratch.cluster.port = lasting_port()
        scratch.__enter__()
    run = None
    try:
        run = Run(scratch, chosen.seed, chosen.sends, chosen.minutes)
        uvloop.run(run.go())
        kept = run.keep() if run.complaints or chosen.keep else None
    except BaseException:
        if run:
            say(f"what the parts said is kept in {run.keep()}")
        raise
    finally:
        if run:
            run.parts.close()
        scratch.close()
    found = run.found()
    for complaint in run.complaints[:SHOWN_MAX]:
        say(f"! {complaint}")
    if kept:
        say(f"{len(run.complaints)} complaints with seed {run.seed}; logs, faults and complaints are kept in {kept}")
    if not run.complaints and run.world.acknowledged >= SENDS:  # a shorter run shows less
        write_section("chaos", run.section())
    finish(found)
    sys.exit(1 if run.complaints else 0)


if __name__ == "__main__":
    main()
