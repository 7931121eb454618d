"""Which faults, in which order, to whom and how long: drawn from a seed. And how each is done to the parts."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from chaos.parts import DATA_API, POSTGRES, REALTIME, SERVICES, Parts
from chaos.people import World

CALM_S = (0.5, 4.5)  # between two episodes, after the people were served again
TWO_AT_ONCE = 0.2
LONG = 0.06  # of the stops and silences outlast the deadlines of clients and service
LONG_S = (9.0, 12.0)
RECOVERY_MAX_S = 120.0  # then something is wrong that does not get over by itself
VICTIMS = (POSTGRES, POSTGRES, DATA_API, DATA_API, REALTIME, *SERVICES)
LINKS = (
    "clients - service 1", "clients - service 2", "service - data api", "service - data api", "data api - postgres",
    "data api - postgres", "data api - realtime", "realtime - postgres", "devices - data api",
)  # fmt: skip
# kind -> whom it befalls, and how long it lasts
KINDS: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "kill": (VICTIMS, (0.0, 1.2)),  # the process and its children
    "kill one": ((POSTGRES,), (0.0, 0.0)),  # one backend or helper: Postgres ends all and recovers
    "orphan": ((POSTGRES,), (0.0, 0.5)),  # the postmaster alone: its children find out
    "stop": (VICTIMS, (0.3, 4.0)),
    "stop one": ((POSTGRES,), (0.3, 4.0)),  # one backend, with whatever it has locked
    "refuse": (LINKS, (0.2, 3.0)),  # connections break, new ones are refused
    "cut": (LINKS, (0.0, 0.0)),  # connections break, new ones may be made
    "lose answers": (LINKS, (0.2, 1.5)),  # what was asked is done, and nobody learns of it
    "freeze": (LINKS, (0.3, 4.0)),
    "slow": (LINKS, (1.0, 5.0)),
    "throttle": (LINKS, (1.0, 5.0)),
}
# More of what loses the most.
WEIGHTS = {"kill": 5, "stop": 3, "refuse": 2, "cut": 3, "lose answers": 4, "freeze": 2, "slow": 2}
SLOW_S = (0.02, 0.4)
THROTTLE_BYTES_PER_S = (5_000, 100_000)


@dataclass(frozen=True)
class Fault:
    """What befalls whom for how long; `amount` is a share that the kind makes something of."""

    kind: str
    victim: str
    seconds: float
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.victim} {self.seconds:.2f} s"


@dataclass(frozen=True)
class Episode:
    """Faults that begin together, and the calm after the last of them was got over."""

    faults: tuple[Fault, ...]
    calm_s: float


def schedule(seed: int) -> Iterator[Episode]:
    """The same for the same seed, without end. When exactly each strikes is the machine's affair."""
    chance = random.Random(f"faults {seed}")
    kinds = list(KINDS)
    while True:
        faults = []
        for _ in range(2 if chance.random() < TWO_AT_ONCE else 1):
            kind = chance.choices(kinds, [WEIGHTS.get(kind, 1) for kind in kinds])[0]
            victims, lasts = KINDS[kind]
            long = kind in ("stop", "stop one", "freeze") and chance.random() < LONG
            faults.append(
                Fault(kind, chance.choice(victims), chance.uniform(*(LONG_S if long else lasts)), chance.random())
            )
        yield Episode(tuple(faults), chance.uniform(*CALM_S))


async def befall(parts: Parts, fault: Fault) -> None:
    """Do it, wait, undo it."""
    if fault.kind in ("kill", "kill one", "orphan", "stop", "stop one"):
        await _to_process(parts, fault)
        return
    link = parts.links[fault.victim]
    try:
        match fault.kind:
            case "refuse":
                link.refuse()
                link.cut()
            case "cut":
                link.cut()
            case "lose answers":
                link.loses_answers = True
            case "freeze":
                link.freeze()
            case "slow":
                link.delay_s = _between(SLOW_S, fault.amount)
            case "throttle":
                link.bytes_per_s = _between(THROTTLE_BYTES_PER_S, fault.amount)
        await asyncio.sleep(fault.seconds)
    finally:
        await link.mend()


async def _to_process(parts: Parts, fault: Fault) -> None:
    family = parts.family(fault.victim)
    chosen = family
    if fault.kind == "orphan":
        chosen = family[:1]
    elif fault.kind in ("kill one", "stop one"):
        chosen = family[1:][int(fault.amount * len(family[1:])) :][:1]
    try:
        if fault.kind.startswith("stop"):
            parts.stop(chosen)
        else:
            parts.kill(fault.victim, chosen)
        await asyncio.sleep(fault.seconds)
    finally:
        parts.resume(chosen)
        parts.release(fault.victim)


def _between(bounds: tuple[float, float], share: float) -> float:
    low, high = bounds
    return low + (high - low) * share


@dataclass
class Storm:
    """Episode after episode until it is over, and how long people waited afterwards."""

    parts: Parts
    world: World
    seed: int
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by kind and victim
    done: Counter[str] = field(default_factory=Counter)  # by kind
    log: list[str] = field(default_factory=list)
    stuck: str | None = None

    async def rage(self) -> None:
        """Ends when the world does, or when people are not served any more although nothing is wrong."""
        began_s = time.monotonic()
        for episode in schedule(self.seed):
            if self.world.over.is_set():
                return
            names = " + ".join(map(str, episode.faults))
            at_s = time.monotonic() - began_s
            await asyncio.gather(*(befall(self.parts, fault) for fault in episode.faults))
            waited_s = await self._served_again()
            self.log.append(f"{at_s:8.2f} s  {names}: served again after {waited_s} s")
            if waited_s is None:
                if not self.world.over.is_set():
                    self.stuck = f"nobody was served for {RECOVERY_MAX_S:.0f} s after {names}"
                    self.world.over.set()
                return
            for fault in episode.faults:
                self.done[fault.kind] += 1
                self.recovery_s[f"{fault.kind} {fault.victim}"].append(waited_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(episode.calm_s):
                    await self.world.over.wait()

    async def _served_again(self) -> float | None:
        served = asyncio.create_task(self.world.served_again(time.monotonic(), RECOVERY_MAX_S))
        over = asyncio.create_task(self.world.over.wait())
        await asyncio.wait({served, over}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not served.done():
            served.cancel()
            return None
        return served.result()
