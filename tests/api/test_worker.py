"""The worker as a process on the real stack: from a send through a classifier to what members see and hear."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from websockets.sync.client import connect

from stack.dataapi import READY_S, data_api_ready
from stack.processes import free_port

WITHIN_S = 30.0


def until(true: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < deadline, "never"
        time.sleep(0.02)
    return found


class Classifier:
    """Answers by `verdict`, after `gate`; remembers who was asked about."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.verdict: Callable[[str], Any] = lambda _: {"action": "allow"}
        self.status = 200
        classifier = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                classifier.asked.append(asked)
                classifier.keys.append(self.headers["idempotency-key"])
                classifier.gate.wait(60)
                body = json.dumps(classifier.verdict(asked["body"])).encode()
                try:
                    self.send_response(classifier.status)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the worker was killed

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/classify"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def bodies(self) -> list[str]:
        return [asked["body"] for asked in self.asked]


@pytest.fixture
def classifier() -> Iterator[Classifier]:
    made = Classifier()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def mode(db: psycopg.Connection[Any]) -> Iterator[Callable[[str, int], None]]:
    """`mode(name, attempts_max)`; open at first, off with an empty queue afterwards."""

    def choose(name: str, attempts_max: int = 8) -> None:
        db.execute(
            "update private.settings set classifier_mode = %s, classifier_attempts_max = %s", [name, attempts_max]
        )

    db.execute("delete from private.classifier_jobs")
    choose("open")
    yield choose
    choose("off")
    db.execute("delete from private.classifier_jobs")


@pytest.fixture
def run_worker(supabase_stack: Any, tmp_path: Path) -> Callable[..., Any]:
    """`with run_worker(url) as process:` runs `python -m app.worker`; `lines()` is what all of them have logged."""
    log = tmp_path / "log"

    @contextmanager
    def run(classifier_url: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        told = {
            "SUPABASE_URL": supabase_stack.url, "SUPABASE_SECRET_KEY": supabase_stack.secret_key,
            "CLASSIFIER_URL": classifier_url, **settings,
        }  # fmt: skip
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.worker"], env={**os.environ, **told}, stdout=out, stderr=out
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    run.lines = lines  # type: ignore[attr-defined]
    return run


def waiting(db: psycopg.Connection[Any]) -> int:
    row = db.execute("select count(*)::int from private.classifier_jobs").fetchone()
    assert row is not None
    return int(row[0])


def free_the_leases(db: psycopg.Connection[Any]) -> None:
    """Time passes: whoever had a lease must be taken for dead."""
    db.execute("update private.classifier_jobs set leased_until = now() where lease is not null")


@pytest.fixture
def shown(http: httpx.Client) -> Callable[[Any, str], dict[str, dict[str, Any]]]:
    """`shown(person, conversation_id)`: the newest messages by id, as this person reads them."""

    def read(person: Any, conversation_id: str) -> dict[str, dict[str, Any]]:
        answer = http.get(f"/api/messages/conversations/{conversation_id}/messages", headers=person.headers)
        assert answer.status_code == 200, answer.text
        return {message["id"]: message for message in answer.json()["messages"]}

    return read


@contextmanager
def listening(stack: Any, person: Any) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Somebody on their own topic; `heard(type)` waits for the next such event."""
    url = f"{stack.url.replace('http', 'ws')}/realtime/v1/websocket?vsn=1.0.0&apikey={stack.publishable_key}"
    with connect(url, proxy=None) as socket:
        join = {"config": {"private": True}, "access_token": person.token}
        topic = f"realtime:user:{person.id}"
        socket.send(json.dumps({"topic": topic, "event": "phx_join", "payload": join, "ref": "1", "join_ref": "1"}))
        reply = json.loads(socket.recv(WITHIN_S))
        assert (reply["event"], reply["payload"]["status"]) == ("phx_reply", "ok"), reply

        def heard(kind: str) -> dict[str, Any]:
            deadline = time.monotonic() + WITHIN_S
            while time.monotonic() < deadline:
                frame = json.loads(socket.recv(WITHIN_S))
                if frame["event"] == "broadcast" and frame["payload"]["event"] == kind:
                    event: dict[str, Any] = frame["payload"]["payload"]
                    return event
            raise AssertionError(f"no {kind}")

        yield heard


def test_the_documented_classifier_hides_a_message(
    realtime_stack: Any, db: Any, http: Any, send: Any, shown: Any, new_person: Any, run_worker: Any, tmp_path: Path
) -> None:
    """The example of docs/classifier.md as it stands there, from the send to the other screen."""
    found = re.search(r"```python\n(.*?)```", Path("docs/classifier.md").read_text(), re.S)
    assert found
    (tmp_path / "classifier.py").write_text(found[1])
    port, ann, bob = free_port(), new_person("Ann"), new_person("Bob")
    with (tmp_path / "classifier.log").open("wb") as out:
        example = subprocess.Popen(
            [sys.executable, str(tmp_path / "classifier.py")], env={**os.environ, "PORT": str(port)}, stderr=out
        )
    try:
        with listening(realtime_stack, bob) as heard, run_worker(f"http://127.0.0.1:{port}/"):
            fine = send(ann, "Can you mend it by Friday?", toUserId=bob.id).json()["message"]
            bad = send(ann, "I also sell counterfeit watches", toUserId=bob.id).json()["message"]
            assert bad["state"] == "visible", "the sender waits for no classifier"
            event = heard("message.updated")
        assert event["message"]["id"] == bad["id"]
        assert (event["message"]["state"], event["message"]["body"]) == ("hidden", None)
        assert event["conversation"]["unreadCount"] == event["unreadTotal"] == 1
        for person in (ann, bob):
            messages = shown(person, bad["conversationId"])
            assert (messages[bad["id"]]["state"], messages[bad["id"]]["body"]) == ("hidden", None)
            assert (messages[fine["id"]]["state"], messages[fine["id"]]["warning"]) == ("visible", None)
        unread = http.get("/api/messages/unread", headers=bob.headers).json()
        assert unread["messages"] == 1
        item = db.execute(
            "select kind, status, details ->> 'label' from private.moderation_items where message_id = %s", [bad["id"]]
        ).fetchall()
        assert item == [("classified", "open", "forbidden_goods")]
        until(lambda: waiting(db) == 0)
    finally:
        example.kill()
        example.wait()
    lines = run_worker.lines()
    assert {line["event"] for line in lines} == {"worker_started", "classified", "worker_stopped"}
    assert "watches" not in json.dumps(lines) and "forbidden" not in json.dumps(lines)


def test_a_warning_and_an_edit(
    db: Any, http: Any, send: Any, shown: Any, person: Any, run_worker: Any, classifier: Classifier
) -> None:
    ann, bob = person(), person()
    rude, fine = {"action": "warn", "label": "Rude"}, {"action": "allow"}
    classifier.verdict = lambda body: rude if "scarecrow" in body else fine
    with run_worker(classifier.url):
        message = send(ann, "You scarecrow", toUserId=bob.id).json()["message"]
        until(lambda: shown(bob, message["conversationId"])[message["id"]]["warning"] == "Rude")
        edited = http.patch(f"/api/messages/{message['id']}", headers=ann.headers, json={"body": "You friend"})
        assert edited.status_code == 200
        until(lambda: waiting(db) == 0)
    first, second = classifier.asked
    assert (first["body"], first["reason"], first["eventSeq"]) == ("You scarecrow", "created", message["eventSeq"])
    assert (second["body"], second["reason"]) == ("You friend", "edited")
    assert second["eventSeq"] == edited.json()["message"]["eventSeq"]
    assert classifier.keys == [f"{message['id']}:{asked['eventSeq']}" for asked in classifier.asked]


def test_kill_9_loses_nothing(
    db: Any, send: Any, shown: Any, person: Any, run_worker: Any, classifier: Classifier
) -> None:
    ann, bob = person(), person()
    sent = [send(ann, f"number {number}", toUserId=bob.id).json()["message"] for number in range(12)]
    classifier.verdict = lambda _: {"action": "hide"}
    classifier.gate.clear()
    for died in (1, 2):
        with run_worker(classifier.url, WORKER_CONCURRENCY="4") as process:
            until(lambda: len(classifier.asked) >= 4 * died)  # noqa: B023
            process.kill()
        assert waiting(db) == 12
        free_the_leases(db)
    classifier.gate.set()
    with run_worker(classifier.url):
        until(lambda: waiting(db) == 0)
    assert set(classifier.bodies) == {message["body"] for message in sent}
    messages = shown(bob, sent[0]["conversationId"])
    assert [messages[message["id"]]["state"] for message in sent] == ["hidden"] * 12
    actions = (
        "select message_id::text, count(*)::int from private.moderation_actions where message_id = any(%s) group by 1"
    )
    counted = dict(db.execute(actions, [[message["id"] for message in sent]]).fetchall())
    assert counted == {message["id"]: 1 for message in sent}, "and nothing is done twice"


def test_sigterm_finishes_what_is_under_way(
    db: Any, send: Any, shown: Any, person: Any, run_worker: Any, classifier: Classifier
) -> None:
    ann, bob = person(), person()
    sent = [send(ann, f"number {number}", toUserId=bob.id).json()["message"] for number in range(6)]
    classifier.verdict = lambda _: {"action": "hide"}
    classifier.gate.clear()
    with run_worker(classifier.url, WORKER_CONCURRENCY="2") as process:
        until(lambda: len(classifier.asked) == 2)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        classifier.gate.set()
        assert process.wait(15) == 0
    assert len(classifier.asked) == 2, "nothing more was begun"
    messages = shown(bob, sent[0]["conversationId"])
    assert sorted(message["state"] for message in messages.values()) == ["hidden"] * 2 + ["visible"] * 4
    assert db.execute("select count(*)::int, count(lease)::int from private.classifier_jobs").fetchone() == (4, 0)
    assert run_worker.lines()[-1]["event"] == "worker_stopped"
    assert {line["level"] for line in run_worker.lines()} == {"info"}


@pytest.mark.parametrize(("name", "state"), [("open", "visible"), ("closed", "hidden")])
def test_when_there_is_no_verdict(
    db: Any,
    send: Any,
    shown: Any,
    person: Any,
    run_worker: Any,
    classifier: Classifier,
    mode: Any,
    name: str,
    state: str,
) -> None:
    ann, bob = person(), person()
    mode(name, 2)
    classifier.status = 500
    with run_worker(classifier.url):
        message = send(ann, "hello", toUserId=bob.id).json()["message"]
        until(lambda: len(classifier.asked) == 1)
        until(lambda: db.execute("update private.classifier_jobs set run_at = now() where attempts = 1").rowcount)
        until(lambda: waiting(db) == 0)
    assert len(classifier.asked) == 2 and classifier.asked[0] == classifier.asked[1]
    assert shown(bob, message["conversationId"])[message["id"]]["state"] == state
    failures = [line for line in run_worker.lines() if line["event"] == "not_classified"]
    assert [(line["error"], line["attempt"], line["result"]) for line in failures] == [
        ("status_500", 1, "retry"), ("status_500", 2, "hidden" if name == "closed" else "shown"),
    ]  # fmt: skip


def test_a_classifier_that_hangs_is_given_up_on(
    db: Any, send: Any, person: Any, run_worker: Any, classifier: Classifier
) -> None:
    classifier.gate.clear()
    with run_worker(classifier.url, CLASSIFIER_TIMEOUT_S="0.3"):
        send(person(), "hello", toUserId=person().id)
        until(lambda: db.execute("select 1 from private.classifier_jobs where last_error = 'timeout'").fetchone())


def test_the_data_api_comes_and_goes(
    supabase_stack: Any, db: Any, send: Any, person: Any, run_worker: Any, classifier: Classifier
) -> None:
    ann, bob = person(), person()
    api, port = supabase_stack.api, int(supabase_stack.url.rpartition(":")[2])
    send(ann, "before", toUserId=bob.id)
    api.stop()
    try:
        with run_worker(classifier.url) as process:
            until(lambda: any(line["event"] == "data_api_away" for line in run_worker.lines()))
            api.start()
            api.wait_until(lambda: data_api_ready(port, supabase_stack.attached.keys), READY_S)
            until(lambda: waiting(db) == 0)
            assert process.poll() is None
    finally:
        if api.exit_code() is not None or api.pid is None:
            api.start()
            api.wait_until(lambda: data_api_ready(port, supabase_stack.attached.keys), READY_S)
    assert classifier.bodies == ["before"]
    assert "data_api_back" in {line["event"] for line in run_worker.lines()}


def test_a_fault_in_the_settings_is_one_sentence() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "app.worker"],
        env={"CLASSIFIER_URL": "nonsense", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("settings: SUPABASE_URL is missing; SUPABASE_SECRET_KEY is missing; ")
    assert "CLASSIFIER_URL is invalid" in run.stderr and run.stderr.count("\n") == 1
