"""The process: an upstream that comes and goes, SIGTERM in the middle of a request, and a clean end."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from stack.processes import free_port

SECRET = "a-secret-for-tests-of-at-least-32-bytes"
PERSON = "0198c0de-0000-7000-8000-00000000ada0"
READ = {"receipt": {"userId": PERSON, "lastReadSeq": 1, "lastDeliveredSeq": 1}, "unreadCount": 0, "unreadTotal": 0}
PATH = "/api/messages/0198c0de-0000-7000-8000-0000000e55a6/read"


@contextmanager
def upstream(port: int, delay_s: float = 0.0, holds: threading.Event | None = None) -> Iterator[threading.Semaphore]:
    """A data API that refuses `anon` and lets everybody else read, later or on `holds`; yields who has asked."""
    asked = threading.Semaphore(0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            anonymous = "authorization" not in self.headers
            if not anonymous:
                asked.release()
                time.sleep(delay_s)
                if holds is not None:
                    holds.wait(10)
            body = json.dumps({"code": "42501", "message": "denied"} if anonymous else READ).encode()
            self.send_response(401 if anonymous else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def service(upstream_port: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`python -m app serve` with a client that is signed in."""
    port, url = free_port(), f"http://127.0.0.1:{upstream_port}"
    claims = {
        "sub": PERSON, "aud": "authenticated", "role": "authenticated", "iss": f"{url}/auth/v1",
        "exp": time.time() + 600,
    }  # fmt: skip
    settings = {
        "SUPABASE_URL": url, "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x", "SUPABASE_JWT_SECRET": SECRET,
        "PORT": str(port),
    }  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"], env={**os.environ, **settings}, stdout=out, stderr=out
        )
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=15) as client:
        try:
            until(lambda: client.get("/health/live").status_code == 200)
            yield process, client
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def until(true: Callable[[], bool], within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    pytest.fail(f"did not happen within {within_s} s")


def test_upstream_comes_and_goes(tmp_path: Path) -> None:
    port = free_port()
    with service(port, tmp_path / "log") as (_, client):
        assert client.get("/health/ready").json()["code"] == "not_ready"
        began = time.monotonic()
        for _ in range(50):
            answer = client.patch(PATH)
            assert (answer.status_code, answer.json()["code"]) == (503, "upstream_unavailable")
            assert answer.headers["retry-after"] == "2"
        assert time.monotonic() - began < 5
        for _ in range(2):
            with upstream(port):
                until(lambda: client.get("/health/ready").status_code == 200)
                until(lambda: client.patch(PATH).status_code == 200)
            until(lambda: client.get("/health/ready").status_code == 503)
            assert client.get("/health/live").status_code == 200


def test_sigterm_lets_a_request_finish(tmp_path: Path) -> None:
    port, answers = free_port(), []
    with upstream(port, delay_s=1.0) as asked, service(port, tmp_path / "log") as (process, client):
        asking = threading.Thread(target=lambda: answers.append(client.patch(PATH)))
        asking.start()
        assert asked.acquire(timeout=10)
        process.send_signal(signal.SIGTERM)
        asking.join(timeout=10)
        assert answers[0].json() == READ
        assert process.wait(timeout=10) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    request = next(line for line in lines if line.get("route") == "/api/messages/{id}/read")
    assert (request["status"], request["caller_id"]) == (200, PERSON)
    assert not [line for line in lines if line["level"] in ("error", "critical")]


def test_a_fault_in_the_settings_is_one_sentence() -> None:
    settings = {"SUPABASE_URL": "nonsense", "PATH": os.environ["PATH"]}
    run = subprocess.run(
        [sys.executable, "-m", "app", "serve"], env=settings, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("settings: SUPABASE_URL is invalid")
    assert "SUPABASE_PUBLISHABLE_KEY is missing" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_PUBLISHABLE_KEY": "x", "PORT": str(port)}
        run = subprocess.run(
            [sys.executable, "-m", "app", "serve"],
            env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == f"cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_ctrl_c_twice_ends_it_without_a_traceback(tmp_path: Path) -> None:
    began = time.monotonic()
    settings = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_PUBLISHABLE_KEY": "x", "PORT": str(free_port())}
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"], env={**os.environ, **settings}, stdout=out, stderr=out
        )
    try:
        # The server's first line; from here on signals are its own.
        until(lambda: "Started server process" in log.read_text())
        assert time.monotonic() - began < 10, "it takes about a second"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
