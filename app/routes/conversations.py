"""Conversations: the inbox, one conversation, and reading all of it."""

from typing import Annotated

from litestar import get, patch, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app import problems
from app.problems import Problem
from app.shapes import Conversation, GivenId, Message, Read, Receipt
from app.wire import ApiRequest, Reply, given_id


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


class OneConversation(Struct, frozen=True):
    """One conversation, opened."""

    conversation: DetailedConversation


@get(
    "/conversations/{id:str}",
    operation_id="getConversation",
    opt=problems.answers(OneConversation, {200: "The conversation."}, "not_found"),
)
async def get_conversation(request: ApiRequest) -> Reply:
    """Open one conversation; one that is not the caller's is not found."""
    params = {"p_conversation_id": given_id(request.path_params["id"], "/id")}
    return Reply(await request.supabase.rpc("get_conversation", params, request.user, OneConversation, repeatable=True))


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
