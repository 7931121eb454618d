"""The OpenAPI 3.1 document: what the routes declare, in the schemas the decoders enforce.

Written from the route handlers and msgspec's own schemas instead of Litestar's generator, which would leave out
headers, invent a 400 of its own, and describe the shapes a second time.
"""

import re
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from app import __version__, problems
from app.problems import Answer, ProblemDocument
from app.wire import struct_of

_REF = "#/components/schemas/{name}"
# What recurs is written once, under components, and referenced: the document stays short enough to be read.
Components = dict[str, dict[str, Any]]
_DESCRIPTION = """In-app messaging. Every request to `/api` carries the caller's own Supabase access token.

Errors are `application/problem+json` with a stable `code`. A send is safe to repeat with the same `clientMessageId`."""


def _header(description: str, required: bool = True, **schema: Any) -> dict[str, Any]:
    return {"description": description, "required": required, "schema": {"type": "string", **schema}}


_EVERYWHERE = {
    "X-Request-Id": _header("Names this request in our log; the client's own when it sent a harmless one."),
    "Cache-Control": _header("Nothing may be stored.", const="private, no-store"),
    "X-Content-Type-Options": _header("The content type is meant as it is.", const="nosniff"),
    "Server-Timing": _header("Milliseconds spent in the data API, and in all."),
}
_PACED = {
    "RateLimit-Policy": _header("Quota and window of the pace that counted this request (IETF draft)."),
    "RateLimit": _header("What is left of it, and the seconds until it is whole again."),
}
_BY_STATUS = {
    401: {"WWW-Authenticate": _header("RFC 6750 challenge.", pattern="^Bearer ")},
    429: {"Retry-After": _header("Seconds.", pattern="^[1-9][0-9]*$")},
    503: {"Retry-After": _header("Seconds.", pattern="^[1-9][0-9]*$")},
}


def _written_once(components: Components, kind: str, name: str, value: Any) -> dict[str, Any]:
    """Put a part under components and answer the reference to it."""
    if components.setdefault(kind, {}).setdefault(name, value) != value:
        raise ValueError(f"two {kind} are called {name}")
    return {"$ref": f"#/components/{kind}/{name}"}


def document(app: Litestar) -> dict[str, Any]:
    """The document of an application, as plain JSON values."""
    # Litestar keeps the handlers of a path in a set, so they are put in order.
    handlers = sorted(
        (
            (route.path_format, handler)
            for route in app.routes
            if isinstance(route, HTTPRoute)
            for handler in route.route_handlers
            if handler.operation_id is not None
        ),
        key=lambda pair: (pair[0], sorted(pair[1].http_methods)),
    )
    shapes: list[Any] = [ProblemDocument]
    for _, handler in handlers:
        shapes += [answer.shape for answer in _answers(handler).values() if answer.shape is not None]
        if handler.parsed_data_field is not None:
            shapes.append(struct_of(handler.parsed_data_field.annotation))
    shapes = list(dict.fromkeys(shapes))
    refs, schemas = msgspec.json.schema_components(shapes, ref_template=_REF)
    ref_of = dict(zip(shapes, refs, strict=True))
    for shape in shapes:
        # What a struct cannot say of its members together.
        schemas[shape.__name__] |= getattr(shape, "also", {})
    components: Components = {"schemas": schemas}
    paths: dict[str, Any] = {}
    for path, handler in handlers:
        for method in sorted(handler.http_methods):
            paths.setdefault(path, {})[method.lower()] = _operation(path, handler, ref_of, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Messages", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": "messages"}, {"name": "service"}],
        "paths": paths,
        "components": {
            **components,
            "securitySchemes": {
                "bearerAuth": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Access token of Supabase Auth.",
                }
            },
        },
    }


def _answers(handler: HTTPRouteHandler) -> dict[int, Answer]:
    answers: dict[int, Answer] = handler.opt["answers"]
    return answers


def _operation(path: str, handler: HTTPRouteHandler, ref_of: dict[Any, Any], components: Components) -> dict[str, Any]:
    is_api = path.startswith("/api/")
    text = (handler.fn.__doc__ or "").strip()
    operation: dict[str, Any] = {
        "operationId": handler.operation_id,
        "summary": text,
        "tags": ["messages" if is_api else "service"],
        "security": [{"bearerAuth": []}] if is_api else [],
        "responses": {
            str(status): _response(status, answer, ref_of, components, is_api)
            for status, answer in sorted(_answers(handler).items())
        },
    }
    if parameters := _parameters(path, handler):
        operation["parameters"] = parameters
    if handler.parsed_data_field is not None:
        annotation = handler.parsed_data_field.annotation
        operation["requestBody"] = {
            "required": struct_of(annotation) is annotation,
            "content": {"application/json": {"schema": ref_of[struct_of(annotation)]}},
        }
    return operation


def _parameters(path: str, handler: HTTPRouteHandler) -> list[dict[str, Any]]:
    given_id = {"type": "string", "format": "uuid"}
    parameters: list[dict[str, Any]] = []
    for name in re.findall(r"{(\w+)}", path):
        about = f"A UUID; anything else is 400 `validation_failed` with the pointer `/{name}`."
        parameters.append({"name": name, "in": "path", "required": True, "description": about, "schema": given_id})
    if (query := handler.opt.get("query")) is not None:
        for name, schema in msgspec.json.schema(query)["$defs"][query.__name__]["properties"].items():
            about = schema.pop("description", "")
            parameters.append(
                {"name": name, "in": "query", "required": False, "description": about, "schema": _not_null(schema)}
            )
    for name, about in handler.opt.get("headers", {}).items():
        parameters.append({"name": name, "in": "header", "required": False, "description": about, "schema": given_id})
    return parameters


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query parameter, which is left out where a member of a body could be null."""
    arms = [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**arms[0], **rest} if len(arms) == 1 else schema


def _response(
    status: int, answer: Answer, ref_of: dict[Any, Any], components: Components, is_api: bool
) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": ref_of[answer.shape] if answer.shape is not None else {}}
    if answer.codes:
        only = {"properties": {"status": {"const": status}, "code": {"enum": list(answer.codes)}}}
        content["schema"] = {"allOf": [content["schema"], only]}
        content["examples"] = {
            code: _written_once(
                components,
                "examples",
                code,
                {"summary": problems.CATALOGUE[code].title, "value": problems.example(code)},
            )
            for code in answer.codes
        }
    headers = _EVERYWHERE | (_PACED if is_api else {}) | _BY_STATUS.get(status, {})
    response = {
        "description": answer.description,
        "headers": {name: _written_once(components, "headers", name, header) for name, header in headers.items()},
        **({} if status == 204 else {"content": {answer.media_type: content}}),
    }
    if not answer.codes:
        return response
    # Named by what it can carry.
    name = "Or".join("".join(word.capitalize() for word in code.split("_")) for code in answer.codes)
    return _written_once(components, "responses", name, response)
