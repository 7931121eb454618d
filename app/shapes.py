"""Shapes that several nouns share. SQL writes them (`private.*_json`), a test holds both sides equal.

Members have the names of the wire in camelCase; times stay the strings SQL wrote, so HTTP and Realtime agree.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?![\s\S])"
# A UUID in a request: any case, hyphens required. `$` would let a line feed at the end pass.
GivenId = Annotated[str, Meta(pattern=_UUID, extra_json_schema={"format": "uuid"})]
# A UUID in an answer, lower case; not checked again, SQL's type has done it.
Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[
    str,
    Meta(
        description="UTC, to the microsecond.",
        extra_json_schema={"format": "date-time"},
        examples=["2026-03-01T09:30:00.123456Z"],
    ),
]
Limit = Annotated[int, Meta(ge=1, le=100, description="How many at the most.")]
Cursor = Annotated[str, Meta(description="`nextCursor` of the page before.")]
NextCursor = Annotated[str | None, Meta(description="Null on the last page.")]
# Positions in JavaScript stay exact below 2^53.
Seq = Annotated[int, Meta(description="Position in the conversation, contiguous from 1.")]


class Profile(Struct, frozen=True, rename="camel"):
    """The card of a person."""

    id: Id
    display_name: str
    avatar_url: str | None
    is_fallback: Annotated[bool, Meta(description="True when the person has no profile and the name is a stand-in.")]


class Message(Struct, frozen=True, rename="camel"):
    """One message as everybody in the conversation sees it."""

    id: Id
    conversation_id: Id
    seq: Seq
    event_seq: Annotated[int, Meta(description="Rises with every change; the larger one is the newer state.")]
    from_user_id: Id
    to_user_id: Id | None
    gig_id: Id | None
    client_message_id: Id
    body: Annotated[str | None, Meta(description="Null when the message is deleted or hidden, or cannot be opened.")]
    state: Annotated[
        Literal["visible", "deleted", "hidden", "pending", "rejected"],
        Meta(
            description="Hidden by moderation, or because the caller blocks its author. Pending and rejected ones are "
            "their authors' alone: they wait for a moderator, and have `seq` and `eventSeq` 0."
        ),
    ]
    warning: Annotated[str | None, Meta(description="Label of a content warning to show with it.")]
    masked: Annotated[bool, Meta(description="Contact details in it are covered.")]
    sensitive: Annotated[bool, Meta(description="The text is encrypted in the database and never in events.")]
    unreadable: Annotated[bool, Meta(description="A sensitive text that the service has no key for.")]
    status: Annotated[Literal["sent", "delivered", "read"], Meta(description="The author's view.")]
    sender: Profile
    edited_at: Time | None
    deleted_at: Time | None
    created_at: Time


class Conversation(Struct, frozen=True, rename="camel"):
    """A row of the inbox, from the caller's point of view."""

    id: Id
    kind: Literal["direct", "group"]
    gig_id: Id | None
    title: str | None
    members: Annotated[list[Profile], Meta(description="Both people, or the first 8 of a group.")]
    member_count: int
    last_message: Message | None
    last_message_at: Time | None
    unread_count: int
    marked_unread: bool
    my_role: Literal["owner", "admin", "member"]
    my_last_read_seq: int
    can_send: bool
    live_topic: Annotated[str, Meta(description="Realtime topic for typing and presence.")]
    last_seq: int
    first_seq: int
    event_seq: int
    archived_at: Time | None
    muted_until: Time | None
    pinned_at: Time | None
    created_at: Time


class Receipt(Struct, frozen=True, rename="camel"):
    """How far somebody has read and received, as others may see it."""

    user_id: Id
    last_read_seq: int
    last_delivered_seq: int


class Read(Struct, frozen=True, rename="camel"):
    """What reading changed."""

    receipt: Receipt
    unread_count: Annotated[int, Meta(description="Unread messages left in this conversation.")]
    unread_total: Annotated[int, Meta(description="Unread messages left, without muted and archived conversations.")]


class OneConversation(Struct, frozen=True):
    """One conversation as a row of the inbox."""

    conversation: Conversation
