"""`make bench-load`: many people on the whole stack, up to its peak, at five times that, and afterwards.

1. The peak: rates rise until what is served within the deadline rises no more; then the best of these rates for
   longer, since the best of some short stretches is also the luckiest.
2. Half of it, which shows what answers cost without a queue.
3. Five times the peak, and from one moment to the next half of it again, until it is as before.
4. The rate of the peak once more, since a shared machine may have become another one meanwhile.

Then every send that was acknowledged is looked for in the database. The generator runs on the same cores as the stack,
unpinned; what it took is in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

import uvloop

from bench.crowd import CONNECTIONS_MAX, DEADLINE_MS, MIX, Crowd, Phase, Watch, World, settle_memory, world
from bench.report import finish, table, write_section
from stack.console import say, step

PEOPLE = 600
SECONDS = 30.0
# Of what a closed loop of so many manages; the best of these is the peak.
LOOP_AT_ONCE, LOOP_S = 32, 4.0
RAMP = (0.7, 0.85, 1.0, 1.15, 1.3)
RAMP_MORE, RAMP_MOST = 1.2, 10
STEP_S = 5.0
PEAK_S = 10.0
CALM_S = 8.0
AFTER_S = 15.0
STORM = 5.0
GOODPUT_SHARE, SERVED_P99_MS, REFUSED_P99_MS, RECOVERED_S = 0.8, 2000.0, 500.0, 5.0
# Near the unloaded figure: twice it, or a tenth of a second more.
NEAR_TIMES, NEAR_MS = 2.0, 100.0


def told(name: str, phase: Phase) -> None:
    served, refused = phase.served_ms(), phase.refused_ms()
    say(
        f"{name:<12} {phase.rate_per_s:>6.0f}/s due, {phase.goodput():>5.0f}/s served in time,"
        f" p50 {served['p50']:.0f} ms, p99 {served['p99']:.0f} ms; refused"
        f" {1 - phase.share():.0%}, p50 {refused['p50']:.1f} ms, p99 {refused['p99']:.1f} ms"
    )


async def find_peak(crowd: Crowd) -> Phase:
    """What is served in time, for a while, at the rate of the ramp's best stretch."""
    manages = await crowd.closed_loop(LOOP_AT_ONCE, LOOP_S)
    rates = [share * manages for share in RAMP]
    best: Phase | None = None
    for number in range(RAMP_MOST):
        if number >= len(rates):
            rates.append(rates[-1] * RAMP_MORE)
        (phase,) = await crowd.offer((rates[number], STEP_S))
        told("ramp", phase)
        if best is None or phase.goodput() > best.goodput():
            best = phase
        elif number >= len(RAMP) - 1:
            break
    if best is None:
        raise SystemExit("bench: nothing was served")
    (peak,) = await crowd.offer((best.rate_per_s, PEAK_S))
    told("peak", peak)
    return peak


def recovered_s(after: Phase, calm: Phase) -> float:
    """From the end of the storm to the end of the first second in which answers are as quick as without load."""
    p99 = calm.served_ms()["p99"]
    near_ms = max(p99 * NEAR_TIMES, p99 + NEAR_MS)
    windows = after.windows(1.0)
    return next((float(at) for at, (ms, turned_away) in enumerate(windows, 1) if ms <= near_ms and not turned_away), -1)


async def measure(here: World, crowd: Crowd, storm_s: float) -> tuple[dict[str, Any], list[list[object]]]:
    with step(f"{len(crowd.people)} people begin to write to each other"):
        await crowd.set_up()
    with here.database() as database:
        database.execute("vacuum analyze")
    settle_memory()
    asking = asyncio.create_task(crowd.ask_for_health())
    async with Watch(here.pid("service"), 0.25) as watch:
        peak = await find_peak(crowd)
        most = peak.goodput()
        (calm,) = await crowd.offer((most / 2, CALM_S))
        told("half", calm)
        before, began = here.used_s(), time.perf_counter()
        storm, after = await crowd.offer((most * STORM, storm_s), (most / 2, AFTER_S))
        used = {name: (s - before[name]) / (time.perf_counter() - began) for name, s in here.used_s().items()}
        told("storm", storm)
        told("after", after)
        (again,) = await crowd.offer((peak.rate_per_s, PEAK_S))
        told("peak again", again)
        memory = [bytes_ for _, bytes_, _ in watch.samples]
        files = [count for _, _, count in watch.samples]
    asking.cancel()
    await crowd.settle()
    with step("Looking for every acknowledged send"):
        found = here.check(crowd)
    phases = {"peak": peak, "half": calm, "5 x peak": storm, "half again": after, "peak again": again}
    rows = [row(name, phase) for name, phase in phases.items()]
    amiss: dict[str, int] = {}
    for phase in phases.values():
        for name, count in phase.amiss().items():
            amiss[name] = amiss.get(name, 0) + count
    health_ms = [each.latency_ms for each in storm.health if each.served]
    served, refused = storm.served_ms(), storm.refused_ms()
    result: dict[str, Any] = {
        "bench": "load",
        "people": len(crowd.people),
        "mix": MIX,
        "peak_per_s": round(most, 1),
        "peak_again_per_s": round(again.goodput(), 1),
        "unloaded_ms": calm.served_ms(),
        "storm_due_per_s": round(storm.rate_per_s, 1),
        "storm_goodput_per_s": round(storm.goodput(), 1),
        "storm_goodput_share": round(storm.goodput() / most, 3),
        "storm_served_ms": served,
        "storm_refused_ms": refused,
        "storm_served_share_by_kind": {kind: round(storm.share(kind), 3) for kind in MIX},
        "health_worst_ms": round(max(health_ms, default=0.0), 1),
        "recovered_s": recovered_s(after, calm),
        "amiss": amiss,
        **found,
        "cores_storm": {name: round(share, 2) for name, share in used.items()},
        "generator_behind_ms": round(storm.behind_ms, 1),
        "connections_most": crowd.connections_most,
        "service_memory_most_mib": round(max(memory) / 2**20, 1),
        "service_files_most": max(files),
    }
    result["within_budget"] = (
        result["storm_goodput_share"] >= GOODPUT_SHARE
        and served["p99"] <= SERVED_P99_MS
        and refused["p99"] <= REFUSED_P99_MS
        and 0 <= result["recovered_s"] <= RECOVERED_S
        and is_right(result)
    )
    return result, rows


def row(name: str, phase: Phase) -> list[object]:
    served, refused = phase.served_ms(), phase.refused_ms()
    figures = (
        f"{phase.rate_per_s:.0f}",
        f"{phase.goodput():.0f}",
        f"{served['p50']:.0f}",
        f"{served['p99']:.0f}",
        f"{1 - phase.share():.0%}",
        f"{refused['p50']:.1f}",
        f"{refused['p99']:.1f}",
        f"{phase.generator_share:.2f}",
    )
    return [name, *figures]


HEADS = ("phase", "due/s", "in time/s", "p50 ms", "p99 ms", "refused", "refusal p50 ms", "p99 ms", "generator, cores")


def is_right(found: dict[str, Any]) -> bool:
    """No acknowledged send lost or doubled, and every request answered as it should be."""
    return not (found["amiss"] or found["lost"] or found["doubled"] or found["numbering_broken"])


def written(found: dict[str, Any], rows: list[list[object]], storm_s: float) -> str:
    """The section for people."""
    mix = ", ".join(f"{kind} {share} %" for kind, share in found["mix"].items())
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in found["storm_served_share_by_kind"].items())
    cores = ", ".join(f"{name} {share}" for name, share in found["cores_storm"].items())
    recovered = found["recovered_s"]
    back = f"within {recovered:.0f} s of its end" if recovered >= 0 else "not again while it was measured"
    return f"""
{found["people"]} people with direct conversations and groups: {mix}. Requests fall due by a Poisson schedule that
waits for nobody, and latency counts from there. In time is within {DEADLINE_MS / 1000:.0f} s; the storm lasts
{storm_s:.0f} s.

{table(HEADS, rows)}

- In the storm {found["storm_goodput_share"]:.0%} of the peak is served in time. Of what was asked: {kinds}.
- After it, answers are as quick as without load {back}.
- In it, health and preflight were answered within {found["health_worst_ms"]:.0f} ms.
- Of {found["acknowledged"]} acknowledged sends {found["lost"]} are missing and {found["doubled"]} doubled.
  Requests that ended otherwise than served, or refused with `Retry-After`: {found["amiss"] or "none"}.
- Cores in use in the storm and after it: {cores}; that of the generator, on the same machine, is in the table.
- At the most the generator had {found["connections_most"]} connections (of {CONNECTIONS_MAX}), the service
  {found["service_memory_most_mib"]:.0f} MiB and {found["service_files_most"]} open files.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the storm lasts")
    chosen = parser.parse_args()
    with world() as here:
        found, rows = uvloop.run(measure(here, here.crowd(chosen.people), chosen.seconds))
    write_section("load", written(found, rows, chosen.seconds))
    finish(found)
    sys.exit(0 if is_right(found) else 1)


if __name__ == "__main__":
    main()
