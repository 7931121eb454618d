"""Messages: send, edit and delete one, what it said before, mark as read up to one; and the badge."""

import uuid
from typing import Annotated, Any, ClassVar, Literal

from litestar import delete, get, patch, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app import limits, log, problems, sensitive, text
from app.problems import Problem
from app.shapes import Conversation, GivenId, Message, Read, Time
from app.vault import About
from app.wire import ApiRequest, Reply, given_id


class SendMessage(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where to and what. `conversationId` alone suffices, or `toUserId`, with `gigId` when it is about one."""

    also: ClassVar[dict[str, Any]] = {
        "if": {"properties": {"conversationId": {"type": "null"}}},
        "then": {"required": ["toUserId"], "properties": {"toUserId": {"type": "string"}}},
    }
    body: Annotated[
        str,
        Meta(
            description="1 to 4,000 code points, counted after normalisation: line ends become LF, control and "
            "direction marks are removed, NFC, white space at both ends is trimmed.",
            examples=["Is Saturday at ten still good for you?"],
            extra_json_schema={"minLength": 1, "pattern": text.VISIBLE},
        ),
    ]
    conversation_id: GivenId | None = None
    to_user_id: GivenId | None = None
    gig_id: GivenId | None = None
    sensitive: Annotated[
        bool,
        Meta(
            description="True: the text is encrypted before it is stored. Members read it through this API as ever; "
            "the database, its backups, Realtime events and direct readers never have it. It cannot be edited."
        ),
    ] = False
    client_message_id: Annotated[
        GivenId | None,
        Meta(description="Makes a retry safe: the same id is never a second message. `Idempotency-Key` is its alias."),
    ] = None


class MessageSent(Struct, frozen=True, rename="camel"):
    """The message as it is now, and its conversation."""

    message: Message
    conversation: Conversation


class _Pace(Struct, frozen=True, rename="camel"):
    limit: int
    remaining: int
    window_s: int
    reset_s: int


class _Sent(Struct, frozen=True):
    message: Message
    conversation: Conversation
    created: bool
    held: bool
    pace: _Pace


@post(
    "/send",
    operation_id="sendMessage",
    status_code=201,
    opt=problems.answers(
        MessageSent,
        {
            201: "The message was sent.",
            202: "The message waits for a moderator; only its author knows of it.",
            200: "A replay: the message as it is now.",
        },
        "not_found",
        "recipient_unavailable",
        "recipient_mismatch",
        "idempotency_conflict",
        "account_muted",
        "message_rejected",
        "sensitive_unavailable",
        *problems.WITH_BODY,
    )
    | {"headers": {"Idempotency-Key": "A UUID, the same as `clientMessageId`."}},
)
async def send_message(data: JSONBody[SendMessage], request: ApiRequest) -> Reply:
    """Send one message; a repeated `clientMessageId` answers the first one with 200."""
    if data.conversation_id is None and data.to_user_id is None:
        raise Problem("validation_failed", "Name a conversation or a person.", pointer="/conversationId")
    if why := text.refusal(data.body):
        raise Problem("validation_failed", why, pointer="/body")
    params: dict[str, Any] = {
        "p_conversation_id": data.conversation_id,
        "p_to_user_id": data.to_user_id,
        "p_gig_id": data.gig_id,
        "p_client_message_id": _key(data.client_message_id, log.current().headers.get(b"idempotency-key")),
    }
    try:
        if data.sensitive:
            sent = await _send_sealed(data, params, request)
        else:
            # JSON can carry NUL, PostgreSQL cannot; normalisation would remove it anyway.
            params["p_body"] = data.body.replace("\x00", "")
            # There always is a key, so sending twice is the same as sending once.
            sent = await request.supabase.rpc("send_message", params, request.user, _Sent, repeatable=True)
    except Problem as problem:
        if problem.code == "rate_limited":
            log.current().pace = limits.sends_refused(problem.retry_after_s or 1)
        raise
    log.current().pace = limits.sends(sent.pace.limit, sent.pace.remaining, sent.pace.window_s, sent.pace.reset_s)
    status = 200 if not sent.created else 202 if sent.held else 201
    return Reply(MessageSent(sent.message, sent.conversation), status)


async def _send_sealed(data: SendMessage, params: dict[str, Any], request: ApiRequest) -> _Sent:
    """Send an envelope in the place of the text; judged a second time when the rules changed meanwhile."""
    body = text.normalize(data.body)
    if body is None:
        raise Problem("validation_failed", "This text cannot be normalised.", pointer="/body")
    about = About(request.user.id, params["p_client_message_id"], data.conversation_id, data.to_user_id, data.gig_id)
    judged_again = False
    while True:
        params["p_envelope"] = await request.sealer.envelope(about, body)
        try:
            return await request.supabase.rpc("send_message", params, request.user, _Sent, repeatable=True)
        except Problem as problem:
            if problem.code == "envelope_invalid":
                raise sensitive.unavailable("the database does not accept our signature") from None
            if problem.code != "conflict" or judged_again:
                raise
            request.sealer.forget_rules()
            judged_again = True


def _key(in_body: str | None, in_header: bytes | None) -> str:
    if in_header is None:
        return in_body or str(uuid.uuid4())
    key = given_id(in_header.decode("latin-1"), "/Idempotency-Key")
    if in_body is not None and in_body.lower() != key:
        raise Problem("validation_failed", "It differs from Idempotency-Key.", pointer="/clientMessageId")
    return key


@patch(
    "/{id:str}/read",
    operation_id="markRead",
    status_code=200,
    opt=problems.answers(Read, {200: "How far the caller has read now."}, "not_found"),
)
async def mark_read(request: ApiRequest) -> Reply:
    """Mark everything up to this message as read."""
    params = {"p_message_id": given_id(request.path_params["id"], "/id")}
    # Reading up to a message twice reads no further than once.
    return Reply(await request.supabase.rpc("mark_read", params, request.user, Read, repeatable=True))


class EditMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """The new text."""

    body: Annotated[
        str,
        Meta(description="As for a new message.", extra_json_schema={"minLength": 1, "pattern": text.VISIBLE}),
    ]


class OneMessage(Struct, frozen=True):
    """The message as it is now."""

    message: Message


@patch(
    "/{id:str}",
    operation_id="editMessage",
    status_code=200,
    opt=problems.answers(
        OneMessage,
        {200: "The message as it is now."},
        "not_found",
        "account_muted",
        "recipient_unavailable",
        "message_deleted",
        "message_rejected",
        "message_sensitive",
        "edit_window_closed",
        *problems.WITH_BODY,
    ),
)
async def edit_message(data: JSONBody[EditMessage], request: ApiRequest) -> Reply:
    """Replace the text of one's own message; what it said before stays readable."""
    if why := text.refusal(data.body):
        raise Problem("validation_failed", why, pointer="/body")
    params = {"p_message_id": given_id(request.path_params["id"], "/id"), "p_body": data.body.replace("\x00", "")}
    # The same text again changes nothing.
    return Reply(await request.supabase.rpc("edit_message", params, request.user, OneMessage, repeatable=True))


@delete(
    "/{id:str}",
    operation_id="deleteMessage",
    status_code=200,
    opt=problems.answers(OneMessage, {200: "The tombstone."}, "not_found"),
)
async def delete_message(request: ApiRequest) -> Reply:
    """Delete one's own message for everybody; a tombstone keeps its place."""
    params = {"p_message_id": given_id(request.path_params["id"], "/id")}
    return Reply(await request.supabase.rpc("delete_message", params, request.user, OneMessage, repeatable=True))


class Version(Struct, frozen=True, rename="camel"):
    """One text a message has had."""

    version: Annotated[int, Meta(description="1 is the text as it was sent.")]
    body: Annotated[str | None, Meta(description="Null when it is sensitive and cannot be opened.")]
    created_at: Time


class Versions(Struct, frozen=True):
    """All of them, the last one in force; none for a deleted or hidden message."""

    versions: list[Version]


@get(
    "/{id:str}/history",
    operation_id="messageHistory",
    opt=problems.answers(Versions, {200: "What the message has said."}, "not_found"),
)
async def message_history(request: ApiRequest) -> Reply:
    """Read all texts a message has had."""
    params = {"p_message_id": given_id(request.path_params["id"], "/id")}
    return Reply(await request.supabase.rpc("message_history", params, request.user, Versions, repeatable=True))


class UnreadCounts(Struct, frozen=True):
    """The badge; muted and archived conversations do not count."""

    messages: int
    conversations: Annotated[int, Meta(description="With something unread, or marked so.")]


@get("/unread", operation_id="unreadCounts", opt=problems.answers(UnreadCounts, {200: "The badge."}))
async def unread_counts(request: ApiRequest) -> Reply:
    """Count what is unread."""
    return Reply(await request.supabase.rpc("unread_counts", {}, request.user, UnreadCounts, repeatable=True))


class Quota(Struct, frozen=True, rename="camel"):
    """One limit of the database, as it stands for the caller."""

    name: Annotated[
        Literal["send", "new_conversation", "edit", "report", "profile", "refused"],
        Meta(
            description="Sends, conversations started, edits, reports, changes of one's profile, and texts that "
            "moderation refused."
        ),
    ]
    limit: Annotated[int, Meta(description="Accepted in any `windowS` seconds.")]
    remaining: Annotated[int, Meta(description="What is left now.")]
    window_s: int
    reset_s: Annotated[int, Meta(description="Seconds until at least one more is allowed; 0 when nothing is used up.")]


class Limits(Struct, frozen=True):
    """All limits of one's own that answer `rate_limited`, but that of the edge, which every answer's headers tell."""

    limits: list[Quota]


@get("/limits", operation_id="getLimits", opt=problems.answers(Limits, {200: "The limits as they stand."}))
async def get_limits(request: ApiRequest) -> Reply:
    """Tell the caller's limits and what is left of them."""
    return Reply(await request.supabase.rpc("get_limits", {}, request.user, Limits, repeatable=True))
