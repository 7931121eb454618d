"""Reports: tell the moderators about a message or a person."""

from typing import Annotated, Literal

from litestar import post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app import problems
from app.shapes import Id, Time
from app.wire import ApiRequest, Reply, given_id

Reason = Literal[
    "spam",
    "scam",
    "harassment",
    "hate",
    "sexual",
    "violence",
    "off_platform",
    "impersonation",
    "illegal",
    "other",
]


class NewReport(Struct, frozen=True, forbid_unknown_fields=True):
    """Why, and in one's own words."""

    reason: Reason
    note: Annotated[str | None, Meta(description="At most 1,000 code points, after normalisation.")] = None


class Report(Struct, frozen=True, rename="camel"):
    """A report, as its reporter sees it."""

    id: Id
    kind: Literal["message", "user"]
    message_id: Id | None
    user_id: Annotated[Id, Meta(description="The person, or the author of the message.")]
    reason: Reason
    note: str | None
    status: Literal["open", "closed"]
    created_at: Time


class OneReport(Struct, frozen=True):
    """The report, which the reported person is not told about."""

    report: Report


class _Filed(Struct, frozen=True):
    report: Report
    created: bool


_ANSWERS = problems.answers(
    OneReport,
    {201: "The moderators have it.", 200: "The caller's own report about the same, which is still open."},
    "not_found",
    *problems.WITH_BODY,
)


@post("/{id:str}/report", operation_id="reportMessage", status_code=201, opt=_ANSWERS)
async def report_message(data: JSONBody[NewReport], request: ApiRequest) -> Reply:
    """Report somebody else's message; what it says now is kept as evidence."""
    return await _file("report_message", "p_message_id", data, request)


@post("/{id:str}/report", operation_id="reportUser", status_code=201, opt=_ANSWERS)
async def report_user(data: JSONBody[NewReport], request: ApiRequest) -> Reply:
    """Report a person one is, or was, in a conversation with."""
    return await _file("report_user", "p_user_id", data, request)


async def _file(function: str, thing: str, data: NewReport, request: ApiRequest) -> Reply:
    params = {
        thing: given_id(request.path_params["id"], "/id"),
        "p_reason": data.reason,
        "p_note": data.note.replace("\x00", "") if data.note is not None else None,
    }
    # A second try finds the first one's report open.
    filed = await request.supabase.rpc(function, params, request.user, _Filed, repeatable=True)
    return Reply(OneReport(filed.report), 201 if filed.created else 200)
