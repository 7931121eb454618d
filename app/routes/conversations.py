"""Conversations: the inbox, one conversation, its history, reading all of it, and one's own arrangement of it."""

from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import get, patch, post
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from app import problems
from app.problems import Problem
from app.shapes import Conversation, Cursor, GivenId, Limit, Message, NextCursor, OneConversation, Read, Receipt
from app.text import VISIBLE
from app.wire import ApiRequest, Reply, changes, given_id


class ListConversations(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Whose inbox, which must be one's own, and which part of it."""

    user_id: GivenId
    limit: Annotated[int, Meta(ge=1, le=100)] = 30
    # Nobody has more conversations; a larger number would only make the database count.
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Conversations(Struct, frozen=True, rename="camel"):
    """A part of the inbox, newest first."""

    conversations: list[Conversation]
    total: Annotated[int, Meta(description="All conversations of the caller.")]


@post(
    "/conversations",
    operation_id="listConversations",
    status_code=200,
    opt=problems.answers(Conversations, {200: "A page of the caller's inbox."}, *problems.WITH_BODY),
)
async def list_conversations(data: JSONBody[ListConversations], request: ApiRequest) -> Reply:
    """List the caller's conversations."""
    if data.user_id.lower() != request.user.id:
        raise Problem("forbidden", "One can only read one's own inbox.")
    params = {"p_limit": data.limit, "p_offset": data.offset}
    return Reply(await request.supabase.rpc("list_conversations", params, request.user, Conversations, repeatable=True))


class DetailedConversation(Conversation, frozen=True, rename="camel"):
    """A conversation with its newest messages."""

    messages: Annotated[list[Message], Meta(description="The newest 30, ascending.")]
    receipts: list[Receipt]
    has_more: Annotated[bool, Meta(description="Whether there are older messages.")]
    pending: Annotated[list[Message], Meta(description="The caller's own messages that are being held.")]


class OpenedConversation(Struct, frozen=True):
    """One conversation, opened."""

    conversation: DetailedConversation


@get(
    "/conversations/{id:str}",
    operation_id="getConversation",
    opt=problems.answers(OpenedConversation, {200: "The conversation."}, "not_found"),
)
async def get_conversation(request: ApiRequest) -> Reply:
    """Open one conversation; one that is not the caller's is not found."""
    params = {"p_conversation_id": given_id(request.path_params["id"], "/id")}
    opened = await request.supabase.rpc("get_conversation", params, request.user, OpenedConversation, repeatable=True)
    return Reply(opened)


class MarkAllRead(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How far; without it, everything there is now."""

    up_to_seq: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


@patch(
    "/conversations/{id:str}/read-all",
    operation_id="markAllRead",
    status_code=200,
    opt=problems.answers(Read, {200: "How far the caller has read now."}, "not_found", *problems.WITH_BODY),
)
async def mark_all_read(request: ApiRequest, data: JSONBody[MarkAllRead | None] = None) -> Reply:
    """Mark a conversation as read, up to `upToSeq` or all of it; the body may be left out."""
    up_to_seq = data.up_to_seq if data is not None else None
    params = {"p_conversation_id": given_id(request.path_params["id"], "/id"), "p_up_to_seq": up_to_seq}
    # Without a bound a second try could read what arrived in between, which nobody has seen.
    repeatable = up_to_seq is not None
    return Reply(await request.supabase.rpc("mark_all_read", params, request.user, Read, repeatable=repeatable))


class InboxQuery(Struct, frozen=True, rename="camel"):
    """Which part of the inbox."""

    limit: Limit = 30
    cursor: Cursor | None = None
    unread: Annotated[bool, Meta(description="Only conversations with something unread, or marked so.")] = False
    archived: Annotated[bool, Meta(description="The archive instead of the inbox.")] = False
    gig_id: Annotated[GivenId | None, Meta(description="Only conversations about this gig.")] = None
    with_user_id: Annotated[GivenId | None, Meta(description="Only direct conversations with this person.")] = None
    q: Annotated[
        Annotated[str, Meta(max_length=100)] | None,
        Meta(description="Part of a title or of another member's name; case and accents do not matter."),
    ] = None


class Inbox(Struct, frozen=True, rename="camel"):
    """A page of the inbox: pinned first, then the newest activity, then id, all descending."""

    conversations: list[Conversation]
    next_cursor: NextCursor


@get(
    "/conversations",
    operation_id="listInbox",
    opt=problems.answers(Inbox, {200: "A page of the caller's inbox."}, "cursor_invalid") | {"query": InboxQuery},
)
async def list_inbox(request: ApiRequest) -> Reply:
    """List the caller's conversations by cursor, which stays exact while conversations jump to the top."""
    asked = request.asked(InboxQuery)
    params = {
        "p_limit": asked.limit,
        "p_cursor": asked.cursor,
        "p_unread": asked.unread,
        "p_archived": asked.archived,
        "p_gig_id": asked.gig_id,
        "p_with_user_id": asked.with_user_id,
        "p_q": asked.q,
    }
    return Reply(await request.supabase.rpc("list_inbox", params, request.user, Inbox, repeatable=True))


_Place = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class HistoryQuery(Struct, frozen=True, rename="camel"):
    """Which part of a conversation: the newest page, or one place."""

    limit: Limit = 30
    before: Annotated[_Place | None, Meta(description="Messages with a smaller seq, the nearest ones.")] = None
    after: Annotated[_Place | None, Meta(description="Messages with a larger seq, the nearest ones.")] = None
    around: Annotated[_Place | None, Meta(description="Messages on both sides of this seq, and itself.")] = None


class MessagePage(Struct, frozen=True, rename="camel"):
    """A part of a conversation, ascending."""

    messages: list[Message]
    has_more_before: bool
    has_more_after: bool


@get(
    "/conversations/{id:str}/messages",
    operation_id="listMessages",
    opt=problems.answers(MessagePage, {200: "A page of messages."}, "not_found") | {"query": HistoryQuery},
)
async def list_messages(request: ApiRequest) -> Reply:
    """Page through a conversation; at most one of `before`, `after` and `around`."""
    asked = request.asked(HistoryQuery)
    params = {
        "p_conversation_id": given_id(request.path_params["id"], "/id"),
        "p_before": asked.before,
        "p_after": asked.after,
        "p_around": asked.around,
        "p_limit": asked.limit,
    }
    return Reply(await request.supabase.rpc("list_messages", params, request.user, MessagePage, repeatable=True))


class UpdateConversation(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What to change; what is left out stays. All but `title` is the caller's own and seen by nobody else."""

    archived: bool | UnsetType = UNSET
    pinned: bool | UnsetType = UNSET
    marked_unread: bool | UnsetType = UNSET
    muted_until: Annotated[
        Annotated[datetime, Meta(tz=True)] | UnsetType | None,
        Meta(description="Null, or a time that has passed, unmutes."),
    ] = UNSET
    title: Annotated[
        Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": VISIBLE})] | UnsetType,
        Meta(description="Groups only, by owners and admins: 1 to 120 code points on one line, after normalisation."),
    ] = UNSET


@patch(
    "/conversations/{id:str}",
    operation_id="updateConversation",
    status_code=200,
    opt=problems.answers(
        OneConversation,
        {200: "The conversation as it is now."},
        "not_found",
        "account_muted",
        "not_a_group",
        "text_rejected",
        *problems.WITH_BODY,
    ),
)
async def update_conversation(data: JSONBody[UpdateConversation], request: ApiRequest) -> Reply:
    """Archive, pin, mute or mark as unread for oneself; rename a group."""
    params: dict[str, Any] = {
        "p_conversation_id": given_id(request.path_params["id"], "/id"),
        "p_changes": changes(data),
    }
    if isinstance(data.muted_until, datetime):
        try:
            # One form for SQL: offsets of more than 16 hours are RFC 3339, and PostgreSQL refuses them.
            params["p_changes"]["mutedUntil"] = data.muted_until.astimezone(UTC).isoformat()
        except OverflowError:
            raise Problem("validation_failed", "The time is out of range.", pointer="/mutedUntil") from None
    # Everything named is set, not toggled.
    changed = await request.supabase.rpc("update_conversation", params, request.user, OneConversation, repeatable=True)
    return Reply(changed)
