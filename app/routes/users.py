"""Other people: block them, unblock them, see whom one blocks."""

from typing import Annotated

from litestar import delete, get, post
from msgspec import Meta, Struct

from app import problems
from app.shapes import Cursor, Id, Limit, NextCursor, Profile, Time
from app.wire import ApiRequest, Reply, given_id


class BlockedUser(Profile, frozen=True, rename="camel"):
    """The card of somebody the caller blocks; the fallback card unless the two have been in a conversation."""

    blocked_at: Time


class OneBlockedUser(Struct, frozen=True):
    """Who is blocked now."""

    user: BlockedUser


@post(
    "/{id:str}/block",
    operation_id="blockUser",
    status_code=200,
    opt=problems.answers(OneBlockedUser, {200: "They are blocked, or were already."}, "block_list_full"),
)
async def block_user(request: ApiRequest) -> Reply:
    """End direct contact with a person both ways and hide their messages in groups; they are not told."""
    params = {"p_user_id": given_id(request.path_params["id"], "/id")}
    return Reply(await request.supabase.rpc("block_user", params, request.user, OneBlockedUser, repeatable=True))


class Unblocked(Struct, frozen=True, rename="camel"):
    """Who is not blocked any more."""

    user_id: Id


@delete(
    "/{id:str}/block",
    operation_id="unblockUser",
    status_code=200,
    opt=problems.answers(Unblocked, {200: "They are not blocked, or were not."}),
)
async def unblock_user(request: ApiRequest) -> Reply:
    """End a block; everything is as it was before, unless the other blocks too."""
    params = {"p_user_id": given_id(request.path_params["id"], "/id")}
    return Reply(await request.supabase.rpc("unblock_user", params, request.user, Unblocked, repeatable=True))


class BlockedQuery(Struct, frozen=True, rename="camel"):
    """Which part of the list."""

    limit: Limit = 30
    cursor: Cursor | None = None


class BlockedPage(Struct, frozen=True, rename="camel"):
    """People the caller blocks, the newest block first."""

    users: Annotated[list[BlockedUser], Meta(description="Newest block first.")]
    next_cursor: NextCursor


@get(
    "/blocked",
    operation_id="listBlocked",
    opt=problems.answers(BlockedPage, {200: "A page of the people one blocks."}, "cursor_invalid")
    | {"query": BlockedQuery},
)
async def list_blocked(request: ApiRequest) -> Reply:
    """List whom one blocks."""
    asked = request.asked(BlockedQuery)
    params = {"p_limit": asked.limit, "p_cursor": asked.cursor}
    return Reply(await request.supabase.rpc("list_blocked", params, request.user, BlockedPage, repeatable=True))
