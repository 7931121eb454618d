"""The table of contents: every route, in the order of the documentation."""

from app.routes import conversations, docs, groups, health, live, messages, moderation, profile, reports, users

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
    reports.report_message,
)
USERS = (users.block_user, users.unblock_user, users.list_blocked, reports.report_user)
MODERATION = (
    moderation.list_moderation_queue,
    moderation.get_moderation_item,
    moderation.decide_moderation_item,
    moderation.sanction_user,
    moderation.lift_sanction,
    moderation.moderate_hide_message,
    moderation.moderate_restore_message,
    moderation.undo_moderation_action,
    moderation.list_moderation_actions,
)
PROFILE = (profile.get_profile, profile.update_profile)
# What a person calls with their token, by the path it stands under.
API = {
    "/api/messages": MESSAGES,
    "/api/users": USERS,
    "/api/profile": PROFILE,
    "/api/moderation": MODERATION,
}
SERVICE = (health.live, health.ready, docs.openapi, docs.page, docs.asset)
