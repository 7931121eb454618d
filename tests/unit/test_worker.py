"""The worker against a classifier and a data API on bad days: a word for each, bounded, nothing lost, no text told."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import respx

from app import log, settings, worker
from app.settings import SettingsError, WorkerSettings, read
from app.worker import ANSWER_BYTES_MAX, Away, Classifier, Job, Queue, Refused, Unusable, Verdict, Worker
from tests.unit.fakes import ADA, CONVERSATION, MESSAGE, Asked, Script, always, http, upstream

LEASE = "0198c0de-0000-4000-8000-0000001ea5e0"
SECRET_WORDS = "meet me behind the bakery"
LEAST = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
    "CLASSIFIER_URL": "https://classifier.example/v1?tenant=7",
}


def job(number: int = 0, attempt: int = 1) -> Job:
    return Job(
        lease=LEASE, attempt=attempt, reason="created", message_id=MESSAGE[:-2] + f"{number:02x}", event_seq=3,
        conversation_id=CONVERSATION, from_user_id=ADA, gig_id=None, body=SECRET_WORDS,
        created_at="2026-03-01T09:30:00.123456Z",
    )  # fmt: skip


def config(**changes: Any) -> WorkerSettings:
    given = {
        "supabase_url": "http://127.0.0.1:1", "supabase_secret_key": "sb_secret_x",
        "classifier_url": "http://127.0.0.1:1/classify", "classifier_timeout_s": 5.0, "worker_concurrency": 2,
    }  # fmt: skip
    return WorkerSettings(**{**given, **changes})


@pytest.fixture(autouse=True)
def lines() -> Callable[[], list[dict[str, Any]]]:
    """Everything the worker logs in this test; none of it may hold a text or a label."""
    stream = io.BytesIO()
    log.configure(stream)

    def written() -> list[dict[str, Any]]:
        text = stream.getvalue().decode()
        assert "bakery" not in text and "Rude" not in text
        return [json.loads(line) for line in text.splitlines()]

    return written


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_IDLE_S", (0.001, 0.01))
    monkeypatch.setattr(worker, "_AWAY_S", (0.01, 0.02))


async def until(true: Callable[[], Any], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "never"
        await asyncio.sleep(0.002)


class TestSettings:
    def test_least(self) -> None:
        given = read(WorkerSettings, LEAST)
        assert given.classifier_url == "https://classifier.example/v1?tenant=7"
        assert (given.classifier_token, given.classifier_timeout_s, given.worker_concurrency) == (None, 5.0, 8)

    def test_all_are_documented(self) -> None:
        assert all(f"`{name.upper()}`" in settings.table() for name in WorkerSettings.__struct_fields__)

    def test_every_fault_is_named_at_once(self) -> None:
        wrong = {
            "SUPABASE_SECRET_KEY": "two words", "CLASSIFIER_URL": "classifier.example", "CLASSIFIER_TOKEN": "a\nb",
            "CLASSIFIER_TIMEOUT_S": "0", "WORKER_CONCURRENCY": "101",
        }  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            read(WorkerSettings, wrong)
        assert "SUPABASE_URL is missing" in str(caught.value)
        assert all(f"{name} is invalid" in str(caught.value) for name in wrong)
        assert "two words" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://x.example",
            "https://",
            "https://u:p@x.example/",
            "https://x.example/#part",
            "http://x:port/",
            "https://bücher.example/",
        ],
    )
    def test_an_address(self, url: str) -> None:
        with pytest.raises(SettingsError, match="CLASSIFIER_URL is invalid"):
            read(WorkerSettings, {**LEAST, "CLASSIFIER_URL": url})


@asynccontextmanager
async def asking(script: Script, **changes: Any) -> AsyncIterator[tuple[Classifier, Any]]:
    async with upstream(script) as up:
        classifier = Classifier(config(classifier_url=f"{up.url}/classify?v=1", **changes))
        try:
            yield classifier, up
        finally:
            classifier.close()


ALLOW = http(200, {"action": "allow"})


class TestQuestion:
    async def test_is_what_the_contract_says(self) -> None:
        async with asking(always(ALLOW), classifier_token="a-token") as (classifier, up):
            assert await classifier.ask(job()) == Verdict("allow")
            await classifier.ask(job(attempt=2))
        first, second = up.asked
        assert (first.method, first.path) == ("POST", "/classify?v=1")
        assert first.json == {
            "messageId": job().message_id, "eventSeq": 3, "reason": "created", "conversationId": CONVERSATION,
            "fromUserId": ADA, "gigId": None, "body": SECRET_WORDS, "createdAt": "2026-03-01T09:30:00.123456Z",
        }  # fmt: skip
        assert first.headers["idempotency-key"] == f"{job().message_id}:3"
        assert first.headers["authorization"] == "Bearer a-token"
        assert first.headers["accept-encoding"] == "identity"
        assert second.body == first.body and second.headers == first.headers, "attempts cannot be told apart"
        assert up.connections == 1

    async def test_no_token_no_header(self) -> None:
        async with asking(always(ALLOW)) as (classifier, up):
            await classifier.ask(job())
        assert "authorization" not in up.asked[0].headers

    async def test_keeps_no_cookies(self) -> None:
        answer = ALLOW.replace(b"\r\n\r\n", b"\r\nset-cookie: a=b; path=/\r\n\r\n", 1)
        async with asking(always(answer)) as (classifier, up):
            await classifier.ask(job())
            await classifier.ask(job())
        assert "cookie" not in up.asked[1].headers

    async def test_environment_proxies_are_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with asking(always(ALLOW)) as (classifier, _):
            assert await classifier.ask(job()) == Verdict("allow")


class TestAnswer:
    @pytest.mark.parametrize(
        ("answer", "verdict"),
        [
            ({"action": "hide"}, Verdict("hide")),
            ({"action": "warn", "label": "Rude", "score": 1, "model": "m"}, Verdict("warn", "Rude", 1.0, "m")),
            ({"action": "review", "label": None, "score": 0.5, "why": {"deep": [1]}}, Verdict("review", score=0.5)),
        ],
    )
    async def test_verdicts(self, answer: Any, verdict: Verdict) -> None:
        async with asking(always(http(200, answer, "text/plain"))) as (classifier, _):
            assert await classifier.ask(job()) == verdict

    @pytest.mark.parametrize(
        ("answer", "word"),
        [
            (http(200, {}), "not_a_verdict"),
            (http(200, {"action": "delete"}), "not_a_verdict"),
            (http(200, {"action": "warn"}), "not_a_verdict"),
            (http(200, {"action": "warn", "label": ""}), "not_a_verdict"),
            (http(200, {"action": "hide", "label": "x" * 65}), "not_a_verdict"),
            (http(200, {"action": "hide", "label": 7}), "not_a_verdict"),
            (http(200, {"action": "hide", "score": 1.5}), "not_a_verdict"),
            (http(200, {"action": "hide", "score": "0.5"}), "not_a_verdict"),
            (http(200, b'{"action": "hide", "score": NaN}'), "not_a_verdict"),
            (http(200, [{"action": "hide"}]), "not_a_verdict"),
            (http(200, b""), "not_a_verdict"),
            (http(200, b'{"action": "hi'), "not_a_verdict"),
            (http(200, b'{"action": "warn", "label": "\xff"}'), "not_a_verdict"),
            (http(200, b'{"action":' + b"[" * 10_000), "not_a_verdict"),
            (http(200, b"<html>welcome to our wifi</html>", "text/html"), "not_a_verdict"),
            (b"HTTP/1.1 204 No Content\r\n\r\n", "status_204"),
            (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "status_302"),
            (b"HTTP/1.1 307 Temporary\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "status_307"),
            (http(401, {}), "status_401"),
            (http(429, {"action": "allow"}), "status_429"),
            (http(500, b"oops"), "status_500"),
            (http(200, b" " * (ANSWER_BYTES_MAX + 1)), "too_large"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", "broken"),
            (b"this is not HTTP at all\r\n\r\n", "broken"),
            (ALLOW.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n", 1), "encoded"),
        ],
    )
    async def test_anything_else_is_one_word(self, answer: bytes, word: str) -> None:
        async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await writer.drain()

        async with asking(script) as (classifier, up):
            with pytest.raises(Unusable) as caught:
                await classifier.ask(job())
            assert str(caught.value) == word
            assert "/elsewhere" not in [asked.path for asked in up.asked]

    async def test_an_endless_answer_is_not_read_to_its_end(self) -> None:
        written = 0

        async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                await writer.drain()
                written += 0x10000

        async with asking(script) as (classifier, _):
            with pytest.raises(Unusable, match="too_large"):
                await classifier.ask(job())
        assert written < 20_000_000, "what fits into the sockets' buffers"

    @pytest.mark.parametrize("dripping", [False, True])
    async def test_the_deadline_covers_everything(self, dripping: bool) -> None:
        async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n" if dripping else b"")
            while True:
                writer.write(b" " if dripping else b"")
                await asyncio.sleep(0.02)

        async with asking(script, classifier_timeout_s=0.2) as (classifier, _):
            began = time.monotonic()
            with pytest.raises(Unusable, match="timeout"):
                await classifier.ask(job())
            assert 0.1 < time.monotonic() - began < 3

    async def test_a_full_house_of_hanging_requests_is_left_behind(self) -> None:
        """Requests that were given up on give their connections back, so that later ones get through."""
        hang = True

        async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
            if hang:
                await asyncio.sleep(60)
            return ALLOW

        async with asking(script, classifier_timeout_s=1) as (classifier, _):
            for _ in range(3):
                asked = await asyncio.gather(*(classifier.ask(job()) for _ in range(4)), return_exceptions=True)
                assert [str(error) for error in asked] == ["timeout"] * 4
            hang = False
            assert await classifier.ask(job()) == Verdict("allow")

    async def test_nobody_there(self) -> None:
        classifier = Classifier(config())
        with pytest.raises(Unusable, match="unreachable"):
            await classifier.ask(job())
        classifier.close()


@asynccontextmanager
async def queueing(script: Script, **changes: Any) -> AsyncIterator[tuple[Queue, Any]]:
    async with upstream(script) as up:
        queue = Queue(config(supabase_url=up.url, **changes))
        try:
            yield queue, up
        finally:
            await queue.close()


RPC = "http://up.test/rest/v1/rpc/"


@asynccontextmanager
async def mocked(**changes: Any) -> AsyncIterator[tuple[Queue, respx.MockRouter]]:
    queue = Queue(config(supabase_url="http://up.test", **changes))
    with respx.mock() as router:
        yield queue, router
    await queue.close()


def refused(code: Any, message: str = "x", status: int = 400) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": message, "details": None, "hint": None})


class TestQueue:
    async def test_calls(self) -> None:
        done = httpx.Response(200, json={"result": "done"})
        async with mocked() as (queue, router):
            router.post(f"{RPC}claim_classifications").respond(json={"jobs": [{**_camel(job()), "added": 1}]})
            router.post(url__regex=f"{RPC}(finish|fail|release)_classification").mock(return_value=done)
            assert await queue.claim(7) == [job()]
            assert await queue.finish(job(), Verdict("warn", "Rude", 0.5)) == "done"
            assert await queue.fail(job(), "timeout") == "done"
            assert await queue.release(job()) == "done"
            asked = [
                (str(call.request.url).removeprefix(RPC), json.loads(call.request.content)) for call in router.calls
            ]
        about = {"p_message_id": job().message_id, "p_lease": LEASE}
        outcome = {"action": "warn", "label": "Rude", "score": 0.5, "model": None}
        assert asked == [
            ("claim_classifications", {"p_limit": 7, "p_lease_s": 45}),
            ("finish_classification", {**about, "p_outcome": outcome}),
            ("fail_classification", {**about, "p_error": "timeout"}),
            ("release_classification", about),
        ]

    @pytest.mark.parametrize(
        ("key", "authorization"), [("sb_secret_x", None), ("eyJh.eyJy.c2ln", "Bearer eyJh.eyJy.c2ln")]
    )
    async def test_either_kind_of_key(self, key: str, authorization: str | None) -> None:
        async with queueing(always(http(200, {"jobs": []})), supabase_secret_key=key) as (queue, up):
            await queue.claim(1)
        headers = up.asked[0].headers
        assert (headers["apikey"], headers.get("authorization")) == (key, authorization)
        assert headers["accept-encoding"] == "identity"

    @pytest.mark.parametrize(
        ("answer", "word"),
        [
            (httpx.Response(200, html="<html></html>"), "unusable"),
            (httpx.Response(200, json={"jobs": None}), "unusable"),
            (httpx.Response(200, json={"jobs": [{"lease": 1}]}), "unusable"),
            (httpx.Response(200, json=[]), "unusable"),
            (httpx.Response(200, content=b""), "unusable"),
            (httpx.Response(200, content=b'{"jobs": "\xff"}'), "unusable"),
            (httpx.Response(200, content=b'{"jobs":' + b"[" * 100_000), "unusable"),
            (httpx.Response(204), "unusable"),
            (httpx.Response(502, html="<html>Bad Gateway</html>"), "code_502"),
            (httpx.Response(503, content=b""), "code_503"),
            (httpx.Response(500, json=["oops"]), "code_500"),
            (httpx.Response(400, content=b"[" * 100_000), "code_400"),
            (httpx.Response(401, json={"message": "Invalid API key"}), "unusable"),
            (refused("42501", "permission denied", 403), "code_42501"),
            (refused("PGRST202", "no such function", 404), "code_PGRST202"),
            (refused("a code with text"), "unusable"),
            (refused("x" * 9), "unusable"),
            (refused(7), "code_400"),
            (httpx.Response(302, html="", headers={"location": "http://elsewhere.test/"}), "code_302"),
            (httpx.Response(307, headers={"location": "http://elsewhere.test/"}), "code_307"),
            (httpx.ConnectError("refused"), "unreachable"),
            (httpx.ConnectTimeout("slow"), "unreachable"),
            (httpx.ReadError("reset"), "unreachable"),
            (httpx.RemoteProtocolError("gone"), "unreachable"),
        ],
    )
    async def test_odd_answers(self, answer: httpx.Response | Exception, word: str) -> None:
        async with mocked() as (queue, router):
            route = router.post(f"{RPC}claim_classifications").mock(side_effect=[answer])
            with pytest.raises(Away) as caught:
                await queue.claim(1)
            assert str(caught.value) == word
            assert route.call_count == len(router.calls) == 1, "once, and nowhere else"

    @pytest.mark.parametrize("answer", [b"not HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b""])
    async def test_broken_answers(self, answer: bytes) -> None:
        async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await writer.drain()

        async with queueing(script) as (queue, up):
            with pytest.raises(Away) as caught:
                await queue.claim(1)
            assert str(caught.value) == "unreachable"
            assert len(up.asked) == 1

    async def test_nobody_there(self) -> None:
        queue = Queue(config())
        with pytest.raises(Away, match="unreachable"):
            await queue.claim(1)
        await queue.close()

    async def test_a_verdict_sql_does_not_accept(self) -> None:
        async with mocked() as (queue, router):
            router.post(f"{RPC}finish_classification").mock(return_value=refused("PT400", "validation_failed"))
            with pytest.raises(Refused):
                await queue.finish(job(), Verdict("hide"))

    async def test_keeps_no_cookies_and_uses_no_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        answer = http(200, {"jobs": []}).replace(b"\r\n\r\n", b"\r\nset-cookie: a=b; path=/\r\n\r\n", 1)
        async with queueing(always(answer)) as (queue, up):
            assert await queue.claim(1) == await queue.claim(1) == []
        assert "cookie" not in up.asked[1].headers
        assert up.connections == 1

    @pytest.mark.parametrize("dripping", [False, True])
    async def test_deadline(self, dripping: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "_DATA_API_TIMEOUT_S", 0.1)

        async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n" if dripping else b"")
            while True:
                writer.write(b" " if dripping else b"")
                await asyncio.sleep(0.02)

        async with queueing(script) as (queue, _):
            began = time.monotonic()
            with pytest.raises(Away, match="timeout"):
                await queue.claim(1)
            assert 0.05 < time.monotonic() - began < 3

    async def test_a_full_house_of_hanging_calls_is_left_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Calls that were given up on give their connections back; httpx has a hundred."""
        monkeypatch.setattr(worker, "_DATA_API_TIMEOUT_S", 1)
        hang = True

        async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
            if hang:
                await asyncio.sleep(60)
            return http(200, {"jobs": []})

        async with queueing(script) as (queue, _):
            asked = await asyncio.gather(*(queue.claim(1) for _ in range(101)), return_exceptions=True)
            assert [str(error) for error in asked] == ["timeout"] * 101
            hang = False
            assert await queue.claim(1) == []


def _camel(of: Job) -> dict[str, Any]:
    return {
        "lease": of.lease, "attempt": of.attempt, "reason": of.reason, "messageId": of.message_id,
        "eventSeq": of.event_seq, "conversationId": of.conversation_id, "fromUserId": of.from_user_id,
        "gigId": of.gig_id, "body": of.body, "createdAt": of.created_at,
    }  # fmt: skip


class FakeQueue:
    """Hands out what waits; what is done with it is in `told`. `away` counts down the calls that find nobody."""

    def __init__(self, *waiting: Job) -> None:
        self.waiting = list(waiting)
        self.told: list[tuple[str, str, Any]] = []
        self.away: dict[str, int] = {}
        self.limits: list[int] = []

    def _try(self, what: str) -> None:
        if self.away.get(what, 0):
            self.away[what] -= 1
            raise Away("unreachable")

    async def claim(self, limit: int) -> list[Job]:
        self.limits.append(limit)
        await asyncio.sleep(0)
        self._try("claim")
        jobs, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return jobs

    async def finish(self, about: Job, verdict: Verdict) -> str:
        self._try("finish")
        if verdict.label == "Refused":
            raise Refused("refused")
        self.told.append(("finish", about.message_id, verdict.action))
        return "done"

    async def fail(self, about: Job, error: str) -> str:
        self._try("fail")
        self.told.append(("fail", about.message_id, error))
        return "retry"

    async def release(self, about: Job) -> str:
        self._try("release")
        self.told.append(("release", about.message_id, None))
        return "released"


class FakeClassifier:
    """Answers when `let` allows it, and remembers how many asked at once."""

    def __init__(self, answer: Verdict | Exception) -> None:
        self.answer = answer
        self.let = asyncio.Event()
        self.let.set()
        self.under_way = self.most = 0

    async def ask(self, _: Job) -> Verdict:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.let.wait()
        self.under_way -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@asynccontextmanager
async def working(
    queue: Any, classifier: Any, concurrency: int = 2
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    made = Worker(config(worker_concurrency=concurrency), queue, classifier)
    running = asyncio.create_task(made.run())
    try:
        yield made, running
    finally:
        made.stop()
        await asyncio.wait_for(running, 10)


class TestWorker:
    async def test_all_of_them_and_never_too_many_at_once(self, lines: Any) -> None:
        queue, classifier = FakeQueue(*map(job, range(50))), FakeClassifier(Verdict("warn", "Rude"))
        classifier.let.clear()
        async with working(queue, classifier, 4):
            await until(lambda: classifier.under_way == 4)
            assert len(queue.waiting) == 46, "no more is leased than can be asked about"
            classifier.let.set()
            await until(lambda: len(queue.told) == 50)
        assert classifier.most == 4 and max(queue.limits) <= 4
        assert {what for what, *_ in queue.told} == {"finish"}
        classified = [line for line in lines() if line["event"] == "classified"]
        assert len(classified) == 50
        assert classified[0].keys() == {
            "event", "level", "timestamp", "message_id", "event_seq", "attempt", "action", "result", "total_ms",
        }  # fmt: skip

    async def test_a_failure_is_noted(self, lines: Any) -> None:
        queue = FakeQueue(job(1))
        async with working(queue, FakeClassifier(Unusable("status_503"))):
            await until(lambda: queue.told)
        assert queue.told == [("fail", job(1).message_id, "status_503")]
        (line,) = lines()
        assert (line["event"], line["error"], line["result"], line["level"]) == (
            "not_classified", "status_503", "retry", "warning",
        )  # fmt: skip

    async def test_a_verdict_that_sql_refuses_is_a_failure(self) -> None:
        queue = FakeQueue(job(1))
        async with working(queue, FakeClassifier(Verdict("hide", "Refused"))):
            await until(lambda: queue.told)
        assert queue.told == [("fail", job(1).message_id, "refused")]

    async def test_a_fault_of_ours_ends_nothing(self, lines: Any) -> None:
        queue, classifier = FakeQueue(job(1)), FakeClassifier(ZeroDivisionError(SECRET_WORDS))
        async with working(queue, classifier):
            await until(lambda: any(line["event"] == "unexpected" for line in lines()))
            classifier.answer = Verdict("allow")
            queue.waiting.append(job(2))
            await until(lambda: queue.told)
        assert queue.told == [("finish", job(2).message_id, "allow")]

    async def test_the_data_api_goes_away_and_comes_back(self, lines: Any) -> None:
        queue = FakeQueue(job(1))
        queue.away = {"claim": 5, "finish": 3}
        async with working(queue, FakeClassifier(Verdict("allow"))):
            await until(lambda: queue.told)
        assert queue.told == [("finish", job(1).message_id, "allow")]
        assert [line["event"] for line in lines()] == ["data_api_away", "data_api_back", "classified"], "said once"

    async def test_a_verdict_is_not_brought_back_after_its_lease(
        self, lines: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "_LEASE_MARGIN_S", 0.1)
        queue = FakeQueue(job(1))
        queue.away = {"finish": 10**6}
        async with working(queue, FakeClassifier(Verdict("allow"))):
            await until(lambda: any(line["event"] == "verdict_undelivered" for line in lines()))
        assert queue.told == []

    async def test_stopping_finishes_what_is_under_way(self) -> None:
        queue, classifier = FakeQueue(*map(job, range(5))), FakeClassifier(Verdict("allow"))
        classifier.let.clear()
        async with working(queue, classifier) as (made, running):
            await until(lambda: classifier.under_way == 2)
            made.stop()
            await asyncio.sleep(0.05)
            assert not running.done()
            classifier.let.set()
            await asyncio.wait_for(running, 5)
        assert [what for what, *_ in queue.told] == ["finish", "finish"] and len(queue.waiting) == 3

    async def test_stopping_gives_back_what_was_just_claimed(self) -> None:
        class Slow(FakeQueue):
            async def claim(self, limit: int) -> list[Job]:
                made.stop()
                return await super().claim(limit)

        queue, classifier = Slow(*map(job, range(2))), FakeClassifier(Verdict("allow"))
        async with working(queue, classifier) as (made, running):
            await asyncio.wait_for(running, 5)
        assert [what for what, *_ in queue.told] == ["release", "release"] and classifier.most == 0

    async def test_stopping_while_nobody_is_there(self, lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "_AWAY_S", (30.0, 30.0))
        queue, classifier = FakeQueue(job(1)), FakeClassifier(Verdict("allow"))
        classifier.let.clear()
        queue.away = {"finish": 10**6}
        async with working(queue, classifier) as (made, running):
            await until(lambda: classifier.under_way)
            queue.away["claim"] = 10**6
            await until(lambda: any(line["event"] == "data_api_away" for line in lines()))
            made.stop()
            classifier.let.set()
            await asyncio.wait_for(running, 5)
        assert lines()[-1]["event"] == "verdict_undelivered"
