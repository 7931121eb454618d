"""The moderators' desk: the queue, what an item is about, decisions, sanctions, undo, the audit log.

Who is a moderator is asked in SQL, at each call; everybody else is told `forbidden`.
"""

from typing import Annotated, Any, Literal

from litestar import delete, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app import problems
from app.routes.reports import Reason
from app.shapes import Cursor, GivenId, Id, Limit, Message, NextCursor, Profile, Time
from app.text import VISIBLE
from app.wire import ApiRequest, Reply, given_id

ItemKind = Literal["message_report", "user_report", "held", "classified"]
Decision = Literal["dismiss", "hide", "release", "reject"]
Outcome = Literal["dismiss", "hide", "release", "reject", "withdrawn"]
SanctionKind = Literal["mute", "suspend"]
# SQL counts the code points, after normalisation.
Note = Annotated[str, Meta(description="At most 1,000 code points, after normalisation; for the audit log.")]


class Item(Struct, frozen=True, rename="camel"):
    """One question to the moderators: about a message, or a person."""

    id: Id
    kind: ItemKind
    status: Literal["open", "decided"]
    user: Annotated[Profile, Meta(description="Whose conduct it is about.")]
    conversation_id: Id | None
    message_id: Id | None
    details: Annotated[dict[str, Any], Meta(description="What led to it; of reports: `reasons`, how many by reason.")]
    report_count: int
    opened_at: Time
    decided_at: Time | None
    decision: Annotated[Outcome | None, Meta(description="`withdrawn`: its author deleted the held message.")]


class QueueQuery(Struct, frozen=True, rename="camel"):
    """Which part of the queue."""

    status: Literal["open", "decided"] = "open"
    kind: ItemKind | None = None
    user_id: Annotated[GivenId | None, Meta(description="Only items about this person.")] = None
    limit: Limit = 30
    cursor: Cursor | None = None


class Queue(Struct, frozen=True, rename="camel"):
    """Open items, the oldest first; or decided ones, the newest decision first."""

    items: list[Item]
    next_cursor: NextCursor


@get(
    "/queue",
    operation_id="listModerationQueue",
    opt=problems.answers(Queue, {200: "A page of the queue."}, "cursor_invalid") | {"query": QueueQuery},
)
async def list_moderation_queue(request: ApiRequest) -> Reply:
    """List what waits for a decision, or what has been decided; without what is about the caller."""
    asked = request.asked(QueueQuery)
    params = {
        "p_status": asked.status,
        "p_kind": asked.kind,
        "p_user_id": asked.user_id,
        "p_limit": asked.limit,
        "p_cursor": asked.cursor,
    }
    return Reply(await request.supabase.rpc("list_moderation_queue", params, request.user, Queue, repeatable=True))


class Original(Struct, frozen=True):
    """What a message really says, also when it is covered or hidden; nothing when it was deleted."""

    body: str | None
    unreadable: Annotated[bool, Meta(description="A sensitive text that the service has no key for.")]


class ContextMessage(Message, frozen=True, rename="camel"):
    """A message as moderators see it."""

    original: Original


class EarlierText(Struct, frozen=True, rename="camel"):
    """What a message said before an edit, or before it was deleted."""

    version: int
    body: str
    replaced_at: Time


class DeskMessage(ContextMessage, frozen=True):
    """The message an item is about; held ones have `seq` 0."""

    versions: Annotated[list[EarlierText], Meta(description="The newest 20 earlier texts.")]


class DeskReport(Struct, frozen=True, rename="camel"):
    """A report as moderators see it."""

    id: Id
    reporter: Profile
    reason: Reason
    note: str | None
    evidence: Annotated[
        dict[str, Any] | None,
        Meta(description="What there was to see then. Null when that of earlier reports fills the answer."),
    ]
    created_at: Time


class Verdict(Struct, frozen=True, rename="camel"):
    """What the moderation rules said about a text, also one that was refused."""

    id: Id
    conversation_id: Id | None
    message_id: Id | None
    action: Literal["warn", "mask", "hold", "reject"]
    rules: list[dict[str, Any]]
    body: str | None
    created_at: Time


class Sanction(Struct, frozen=True, rename="camel"):
    """A person is muted or suspended."""

    id: Id
    user_id: Id
    kind: SanctionKind
    reason: str
    starts_at: Time
    ends_at: Annotated[Time | None, Meta(description="Null: until it is lifted.")]
    lifted_at: Time | None


class Action(Struct, frozen=True, rename="camel"):
    """One line of the audit log."""

    id: Id
    moderator: Annotated[Profile | None, Meta(description="Null: the system.")]
    action: Annotated[
        str, Meta(description="viewed, dismiss, hide, restore, release, reject, mute, suspend, lift, reopen, ...")
    ]
    item_id: Id | None
    user: Annotated[Profile | None, Meta(description="Whom it concerns.")]
    message_id: Id | None
    sanction_id: Id | None
    note: str | None
    details: dict[str, Any]
    undoes: Annotated[Id | None, Meta(description="The action this one took back.")]
    undone_by: Annotated[Id | None, Meta(description="The action that took this one back.")]
    created_at: Time


class ItemContext(Struct, frozen=True):
    """All a moderator needs to decide."""

    item: Item
    message: DeskMessage | None
    context: Annotated[list[ContextMessage], Meta(description="Up to ten messages before and ten after it.")]
    reports: Annotated[list[DeskReport], Meta(description="The first 50.")]
    verdicts: Annotated[list[Verdict], Meta(description="About the message and the person, newest first.")]
    sanctions: Annotated[list[Sanction], Meta(description="Of the person, newest first.")]
    actions: Annotated[list[Action], Meta(description="About the person, newest first, without `viewed`.")]


@get(
    "/items/{id:str}",
    operation_id="getModerationItem",
    opt=problems.answers(ItemContext, {200: "What the item is about."}, "not_found"),
)
async def get_moderation_item(request: ApiRequest) -> Reply:
    """Look into an item. The audit log keeps that the caller looked, at most once an hour."""
    params = {"p_item_id": given_id(request.path_params["id"], "/id")}
    return Reply(await request.supabase.rpc("get_moderation_item", params, request.user, ItemContext, repeatable=True))


class Decide(Struct, frozen=True, forbid_unknown_fields=True):
    """What to do: `release` or `reject` what is held; `dismiss`, or `hide` the message, otherwise."""

    decision: Decision
    note: Note | None = None


class Decided(Struct, frozen=True):
    """The item as it is now, and the line of the audit log."""

    item: Item
    action: Action


@post(
    "/items/{id:str}/decide",
    operation_id="decideModerationItem",
    status_code=200,
    opt=problems.answers(
        Decided,
        {200: "It is decided."},
        "not_found",
        "already_decided",
        "message_deleted",
        "decision_not_possible",
        *problems.WITH_BODY,
    ),
)
async def decide_moderation_item(data: JSONBody[Decide], request: ApiRequest) -> Reply:
    """Decide an item and close its reports; of two decisions at once exactly one is made."""
    params = {
        "p_item_id": given_id(request.path_params["id"], "/id"),
        "p_decision": data.decision,
        "p_note": _clean(data.note),
    }
    # The same decision again by the same moderator changes nothing.
    return Reply(await request.supabase.rpc("decide_moderation_item", params, request.user, Decided, repeatable=True))


class NewSanction(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`mute`: the person cannot write. `suspend`: nor change anything, nor be written to."""

    kind: SanctionKind
    duration_s: Annotated[
        Annotated[int, Meta(ge=1, le=315_360_000)] | None, Meta(description="Seconds; null: until it is lifted.")
    ]
    reason: Annotated[
        str, Meta(description="1 to 1,000 code points; for moderators.", extra_json_schema={"pattern": VISIBLE})
    ]


class Sanctioned(Struct, frozen=True):
    """The sanction as it is now, and the line of the audit log."""

    sanction: Sanction
    action: Action


class _Imposed(Struct, frozen=True):
    sanction: Sanction
    action: Action
    created: bool


@post(
    "/users/{id:str}/sanctions",
    operation_id="sanctionUser",
    status_code=201,
    opt=problems.answers(
        Sanctioned,
        {201: "In force from now on.", 200: "The same sanction by the caller, which is in force."},
        "not_found",
        "already_decided",
        *problems.WITH_BODY,
    ),
)
async def sanction_user(data: JSONBody[NewSanction], request: ApiRequest) -> Reply:
    """Mute or suspend a person, for a time or until it is lifted. Admins may do so with moderators."""
    params = {
        "p_user_id": given_id(request.path_params["id"], "/id"),
        "p_kind": data.kind,
        "p_duration_s": data.duration_s,
        "p_reason": _clean(data.reason),
    }
    # The same sanction again by the same moderator changes nothing.
    made = await request.supabase.rpc("sanction_user", params, request.user, _Imposed, repeatable=True)
    return Reply(Sanctioned(made.sanction, made.action), 201 if made.created else 200)


class Why(Struct, frozen=True, forbid_unknown_fields=True):
    """A remark for the audit log."""

    note: Note | None = None


@delete(
    "/sanctions/{id:str}",
    operation_id="liftSanction",
    status_code=200,
    opt=problems.answers(
        Sanctioned, {200: "It is not in force any more."}, "not_found", "already_decided", *problems.WITH_BODY
    ),
)
async def lift_sanction(request: ApiRequest, data: JSONBody[Why | None] = None) -> Reply:
    """End a sanction early; the body may be left out."""
    params = {
        "p_sanction_id": given_id(request.path_params["id"], "/id"),
        "p_note": _clean(data.note if data else None),
    }
    # Lifting it again by the same moderator changes nothing.
    return Reply(await request.supabase.rpc("lift_sanction", params, request.user, Sanctioned, repeatable=True))


class ModerateMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """Why; 1 to 1,000 code points."""

    note: Annotated[Note, Meta(extra_json_schema={"minLength": 1, "pattern": VISIBLE})]


class OneAction(Struct, frozen=True):
    """The line of the audit log."""

    action: Action


_MODERATED = problems.answers(OneAction, {200: "It is so."}, "not_found", "message_deleted", *problems.WITH_BODY)


@post("/messages/{id:str}/hide", operation_id="moderateHideMessage", status_code=200, opt=_MODERATED)
async def moderate_hide_message(data: JSONBody[ModerateMessage], request: ApiRequest) -> Reply:
    """Hide a message, also when nobody has reported it."""
    params = {"p_message_id": given_id(request.path_params["id"], "/id"), "p_note": _clean(data.note)}
    # What is hidden already is answered with the action that hid it.
    return Reply(await request.supabase.rpc("moderate_hide_message", params, request.user, OneAction, repeatable=True))


@post("/messages/{id:str}/restore", operation_id="moderateRestoreMessage", status_code=200, opt=_MODERATED)
async def moderate_restore_message(data: JSONBody[ModerateMessage], request: ApiRequest) -> Reply:
    """Show a hidden message again."""
    params = {"p_message_id": given_id(request.path_params["id"], "/id"), "p_note": _clean(data.note)}
    # What is visible already is answered with the action that restored it.
    return Reply(
        await request.supabase.rpc("moderate_restore_message", params, request.user, OneAction, repeatable=True)
    )


@post(
    "/actions/{id:str}/undo",
    operation_id="undoModerationAction",
    status_code=200,
    opt=problems.answers(
        OneAction, {200: "It is undone."}, "not_found", "undo_not_possible", "message_deleted", *problems.WITH_BODY
    ),
)
async def undo_moderation_action(request: ApiRequest, data: JSONBody[Why | None] = None) -> Reply:
    """Take back what an action did, once; moderators their own, admins everybody's. The body may be left out."""
    params = {"p_action_id": given_id(request.path_params["id"], "/id"), "p_note": _clean(data.note if data else None)}
    # Undoing it again by the same moderator changes nothing.
    return Reply(await request.supabase.rpc("undo_moderation_action", params, request.user, OneAction, repeatable=True))


class ActionsQuery(Struct, frozen=True, rename="camel"):
    """Which part of the audit log."""

    user_id: Annotated[GivenId | None, Meta(description="Only what concerns this person.")] = None
    item_id: Annotated[GivenId | None, Meta(description="Only what concerns this item.")] = None
    limit: Limit = 30
    cursor: Cursor | None = None


class ActionPage(Struct, frozen=True, rename="camel"):
    """Lines of the audit log, newest first."""

    actions: list[Action]
    next_cursor: NextCursor


@get(
    "/actions",
    operation_id="listModerationActions",
    opt=problems.answers(ActionPage, {200: "A page of the audit log."}, "cursor_invalid") | {"query": ActionsQuery},
)
async def list_moderation_actions(request: ApiRequest) -> Reply:
    """List who decided what, when and why; without what is about the caller."""
    asked = request.asked(ActionsQuery)
    params = {
        "p_user_id": asked.user_id,
        "p_item_id": asked.item_id,
        "p_limit": asked.limit,
        "p_cursor": asked.cursor,
    }
    return Reply(
        await request.supabase.rpc("list_moderation_actions", params, request.user, ActionPage, repeatable=True)
    )


def _clean(note: str | None) -> str | None:
    """JSON can carry NUL, PostgreSQL cannot; normalisation would remove it anyway."""
    return note.replace("\x00", "") if note is not None else None
