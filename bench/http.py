"""`make bench`: our send, inbox and history beside what others write, upstream answering at once; then what we add.

Side by side: ours as shipped, Litestar answering a constant, a Next.js route handler (zod, jose, supabase-js, built for
production) and FastAPI with supabase-py. Each is one process on a core of its own; the load generator and the upstream
share the rest. In every round each peer is asked for a while by CONNECTIONS connections that wait for their answers.
Every answer is read: its status and body must be what was meant, and the upstream must have been asked for each. Memory
is what the process holds at the end; processor time and memory include children.

Added latency: a throw-away cluster, the data API, our service; one client asks the data API's function and our route
in turn. The median of the pairs' differences is what we add.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import psycopg
import uvloop

from bench import closedloop
from bench.peers import install
from bench.peers.upstream import CONVERSATION, FUNCTIONS, KEY, MEANT, PAGE, PEOPLE
from bench.report import cpu_s, finish, memory_bytes, summary, table, write_section
from stack import dataapi
from stack.console import StackError, say, step
from stack.places import ROOT
from stack.processes import Ledger, Process, free_port
from stack.scratch import TEMPLATE, Scratch, scratch_directory, sweep

ROUNDS = 5
SECONDS = 1.5
CONNECTIONS = 16
PAIRS = 150
# Before a peer's first turn of a kind, and before the first pair that counts.
WARM_COUNT, WARM_S = 2000, 4.0
WARM = 10
# Budgets: requests/s against Next.js, processor time against the constant, added latency in share or milliseconds.
RPS_MIN, CPU_MAX, ADDED_SHARE, ADDED_MS = 8.0, 2.5, 0.15, 0.5
SECRET = "only-for-measuring-and-longer-than-32-bytes"  # noqa: S105
PUBLISHABLE_KEY = "sb_publishable_for_measuring"
NAMES = {"ours": "ours", "constant": "Litestar, constant", "nextjs": "Next.js 15", "fastapi": "FastAPI"}
READY_S = 60.0
TEXT = MEANT["send"]["message"]["body"]


@dataclass(frozen=True)
class Kind:
    """One thing that is asked for."""

    method: str
    path: str
    status: int
    body: bytes = b""


KINDS = {
    "send": Kind(
        "POST",
        "/api/messages/send",
        201,
        json.dumps({"conversationId": CONVERSATION, "body": TEXT, "clientMessageId": KEY}).encode(),
    ),
    "inbox": Kind("GET", "/api/messages/conversations?limit=30", 200),
    "history": Kind("GET", f"/api/messages/conversations/{CONVERSATION}/messages?limit=30", 200),
}


@dataclass
class Figures:
    """What one peer did in all rounds of one kind."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    memory_mib: float = 0.0


def cores() -> tuple[set[int], set[int]]:
    """For the server under test, and for everything else; both empty where processes cannot be pinned."""
    if not hasattr(os, "sched_setaffinity") or len(usable := sorted(os.sched_getaffinity(0))) < 2:
        return set(), set()
    return {usable[0]}, set(usable[1:])


def pinned(to: set[int]) -> Mapping[str, Any]:
    """For Popen: stay on these cores."""
    return {"preexec_fn": lambda: os.sched_setaffinity(0, to)} if to else {}


def family(pid: int) -> list[int]:
    """A process and its descendants, as far as /proc tells."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def commands(port: int, upstream: str, chosen: Sequence[str]) -> dict[str, tuple[list[str], Path, dict[str, str]]]:
    """How each peer is started: command line, directory, environment."""
    project = {
        "SUPABASE_URL": upstream,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": SECRET,
        # The quietest way Next.js and the clients can be run, and no way out for them.
        "NEXT_TELEMETRY_DISABLED": "1",
        "NODE_ENV": "production",
    }
    made: dict[str, Callable[[], tuple[list[str], Path]]] = {
        "ours": lambda: ([sys.executable, "-m", "app", "serve"], ROOT),
        "constant": lambda: ([sys.executable, "-m", "bench.peers.constant", str(port)], ROOT),
        "nextjs": lambda: (install.nextjs_command(port), install.NEXTJS),
        "fastapi": lambda: (install.fastapi_command(port), install.PEERS),
    }
    # Ours counts requests of a person; the others do not count at all.
    ours = {"HOST": "127.0.0.1", "PORT": str(port), "PERSON_REQUESTS_PER_MINUTE": "1000000"}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {name: (*made[name](), {**kept, **project, **(ours if name == "ours" else {})}) for name in chosen}


def claims(issuer: str, person: str) -> dict[str, Any]:
    """An hour for one person."""
    who = {"iss": issuer, "sub": person, "role": "authenticated", "aud": "authenticated"}
    return {**who, "exp": int(time.time()) + 3600}


def requests_of(kind: Kind, url: str, tokens: Sequence[str]) -> list[bytes]:
    """One request for each person."""
    told = [{"authorization": f"Bearer {one}", "accept": "application/json"} for one in tokens]
    return [closedloop.request(url, kind.method, kind.path, headers, kind.body) for headers in told]


def asked(upstream: str) -> dict[str, int]:
    """How often the upstream was asked, by kind."""
    with urllib.request.urlopen(f"{upstream}/asked", timeout=10) as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


async def turn(
    name: str, kind: str, url: str, upstream: str, pid: int, tokens: Sequence[str], seconds: float, first: bool
) -> tuple[float, float, list[float]]:
    """One peer's turn: requests/s, microseconds of processor per request, how long each took in milliseconds."""
    what = KINDS[kind]
    askers = await closedloop.connect(url, requests_of(what, url, tokens), what.status, MEANT[kind])
    try:
        # Connections, tokens and what a compiler learns at run time are warm when the clock starts.
        answered, until_s = 0, time.perf_counter() + WARM_S
        while answered < (WARM_COUNT if first else 1) and time.perf_counter() < until_s:
            answered += len(await closedloop.ask_for(askers, min(0.3, seconds)))
        everybody, before = family(pid), asked(upstream)[kind]
        gc.collect()
        used_s, began_s = sum(map(cpu_s, everybody)), time.perf_counter()
        took_s = await closedloop.ask_for(askers, seconds)
        wall_s, used_s = time.perf_counter() - began_s, sum(map(cpu_s, everybody)) - used_s
        calls = asked(upstream)[kind] - before
    except closedloop.Wrong as error:
        raise StackError(f"{NAMES[name]} answers {kind} wrongly: {error}") from None
    finally:
        for asker in askers:
            asker.close()
    if calls != (0 if name == "constant" else len(took_s)):
        raise StackError(f"{NAMES[name]} asked the upstream {calls} times for {len(took_s)} answers of {kind}.")
    return len(took_s) / wall_s, used_s * 1e6 / len(took_s), [one * 1000 for one in took_s]


def side_by_side(peers: Sequence[str], rounds: int, seconds: float) -> dict[str, dict[str, Figures]]:
    """All peers in turn, for every kind: figures by kind and peer."""
    sweep()
    directory = scratch_directory()
    ledger = Ledger(directory / "processes.json")
    tested, others = cores()
    port = free_port()
    upstream = f"http://127.0.0.1:{port}"
    tokens = [jwt.encode(claims(f"{upstream}/auth/v1", one), SECRET, "HS256") for one in PEOPLE[:CONNECTIONS]]
    figures = {kind: {name: Figures() for name in peers} for kind in KINDS}
    usual = os.sched_getaffinity(0) if others else set()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)

        def start(name: str, argv: Sequence[str], at: int, to: set[int], cwd: Path, env: Mapping[str, str]) -> int:
            log = directory / f"{name.split(' ')[0]}.log"
            process = Process(name, argv, log=log, ledger=ledger, env=env, cwd=cwd, popen=pinned(to))
            stack.callback(process.stop)
            process.start()
            process.wait_until(lambda: listens(at), READY_S)
            return process.pid or 0

        started: dict[str, tuple[str, int]] = {}
        start("upstream", [sys.executable, "-m", "bench.peers.upstream", str(port)], port, others, ROOT, os.environ)
        for name in peers:
            at = free_port()
            argv, cwd, env = commands(at, upstream, [name])[name]
            started[name] = f"http://127.0.0.1:{at}", start(name, argv, at, tested, cwd, env)
        if others:
            os.sched_setaffinity(0, others)
            stack.callback(os.sched_setaffinity, 0, usual)
        for kind in KINDS:
            with step(f"{kind}: {rounds} rounds of {len(peers)} peers, {seconds} s each"):
                for round_ in range(rounds):
                    # Whoever comes after somebody comes before them in the next round.
                    for name in peers if round_ % 2 == 0 else reversed(peers):
                        url, pid = started[name]
                        per_s, cpu_us, took_ms = uvloop.run(
                            turn(name, kind, url, upstream, pid, tokens, seconds, round_ == 0)
                        )
                        of = figures[kind][name]
                        of.per_s.append(per_s)
                        of.cpu_us.append(cpu_us)
                        of.took_ms += took_ms
                        of.memory_mib = sum(map(memory_bytes, family(pid))) / 2**20
    return figures


def listens(port: int) -> bool:
    """Whether somebody answers there, whatever it is."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


# By kind: how long the data API's function took, and our route, pair by pair, in milliseconds.
Added = dict[str, tuple[list[float], list[float]]]


def added(pairs: int) -> Added:
    """Ask both in turn on a throw-away stack."""
    with ExitStack() as stack:
        with step("Starting a throw-away stack"):
            scratch = stack.enter_context(Scratch())
        port, service_port = free_port(), free_port()
        url, service_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{service_port}"
        logs, keys = scratch.directory / "log", scratch.keys
        api = dataapi.data_api(scratch.cluster, TEMPLATE, scratch.project, keys, port, logs / "api.log", scratch.ledger)
        told = dataapi.client_environment(url, service_url, scratch.cluster.url(TEMPLATE), keys)
        service = dataapi.service(told, service_port, logs / "service.log", scratch.ledger)
        for process in (api, service):
            stack.callback(process.stop)
            process.start()
        api.wait_until(lambda: dataapi.data_api_ready(port, keys), READY_S)
        service.wait_until(lambda: dataapi.answers(f"{service_url}/health/ready"), READY_S)
        people = [str(uuid.uuid4()) for _ in range(PAGE + 2)]
        with psycopg.connect(scratch.cluster.url(TEMPLATE), autocommit=True) as database:
            database.execute(
                "insert into auth.users (id, aud, role, email)"
                " select u.id, 'authenticated', 'authenticated', u.id || '@example.com'"
                " from unnest(%s::uuid[]) as u (id)",
                (people,),
            )
            # Nobody's pace is what is measured.
            database.execute(
                "update private.settings set new_conversation_count_max = 500, first_contact_count_max = 500"
            )
        tokens = {one: keys.sign(claims(f"{url}/auth/v1", one)) for one in people}
        with step(f"{pairs} pairs of each: the data API directly, and through our service"):
            return uvloop.run(Pairs(url, service_url, keys.publishable_key, tokens).measure(pairs))


class Pairs:
    """One client with a connection to each that asks the data API and us in turn."""

    def __init__(self, url: str, service_url: str, key: str, tokens: dict[str, str]) -> None:
        self._url, self._service_url, self._key, self._tokens = url, service_url, key, tokens
        self._direct: closedloop.Asker
        self._ours: closedloop.Asker

    async def measure(self, pairs: int) -> Added:
        """All kinds, each for so many pairs after some that do not count."""
        (self._direct,) = await closedloop.connect(self._url, [b""], 0, None)
        (self._ours,) = await closedloop.connect(self._service_url, [b""], 0, None)
        reader, *others = self._tokens
        for other in others:
            # Not the other way round: who writes the same to many people waits for a moderator.
            await self._send(other, reader, "Shall we begin?", ours_first=True)
        for number in range(PAGE // 2):
            conversation = (await self._send(others[0], reader, f"{number}", ours_first=True))[2]
        found: Added = {kind: ([], []) for kind in KINDS}
        for number in range(-WARM, pairs):
            # A person's sends are counted, so many people take turns.
            one, other = others[number % len(others)], others[(number + 1) % len(others)]
            first = number % 2 == 0
            took = {
                "send": (await self._send(one, other, f"{number}: {TEXT}", first))[:2],
                "inbox": await self._read("inbox", reader, {"p_limit": PAGE}, KINDS["inbox"].path, first),
                "history": await self._read(
                    "history",
                    reader,
                    {"p_conversation_id": conversation, "p_limit": PAGE},
                    KINDS["history"].path.replace(CONVERSATION, conversation),
                    first,
                ),
            }
            for kind, (direct_ms, ours_ms) in took.items():
                if number >= 0:
                    found[kind][0].append(direct_ms)
                    found[kind][1].append(ours_ms)
        self._direct.close()
        self._ours.close()
        return found

    async def _send(self, one: str, other: str, text: str, ours_first: bool) -> tuple[float, float, str]:
        """Two messages, one in each way: milliseconds directly, through us, and their conversation."""
        function = {"p_conversation_id": None, "p_to_user_id": other, "p_gig_id": None, "p_body": text}
        function |= {"p_client_message_id": str(uuid.uuid4())}
        sent = {"toUserId": other, "body": text, "clientMessageId": str(uuid.uuid4())}
        (direct_ms, theirs), (ours_ms, answered) = await self._both(
            "send", one, function, KINDS["send"].path, json.dumps(sent).encode(), ours_first
        )
        if theirs["message"]["body"] != text or answered["message"]["body"] != text:
            raise StackError("A message was answered with another text.")
        return direct_ms, ours_ms, answered["message"]["conversationId"]

    async def _read(
        self, kind: str, person: str, function: dict[str, Any], path: str, ours_first: bool
    ) -> tuple[float, float]:
        (direct_ms, theirs), (ours_ms, answered) = await self._both(kind, person, function, path, b"", ours_first)
        if theirs != answered or len(next(iter(answered.values()))) != PAGE:
            raise StackError(f"Our service and the data API do not answer {kind} alike, or not with a page.")
        return direct_ms, ours_ms

    async def _both(
        self, kind: str, person: str, function: dict[str, Any], path: str, body: bytes, ours_first: bool
    ) -> tuple[tuple[float, Any], tuple[float, Any]]:
        bearer = {"authorization": f"Bearer {self._tokens[person]}", "accept": "application/json"}
        rpc = f"/rest/v1/rpc/{FUNCTIONS[kind]}"
        direct = closedloop.request(
            self._url, "POST", rpc, {**bearer, "apikey": self._key}, json.dumps(function).encode()
        )
        ours = closedloop.request(self._service_url, KINDS[kind].method, path, bearer, body)
        found = {}
        for own in (ours_first, not ours_first):
            asker, request, status = (self._ours, ours, KINDS[kind].status) if own else (self._direct, direct, 200)
            found[own] = await asker.once(request, status)
        return found[False], found[True]


def rows(figures: dict[str, dict[str, Figures]]) -> str:
    """One table for each kind."""
    parts = []
    for kind, by in figures.items():
        heads = (kind, "requests/s", "p50 ms", "p99 ms", "CPU/request", "memory", "against ours")
        lines = []
        for name, of in by.items():
            took = summary(of.took_ms)
            lines.append((
                NAMES[name], f"{statistics.median(of.per_s):,.0f}", f"{took['p50']:.2f}", f"{took['p99']:.2f}",
                f"{statistics.median(of.cpu_us):,.0f} us", f"{of.memory_mib:.0f} MiB",
                f"{ratio(by, 'per_s', name, 'ours'):.3g} x requests/s, {ratio(by, 'cpu_us', name, 'ours'):.3g} x CPU"
                if "ours" in by and name != "ours" else "",
            ))  # fmt: skip
        parts.append(table(heads, lines))
    return "\n\n".join(parts)


def ratio(by: dict[str, Figures], what: str, one: str, other: str) -> float:
    """The median over the rounds of one peer's figure against the other's in the same round."""
    pairs = zip(getattr(by[one], what), getattr(by[other], what), strict=True)
    return float(statistics.median(a / b for a, b in pairs if b))


def ratios(figures: dict[str, dict[str, Figures]], latencies: Added) -> dict[str, Any]:
    """What the budgets are about."""
    found: dict[str, Any] = {"bench": "http"}
    for kind, by in figures.items():
        for name in ("nextjs", "fastapi"):
            if {"ours", name} <= by.keys():
                found[f"{kind}_rps_vs_{name}"] = round(ratio(by, "per_s", "ours", name), 2)
        if {"ours", "constant"} <= by.keys():
            found[f"{kind}_cpu_vs_constant"] = round(ratio(by, "cpu_us", "ours", "constant"), 2)
    within = found.get("send_rps_vs_nextjs", RPS_MIN) >= RPS_MIN and found.get("send_cpu_vs_constant", 0) <= CPU_MAX
    for kind, (direct_ms, ours_ms) in latencies.items():
        added_ms = statistics.median(ours - direct for direct, ours in zip(direct_ms, ours_ms, strict=True))
        share = added_ms / statistics.median(direct_ms)
        found[f"{kind}_added_latency_ms"] = round(added_ms, 3)
        found[f"{kind}_added_latency_share"] = round(share, 3)
        within = within and (added_ms <= ADDED_MS or share <= ADDED_SHARE)
    return {**found, "within_budget": within}


def section(figures: dict[str, dict[str, Figures]], latencies: Added, found: dict[str, Any]) -> str:
    """The part of docs/performance.md."""
    parts = [
        f"Upstream answering at once, {CONNECTIONS} connections that wait for their answers, every answer read, each "
        "peer one process on a core of its own; generator and upstream share the rest. Medians over the rounds. Ours "
        "remembers verified tokens, limits pace and writes its log line; the constant decodes the same body, answers "
        "the same bytes, and does nothing else.",
        rows(figures),
    ]
    if latencies:
        lines = []
        for kind, (direct_ms, ours_ms) in latencies.items():
            direct, ours = summary(direct_ms), summary(ours_ms)
            added_ms, share = found[f"{kind}_added_latency_ms"], found[f"{kind}_added_latency_share"]
            lines.append((
                kind, f"{direct['p50']:.2f}", f"{ours['p50']:.2f}", f"{direct['p99']:.2f}", f"{ours['p99']:.2f}",
                f"{added_ms:.2f} ms, {share:.0%}",
            ))  # fmt: skip
        heads = ("embedded stack", "direct p50 ms", "ours p50 ms", "direct p99 ms", "ours p99 ms", "we add (median)")
        parts += [
            f"One client asks the data API's function and our route in turn, pages of {PAGE}; what we add is the "
            "median of the pairs' differences.",
            table(heads, lines),
        ]
    told = ", ".join(f"{name} {value}" for name, value in found.items() if name not in ("bench", "within_budget"))
    parts.append(
        f"Budgets: a send at {RPS_MIN:g} x the requests/s of Next.js or more, at {CPU_MAX:g} x the processor time of "
        f"the constant or less; added latency at most {ADDED_SHARE:.0%} or {ADDED_MS} ms. Found: {told}."
    )
    return "\n\n".join(parts)


def main() -> None:
    """Measure, write the page, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(NAMES), help="some of them, separated by commas")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each peer's turn")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="for added latency; 0 leaves that out")
    parser.add_argument("--dry", action="store_true", help="do not write docs/performance.md")
    chosen = parser.parse_args()
    peers = chosen.peers.split(",")
    if not set(peers) <= NAMES.keys() or chosen.rounds < 1:
        parser.error(f"peers are {', '.join(NAMES)}, and rounds at least 1")
    try:
        for name, prepare in (("nextjs", install.nextjs), ("fastapi", install.fastapi)):
            if name in peers:
                prepare()
        figures = side_by_side(peers, chosen.rounds, chosen.seconds)
        latencies = added(chosen.pairs) if chosen.pairs else {}
    except (StackError, closedloop.Wrong) as error:
        raise SystemExit(f"bench: {error}") from None
    found = ratios(figures, latencies)
    say("\n\n" + (text := section(figures, latencies, found)) + "\n")
    if not chosen.dry:
        write_section("http", text)
    finish(found)


if __name__ == "__main__":
    main()
