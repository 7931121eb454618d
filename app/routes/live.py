"""What keeps a client current: sync after an absence or a gap, delivered receipts, typing."""

from typing import Annotated

import msgspec
from litestar import patch, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app import problems
from app.shapes import Conversation, GivenId, Id, Message, Receipt
from app.wire import ApiRequest, NoContent, Reply, given_id


class SyncRequest(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Since when; without a cursor, from now on."""

    cursor: Annotated[str | None, Meta(description="`cursor` of the answer before.")] = None
    limit: Annotated[int, Meta(ge=1, le=500, description="Messages in one answer.")] = 200


class ConversationReceipt(Receipt, frozen=True, rename="camel"):
    """A receipt, and of which conversation."""

    conversation_id: Id


class Changes(Struct, frozen=True, rename="camel"):
    """Everything that changed since the cursor, as it is now; the same thing may come twice, nothing is left out."""

    messages: Annotated[list[Message], Meta(description="New and changed ones; merge by `id` and `eventSeq`.")]
    conversations: Annotated[
        list[Conversation], Meta(description="Changed ones; without a cursor, the first page of the inbox.")
    ]
    receipts: Annotated[list[ConversationReceipt], Meta(description="Of all members of those conversations.")]
    lost: Annotated[list[Id], Meta(description="Conversations the caller is no longer in; forget them.")]
    cursor: Annotated[str, Meta(description="Send it next time. Keep it with what was merged.")]
    has_more: Annotated[bool, Meta(description="Ask again at once.")]
    position: Annotated[
        int | None,
        Meta(
            description="With nothing more to ask for: all up to here is in the answers. Events at or below it "
            "say nothing new; the next one has it as `previousPosition`."
        ),
    ]


@post(
    "/sync",
    operation_id="sync",
    status_code=200,
    opt=problems.answers(Changes, {200: "What changed."}, "cursor_invalid", *problems.WITH_BODY),
)
async def sync(request: ApiRequest, data: JSONBody[SyncRequest | None] = None) -> Reply:
    """Catch up, however long one was away; a `cursor_invalid` means to start over without a cursor."""
    asked = data or SyncRequest()
    cursor = asked.cursor.replace("\x00", "") if asked.cursor is not None else None
    params = {"p_cursor": cursor, "p_limit": asked.limit}
    return Reply(await request.supabase.rpc("sync", params, request.user, Changes, repeatable=True))


class Delivered(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Up to which message one conversation has arrived."""

    conversation_id: GivenId
    seq: Annotated[int, Meta(ge=0, le=2**53 - 1)]


class MarkDelivered(Struct, frozen=True, forbid_unknown_fields=True):
    """What has arrived on this device."""

    receipts: Annotated[list[Delivered], Meta(min_length=1, max_length=100)]


class DeliveredReceipts(Struct, frozen=True):
    """The caller's receipts in these conversations; those of others are left out."""

    receipts: list[ConversationReceipt]


@patch(
    "/delivered",
    operation_id="markDelivered",
    status_code=200,
    opt=problems.answers(DeliveredReceipts, {200: "How far everything has arrived."}, *problems.WITH_BODY),
)
async def mark_delivered(data: JSONBody[MarkDelivered], request: ApiRequest) -> Reply:
    """Say that messages have arrived, for several conversations at once; a watermark never goes back."""
    params = {"p_receipts": msgspec.to_builtins(data.receipts)}
    return Reply(await request.supabase.rpc("mark_delivered", params, request.user, DeliveredReceipts, repeatable=True))


@post(
    "/conversations/{id:str}/typing",
    operation_id="setTyping",
    # NoContent says 204; Litestar would refuse a handler that returns something and declares it.
    status_code=200,
    opt=problems.answers(None, {204: "The others were told."}, "not_found", "account_muted", "recipient_unavailable"),
)
async def set_typing(request: ApiRequest) -> NoContent:
    """Tell the members on the live topic that the caller is typing; at most every few seconds makes sense."""
    params = {"p_conversation_id": given_id(request.path_params["id"], "/id")}
    await request.supabase.rpc("set_typing", params, request.user, dict, repeatable=True)
    return NoContent()
