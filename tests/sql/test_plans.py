"""Every query reads an index, at a size where the planner has a choice, and costs the same in a large inbox as in a small one."""

import json
import re
import uuid

import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import acting, call

GROWING = ("messages", "conversations", "conversation_members", "profiles", "send_keys", "heads", "paces",
           "group_keys", "message_versions", "users")  # fmt: skip


@pytest.fixture(scope="module")
def crowd(cluster):
    """A clone of its own with 3,000 people, one of whom is in 1,500 conversations, one of these of 20,000 messages."""
    import psycopg

    name = cluster.clone("plans")
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
        call(conn, person, "message_history", message_id=sent)
        call(conn, person, "delete_message", message_id=sent)
        call(conn, person, "remove_member", conversation_id=made, user_id=person)
    call(conn, busy, "mark_read", message_id=message)
    call(conn, quiet, "send_message", body="x", to_user_id=busy)
    conn.execute("reset plan_cache_mode")
    after = sequential_scans(conn)
    assert after == before


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
