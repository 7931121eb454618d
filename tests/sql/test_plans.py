"""Every query reads an index, at a size where the planner has a choice, and costs the same in a large inbox as in a small one."""

import json
import re
import uuid

import pytest
from psycopg.types.json import Jsonb

from tests.sql.desk import appoint
from tests.sql.rpc import acting, call

GROWING = ("messages", "conversations", "conversation_members", "profiles", "send_keys", "heads", "paces",
           "group_keys", "message_versions", "users")  # fmt: skip


@pytest.fixture(scope="module")
def crowd(cluster, worker):
    """A clone of its own with 3,000 people, one of whom is in 1,500 conversations, one of these of 20,000 messages."""
    import psycopg

    name = cluster.clone(f"plans_{worker}")
    with psycopg.connect(cluster.cluster.url(name), autocommit=True) as conn:
        conn.execute(
            """
            insert into auth.users (id, email)
            select md5('person' || i)::uuid, i || '@example.com' from generate_series(0, 3000) as i;
            insert into public.conversations (id, kind, created_by, direct_low, direct_high, last_seq, event_seq, last_message_at)
            select md5('room' || i)::uuid, 'direct', a, least(a, b), greatest(a, b), n, n, now() - i * interval '1 minute'
            from generate_series(1, 3000) as i,
                 lateral (select case when i <= 1500 then md5('person0')::uuid else md5('person' || i - 1)::uuid end as a,
                                 md5('person' || i)::uuid as b, case i when 1 then 20000 when 2 then 40 else 3 end as n) as t;
            insert into public.conversation_members (conversation_id, user_id, last_activity_at, unread_count)
            select c.id, u, c.last_message_at, 1 from public.conversations as c, unnest(array[c.direct_low, c.direct_high]) as u;
            insert into public.messages (conversation_id, seq, event_seq, from_user_id, to_user_id, client_message_id, body,
                                         created_at, changed_position)
            select c.id, s, s, c.direct_low, c.direct_high, gen_random_uuid(), 'text', now(), 0
            from public.conversations as c, generate_series(1, c.last_seq) as s;
            insert into private.heads (user_id) select id from auth.users;
            """
        )
        conn.execute("vacuum analyze public.messages, public.conversations, public.conversation_members, public.profiles, "
                     "private.heads, auth.users")  # fmt: skip
        ids = conn.execute("select md5('person0')::uuid::text, md5('person2999')::uuid::text, md5('room1')::uuid::text, "
                           "md5('room3000')::uuid::text, (select id::text from public.messages "
                           "where conversation_id = md5('room1')::uuid and seq = 19000)").fetchone()  # fmt: skip
        yield conn, *ids
    cluster.drop(name)


def sequential_scans(conn):
    """How often each growing table of this database was read from end to end, by the server's own count."""
    conn.execute("select pg_stat_force_next_flush()")
    return dict(
        conn.execute(
            "select relname, seq_scan from pg_stat_all_tables where relname = any(%s)", [list(GROWING)]
        ).fetchall()
    )


def test_no_function_scans_a_growing_table(crowd):
    conn, busy, quiet, room, other_room, message = crowd
    moderator = conn.execute("select md5('person2000')::uuid::text").fetchone()[0]
    appoint(conn, moderator)
    conn.execute("set plan_cache_mode = force_generic_plan")
    before = sequential_scans(conn)
    for person, place in ((busy, room), (quiet, other_room)):
        call(conn, person, "list_conversations", limit=50)
        call(conn, person, "list_conversations", limit=50, offset=500)
        call(conn, person, "get_conversation", conversation_id=place)
        call(conn, person, "send_message", body="x", conversation_id=place)
        call(conn, person, "mark_all_read", conversation_id=place, up_to_seq=2)
        call(conn, person, "list_inbox", limit=50)
        call(conn, person, "list_inbox", limit=5, unread=True)
        call(conn, person, "list_inbox", gig_id=uuid.UUID(int=1))
        call(conn, person, "list_inbox", with_user_id=quiet if person == busy else busy)
        call(conn, person, "list_inbox", q="nobody is called this")
        for where in ({}, {"before": 3}, {"after": 1}, {"around": 2}):
            call(conn, person, "list_messages", conversation_id=place, limit=3, **where)
        call(conn, person, "list_members", conversation_id=place)
        call(conn, person, "update_conversation", conversation_id=place, changes=Jsonb({"pinned": False}))
        call(conn, person, "unread_counts")
        call(conn, person, "get_profile")
        made = call(conn, person, "create_group", title="x", member_ids=[busy, quiet])["conversation"]["id"]
        sent = call(conn, person, "send_message", body="x", conversation_id=made)["message"]["id"]
        call(conn, person, "edit_message", message_id=sent, body="y")
        other = quiet if person == busy else busy
        call(conn, other, "report_message", message_id=sent, reason="spam")
        call(conn, other, "report_user", user_id=person, reason="spam")
        for item in call(conn, moderator, "list_moderation_queue", user_id=person)["items"]:
            call(conn, moderator, "get_moderation_item", item_id=item["id"])
            call(conn, moderator, "decide_moderation_item", item_id=item["id"], decision="dismiss")
        hidden = call(conn, moderator, "moderate_hide_message", message_id=sent, note="x")["action"]["id"]
        call(conn, moderator, "undo_moderation_action", action_id=hidden)
        call(conn, person, "message_history", message_id=sent)
        call(conn, person, "delete_message", message_id=sent)
        call(conn, person, "remove_member", conversation_id=made, user_id=person)
    call(conn, busy, "mark_read", message_id=message)
    call(conn, quiet, "send_message", body="x", to_user_id=busy)
    conn.execute("reset plan_cache_mode")
    after = sequential_scans(conn)
    assert after == before


def test_the_desk_scans_none_of_its_tables(crowd):
    """6,000 items with reports, decisions and sanctions, most of them over."""
    conn = crowd[0]
    moderator = conn.execute("select md5('person2001')::uuid::text").fetchone()[0]
    appoint(conn, moderator)
    conn.execute(
        """
        insert into private.moderation_items (id, kind, status, user_id, conversation_id, message_id, decided_at, decision)
        select md5('item' || m.id)::uuid, 'message_report', case when m.seq = 1 and m.i % 25 = 0 then 'open' else 'decided' end,
               m.from_user_id, m.conversation_id, m.id, case when m.seq = 1 and m.i % 25 = 0 then null else now() + m.i * interval '1 s' end,
               case when m.seq = 1 and m.i % 25 = 0 then null else 'dismiss' end
        from (select t.*, row_number() over (order by t.seq, t.id) as i from public.messages as t where t.seq <= 2) as m;
        insert into private.reports (item_id, reporter_id, kind, message_id, user_id, reason, evidence, status, closed_at)
        select i.id, md5('person1')::uuid, 'message', i.message_id, i.user_id, 'spam', '{}',
               case i.status when 'open' then 'open' else 'closed' end, i.decided_at
        from private.moderation_items as i where i.message_id is not null and i.user_id <> md5('person1')::uuid;
        insert into private.moderation_actions (moderator_id, action, item_id, user_id, message_id)
        select md5('person2')::uuid, 'dismiss', i.id, i.user_id, i.message_id from private.moderation_items as i;
        insert into private.sanctions (user_id, kind, reason, lifted_at) select i.user_id, 'mute', 'x', now()
        from private.moderation_items as i;
        insert into private.verdicts (user_id, message_id, action, rules, body) select i.user_id, i.message_id, 'warn', '[]', 'x'
        from private.moderation_items as i;
        """
    )
    tables = ["moderation_items", "reports", "moderation_actions", "sanctions", "verdicts"]
    for table in tables:
        conn.execute(f"vacuum analyze private.{table}")

    def scans():
        conn.execute("select pg_stat_force_next_flush()")
        query = "select relname, seq_scan from pg_stat_all_tables where relname = any(%s) and schemaname = 'private'"
        return dict(conn.execute(query, [tables]).fetchall())

    before = scans()
    opened = call(conn, moderator, "list_moderation_queue", limit=5)["items"][-1]
    person = opened["user"]["id"]
    for asked in ({"user_id": person}, {"status": "decided"}, {"status": "decided", "user_id": person}):
        assert call(conn, moderator, "list_moderation_queue", limit=3, **asked)["items"]
    assert call(conn, moderator, "get_moderation_item", item_id=opened["id"])["sanctions"]
    decided = call(conn, moderator, "decide_moderation_item", item_id=opened["id"], decision="dismiss")["action"]
    call(conn, moderator, "undo_moderation_action", action_id=decided["id"])
    given = call(conn, moderator, "sanction_user", user_id=person, kind="suspend", duration_s=60, reason="x")
    call(conn, moderator, "lift_sanction", sanction_id=given["sanction"]["id"])
    for asked in ({}, {"user_id": person}, {"item_id": opened["id"]}):
        assert call(conn, moderator, "list_moderation_actions", limit=3, **asked)["actions"]
    call(conn, moderator, "moderate_hide_message", message_id=opened["messageId"], note="x")
    reporter = conn.execute(
        "select user_id::text from public.conversation_members where conversation_id = %s and user_id <> %s limit 1",
        [opened["conversationId"], conn.execute(
            "select from_user_id from public.messages where id = %s", [opened["messageId"]]
        ).fetchone()[0]],
    ).fetchone()[0]  # fmt: skip
    call(conn, reporter, "report_message", message_id=opened["messageId"], reason="spam")
    assert scans() == before


@pytest.mark.parametrize(
    "query",
    [
        "select * from public.messages where conversation_id = '{room}' order by seq desc limit 30",
        "select * from public.messages where conversation_id = '{room}' and seq > 500 order by seq limit 30",
        "select * from public.messages where id = '{message}'",
        "select * from public.conversations",
        "select * from public.conversations where id = '{room}'",
        "select * from public.conversation_members",
        "select * from public.profiles where user_id = '{quiet}'",
    ],
)
def test_direct_readers_get_index_plans_under_the_policies(crowd, query):
    conn, busy, quiet, room, _, message = crowd
    with acting(conn, quiet if "public.conversations" in query and "where" not in query else busy):
        plan = conn.execute(
            "explain (format json) " + query.format(room=room, message=message, quiet=quiet)
        ).fetchone()[0]
    scanned = re.findall(r'"Node Type": "Seq Scan".{0,200}?"Relation Name": "(\w+)"', json.dumps(plan))
    assert scanned == [], json.dumps(plan, indent=1)


def buffers(conn, person, query):
    with acting(conn, person):
        conn.execute(query)
        plan = conn.execute("explain (analyze, buffers, format json) " + query).fetchone()[0]
    return plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


def test_a_page_of_a_large_inbox_touches_no_more_than_one_of_a_small_inbox(crowd):
    conn, busy, quiet, *_ = crowd
    one_of_large = buffers(conn, busy, "select public.list_conversations(1)") - total_cost(conn, busy)
    one_of_small = buffers(conn, quiet, "select public.list_conversations(1)") - total_cost(conn, quiet)
    assert one_of_large <= one_of_small * 1.5 + 10


def total_cost(conn, person):
    """`total` is outside the flat-cost promise."""
    return buffers(
        conn, person, "select count(*) from public.conversation_members where left_at is null and archived_at is null"
    )


def test_opening_a_long_conversation_touches_no_more_than_a_short_one(crowd):
    conn, busy, _, long_room, *_ = crowd
    short_room = conn.execute("select md5('room2')::uuid").fetchone()[0]
    long, short = (buffers(conn, busy, f"select public.get_conversation('{room}')") for room in (long_room, short_room))
    assert long <= short * 1.2 + 10
