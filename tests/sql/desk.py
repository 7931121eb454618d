"""What tests of the moderators' desk begin with: a moderator, and a message that waits for one."""

import json
import uuid
from typing import Any

import psycopg


def appoint(db: psycopg.Connection[Any], person_id: str, role: str = "moderator") -> None:
    """Make somebody a moderator or admin, as docs/moderation.md says."""
    db.execute(
        "insert into private.moderators (user_id, role) values (%s, %s)"
        " on conflict (user_id) do update set role = excluded.role",
        [person_id, role],
    )


def hold(db: psycopg.Connection[Any], conversation_id: str, author_id: str, body: str) -> str:
    """A message of this author that is held, whatever the rules say; answers the id it has."""
    message_id = str(uuid.uuid4())
    pending = {
        "message_id": message_id,
        "conversation_id": conversation_id,
        "from_user_id": author_id,
        "client_message_id": str(uuid.uuid4()),
        "body": body,
        "is_sensitive": False,
        "state": "pending",
        "created_at": db.execute("select clock_timestamp()::text").fetchone()[0],  # type: ignore[index]
    }
    with db.transaction():
        db.execute("select 1 from public.conversations where id = %s for no key update", [conversation_id])
        db.execute(
            "select private.hold_message(c, jsonb_populate_record(null::private.pending_messages, %s), s)"
            " from public.conversations as c, private.settings as s where c.id = %s",
            [json.dumps(pending), conversation_id],
        )
        db.execute(
            "insert into private.send_keys (from_user_id, client_message_id, request_digest, message_id)"
            " values (%s, %s, sha256('held'), %s)",
            [author_id, pending["client_message_id"], message_id],
        )
    return message_id
