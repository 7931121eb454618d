"""Generated documents: equal to what the code says, valid, and complete."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import __main__ as command
from app.problems import CATALOGUE

DOCUMENT: dict[str, Any] = json.loads(command.document("openapi"))
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """The part itself, or what it refers to under components."""
    found: Any = DOCUMENT
    for step in part["$ref"].removeprefix("#/").split("/") if "$ref" in part else ():
        found = found[step]
    return part if found is DOCUMENT else found


@pytest.mark.parametrize("name", ["openapi.json", "errors.md", "settings.md"])
def test_committed_document_is_the_generated_one(name: str) -> None:
    assert Path(f"docs/{name}").read_text() == command.document(name.split(".", maxsplit=1)[0]), (
        f"run: python -m app {name.split('.', maxsplit=1)[0]} > docs/{name}"
    )


def test_openapi_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()  # type: ignore[arg-type]
    assert DOCUMENT["openapi"] == "3.1.0"


def test_operations() -> None:
    assert {name: f"{method.upper()} {path}" for name, (method, path, _) in OPERATIONS.items()} == {
        "listConversations": "POST /api/messages/conversations",
        "getConversation": "GET /api/messages/conversations/{id}",
        "sendMessage": "POST /api/messages/send",
        "markRead": "PATCH /api/messages/{id}/read",
        "markAllRead": "PATCH /api/messages/conversations/{id}/read-all",
        "listInbox": "GET /api/messages/conversations",
        "listMessages": "GET /api/messages/conversations/{id}/messages",
        "updateConversation": "PATCH /api/messages/conversations/{id}",
        "createGroup": "POST /api/messages/conversations/group",
        "listMembers": "GET /api/messages/conversations/{id}/members",
        "addMembers": "POST /api/messages/conversations/{id}/members",
        "removeMember": "DELETE /api/messages/conversations/{id}/members/{userId}",
        "editMessage": "PATCH /api/messages/{id}",
        "deleteMessage": "DELETE /api/messages/{id}",
        "messageHistory": "GET /api/messages/{id}/history",
        "unreadCounts": "GET /api/messages/unread",
        "getLimits": "GET /api/messages/limits",
        "sync": "POST /api/messages/sync",
        "markDelivered": "PATCH /api/messages/delivered",
        "setTyping": "POST /api/messages/conversations/{id}/typing",
        "reportMessage": "POST /api/messages/{id}/report",
        "reportUser": "POST /api/users/{id}/report",
        "listModerationQueue": "GET /api/moderation/queue",
        "getModerationItem": "GET /api/moderation/items/{id}",
        "decideModerationItem": "POST /api/moderation/items/{id}/decide",
        "sanctionUser": "POST /api/moderation/users/{id}/sanctions",
        "liftSanction": "DELETE /api/moderation/sanctions/{id}",
        "moderateHideMessage": "POST /api/moderation/messages/{id}/hide",
        "moderateRestoreMessage": "POST /api/moderation/messages/{id}/restore",
        "undoModerationAction": "POST /api/moderation/actions/{id}/undo",
        "listModerationActions": "GET /api/moderation/actions",
        "getProfile": "GET /api/profile",
        "updateProfile": "PATCH /api/profile",
        "blockUser": "POST /api/users/{id}/block",
        "unblockUser": "DELETE /api/users/{id}/block",
        "listBlocked": "GET /api/users/blocked",
        "getLive": "GET /health/live",
        "getReady": "GET /health/ready",
        "getOpenapi": "GET /schema/openapi.json",
        "getDocs": "GET /docs",
    }


def test_send_answers_exactly_these() -> None:
    responses = OPERATIONS["sendMessage"][2]["responses"]
    assert list(responses) == [
        "200", "201", "202", "400", "401", "403", "404", "408", "409", "413", "415", "422", "429", "500", "502", "503",
        "504",
    ]  # fmt: skip
    assert OPERATIONS["listConversations"][2]["responses"].keys() & {"200", "201"} == {"200"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_problem_is_in_the_catalogue_under_its_status(name: str) -> None:
    _, path, operation = OPERATIONS[name]
    assert operation["security"] == ([{"bearerAuth": []}] if path.startswith("/api/") else [])
    for status, answer in operation["responses"].items():
        response = resolved(answer)
        assert {"X-Request-Id", "Cache-Control", "X-Content-Type-Options"} <= response["headers"].keys()
        if int(status) < 400:
            continue
        content = response["content"]["application/problem+json"]
        codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
        assert codes == list(content["examples"])
        assert codes == [resolved(example)["value"]["code"] for example in content["examples"].values()]
        assert all(CATALOGUE[code].status == int(status) for code in codes)
        assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
        assert ("WWW-Authenticate" in response["headers"]) == (status == "401")


def test_limits_and_formats_are_written_down() -> None:
    shapes = DOCUMENT["components"]["schemas"]
    send = shapes["SendMessage"]
    assert send["additionalProperties"] is False
    assert send["required"] == ["body"]
    assert "4,000 code points" in send["properties"]["body"]["description"]
    listed = shapes["ListConversations"]["properties"]
    assert (listed["limit"]["minimum"], listed["limit"]["maximum"], listed["limit"]["default"]) == (1, 100, 30)
    assert (listed["offset"]["minimum"], listed["offset"]["maximum"]) == (0, 1_000_000)
    assert shapes["Message"]["properties"]["createdAt"]["format"] == "date-time"
    assert shapes["Message"]["properties"]["id"]["format"] == "uuid"
    assert set(shapes["Message"]["required"]) == set(shapes["Message"]["properties"])


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["openapi", "more"]])
def test_command_says_how_it_is_used(arguments: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", "app", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "usage: python -m app serve|openapi|errors|settings|keys\n"


def test_command_prints_without_any_environment() -> None:
    run = subprocess.run([sys.executable, "-m", "app", "errors"], capture_output=True, text=True, check=True, env={})
    assert run.stdout == Path("docs/errors.md").read_text()


def test_serving_without_settings_is_one_sentence() -> None:
    run = subprocess.run([sys.executable, "-m", "app", "serve"], capture_output=True, text=True, check=False, env={})
    assert run.returncode == 1
    assert run.stderr == "settings: SUPABASE_URL is missing; SUPABASE_PUBLISHABLE_KEY is missing\n"
