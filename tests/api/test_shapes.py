"""What SQL returns is what the structs say, member by member, and every refusal of SQL is in the catalogue."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app import routes
from app.problems import CATALOGUE
from app.routes import conversations, groups, live, messages, moderation, profile, reports, users
from app.shapes import OneConversation, Read


def equal(value: Any, shape: Any) -> None:
    """Decoding strictly and encoding again must change nothing: no member is unknown, none is missing."""
    raw = msgspec.json.encode(value)
    assert msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(raw, type=shape))) == value


@pytest.fixture
def pair(sql: Any) -> Any:
    ada, ben = sql.new_person("Ada"), sql.new_person("Ben")
    sql.act_as(ada)
    sent = sql.one("select public.send_message(p_body => 'Hello', p_to_user_id => %s::uuid)", [ben])
    return ada, ben, sent


def test_send_message(pair: Any) -> None:
    equal(pair[2], messages._Sent)


def test_list_conversations(sql: Any, pair: Any) -> None:
    equal(sql.one("select public.list_conversations()"), conversations.Conversations)


def test_get_conversation(sql: Any, pair: Any) -> None:
    opened = sql.one("select public.get_conversation(%s::uuid)", [pair[2]["conversation"]["id"]])
    equal(opened, conversations.OpenedConversation)
    assert opened["conversation"]["messages"]
    assert opened["conversation"]["receipts"]


def test_mark_read(sql: Any, pair: Any) -> None:
    sql.act_as(pair[1])
    equal(sql.one("select public.mark_read(%s::uuid)", [pair[2]["message"]["id"]]), Read)
    equal(sql.one("select public.mark_all_read(%s::uuid)", [pair[2]["conversation"]["id"]]), Read)


ROUTED = """
    list_conversations get_conversation send_message mark_read mark_all_read list_inbox list_messages
    update_conversation create_group list_members add_members remove_member edit_message delete_message
    message_history unread_counts get_limits sync mark_delivered set_typing get_profile update_profile
    report_message report_user list_moderation_queue get_moderation_item decide_moderation_item sanction_user
    lift_sanction moderate_hide_message moderate_restore_message undo_moderation_action list_moderation_actions
    message_history unread_counts sync mark_delivered set_typing get_profile update_profile
    block_user unblock_user list_blocked
"""


def ask(sql: Any, name: str, **params: Any) -> Any:
    """Call the function of this name with `p_` arguments, as the data API does."""
    arguments = ", ".join(f"p_{argument} => %s" for argument in params)
    return sql.one(f"select public.{name}({arguments})", list(params.values()))


def test_list_inbox(sql: Any, pair: Any) -> None:
    first = ask(sql, "list_inbox", limit=1)
    assert first["conversations"]
    assert first["nextCursor"] is None
    equal(first, conversations.Inbox)
    ask(sql, "create_group", title="Crew", member_ids=[pair[1]])
    first = ask(sql, "list_inbox", limit=1)
    assert first["nextCursor"]
    equal(first, conversations.Inbox)


def test_list_messages(sql: Any, pair: Any) -> None:
    page = ask(sql, "list_messages", conversation_id=pair[2]["conversation"]["id"])
    assert page["messages"]
    equal(page, conversations.MessagePage)


def test_update_conversation(sql: Any, pair: Any) -> None:
    changes = '{"archived": true, "pinned": true, "markedUnread": true, "mutedUntil": "2999-01-01T00:00:00Z"}'
    room = pair[2]["conversation"]["id"]
    equal(ask(sql, "update_conversation", conversation_id=room, changes=changes), OneConversation)


def test_groups(sql: Any, pair: Any) -> None:
    made = ask(sql, "create_group", title="Crew", member_ids=[pair[1]])
    equal(made, groups._Created)
    room = made["conversation"]["id"]
    page = ask(sql, "list_members", conversation_id=room, limit=1)
    assert page["nextCursor"]
    equal(page, groups.MemberPage)
    equal(ask(sql, "list_members", conversation_id=room), groups.MemberPage)
    added = ask(sql, "add_members", conversation_id=room, user_ids=[pair[1]], role="admin")
    assert added["members"]
    equal(added, groups.Members)
    equal(ask(sql, "remove_member", conversation_id=room, user_id=pair[1]), groups.MemberRemoved)


def test_edits(sql: Any, pair: Any) -> None:
    message = pair[2]["message"]["id"]
    equal(ask(sql, "edit_message", message_id=message, body="Hello again"), messages.OneMessage)
    history = ask(sql, "message_history", message_id=message)
    assert len(history["versions"]) == 2
    equal(history, messages.Versions)
    equal(ask(sql, "delete_message", message_id=message), messages.OneMessage)
    equal(ask(sql, "message_history", message_id=message), messages.Versions)
    equal(ask(sql, "get_conversation", conversation_id=pair[2]["conversation"]["id"]), conversations.OpenedConversation)


def test_unread_counts(sql: Any, pair: Any) -> None:
    equal(ask(sql, "unread_counts"), messages.UnreadCounts)


def test_limits(sql: Any, pair: Any) -> None:
    equal(ask(sql, "get_limits"), messages.Limits)


def test_profiles(sql: Any, pair: Any) -> None:
    equal(ask(sql, "get_profile"), profile.ProfileAnswer)
    changes = '{"avatarUrl": "https://img.example/a.png", "locale": "de"}'
    equal(ask(sql, "update_profile", changes=changes), profile.ProfileAnswer)


def test_live(sql: Any, pair: Any) -> None:
    there = pair[2]["conversation"]["id"]
    first = ask(sql, "sync")
    equal(first, live.Changes)
    ask(sql, "send_message", body="More", conversation_id=there)
    more = ask(sql, "sync", cursor=first["cursor"])
    assert more["messages"] and more["receipts"] and more["conversations"]
    equal(more, live.Changes)
    receipts = json.dumps([{"conversationId": there, "seq": 1}])
    equal(ask(sql, "mark_delivered", receipts=receipts), live.DeliveredReceipts)
    assert ask(sql, "set_typing", conversation_id=there) == {}


def test_reports(sql: Any, pair: Any) -> None:
    sql.act_as(pair[1])
    message = pair[2]["message"]["id"]
    equal(ask(sql, "report_message", message_id=message, reason="scam", note="x"), reports._Filed)
    equal(ask(sql, "report_user", user_id=pair[0], reason="other"), reports._Filed)


def test_the_desk(sql: Any, pair: Any) -> None:
    ada, ben, sent = pair
    message = sent["message"]["id"]
    sql.reset()
    mod = sql.new_person("Mo")
    sql.execute("insert into private.moderators (user_id) values (%s)", [mod])
    sql.execute(
        "insert into private.verdicts (user_id, message_id, action, rules, body) values (%s, %s, 'warn', '[{}]', 'x')",
        [ada, message],
    )
    sql.act_as(ada)
    ask(sql, "edit_message", message_id=message, body="Hello again")
    ask(sql, "send_message", body="More", to_user_id=ben)
    sql.act_as(ben)
    ask(sql, "report_message", message_id=message, reason="scam")
    ask(sql, "report_user", user_id=ada, reason="other")
    sql.act_as(mod)
    queue = ask(sql, "list_moderation_queue", user_id=ada, limit=1)
    assert queue["nextCursor"]
    equal(queue, moderation.Queue)
    item = next(i for i in ask(sql, "list_moderation_queue", user_id=ada)["items"] if i["messageId"])["id"]
    imposed = ask(sql, "sanction_user", user_id=ada, kind="mute", duration_s=60, reason="x")
    equal(imposed, moderation._Imposed)
    equal(ask(sql, "decide_moderation_item", item_id=item, decision="dismiss"), moderation.Decided)
    seen = ask(sql, "get_moderation_item", item_id=item)
    assert all(seen.values())
    equal(seen, moderation.ItemContext)
    lifted = ask(sql, "lift_sanction", sanction_id=imposed["sanction"]["id"], note="x")
    equal(lifted, moderation.Sanctioned)
    equal(ask(sql, "undo_moderation_action", action_id=lifted["action"]["id"]), moderation.OneAction)
    equal(ask(sql, "moderate_hide_message", message_id=message, note="x"), moderation.OneAction)
    equal(ask(sql, "get_moderation_item", item_id=item), moderation.ItemContext)
    equal(ask(sql, "moderate_restore_message", message_id=message, note="x"), moderation.OneAction)
    actions = ask(sql, "list_moderation_actions", user_id=ada, limit=2)
    assert actions["nextCursor"]
    equal(actions, moderation.ActionPage)


def test_blocks(sql: Any, pair: Any) -> None:
    equal(ask(sql, "block_user", user_id=pair[1]), users.OneBlockedUser)
    ask(sql, "block_user", user_id="00000000-0000-4000-8000-00000000dead")
    page = ask(sql, "list_blocked", limit=1)
    assert page["users"] and page["nextCursor"]
    equal(page, users.BlockedPage)
    equal(ask(sql, "list_blocked"), users.BlockedPage)
    equal(ask(sql, "unblock_user", user_id=pair[1]), users.Unblocked)


def test_one_name_across_tiers(sql: Any) -> None:
    """Every function open to signed-in people is an operation of ours, under the same name, and the other way round."""
    found = sql.one(
        """
        select array_agg(p.proname::text)
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'public'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
        """
    )
    routed = {handler.fn.__name__ for handlers in routes.API.values() for handler in handlers}
    assert set(found) == routed == set(ROUTED.split())


def test_every_refusal_of_sql_is_in_the_catalogue() -> None:
    text = "\n".join(path.read_text() for path in sorted(Path("supabase/migrations").glob("*.sql")))
    raised = re.findall(r"raise sqlstate 'PT(\d{3})' using\s+message = '(\w+)'", text)
    assert len(raised) == len(re.findall(r"raise sqlstate 'PT", text)) >= 10
    assert {(int(status), code) for status, code in raised} <= {(k.status, code) for code, k in CATALOGUE.items()}
