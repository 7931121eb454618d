"""FastAPI with supabase-py as their documentation shows them: pydantic models, a dependency, an asynchronous client.

uvicorn fastapi_app:app
"""

from __future__ import annotations

import os
import uuid
from typing import Annotated, Any, Literal

import httpx
import jwt
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from supabase import AsyncClient, AsyncClientOptions, acreate_client

URL, KEY, SECRET = (os.environ[name] for name in ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_JWT_SECRET"))
app = FastAPI()
# Without it every client makes its own connections and reads the certificates of all authorities: 40 ms a request.
http = httpx.AsyncClient(timeout=10)


class Model(BaseModel):
    """camelCase on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class SendMessage(Model):
    """The same members as ours."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    body: Annotated[str, Field(min_length=1, max_length=4000)]
    conversation_id: uuid.UUID | None = None
    to_user_id: uuid.UUID | None = None
    gig_id: uuid.UUID | None = None
    sensitive: bool = False
    client_message_id: uuid.UUID | None = None


class Profile(Model):
    """The card of a person."""

    id: uuid.UUID
    display_name: str
    avatar_url: str | None
    is_fallback: bool


class Message(Model):
    """One message."""

    id: uuid.UUID
    conversation_id: uuid.UUID
    seq: int
    event_seq: int
    from_user_id: uuid.UUID
    to_user_id: uuid.UUID | None
    gig_id: uuid.UUID | None
    client_message_id: uuid.UUID
    body: str | None
    state: Literal["visible", "deleted", "hidden", "pending", "rejected"]
    warning: str | None
    masked: bool
    sensitive: bool
    unreadable: bool
    status: Literal["sent", "delivered", "read"]
    sender: Profile
    edited_at: str | None
    deleted_at: str | None
    created_at: str


class Conversation(Model):
    """A row of the inbox."""

    id: uuid.UUID
    kind: Literal["direct", "group"]
    gig_id: uuid.UUID | None
    title: str | None
    members: list[Profile]
    member_count: int
    last_message: Message | None
    last_message_at: str | None
    unread_count: int
    marked_unread: bool
    my_role: Literal["owner", "admin", "member"]
    my_last_read_seq: int
    can_send: bool
    live_topic: str
    last_seq: int
    first_seq: int
    event_seq: int
    archived_at: str | None
    muted_until: str | None
    pinned_at: str | None
    created_at: str


class Sent(Model):
    """The message and its conversation."""

    message: Message
    conversation: Conversation


class Inbox(Model):
    """A page of the inbox."""

    conversations: list[Conversation]
    next_cursor: str | None


class MessagePage(Model):
    """A part of a conversation."""

    messages: list[Message]
    has_more_before: bool
    has_more_after: bool


async def caller(shown: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> AsyncClient:
    """Verify the token; a client that acts as its owner."""
    try:
        claims = jwt.decode(
            shown.credentials, SECRET, algorithms=["HS256"], audience="authenticated", issuer=f"{URL}/auth/v1"
        )
    except jwt.PyJWTError:
        raise HTTPException(401, "unauthenticated") from None
    if claims.get("role") != "authenticated":
        raise HTTPException(401, "unauthenticated")
    options = AsyncClientOptions(
        headers={"Authorization": f"Bearer {shown.credentials}"},
        persist_session=False,
        auto_refresh_token=False,
        httpx_client=http,
    )
    return await acreate_client(URL, KEY, options)


Caller = Annotated[AsyncClient, Depends(caller)]
Limit = Annotated[int, Query(ge=1, le=100)]


@app.post("/api/messages/send", status_code=201, response_model=Sent)
async def send(data: SendMessage, supabase: Caller) -> Any:
    """Send one message."""
    if data.conversation_id is None and data.to_user_id is None:
        raise HTTPException(400, "validation_failed")
    params = {
        "p_conversation_id": data.conversation_id and str(data.conversation_id),
        "p_to_user_id": data.to_user_id and str(data.to_user_id),
        "p_gig_id": data.gig_id and str(data.gig_id),
        "p_client_message_id": str(data.client_message_id or uuid.uuid4()),
        "p_body": data.body,
    }
    return (await supabase.rpc("send_message", params).execute()).data


@app.get("/api/messages/conversations", response_model=Inbox)
async def inbox(supabase: Caller, limit: Limit = 30, cursor: str | None = None) -> Any:
    """List the caller's conversations."""
    return (await supabase.rpc("list_inbox", {"p_limit": limit, "p_cursor": cursor}).execute()).data


@app.get("/api/messages/conversations/{id}/messages", response_model=MessagePage)
async def history(id: uuid.UUID, supabase: Caller, limit: Limit = 30) -> Any:
    """Page through a conversation."""
    return (await supabase.rpc("list_messages", {"p_conversation_id": str(id), "p_limit": limit}).execute()).data
