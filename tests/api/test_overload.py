"""More requests than the data API answers: those beyond the bound are told at once, health goes on, and it passes."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from stack.processes import free_port
from tests.api import test_process
from tests.api.test_process import PATH, READ, service, upstream

BOUND = 8


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_CONCURRENCY_MAX", str(BOUND))


@pytest.mark.usefixtures("bounded")
def test_beyond_the_bound(tmp_path: Path) -> None:
    port, release = free_port(), threading.Event()
    with (
        upstream(port, holds=release) as asked,
        service(port, tmp_path / "log") as (_, client),
        ThreadPoolExecutor(BOUND) as others,
        httpx.Client(base_url=client.base_url, headers=client.headers, timeout=15) as another,
    ):
        test_process.until(lambda: client.get("/health/ready").status_code == 200)
        under_way = [others.submit(client.patch, PATH) for _ in range(BOUND)]
        for _ in range(BOUND):
            assert asked.acquire(timeout=10)
        began = time.monotonic()
        refused = [
            another.patch(PATH),
            another.post("/api/messages/send", json={"body": "x" * 60_000}),
            another.get("/api/messages/unread", headers={"Authorization": "Bearer nobody"}),
        ]
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "upstream_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["requestId"] == answer.headers["x-request-id"]
        assert another.get("/health/live").status_code == 200
        assert another.get("/health/ready").status_code == 200
        assert another.options(PATH).status_code == 204
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "PATCH"}
        assert another.options(PATH, headers=preflight).status_code == 204
        assert time.monotonic() - began < 1.5
        assert not any(call.done() for call in under_way)
        release.set()
        assert [call.result(timeout=10).json() for call in under_way] == [READ] * BOUND
        assert another.patch(PATH).json() == READ
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["status"] for line in lines if line.get("route") == "crowded"] == [503] * len(refused)
