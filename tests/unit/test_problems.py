"""Problems: one shape, one catalogue, nothing that leaks."""

import json
from pathlib import Path

import litestar.exceptions
import msgspec
import pytest
from litestar.exceptions import HTTPException, MethodNotAllowedException, ValidationException

from app import problems
from app.problems import CATALOGUE, Problem, ProblemDocument, allowed, answers, from_exception, render


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_renders(code: str) -> None:
    status, headers, body = render(Problem(code), "request-1")
    document = json.loads(body)
    assert status == document["status"] == CATALOGUE[code].status
    assert document == {
        "type": f"/problems/{code}",
        "title": CATALOGUE[code].title,
        "status": status,
        "code": code,
        "detail": CATALOGUE[code].meaning,
        "instance": "urn:request:request-1",
        "requestId": "request-1",
    }
    assert headers["content-type"] == "application/problem+json"
    assert ("www-authenticate" in headers) == (status == 401)
    msgspec.json.decode(body, type=ProblemDocument)


def test_optional_members() -> None:
    problem = Problem("rate_limited", "Slower.", pointer="/body", retry_after_s=17, headers={"x-extra": "1"})
    _, headers, body = render(problem, "r")
    document = json.loads(body)
    assert document["retryAfterS"] == 17
    assert document["errors"] == [{"pointer": "/body", "detail": "Slower."}]
    assert (headers["retry-after"], headers["x-extra"]) == ("17", "1")


def test_challenge_says_what_was_wrong_only_when_something_was_given() -> None:
    assert 'error="invalid_token"' in render(Problem("token_expired"), "r")[1]["www-authenticate"]
    bare = Problem("unauthenticated", headers={"www-authenticate": problems.CHALLENGE})
    assert render(bare, "r")[1]["www-authenticate"] == 'Bearer realm="messages"'


def test_unknown_code_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        Problem("no_such_code")
    with pytest.raises(KeyError):
        answers(ProblemDocument, {200: "x"}, "no_such_code")


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(litestar.exceptions).values()
        if isinstance(kind, type)
        and issubclass(kind, HTTPException)
        and "template_name" not in kind.__init__.__annotations__
    ],
)
def test_every_exception_of_the_framework_has_a_problem(kind: type[HTTPException]) -> None:
    problem = from_exception(kind("secret words"))
    assert problem.kind.status == kind.status_code or problem.code == "internal_error"
    assert "secret" not in render(problem, "r")[2].decode()


def test_method_not_allowed_keeps_allow() -> None:
    problem = from_exception(MethodNotAllowedException(headers={"Allow": "GET, OPTIONS"}))
    assert problem.headers == {"allow": "GET, HEAD, OPTIONS"}
    assert allowed("POST") == "OPTIONS, POST"


def test_framework_validation_points_at_the_whole() -> None:
    problem = from_exception(ValidationException("secret"))
    assert problem.errors is not None
    assert problem.errors[0].pointer == ""


def test_anything_else_is_our_own_fault() -> None:
    assert from_exception(ZeroDivisionError("secret")).code == "internal_error"


def test_catalogue_is_documented() -> None:
    assert Path("docs/errors.md").read_text() == problems.table()


def test_waiting_is_offered_where_the_catalogue_says_so() -> None:
    for code, kind in CATALOGUE.items():
        assert (kind.status in (429, 503)) == (kind.retry == "after"), code
        assert kind.title.endswith(".")
        assert kind.meaning.endswith(".")
