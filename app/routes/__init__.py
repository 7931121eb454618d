"""The table of contents: every route, in the order of the documentation."""

from app.routes import conversations, docs, health, messages

API = (
    conversations.list_conversations,
    conversations.get_conversation,
    messages.send_message,
    messages.mark_read,
    conversations.mark_all_read,
)
SERVICE = (health.live, health.ready, docs.openapi, docs.page, docs.asset)
