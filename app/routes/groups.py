"""Groups: make one, see who is in it, add, promote, remove, leave."""

import uuid
from typing import Annotated, Literal

from litestar import delete, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app import log, problems
from app.shapes import Conversation, Cursor, GivenId, Id, Limit, NextCursor, OneConversation, Profile, Time
from app.text import VISIBLE
from app.wire import ApiRequest, Reply, given_id

Role = Literal["owner", "admin", "member"]


class CreateGroup(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who and about what; the caller becomes the owner."""

    title: Annotated[
        str,
        Meta(
            description="1 to 120 code points on one line, after normalisation.",
            extra_json_schema={"minLength": 1, "pattern": VISIBLE},
        ),
    ]
    member_ids: Annotated[list[GivenId], Meta(max_length=1000, description="The others; oneself is left out.")]
    gig_id: GivenId | None = None


class _Created(Struct, frozen=True):
    conversation: Conversation
    created: bool


@post(
    "/conversations/group",
    operation_id="createGroup",
    status_code=201,
    opt=problems.answers(
        OneConversation,
        {201: "The group was made.", 200: "A replay: the group as it is now."},
        "not_found",
        "account_muted",
        "recipient_unavailable",
        "idempotency_conflict",
        "group_full",
        "text_rejected",
        *problems.WITH_BODY,
    )
    | {"headers": {"Idempotency-Key": "A UUID; the same key is never a second group."}},
)
async def create_group(data: JSONBody[CreateGroup], request: ApiRequest) -> Reply:
    """Make a group; a repeated `Idempotency-Key` answers the first one with 200."""
    key = log.current().headers.get(b"idempotency-key")
    params = {
        "p_title": data.title.replace("\x00", ""),
        "p_member_ids": data.member_ids,
        "p_gig_id": data.gig_id,
        "p_client_group_id": str(uuid.uuid4()) if key is None else given_id(key.decode("latin-1"), "/Idempotency-Key"),
    }
    made = await request.supabase.rpc("create_group", params, request.user, _Created, repeatable=True)
    return Reply(OneConversation(made.conversation), 201 if made.created else 200)


class Member(Profile, frozen=True, rename="camel"):
    """The card of a member."""

    role: Role
    joined_at: Time
    last_seen_at: Annotated[
        Time | None, Meta(description="To the minute; null when either side hides it, or nothing is known.")
    ]


class MembersQuery(Struct, frozen=True, rename="camel"):
    """Which part of the members."""

    limit: Limit = 30
    cursor: Cursor | None = None


class MemberPage(Struct, frozen=True, rename="camel"):
    """Current members, by time of joining."""

    members: list[Member]
    next_cursor: NextCursor


@get(
    "/conversations/{id:str}/members",
    operation_id="listMembers",
    opt=problems.answers(MemberPage, {200: "A page of members."}, "not_found", "cursor_invalid")
    | {"query": MembersQuery},
)
async def list_members(request: ApiRequest) -> Reply:
    """List who is in a conversation."""
    asked = request.asked(MembersQuery)
    params = {
        "p_conversation_id": given_id(request.path_params["id"], "/id"),
        "p_limit": asked.limit,
        "p_cursor": asked.cursor,
    }
    return Reply(await request.supabase.rpc("list_members", params, request.user, MemberPage, repeatable=True))


class AddMembers(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Whom to add, or to give another role."""

    user_ids: Annotated[list[GivenId], Meta(min_length=1, max_length=100)]
    role: Annotated[
        Role | None, Meta(description="For new members: `member` when left out. For others: left out, it stays.")
    ] = None


class Members(Struct, frozen=True):
    """The people that were named, as members."""

    members: list[Member]


@post(
    "/conversations/{id:str}/members",
    operation_id="addMembers",
    status_code=200,
    opt=problems.answers(
        Members,
        {200: "They are members."},
        "not_found",
        "account_muted",
        "recipient_unavailable",
        "not_a_group",
        "group_full",
        *problems.WITH_BODY,
    ),
)
async def add_members(data: JSONBody[AddMembers], request: ApiRequest) -> Reply:
    """Add people, who see the group from its next message on; owners also give roles."""
    params = {
        "p_conversation_id": given_id(request.path_params["id"], "/id"),
        "p_user_ids": data.user_ids,
        "p_role": data.role,
    }
    return Reply(await request.supabase.rpc("add_members", params, request.user, Members, repeatable=True))


class MemberRemoved(Struct, frozen=True, rename="camel"):
    """Who is no longer in which group."""

    conversation_id: Id
    user_id: Id


@delete(
    "/conversations/{id:str}/members/{userId:str}",
    operation_id="removeMember",
    status_code=200,
    opt=problems.answers(MemberRemoved, {200: "They are no longer a member."}, "not_found", "not_a_group"),
)
async def remove_member(request: ApiRequest) -> Reply:
    """Remove somebody from a group, or leave it oneself."""
    params = {
        "p_conversation_id": given_id(request.path_params["id"], "/id"),
        "p_user_id": given_id(request.path_params["userId"], "/userId"),
    }
    # A second try would be told that there is no such member.
    return Reply(await request.supabase.rpc("remove_member", params, request.user, MemberRemoved))
