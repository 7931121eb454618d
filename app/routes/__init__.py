"""The table of contents: every route, in the order of the documentation."""

from app.routes import conversations, docs, groups, health, live, messages, profile

MESSAGES = (
    conversations.list_conversations,
    conversations.get_conversation,
    messages.send_message,
    messages.mark_read,
    conversations.mark_all_read,
    conversations.list_inbox,
    conversations.list_messages,
    conversations.update_conversation,
    groups.create_group,
    groups.list_members,
    groups.add_members,
    groups.remove_member,
    messages.edit_message,
    messages.delete_message,
    messages.message_history,
    messages.unread_counts,
    messages.get_limits,
    live.sync,
    live.mark_delivered,
    live.set_typing,
)
PROFILE = (profile.get_profile, profile.update_profile)
SERVICE = (health.live, health.ready, docs.openapi, docs.page, docs.asset)
