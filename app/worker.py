"""The worker, `python -m app.worker`: takes sent messages to an outside classifier and brings back what it says.

docs/classifier.md is the contract with the classifier. What a verdict does, how often a message is tried and what
becomes of one that cannot be classified is decided in SQL; the worker only carries. It keeps nothing: a message is
leased to it, and when it dies the lease runs out and another worker gets the message.
"""

import asyncio
import math
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from postgrest import APIError

from app import log, settings
from app.pool import Lost, Pool, TooLarge, Unreadable, origin_and_target
from app.service_role import Away, ServiceRole
from app.settings import WorkerSettings

T = TypeVar("T")

# The largest honest answer: four members, of which two are texts of 64 characters.
ANSWER_BYTES_MAX = 16 * 1024
# Hosted Supabase ends a statement of `service_role` after 8 s as well.
_DATA_API_TIMEOUT_S = 10.0
# Beside the classifier's own deadline: the claim's way here, and three times the verdict's way back.
_LEASE_MARGIN_S = 4 * _DATA_API_TIMEOUT_S
# An idle worker looks at an empty index this often; the first look after work comes at once.
_IDLE_S = (0.05, 1.0)
_AWAY_S = (0.5, 15.0)


class Job(Struct, frozen=True, rename="camel"):
    """One leased message, as public.claim_classifications hands it out."""

    lease: str
    attempt: int
    reason: Literal["created", "edited"]
    message_id: str
    event_seq: int
    conversation_id: str
    from_user_id: str
    gig_id: str | None
    body: str
    created_at: str


class Question(Struct, frozen=True, rename="camel"):
    """What the classifier is asked; the same bytes at every attempt."""

    message_id: str
    event_seq: int
    reason: str
    conversation_id: str
    from_user_id: str
    gig_id: str | None
    body: str
    created_at: str


class Verdict(Struct, frozen=True):
    """What the classifier answers; members we do not know are ignored."""

    action: Literal["allow", "warn", "hide", "review"]
    label: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    model: Annotated[str, Meta(max_length=64)] | None = None

    def __post_init__(self) -> None:
        if self.action == "warn" and self.label is None:
            raise ValueError("a warning needs a label")


class _Claim(Struct, frozen=True):
    jobs: list[Job]


class _Settled(Struct, frozen=True):
    result: str


_decode_verdict = msgspec.json.Decoder(Verdict).decode


class Unusable(Exception):
    """The classifier gave no verdict; the message is one word, and never what it answered."""


class Refused(Exception):
    """SQL does not accept this verdict, by rules that only it knows."""


class Classifier:
    """The outside world: one bounded question at a time, and nothing it answers is believed."""

    def __init__(self, config: WorkerSettings) -> None:
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        if config.classifier_token is not None:
            headers["authorization"] = f"Bearer {config.classifier_token}"
        origin, self._target = origin_and_target(config.classifier_url)
        self._timeout_s = config.classifier_timeout_s
        self._pool = Pool(origin, headers, ANSWER_BYTES_MAX)

    def close(self) -> None:
        self._pool.close()

    async def ask(self, job: Job) -> Verdict:
        """Ask about one message. Errors: Unusable."""
        question = Question(*(getattr(job, name) for name in Question.__struct_fields__))
        headers = {"idempotency-key": f"{job.message_id}:{job.event_seq}"}
        body = msgspec.json.encode(question)
        try:
            answer = await self._pool.request("POST", self._target, headers, body, self._timeout_s)
        except TimeoutError:
            raise Unusable("timeout") from None
        except Lost:
            raise Unusable("unreachable") from None
        except TooLarge:
            raise Unusable("too_large") from None
        except Unreadable:
            raise Unusable("broken") from None
        if answer.status != 200:
            raise Unusable(f"status_{answer.status}")
        if answer.headers.get(b"content-encoding", b"identity") != b"identity":
            raise Unusable("encoded")
        try:
            return _decode_verdict(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unusable("not_a_verdict") from None


class Queue:
    """The functions of the data API that hand out messages and take verdicts."""

    def __init__(self, config: WorkerSettings) -> None:
        self._lease_s = math.ceil(config.classifier_timeout_s + _LEASE_MARGIN_S)
        self._service = ServiceRole(config.supabase_url, config.supabase_secret_key, _DATA_API_TIMEOUT_S)

    async def close(self) -> None:
        await self._service.close()

    async def claim(self, limit: int) -> list[Job]:
        """At most `limit` messages, leased to us. Errors: Away."""
        claim = await self._call("claim_classifications", {"p_limit": limit, "p_lease_s": self._lease_s}, _Claim)
        return claim.jobs

    async def finish(self, job: Job, verdict: Verdict) -> str:
        """Do what the classifier said; answers SQL's word for what became of it. Errors: Away, Refused."""
        return await self._settle("finish", job, p_outcome=msgspec.to_builtins(verdict))

    async def fail(self, job: Job, error: str) -> str:
        """Note a failed attempt, in the same way."""
        return await self._settle("fail", job, p_error=error)

    async def release(self, job: Job) -> str:
        """Give a message back that nobody was asked about."""
        return await self._settle("release", job)

    async def _settle(self, what: str, job: Job, **params: Any) -> str:
        told = {"p_message_id": job.message_id, "p_lease": job.lease, **params}
        settled = await self._call(f"{what}_classification", told, _Settled)
        return settled.result

    async def _call(self, name: str, params: dict[str, Any], shape: type[T]) -> T:
        try:
            return await self._service.rpc(name, params, shape)
        except APIError as error:
            code = error.code or ""
        if code == "PT400":
            raise Refused("refused")
        # The code is a SQLSTATE or PostgREST's own word; anything else is a gateway's, and may be anything.
        raise Away(f"code_{code}" if code.isalnum() and len(code) <= 8 else "unusable")


class Worker:
    """Claims what is due, a bounded number at a time, until it is told to stop."""

    def __init__(self, config: WorkerSettings, queue: Queue, classifier: Classifier) -> None:
        self._concurrency = config.worker_concurrency
        self._queue = queue
        self._classifier = classifier
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._away: str | None = None

    def stop(self) -> None:
        """Claim nothing more, finish what is under way, and let `run` return."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`. Survives the absence of the data API and of the classifier."""
        stopping = asyncio.create_task(self._stopping.wait())
        idle_s, away_s = _IDLE_S[0], _AWAY_S[0]
        while not self._stopping.is_set():
            free = self._concurrency - len(self._under_way)
            if not free:
                await asyncio.wait({stopping, *self._under_way}, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                jobs = await self._queue.claim(free)
            except (Away, Refused) as error:
                self._note(str(error))
                await asyncio.wait({stopping}, timeout=_jittered(away_s))
                away_s = min(2 * away_s, _AWAY_S[1])
                continue
            self._note(None)
            away_s = _AWAY_S[0]
            if self._stopping.is_set():
                await asyncio.gather(*(self._give_back(job) for job in jobs))
                break
            for job in jobs:
                task = asyncio.create_task(self._work(job))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            idle_s = _IDLE_S[0] if jobs else min(2 * idle_s, _IDLE_S[1])
            if len(jobs) < free:
                await asyncio.wait({stopping}, timeout=_jittered(idle_s))
        stopping.cancel()
        await asyncio.gather(*self._under_way)

    async def _work(self, job: Job) -> None:
        """Take one message there and the verdict back. What goes wrong here ends with the lease, and is tried again."""
        try:
            await self._classify(job)
        except Away as error:
            log.warning("verdict_undelivered", message_id=job.message_id, error=str(error))
        except Exception as error:
            log.unexpected(error)

    async def _classify(self, job: Job) -> None:
        began_s = time.monotonic()
        try:
            verdict = await self._classifier.ask(job)
            result = await self._deliver(lambda: self._queue.finish(job, verdict), began_s)
        except (Unusable, Refused) as error:
            word = str(error)
            result = await self._deliver(lambda: self._queue.fail(job, word), began_s)
            log.warning("not_classified", message_id=job.message_id, attempt=job.attempt, error=word, result=result)
            return
        log.info(
            "classified",
            message_id=job.message_id,
            event_seq=job.event_seq,
            attempt=job.attempt,
            action=verdict.action,
            result=result,
            total_ms=round((time.monotonic() - began_s) * 1000, 2),
        )

    async def _deliver(self, call: Callable[[], Awaitable[str]], began_s: float) -> str:
        """Repeat a call while the data API is away and the lease holds; one try is enough for who is to stop."""
        pause_s = _AWAY_S[0]
        while True:
            try:
                return await call()
            except Away:
                if self._stopping.is_set() or time.monotonic() + pause_s > began_s + _LEASE_MARGIN_S:
                    raise
            await asyncio.sleep(_jittered(pause_s))
            pause_s *= 2

    async def _give_back(self, job: Job) -> None:
        try:
            await self._queue.release(job)
        except (Away, Refused):
            log.warning("lease_kept", message_id=job.message_id)

    def _note(self, away: str | None) -> None:
        """Say once when the data API goes away, and once when it is back."""
        if away is not None and away != self._away:
            log.warning("data_api_away", error=away)
        elif away is None and self._away is not None:
            log.info("data_api_back")
        self._away = away


def _jittered(pause_s: float) -> float:
    # Many workers that lost the same server must not come back in step. No secret depends on it.
    return pause_s * random.uniform(0.75, 1.25)  # noqa: S311


async def _serve(config: WorkerSettings) -> None:
    queue, classifier = Queue(config), Classifier(config)
    worker = Worker(config, queue, classifier)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, worker.stop)
    log.info("worker_started", concurrency=config.worker_concurrency)
    try:
        await worker.run()
    finally:
        classifier.close()
        await queue.close()
    log.info("worker_stopped")


if __name__ == "__main__":
    try:
        _config = settings.read(WorkerSettings)
    except settings.SettingsError as _error:
        raise SystemExit(f"settings: {_error}") from None
    log.configure()
    asyncio.run(_serve(_config))
