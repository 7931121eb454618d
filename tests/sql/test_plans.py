"""What every function costs inside, where the planner has a choice: no table is read from end to end, no page or group costs a
statement per row without saying why, and nothing costs more than what is written down in costs.txt.

The data and the calls are those of `make bench-sql`; a function that no call is of fails here. Pages and statements are counted, not
time. After a change that is meant to cost something: WRITE_COSTS=1 make test T=tests/sql/test_plans.py N=0
"""

import json
import os
import re
from pathlib import Path

import psycopg
import pytest

from bench import data, sql
from tests.sql.rpc import acting, call
from tests.sql.test_catalogue import API, SERVICE_API

COSTS = Path(__file__).with_name("costs.txt")
SHAPE = data.Shape(messages=4000, people=1500, long=2000, large=1500)
MORE = data.Shape(messages=60_000, people=6000, long=30_000, large=10_000)

# A call, the same with more of something, and how many statements one more of it may take. 0: nothing is asked for row by row.
PAGES_AND_GROUPS = [
    ("list_inbox: 10 of 100", "list_inbox: 50 of 100", 40, 0),
    ("list_inbox: 50 of 100", "list_inbox: 50 of 10,000", 1400, 0),
    ("list_inbox: 50 of 10,000", "list_inbox: 50 of 10,000, from the middle", 700, 0),
    ("list_conversations: 50 of 100", "list_conversations: 50 of 10,000, from the middle", 1400, 0),
    ("list_messages: 10, ordinary", "list_messages: 100, long", 90, 0),
    ("get_conversation: ordinary", "get_conversation: group of 64", 62, 0),
    ("get_conversation: ordinary", "get_conversation: long", 1950, 0),
    ("list_members: 10 of 64", "list_members: 64", 54, 0),
    ("sync: 10 messages", "sync: 100 messages", 90, 0),
    ("unread_counts: 100", "unread_counts: 10,000", 1400, 0),
    ("send_message: direct", "send_message: to a long conversation", 1950, 0),
    ("send_message: direct", "send_message: to somebody with 10,000", 1400, 0),
    ("mark_all_read: ordinary", "mark_all_read: group of 64", 62, 0),
    (
        "list_moderation_queue: 3",
        "list_moderation_queue: 15",
        12,
        2,
    ),  # reports counted and a card read, for a few moderators
    ("claim_classifications: 2", "claim_classifications: 10", 8, 3),  # the worker's own queue
    ("mark_delivered: 1", "mark_delivered: 10", 9, 40),  # each conversation is a change of its own, with its own events
    # Each recipient has an event of their own, with their own unread counts, handed to realtime.send.
    ("send_message: group of 3", "send_message: group of 64", 61, 7),
    ("create_group: 3 people", "create_group: 63 people", 60, 20),
    ("edit_message", "edit_message: group of 64", 62, 7),
]


class Stage:
    """A filled database and what its calls cost, counted once."""

    def __init__(self, cluster, name, shape):
        self.world = data.load(cluster.cluster, name, shape)
        self.admin = cluster.cluster.connect(name)
        with cluster.cluster.connect(name, "authenticator") as conn:
            self.scene = sql.Scene(sql.Door(conn), self.admin, self.world, cluster.keys)
        self.calls = self.scene.calls()
        counter = sql.Counter(self.admin)
        self.costs = {call.name: counter.cost(call) for call in self.calls}


@pytest.fixture(scope="module")
def stage(cluster, worker):
    """A clone of its own with a person in 1,500 conversations, and one conversation of 2,000 messages."""
    name = cluster.clone(f"plans_{worker}")
    stage = Stage(cluster, name, SHAPE)
    with stage.admin:
        yield stage
    cluster.drop(name)


@pytest.fixture(scope="module")
def crowd(cluster, stage):
    """The same as the role postgres, with some ids: (connection, busy, quiet, long room, other room, a message of the long one)."""
    world = stage.world
    with psycopg.connect(cluster.cluster.url(stage.admin.info.dbname), autocommit=True) as conn:
        message = data.one(
            conn, "select id::text from public.messages where conversation_id = %s and seq = 1900", [world.long]
        )
        yield conn, world.large, world.pairs[-1][0], world.long, world.pairs[-1][2], message


def test_the_data_is_what_the_functions_would_have_left(stage):
    assert {said: count for said, count in data.violations(stage.admin).items() if count} == {}


def test_every_function_is_called(stage):
    assert sql.uncalled(stage.admin, stage.calls) == set()
    assert {call.function for call in stage.calls} == {*API, *SERVICE_API}


def test_no_function_scans_a_growing_table(stage):
    assert {name: cost.scanned for name, cost in stage.costs.items() if cost.scanned} == {}


@pytest.mark.parametrize(("few", "many", "more", "each"), PAGES_AND_GROUPS)
def test_no_page_or_group_costs_a_statement_per_row(stage, few, many, more, each):
    # A few: a lookup that only one of the two kinds needs.
    assert stage.costs[many].statements <= stage.costs[few].statements + each * more + 6


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("list_inbox: 50 of 100", "list_inbox: 50 of 10,000"),
        ("list_inbox: 50 of 100", "list_inbox: 50 of 10,000, from the middle"),
        ("list_inbox: 50 of 100", "list_inbox: 50 unread of 10,000"),
        ("list_messages: 30, ordinary", "list_messages: 30, long"),
        ("list_messages: 30, ordinary", "list_messages: 30 in the middle, long"),
        ("get_conversation: ordinary", "get_conversation: long"),
        ("sync: 1 message, of 100 conversations", "sync: 1 message, of 10,000 conversations"),
        ("mark_read: ordinary", "mark_read: long"),
        ("send_message: direct", "send_message: to a long conversation"),
        ("send_message: direct", "send_message: to somebody with 10,000"),
    ],
)
def test_a_large_inbox_or_conversation_touches_no_more_than_a_small_one(stage, small, large):
    assert stage.costs[large].buffers <= stage.costs[small].buffers * 1.3 + 20


def written_down():
    rows = (line.split("|") for line in COSTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name.strip(): (int(statements), int(pages)) for name, statements, pages in rows}


def test_nothing_costs_more_than_is_written_down(stage):
    costs = {name: (cost.statements, cost.buffers) for name, cost in stage.costs.items()}
    if os.environ.get("WRITE_COSTS"):
        lines = [f"{name:<50} | {statements:>5} | {pages:>6}" for name, (statements, pages) in costs.items()]
        COSTS.write_text(
            "# Statements inside, and pages looked at, of every call of tests/sql/test_plans.py, warm. Written by WRITE_COSTS=1.\n"
            + "\n".join(lines) + "\n",
            encoding="utf-8",
        )  # fmt: skip
    bounds = written_down()
    assert set(costs) == set(bounds)
    # Statements to the letter; pages with room for another order of rows in them, and before Postgres 17, which walks an index
    # once for all elements of an array, for a descent per element.
    room = 1.5 if stage.admin.info.server_version >= 170000 else 2
    assert {
        name: (cost, bounds[name])
        for name, cost in costs.items()
        if cost[0] > bounds[name][0] or cost[1] > bounds[name][1] * room + 30
    } == {}


@pytest.mark.slow
def test_nothing_costs_more_when_there_is_ten_times_as_much(stage, cluster, worker):
    name = cluster.clone(f"plans_more_{worker}")
    try:
        more = Stage(cluster, name, MORE)
        with more.admin:
            assert {name: cost.scanned for name, cost in more.costs.items() if cost.scanned} == {}
            assert {
                name: (stage.costs[name], cost)
                for name, cost in more.costs.items()
                if name != "list_inbox: searched, of 10,000"  # a search looks at all there is until its page is full
                and (
                    cost.statements > stage.costs[name].statements + 6
                    or cost.buffers > stage.costs[name].buffers * 1.5 + 50
                )
            } == {}
    finally:
        cluster.drop(name)


def test_the_desk_scans_none_of_its_tables(crowd, stage):
    """Two thousand items with reports, decisions and sanctions, most of them over."""
    conn, moderator = crowd[0], stage.world.moderator
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
