"""The API tests run against `python -m app serve` on the real stack, and hold every answer against the document."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from stack.dataapi import READY_S, answers
from stack.processes import Process, free_port
from tests.api.contract import check

ORIGIN = "https://market.example"


@pytest.fixture(scope="session")
def service_url(supabase_stack: Any, worker: str) -> Iterator[str]:
    """Our own server on this worker's stack; it trusts this machine as a proxy, so that tests can be many strangers."""
    port = free_port()
    settings = {
        **supabase_stack.api_settings(),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CORS_ORIGINS": ORIGIN,
        "TRUSTED_PROXIES": "127.0.0.0/8",
    }
    attached = supabase_stack.attached
    service = Process(
        "The service",
        [sys.executable, "-m", "app", "serve"],
        log=attached.directory / "log" / f"api-service-{worker}.log",
        ledger=attached.ledger,
        env={**os.environ, **settings},
    )
    service.start()
    url = f"http://127.0.0.1:{port}"
    try:
        service.wait_until(lambda: answers(f"{url}/health/ready"), READY_S)
        yield url
    finally:
        service.stop()


_strangers = itertools.count(1)


@pytest.fixture
def http(service_url: str) -> Iterator[httpx.Client]:
    """A client with an address of its own, whose every answer is checked against docs/openapi.json."""
    number = next(_strangers)
    address = f"198.18.{number // 250}.{number % 250 + 1}"
    with httpx.Client(
        base_url=service_url, timeout=30, headers={"X-Forwarded-For": address}, event_hooks={"response": [check]}
    ) as client:
        yield client


@pytest.fixture
def send(http: httpx.Client) -> Callable[..., httpx.Response]:
    """`send(person, body, **members)`: one message."""

    def post(person: Any, body: str, **members: Any) -> httpx.Response:
        return http.post("/api/messages/send", headers=person.headers, json={"body": body, **members})

    return post


@pytest.fixture
def group(http: httpx.Client) -> Callable[..., dict[str, Any]]:
    """`group(owner, *members, title="Crew")`: a new group, as its owner sees it."""

    def post(owner: Any, *members: Any, title: str = "Crew") -> dict[str, Any]:
        body = {"title": title, "memberIds": [member.id for member in members]}
        made = http.post("/api/messages/conversations/group", headers=owner.headers, json=body)
        assert made.status_code == 201, made.text
        conversation: dict[str, Any] = made.json()["conversation"]
        return conversation

    return post


@pytest.fixture
def alike(refused: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """`alike(foreign, imaginary)`: both are 404 and cannot be told apart."""

    def compare(foreign: httpx.Response, imaginary: httpx.Response) -> None:
        about = [refused(response, 404, "not_found") for response in (foreign, imaginary)]
        for problem in about:
            del problem["requestId"], problem["instance"]
        assert about[0] == about[1]

    return compare


@pytest.fixture
def refused() -> Callable[..., dict[str, Any]]:
    """`refused(response, status, code, pointer=None)`: it is that problem; answers the document."""

    def problem(response: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
        document: dict[str, Any] = response.json()
        assert (response.status_code, document["code"]) == (status, code), response.text
        if pointer is not None:
            assert document["errors"][0]["pointer"] == pointer
        return document

    return problem
