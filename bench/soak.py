"""`make soak`: ten minutes at half of what the whole stack can serve, with a burst in each, and nothing may grow.

Memory and open file descriptors of the service are looked at every second and compared after a warm-up of a quarter of
the time: the slope of a straight line through all of them, and the median of the first and of the last quarter. Bursts
of twice the peak fill every queue and every place, so what leaks with a refusal leaks here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import uvloop

from bench.crowd import MIX, Crowd, Phase, Watch, World, settle_memory, world
from bench.report import finish, table, write_section
from stack.console import say, step

PEOPLE = 600
MINUTES = 10.0
LOOP_AT_ONCE, LOOP_S = 32, 8.0
CALM, BURST = 0.5, 2.0
CALM_S, BURST_S = 25.0, 5.0
EVERY_S = 1.0
WARM_UP = 0.25
# What an allocator that is handed back and forth may still take; a leak of 100 bytes a request is more than that.
GROWTH_BYTES_MAX = 8 * 2**20
GROWTH_SHARE_MAX = 0.08
# Kept connections of the crowd come and go.
GROWTH_FILES_MAX = 20


def trend(samples: list[tuple[float, int]], began: float) -> dict[str, float]:
    """Slope a minute, and medians of the first and last quarter, of what came after the warm-up."""
    ends = samples[-1][0]
    kept = [(at, value) for at, value in samples if at >= began + WARM_UP * (ends - began)]
    slope = statistics.linear_regression([at for at, _ in kept], [value for _, value in kept]).slope
    quarter = max(1, len(kept) // 4)
    first, last = (statistics.median(value for _, value in part) for part in (kept[:quarter], kept[-quarter:]))
    return {"slope_per_minute": slope * 60, "first": first, "last": last, "most": max(value for _, value in samples)}


def mib(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value / 2**20, 2) for name, value in found.items()}


async def measure(here: World, crowd: Crowd, minutes: float) -> dict[str, Any]:
    with step(f"{len(crowd.people)} people begin to write to each other"):
        await crowd.set_up()
    with here.database() as database:
        database.execute("vacuum analyze")
    settle_memory()
    with step("How much the stack can serve"):
        peak = await crowd.closed_loop(LOOP_AT_ONCE, LOOP_S)
    rounds = max(2, round(minutes * 60 / (CALM_S + BURST_S)))
    phases: list[Phase] = []
    async with Watch(here.pid("service"), EVERY_S) as service, Watch(here.pid("data API"), EVERY_S) as data_api:
        began = time.perf_counter()
        for number in range(rounds):
            calm, burst = await crowd.offer((CALM * peak, CALM_S), (BURST * peak, BURST_S))
            phases += [calm, burst]
            _, memory, files = service.samples[-1]
            say(
                f"{number + 1:>3} of {rounds}: {calm.goodput():.0f}/s served in time,"
                f" p99 {calm.served_ms()['p99']:.0f} ms; burst: {burst.goodput():.0f}/s,"
                f" {1 - burst.share():.0%} refused; service: {memory / 2**20:.1f} MiB, {files} open files"
            )
    await crowd.settle()
    found = here.check(crowd)
    amiss: dict[str, int] = {}
    for phase in phases:
        for name, count in phase.amiss().items():
            amiss[name] = amiss.get(name, 0) + count
    memory_of = trend([(at, value) for at, value, _ in service.samples], began)
    files_of = trend([(at, count) for at, _, count in service.samples], began)
    grown, files_grown = memory_of["last"] - memory_of["first"], files_of["last"] - files_of["first"]
    calm_first, calm_last = phases[0], phases[-2]
    return {
        "bench": "soak",
        "minutes": round((CALM_S + BURST_S) * rounds / 60, 1),
        "people": len(crowd.people),
        "requests": sum(len(phase.outcomes) for phase in phases),
        "served": sum(each.served for phase in phases for each in phase.outcomes),
        "refused_in_bursts": sum(each.refused for phase in phases[1::2] for each in phase.outcomes),
        "refused_between": sum(each.refused for phase in phases[::2] for each in phase.outcomes),
        "amiss": amiss,
        **found,
        "served_ms_first": calm_first.served_ms(),
        "served_ms_last": calm_last.served_ms(),
        "memory_mib": mib(memory_of),
        "files": {name: round(value, 2) for name, value in files_of.items()},
        "data_api_memory_mib": mib(trend([(at, value) for at, value, _ in data_api.samples], began)),
        "flat": grown <= max(GROWTH_BYTES_MAX, GROWTH_SHARE_MAX * memory_of["first"])
        and files_grown <= GROWTH_FILES_MAX,
    }


def written(found: dict[str, Any]) -> str:
    """The section for people."""
    heads = ("", "first quarter", "last quarter", "slope a minute", "most")
    rows = [
        [name, *(f"{of[key]:.1f}" for key in ("first", "last", "slope_per_minute", "most"))]
        for name, of in (
            ("memory of the service, MiB", found["memory_mib"]),
            ("its open files", found["files"]),
            ("memory of the data API, MiB", found["data_api_memory_mib"]),
        )
    ]
    mix = ", ".join(f"{kind} {share} %" for kind, share in MIX.items())
    first, last = found["served_ms_first"], found["served_ms_last"]
    return f"""
{found["minutes"]:.0f} minutes, {found["people"]} people ({mix}): by turns {CALM_S:.0f} s at half of what a closed loop
of {LOOP_AT_ONCE} manages and {BURST_S:.0f} s at twice that. Medians; the first {WARM_UP:.0%} of the
time does not count.

{table(heads, rows)}

- Of {found["requests"]} requests {found["served"]} were served, {found["refused_in_bursts"]} turned away in the bursts
  and {found["refused_between"]} between them. Anything else: {found["amiss"] or "none"}.
- Between the bursts: p50 {first["p50"]:.0f} ms, p99 {first["p99"]:.0f} ms at the beginning, {last["p50"]:.0f} ms and
  {last["p99"]:.0f} ms at the end.
- Of {found["acknowledged"]} acknowledged sends {found["lost"]} are missing and {found["doubled"]} doubled.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    chosen = parser.parse_args()
    with world() as here:
        found = uvloop.run(measure(here, here.crowd(chosen.people), chosen.minutes))
    write_section("soak", written(found))
    finish(found)
    wrong = found["amiss"] or found["lost"] or found["doubled"] or found["numbering_broken"] or not found["flat"]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
