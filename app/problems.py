"""Problems: the catalogue of codes, the exception that carries one, and the one renderer of problem+json (RFC 9457).

Whatever goes wrong anywhere ends here, so that every error has the same members and a code from the catalogue.
`title` belongs to the code and never varies; `detail` is about this occurrence; clients decide by `code` alone.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from litestar.exceptions import HTTPException
from msgspec import UNSET, Meta, Struct, UnsetType

MEDIA_TYPE = "application/problem+json"
# RFC 6750: `error` is added only when a token was given.
CHALLENGE = 'Bearer realm="messages"'

Retry = Literal["never", "sameKey", "after", "refreshToken"]


class Kind(NamedTuple):
    """One row of the catalogue; `retry` tells a client what to do next."""

    status: int
    title: str
    meaning: str
    retry: Retry


CATALOGUE: dict[str, Kind] = {
    "validation_failed": Kind(
        400, "The request has the wrong shape.", "`errors` points at the first thing that is wrong.", "never"),
    "cursor_invalid": Kind(
        400, "This cursor cannot be used.", "It is not one of ours; begin again without a cursor.", "never"),
    "unauthenticated": Kind(
        401, "A valid access token is needed.", "There is no bearer token, or it is not valid here.", "never"),
    "token_expired": Kind(
        401, "The access token has expired.", "The token was valid; refresh the session.", "refreshToken"),
    "forbidden": Kind(
        403, "This is not allowed.", "The caller may not do this.", "never"),
    "recipient_unavailable": Kind(
        403, "This person cannot be written to.", "Unknown, blocked, suspended, gone or oneself: one answer.", "never"),
    "account_unavailable": Kind(
        403, "This account cannot be used.", "The caller's account is gone or suspended.", "never"),
    "account_muted": Kind(
        403, "This account may not write for now.", "A moderator muted it; `detail` says until when.", "never"),
    "envelope_invalid": Kind(
        403, "This envelope cannot be used.", "Only the service makes envelopes of sensitive messages.", "never"),
    "not_found": Kind(
        404, "Not found.", "It does not exist, or the caller may not see it: one answer.", "never"),
    "method_not_allowed": Kind(
        405, "This method is not offered here.", "`Allow` names the methods that are.", "never"),
    "request_timeout": Kind(
        408, "The request took too long to arrive.", "The body was not complete in time.", "sameKey"),
    "idempotency_conflict": Kind(
        409, "This key was used for something else.", "The same `clientMessageId` came with other content.", "never"),
    "message_deleted": Kind(
        409, "The message was deleted.", "A deleted message cannot be edited or hidden.", "never"),
    "already_decided": Kind(
        409, "This has been decided already.", "By somebody else, or differently; `detail` says how.", "never"),
    "undo_not_possible": Kind(
        409, "This cannot be undone.", "It was undone, is no longer as it was left, or cannot be taken back.", "never"),
    "conflict": Kind(
        409, "Something else changed at the same time.", "The same request may well succeed now.", "sameKey"),
    "payload_too_large": Kind(
        413, "The request is too large.", "The body is larger than 64 KiB.", "never"),
    "unsupported_media_type": Kind(
        415, "The body must be JSON.", "Send `application/json` in UTF-8, without a content encoding.", "never"),
    "recipient_mismatch": Kind(
        422, "Conversation and recipient do not match.", "`toUserId` or `gigId` belongs to another one.", "never"),
    "not_a_group": Kind(
        422, "This is not a group.", "Only a group has a title and members to manage.", "never"),
    "group_full": Kind(
        422, "The group is full.", "It would have more members than the limit allows.", "never"),
    "message_sensitive": Kind(
        422, "A sensitive message cannot be edited.", "Delete it and send a new one.", "never"),
    "edit_window_closed": Kind(
        422, "The message can no longer be edited.", "The time in which authors may edit is over.", "never"),
    "decision_not_possible": Kind(
        422, "This decision does not fit.", "Held ones are released or rejected, others dismissed or hidden.", "never"),
    "block_list_full": Kind(
        422, "No more people can be blocked.", "Unblock somebody first; `detail` says how many there can be.", "never"),
    "message_rejected": Kind(
        422, "The message was not accepted.", "A moderation rule refuses it; `detail` says why.", "never"),
    "text_rejected": Kind(
        422, "This text was not accepted.", "A moderation rule refuses it as a name or title.", "never"),
    "rate_limited": Kind(
        429, "Too many requests.", "Wait `retryAfterS` seconds; repeating a send that arrived costs nothing.", "after"),
    "internal_error": Kind(
        500, "Something went wrong on our side.", "The request id finds it in our log.", "sameKey"),
    "upstream_invalid": Kind(
        502, "The data API gave an unusable answer.", "It was cut off, or not what we expect.", "sameKey"),
    "upstream_unavailable": Kind(
        503, "The data API is not available.", "Wait `retryAfterS` seconds and send it again.", "after"),
    "not_ready": Kind(
        503, "The service is not ready.", "The data API, its schema or its keys cannot be used yet.", "after"),
    "sensitive_unavailable": Kind(
        503, "Sensitive messages cannot be sent.", "Keys are missing, or the database does not know them.", "after"),
    "upstream_timeout": Kind(
        504, "The data API did not answer in time.", "It may or may not have been done.", "sameKey"),
}  # fmt: skip

# What can happen to every operation of the API, so that a route names only what is its own.
COMMON = (
    "validation_failed", "unauthenticated", "token_expired", "forbidden", "account_unavailable", "conflict",
    "rate_limited", "internal_error", "upstream_invalid", "upstream_unavailable", "upstream_timeout",
)  # fmt: skip

# What reading a body can add to that.
WITH_BODY = ("request_timeout", "payload_too_large", "unsupported_media_type")


class Fault(Struct, frozen=True):
    """One thing that is wrong with a request."""

    pointer: Annotated[str, Meta(description="JSON pointer into the body; a path or header parameter is `/name`.")]
    detail: Annotated[str, Meta(description="One sentence for people.")]


class ProblemDocument(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A problem as RFC 9457 describes it, with a stable `code`."""

    type: Annotated[str, Meta(description="`/problems/` and the code.")]
    title: Annotated[str, Meta(description="Belongs to the code and never varies.")]
    status: Annotated[int, Meta(description="The HTTP status again.")]
    code: Annotated[str, Meta(description="Stable word to decide by; see docs/errors.md.")]
    detail: Annotated[str, Meta(description="One sentence about this occurrence, for people.")]
    instance: Annotated[str, Meta(description="`urn:request:` and the request id.")]
    request_id: Annotated[str, Meta(description="The `X-Request-Id` of this answer.")]
    retry_after_s: Annotated[
        Annotated[int, Meta(ge=1)] | UnsetType,
        Meta(description="Whole seconds after which a retry can succeed; also `Retry-After`."),
    ] = UNSET
    errors: Annotated[Sequence[Fault] | UnsetType, Meta(description="What is wrong, at least the first finding.")] = (
        UNSET
    )


class Problem(Exception):
    """A refusal on its way to the renderer.

    Shape:  code from the CATALOGUE; detail one sentence that repeats nothing secret; headers for this answer only.
    Units:  retry_after_s in whole seconds.
    Errors: KeyError at once when the code is not in the catalogue.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        pointer: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.code = code
        self.kind = CATALOGUE[code]
        self.detail = detail or self.kind.meaning
        self.errors = None if pointer is None else (Fault(pointer, self.detail),)
        self.retry_after_s = retry_after_s
        self.headers = headers or {}
        super().__init__(code)


_encode = msgspec.json.Encoder().encode


def render(problem: Problem, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a problem; nothing else in the service writes one."""
    document = _document(problem, request_id)
    headers = dict(problem.headers)
    headers["content-type"] = MEDIA_TYPE
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    if problem.kind.status == 401:
        headers.setdefault(
            "www-authenticate", f'{CHALLENGE}, error="invalid_token", error_description="{problem.code}"'
        )
    return problem.kind.status, headers, _encode(document)


def _document(problem: Problem, request_id: str) -> ProblemDocument:
    return ProblemDocument(
        type=f"/problems/{problem.code}",
        title=problem.kind.title,
        status=problem.kind.status,
        code=problem.code,
        detail=problem.detail,
        instance=f"urn:request:{request_id}",
        request_id=request_id,
        retry_after_s=UNSET if problem.retry_after_s is None else problem.retry_after_s,
        errors=UNSET if problem.errors is None else problem.errors,
    )


_BY_STATUS = {
    400: "validation_failed", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    413: "payload_too_large", 415: "unsupported_media_type", 422: "validation_failed", 429: "rate_limited",
}  # fmt: skip


def from_exception(error: Exception) -> Problem:
    """The problem an exception stands for; what nobody expected is our own fault and says nothing about itself."""
    if isinstance(error, Problem):
        return error
    if not isinstance(error, HTTPException) or error.status_code not in _BY_STATUS:
        return Problem("internal_error")
    code = _BY_STATUS[error.status_code]
    # The framework's own sentences may quote the request; only the header that 405 owes its reader is kept.
    allow = {name.lower(): value for name, value in (error.headers or {}).items()}.get("allow")
    return Problem(
        code,
        pointer="" if code == "validation_failed" else None,
        headers={"allow": allowed(allow)} if allow else None,
    )


def allowed(methods: str) -> str:
    """The value of `Allow`: a resource that can be read can also be asked for its headers."""
    names = {name.strip() for name in methods.split(",")} | {"OPTIONS"}
    return ", ".join(sorted(names | {"HEAD"} if "GET" in names else names))


class Answer(NamedTuple):
    """One status an operation can answer with: its body, and for problems the codes it can carry."""

    description: str
    shape: Any
    media_type: str
    codes: tuple[str, ...] = ()


def answers(
    shape: Any, described: dict[int, str], *codes: str, common: Sequence[str] = COMMON
) -> dict[str, dict[int, Answer]]:
    """The `opt` of a route: everything it can answer, for the OpenAPI document and nothing else.

    Shape:  described is a sentence per successful status; codes are the route's own problems, common those of all.
    Errors: KeyError at import when a code is not in the catalogue.
    """
    found = {status: Answer(sentence, shape, "application/json") for status, sentence in described.items()}
    by_status: dict[int, list[str]] = {}
    for code in sorted({*codes, *common}):
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    for status, listed in by_status.items():
        sentence = " or ".join(f"`{code}`: {CATALOGUE[code].title}" for code in listed)
        found[status] = Answer(sentence, ProblemDocument, MEDIA_TYPE, tuple(listed))
    return {"answers": found}


def example(code: str) -> dict[str, Any]:
    """A problem of this code as it may look."""
    waits = 17 if CATALOGUE[code].retry == "after" else None
    pointer = "/body" if code == "validation_failed" else None
    document = _document(Problem(code, pointer=pointer, retry_after_s=waits), "01jd3f9k2m7q8r5s6t0v1w2x3y")
    shown: dict[str, Any] = msgspec.to_builtins(document)
    return shown


def table() -> str:
    """The catalogue as the Markdown of docs/errors.md."""
    rows = ["| code | status | title | meaning | retry |", "|---|---|---|---|---|"]
    rows += [f"| `{code}` | {k.status} | {k.title} | {k.meaning} | {k.retry} |" for code, k in CATALOGUE.items()]
    return "\n".join(rows) + "\n"
