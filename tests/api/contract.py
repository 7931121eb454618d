"""Holds every answer against docs/openapi.json: status, content type, headers and body.

What the document has no operation for (an unknown path, another method) must still be a problem of the catalogue.
"""

import json
import re
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

DOCUMENT: dict[str, Any] = json.loads(Path("docs/openapi.json").read_text())
_REGISTRY: Registry[Any] = Registry().with_resource("urn:openapi", Resource(DOCUMENT, DRAFT202012))
_TEMPLATES = [
    (re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))), path)
    # Static paths win over templates, as in the service.
    for path in sorted(DOCUMENT["paths"], key=lambda path: ("{" in path, path))
]
_FORMATS = Draft202012Validator.FORMAT_CHECKER
_PROBLEM = {"$ref": "urn:openapi#/components/schemas/ProblemDocument"}
_EVERYWHERE = ("x-request-id", "cache-control", "x-content-type-options", "server-timing")


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    """The part itself, or what it refers to under components."""
    if "$ref" not in part:
        return part
    found: dict[str, Any] = DOCUMENT
    for step in part["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def check(response: httpx.Response) -> None:
    """Raise AssertionError when this answer is not one the document announces."""
    response.read()
    request = response.request
    name = f"{request.method} {request.url.path}"
    for header in _EVERYWHERE:
        assert len(response.headers.get_list(header)) == 1, f"{name}: {header} is missing or repeated"
    assert "server" not in response.headers
    assert "etag" not in response.headers
    if response.status_code >= 400:
        _check_problem(name, response)
    operation = _operation(request)
    if operation is None:
        assert response.status_code in (200, 204, 404, 405), f"{name}: {response.status_code} without an operation"
        return
    announced = operation["responses"].get(str(response.status_code))
    assert announced, f"{name}: the document does not announce {response.status_code}"
    announced = _resolved(announced)
    for header, reference in announced["headers"].items():
        told = _resolved(reference)
        values = response.headers.get_list(header)
        assert values or not told["required"], (
            f"{name}: {header} is missing from {response.status_code} {response.text[:200]}"
        )
        for value in values:
            _validate(f"{name} {header}", told["schema"], value)
    if "content" not in announced:
        assert (response.content, response.headers.get("content-type")) == (b"", None), f"{name}: there is a body"
        return
    media_type = response.headers["content-type"].partition(";")[0]
    assert list(announced["content"]) == [media_type], f"{name}: {media_type} is not announced"
    if media_type.endswith("json") and request.method != "HEAD":
        _validate(name, _absolute(announced["content"][media_type]["schema"]), response.json())


def _check_problem(name: str, response: httpx.Response) -> None:
    assert response.headers["content-type"] == "application/problem+json", name
    if response.request.method == "HEAD":
        return
    problem = response.json()
    _validate(name, _PROBLEM, problem)
    assert problem["status"] == response.status_code
    assert problem["requestId"] == response.headers["x-request-id"]
    waits = response.headers.get("retry-after")
    assert problem.get("retryAfterS") == (int(waits) if waits else None)


def _operation(request: httpx.Request) -> dict[str, Any] | None:
    method = "get" if request.method == "HEAD" else request.method.lower()
    for pattern, path in _TEMPLATES:
        if pattern.fullmatch(request.url.path.rstrip("/")):
            found: dict[str, Any] | None = DOCUMENT["paths"][path].get(method)
            return found
    return None


def _absolute(schema: Any) -> Any:
    """The same schema with references into the document instead of into itself."""
    return json.loads(json.dumps(schema).replace('"#/', '"urn:openapi#/'))


def _validate(name: str, schema: Any, value: Any) -> None:
    validator = Draft202012Validator(schema, registry=_REGISTRY, format_checker=_FORMATS)
    error = next(iter(validator.iter_errors(value)), None)
    assert error is None, f"{name}: {error.message} at {error.json_path}" if error else ""
