"""`make bench-sql`: what every function of the API costs in the database, and whether it costs more as data grows.

For each size a fresh database is filled (bench/data.py) and every function of the catalogue is called with
representative arguments, each call in its whole transaction as PostgREST does it, on a connection of the role it logs
in with:

    begin; select set_config('role', ...), set_config('request.jwt.claims', ...), ...; select public.f(...); commit

with prepared statements and libpq directly, so that the clock sees the server and the loopback and little else. Writes
are measured with `rollback` in place of `commit`, so that every call meets the same data; sends beside inserts are
committed. Then once more, outside the clock, for the pages a call looks at, the statements it runs inside
(pg_stat_statements counts nested ones), and whether any table that grows was read from end to end.

A send is compared with a bare insert in the same transaction: one row with the columns and checks of a message into a
table with a primary key and nothing else, under a policy that asks the author to be the caller. They take turns, without
fsync and with it. Below both stands the same insert as one statement of the table's owner, and as pgbench runs it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from app import settings
from app.vault import About, Vault, Verdict
from bench import data
from bench.data import Shape, World
from bench.report import cpu_s, finish, summary, table, write_section
from stack.console import say, step
from stack.keys import Keys
from stack.postgres import Cluster
from stack.scratch import TEMPLATE, Scratch

SIZES = {"10k": 10_000, "1m": 1_000_000, "10m": 10_000_000}
ROUNDS = 200  # of each call, as long as SECONDS last
SECONDS = 0.5
INBOX_SECONDS = 4.0  # a p99 needs more
SEND_ROUNDS, SEND_SECONDS = 2000, 10.0
DESK = 20  # pairs of people who are on the moderators' desk; the others write
GROWN = 8  # pages from which on reading all of a table is a mistake
# Tables that do not grow with people and messages; reading one of these from end to end is as good as an index.
CONSTANT = (
    "settings", "moderators", "moderation_rules", "moderation_rule_versions", "moderation_terms", "moderation_words",
    "moderation_lexicon", "moderation_letters", "moderation_state", "envelope_keys", "classifier_totals",
)  # fmt: skip
INBOX_SMALL, INBOX_LARGE = "list_inbox: 50 of 100", "list_inbox: 50 of 10,000"
SEND_FASTER, SEND_DURABLE, SEND_GROWTH, INBOX_GROWTH = 6.0, 2.0, 1.3, 1.5

ABOUT = """\
Each call in its whole transaction as the data API does it (`begin`; role and claims; the function, prepared; the end), on one
connection, with 1 GB of shared buffers. Writes are rolled back, sends beside inserts committed. The bare insert is one row with the
columns and checks of a message into a table with a primary key, under a policy that asks the author to be the caller, in the same
transaction. Pages are buffers looked at, by nested statements too. Where one function is named twice, so are its arguments: "of
100" is the inbox of a person in 100 conversations, "long" the longest conversation."""
SETTINGS = (
    "select set_config('search_path', 'public', true), set_config('role', $1, true), set_config('request.jwt.claims', $2, true),"
    " set_config('request.method', 'POST', true), set_config('request.path', $3, true), set_config('request.headers', $4, true),"
    " set_config('request.cookies', '{}', true)"
)
HEADERS = json.dumps(
    {"content-type": "application/json", "accept": "*/*", "user-agent": "bench", "x-forwarded-for": "192.0.2.1"}
)


def text(value: Any) -> bytes | None:
    """A parameter in the text format of the protocol."""
    if value is None:
        return None
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return json.dumps(value).encode()
    if isinstance(value, list):
        return ("{" + ",".join(map(str, value)) + "}").encode()
    return str(value).encode()


class Refused(Exception):
    """A call that should have been answered was not."""


class Door:
    """One connection that calls as the data API does; statements are prepared at their first use."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn, self.pq = conn, conn.pgconn
        self.prepared: dict[str, bytes] = {}
        self._prepare(SETTINGS)

    def _prepare(self, query: str) -> bytes:
        name = self.prepared.get(query)
        if name is None:
            name = f"s{len(self.prepared)}".encode()
            self._check(self.pq.prepare(name, query.encode()), query)
            self.prepared[query] = name
        return name

    def _check(self, result: Any, query: str) -> Any:
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            said = result.error_message.decode(errors="replace").strip()
            self.pq.exec_(b"rollback")
            raise Refused(f"{query}: {said}")
        return result

    def query(self, function: str, names: Sequence[str]) -> str:
        arguments = ", ".join(f"p_{name} => ${number}" for number, name in enumerate(names, 1))
        return f"select public.{function}({arguments})"

    def transaction(self, person: str | None, query: str, values: Sequence[Any], end: bytes) -> tuple[float, Any]:
        """One transaction as this person, or with the secret key for None: (milliseconds, the one value as text)."""
        role = "authenticated" if person else "service_role"
        claims = {"role": role, "aud": "authenticated", "iss": "https://example.com/auth/v1"} | (
            {"sub": person} if person else {}
        )
        told = [role.encode(), json.dumps(claims).encode(), b"/rpc", HEADERS.encode()]
        name, first = self._prepare(query), self.prepared[SETTINGS]
        run, simple = self.pq.exec_prepared, self.pq.exec_
        began = time.perf_counter()
        opened = simple(b"begin")
        named = run(first, told)
        answered = run(name, values)
        ended = simple(end)
        elapsed = (time.perf_counter() - began) * 1000
        for result in (opened, named, answered, ended):
            self._check(result, query)
        return elapsed, answered.get_value(0, 0) if answered.ntuples else None

    def statement(self, query: str, values: Sequence[Any]) -> float:
        """One prepared statement by itself, as whoever the connection is: milliseconds."""
        name = self._prepare(query)
        began = time.perf_counter()
        result = self.pq.exec_prepared(name, values)
        elapsed = (time.perf_counter() - began) * 1000
        self._check(result, query)
        return elapsed

    def call(self, person: str | None, function: str, /, **arguments: Any) -> Any:
        """Call and commit; the answer as Python values."""
        values = [text(value) for value in arguments.values()]
        answer = self.transaction(person, self.query(function, list(arguments)), values, b"commit")[1]
        return json.loads(answer) if answer else None


@dataclass(frozen=True)
class Call:
    """One function with arguments of one kind; the label tells them apart."""

    function: str
    label: str
    person: str | None  # None: the secret key
    arguments: dict[str, Any]
    fresh: tuple[str, ...] = ()  # arguments that are a new UUID every time

    @property
    def name(self) -> str:
        return f"{self.function}: {self.label}" if self.label else self.function

    def values(self) -> list[bytes | None]:
        return [
            str(uuid.uuid4()).encode() if name in self.fresh else text(value) for name, value in self.arguments.items()
        ]


class Scene:
    """What the calls need beyond the data: written through the functions themselves."""

    def __init__(self, door: Door, admin: psycopg.Connection[Any], world: World, keys: Keys) -> None:
        self.world = world
        admin.execute(
            "update private.settings set send_count_max = 500, send_window_s = 1, edit_count_max = 500, report_count_max = 500,"
            " first_contact_count_max = 500, new_conversation_count_max = 500, first_contact_window_s = 1,"
            " new_conversation_window_s = 1, report_window_s = 1, edit_pace_window_s = 1"
        )
        me, peer, mod = world.small, world.peer, world.moderator
        call = door.call

        def write(who: str, **to: Any) -> Any:
            return call(who, "send_message", body=f"Written at {time.time_ns()}", client_message_id=uuid.uuid4(), **to)

        self.mine = write(me, conversation_id=world.ordinary)["message"]
        self.mine_in_group = write(me, conversation_id=world.group)["message"]
        self.replayed = {
            "body": "Once and only once",
            "conversation_id": world.ordinary,
            "client_message_id": str(uuid.uuid4()),
        }
        call(me, "send_message", **self.replayed)
        self.edited = write(me, conversation_id=world.ordinary)["message"]
        call(me, "edit_message", message_id=self.edited["id"], body="Said better")
        self.theirs = write(peer, conversation_id=world.ordinary)["message"]
        self.in_group = write(world.group_people[1], conversation_id=world.group)["message"]
        self.in_long = write(world.large, conversation_id=world.long)["message"]
        self.crew = call(me, "create_group", title="Three", member_ids=[peer, world.group_people[2]])["conversation"][
            "id"
        ]
        self.strangers = [pair[0] for pair in world.pairs]
        # The desk: items, one of them decided, an action to undo, a sanction, a hidden message, and a block.
        for one, _, conversation in world.pairs[:DESK]:
            there = call(
                one, "send_message", body="For the desk", conversation_id=conversation, client_message_id=uuid.uuid4()
            )
            call(there["message"]["toUserId"], "report_message", message_id=there["message"]["id"], reason="spam")
        call(me, "report_message", message_id=self.theirs["id"], reason="scam")
        items = call(mod, "list_moderation_queue", limit=100)["items"]
        self.item = next(item["id"] for item in items if item["messageId"] == self.theirs["id"])
        others = [item for item in items if item["id"] != self.item]
        self.action = call(mod, "decide_moderation_item", item_id=others[0]["id"], decision="hide")["action"]["id"]
        self.hidden = others[1]["messageId"]
        call(mod, "moderate_hide_message", message_id=self.hidden, note="x")
        self.sanctioned = others[2]["user"]["id"]
        given = call(mod, "sanction_user", user_id=self.sanctioned, kind="mute", duration_s=86400, reason="x")
        self.sanction = given["sanction"]["id"]
        self.blocked = world.pairs[-3][1]
        call(me, "block_user", user_id=self.blocked)
        self.deep = deep_cursor(admin, world.large)
        self.gig = data.one(
            admin,
            "select max(c.gig_id::text) from public.conversations as c where %s in (c.direct_low, c.direct_high)",
            [world.large],
        )
        # A sealed message, a job of the classifier's queue and one handed out.
        vault = Vault(settings.message_keys({"MESSAGE_KEYS": keys.message_keys}))
        about = About(me, str(uuid.uuid4()), conversation_id=world.ordinary)
        allow = Verdict("allow", None, None, [])
        revision = data.one(admin, "select private.moderation_revision()")
        self.envelope = vault.signed(
            about, "Sealed", allow, allow, text_digest=5, has_link=False, rules_revision=revision
        )
        self.sealed_key = about.client_message_id
        call(
            me,
            "send_message",
            conversation_id=world.ordinary,
            client_message_id=self.sealed_key,
            envelope=self.envelope,
        )
        (sealed,) = call(None, "list_envelopes", below_version=vault.version + 1)["envelopes"]
        if (rewrapped := vault.rewrap(sealed["envelope"])) is None:
            raise Refused("an envelope just made does not open")
        self.rewrapped = {
            "messageId": sealed["messageId"], "fromVersion": vault.version, "keyVersion": vault.version,
            "wrappedKey": sealed["envelope"]["wrappedKey"], "oldDigest": rewrapped.old_digest, "digest": rewrapped.digest,
        }  # fmt: skip
        self.below = vault.version + 1
        admin.execute("update private.settings set classifier_mode = 'open'")
        for one, _, conversation in world.pairs[DESK:-3]:
            write(one, conversation_id=conversation)
        self.job = call(None, "claim_classifications", limit=1, lease_s=600)["jobs"][0]
        # Cursors after which a hundred and then ten messages have come, in ten conversations; then one; then nothing.
        self.friends = [
            (str(row[0]), str(row[1]))
            for row in admin.execute(
                "select o.user_id, o.conversation_id from public.conversation_members as m"
                " inner join public.conversation_members as o using (conversation_id)"
                " inner join public.conversations as c on c.id = m.conversation_id"
                " where m.user_id = %s and o.user_id <> %s and c.kind = 'direct' and c.id <> %s and c.id <> %s"
                " order by c.id limit 10",
                [me, me, world.long, world.ordinary],
            )
        ]
        self.cursors = {}
        for left, count in ((100, 90), (10, 10)):
            self.cursors[left] = call(me, "sync")["cursor"]
            for _, (friend, conversation) in zip(range(count), itertools.cycle(self.friends), strict=False):
                write(friend, conversation_id=conversation)
        self.cursor_of_large = call(world.large, "sync")["cursor"]
        write(me, conversation_id=world.long)
        self.cursors[1] = call(me, "sync")["cursor"]
        write(peer, conversation_id=world.ordinary)
        self.cursors[0] = call(me, "sync")["cursor"]

    def calls(self) -> list[Call]:
        """Every function of the catalogue at least once."""
        w, me, peer, large, mod = self.world, self.world.small, self.world.peer, self.world.large, self.world.moderator
        send, lease = "send_message", {"message_id": self.job["messageId"], "lease": self.job["lease"]}
        group64 = [pair[0] for pair in w.pairs[:31]] + [pair[1] for pair in w.pairs[:31]]
        receipts = [{"conversationId": there, "seq": 1_000_000_000} for _, there in self.friends]
        return [
            Call("add_members", "", me, {"conversation_id": self.crew, "user_ids": [self.strangers[0]]}),
            Call("block_user", "", me, {"user_id": peer}),
            Call("create_group", "3 people", me, {"title": "Crew", "member_ids": self.strangers[:2]}),
            Call("create_group", "63 people", me, {"title": "Crew", "member_ids": group64}),
            Call("decide_moderation_item", "", mod, {"item_id": self.item, "decision": "hide"}),
            Call("delete_message", "", me, {"message_id": self.mine["id"]}),
            Call("edit_message", "", me, {"message_id": self.mine["id"], "body": "Said otherwise"}),
            Call("edit_message", "group of 64", me, {"message_id": self.mine_in_group["id"], "body": "Said otherwise"}),
            Call("get_conversation", "ordinary", me, {"conversation_id": w.ordinary}),
            Call("get_conversation", "long", me, {"conversation_id": w.long}),
            Call("get_conversation", "group of 64", me, {"conversation_id": w.group}),
            Call("get_limits", "", me, {}),
            Call("get_moderation_item", "", mod, {"item_id": self.item}),
            Call("get_profile", "", me, {}),
            Call("lift_sanction", "", mod, {"sanction_id": self.sanction}),
            Call("list_blocked", "", me, {"limit": 30}),
            Call("list_conversations", "50 of 100", me, {"limit": 50}),
            Call("list_conversations", "50 of 10,000", large, {"limit": 50}),
            Call("list_conversations", "50 of 10,000, from the middle", large, {"limit": 50, "offset": 700}),
            Call("list_inbox", "10 of 100", me, {"limit": 10}),
            Call("list_inbox", "50 of 100", me, {"limit": 50}),
            Call("list_inbox", "50 of 10,000", large, {"limit": 50}),
            Call("list_inbox", "50 of 10,000, from the middle", large, {"limit": 50, "cursor": self.deep}),
            Call("list_inbox", "50 unread of 10,000", large, {"limit": 50, "unread": True}),
            Call("list_inbox", "with somebody, of 10,000", large, {"limit": 50, "with_user_id": me}),
            Call("list_inbox", "about a gig, of 10,000", large, {"limit": 50, "gig_id": self.gig}),
            Call("list_inbox", "searched, of 10,000", large, {"limit": 50, "q": "moreau"}),
            Call("list_members", "10 of 64", me, {"conversation_id": w.group, "limit": 10}),
            Call("list_members", "64", me, {"conversation_id": w.group, "limit": 100}),
            Call("list_messages", "10, ordinary", me, {"conversation_id": w.ordinary, "limit": 10}),
            Call("list_messages", "30, ordinary", me, {"conversation_id": w.ordinary, "limit": 30}),
            Call("list_messages", "30, long", me, {"conversation_id": w.long, "limit": 30}),
            Call("list_messages", "100, long", me, {"conversation_id": w.long, "limit": 100}),
            Call("list_messages", "30 before, long", me, {"conversation_id": w.long, "before": 500, "limit": 30}),
            Call("list_messages", "30 after, long", me, {"conversation_id": w.long, "after": 500, "limit": 30}),
            Call("list_messages", "30 in the middle, long", me, {"conversation_id": w.long, "around": self.in_long["seq"] // 2, "limit": 30}),
            Call("list_moderation_actions", "", mod, {"limit": 30}),
            Call("list_moderation_queue", "3", mod, {"limit": 3}),
            Call("list_moderation_queue", "15", mod, {"limit": 15}),
            Call("list_moderation_queue", "decided", mod, {"status": "decided", "limit": 30}),
            Call("mark_all_read", "ordinary", me, {"conversation_id": w.ordinary}),
            Call("mark_all_read", "group of 64", me, {"conversation_id": w.group}),
            Call("mark_delivered", "1", me, {"receipts": receipts[:1]}),
            Call("mark_delivered", "10", me, {"receipts": receipts}),
            Call("mark_read", "ordinary", me, {"message_id": self.theirs["id"]}),
            Call("mark_read", "long", me, {"message_id": self.in_long["id"]}),
            Call("message_history", "", me, {"message_id": self.edited["id"]}),
            Call("moderate_hide_message", "", mod, {"message_id": self.theirs["id"], "note": "x"}),
            Call("moderate_restore_message", "", mod, {"message_id": self.hidden, "note": "x"}),
            Call("remove_member", "", me, {"conversation_id": self.crew, "user_id": peer}),
            Call("report_message", "", w.group_people[2], {"message_id": self.in_group["id"], "reason": "spam"}),
            Call("report_user", "", me, {"user_id": peer, "reason": "spam"}),
            Call("sanction_user", "", mod, {"user_id": w.group_people[3], "kind": "mute", "duration_s": 60, "reason": "x"}),
            Call(send, "direct", me, self._said(conversation_id=w.ordinary), ("client_message_id",)),
            Call(send, "sealed", me, {
                "conversation_id": w.ordinary, "client_message_id": self.sealed_key, "envelope": self.envelope}),
            Call(send, "to a long conversation", me, self._said(conversation_id=w.long), ("client_message_id",)),
            Call(send, "to somebody with 10,000", w.group_people[2], self._said(to_user_id=large), ("client_message_id",)),
            Call(send, "group of 3", me, self._said(conversation_id=self.crew), ("client_message_id",)),
            Call(send, "group of 64", me, self._said(conversation_id=w.group), ("client_message_id",)),
            Call(send, "first message", w.pairs[-2][0], self._said(to_user_id=w.pairs[-1][0]), ("client_message_id",)),
            Call(send, "a retry", me, self.replayed),
            Call("set_typing", "", me, {"conversation_id": w.ordinary}),
            Call("sync", "first", me, {}),
            Call("sync", "nothing new", me, {"cursor": self.cursors[0]}),
            Call("sync", "1 message, of 100 conversations", me, {"cursor": self.cursors[1]}),
            Call("sync", "1 message, of 10,000 conversations", large, {"cursor": self.cursor_of_large}),
            Call("sync", "10 messages", me, {"cursor": self.cursors[10]}),
            Call("sync", "100 messages", me, {"cursor": self.cursors[100]}),
            Call("undo_moderation_action", "", mod, {"action_id": self.action, "note": "x"}),
            Call("unblock_user", "", me, {"user_id": self.blocked}),
            Call("unread_counts", "100", me, {}),
            Call("unread_counts", "10,000", large, {}),
            Call("update_conversation", "", me, {"conversation_id": w.ordinary, "changes": {"archived": True}}),
            Call("update_profile", "", me, {"changes": {"displayName": "Somebody Else"}}),
            Call("allow_contact", "", None, {"conversation_id": w.ordinary, "is_allowed": True}),
            Call("claim_classifications", "2", None, {"limit": 2, "lease_s": 60}),
            Call("claim_classifications", "10", None, {"limit": 10, "lease_s": 60}),
            Call("fail_classification", "", None, lease | {"error": "timeout"}),
            Call("finish_classification", "", None, lease | {"outcome": {"action": "hide", "label": "x", "score": 0.9, "model": "m"}}),
            Call("get_moderation_rules", "", None, {}),
            Call("list_envelopes", "", None, {"below_version": self.below, "limit": 200}),
            Call("release_classification", "", None, lease),
            Call("rewrap_envelopes", "", None, {"envelopes": [self.rewrapped]}),
        ]  # fmt: skip

    def _said(self, **to: str) -> dict[str, Any]:
        return {"body": "The ladder is in the shed, the key is under the blue pot.", "client_message_id": None, **to}


def deep_cursor(admin: psycopg.Connection[Any], person: str) -> str:
    """The cursor of a page in the middle of somebody's inbox."""
    return str(
        data.one(
            admin,
            "select private.inbox_cursor(m.is_pinned, m.last_activity_at, m.conversation_id)"
            " from public.conversation_members as m where m.user_id = %s and m.left_at is null and not m.is_archived"
            " order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc"
            " offset (select count(*) / 2 from public.conversation_members as m where m.user_id = %s) limit 1",
            [person, person],
        )
    )


def uncalled(admin: psycopg.Connection[Any], calls: Sequence[Call]) -> set[str]:
    """Functions that an API role may execute in public, by the catalogue, and that no call is of."""
    found = admin.execute(
        "select p.proname from pg_proc as p where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'"
        " and (has_function_privilege('authenticated', p.oid, 'execute') or has_function_privilege('service_role', p.oid, 'execute'))"
        " and pg_get_userbyid(p.proowner) = 'postgres'"
    )
    return {str(row[0]) for row in found} - {call.function for call in calls}


@dataclass(frozen=True)
class Cost:
    """What one call does inside, warm."""

    buffers: int  # pages looked at, those of nested statements included
    statements: int  # that it runs, itself not counted
    scanned: tuple[str, ...]  # tables that grow and were read from end to end


class Counter:
    """Counts what a call does; a superuser's connection that takes the caller's role for it."""

    def __init__(self, admin: psycopg.Connection[Any]) -> None:
        self.admin, self.door = admin, Door(admin)
        self.tables = [
            row[0]
            for row in admin.execute(
                "select c.oid from pg_class as c where c.relkind = 'r' and c.relname <> all(%s)"
                " and (c.relnamespace::regnamespace::text in ('public', 'private') or c.oid = 'auth.users'::regclass)"
                " and pg_relation_size(c.oid) >= %s * current_setting('block_size')::int",
                [list(CONSTANT), GROWN],
            )
        ]

    @contextmanager
    def _all_statements(self) -> Iterator[None]:
        self.admin.execute("set pg_stat_statements.track = 'all'")
        self.admin.execute(
            "select extensions.pg_stat_statements_reset(0, (select oid from pg_database where datname = current_database()), 0)"
        )
        try:
            yield
        finally:
            self.admin.execute("set pg_stat_statements.track = 'none'")

    def _scans(self) -> dict[str, int]:
        self.admin.execute("select pg_stat_force_next_flush()")
        return dict(
            self.admin.execute(
                "select relid::regclass::text, seq_scan from pg_stat_all_tables where relid = any(%s)", [self.tables]
            ).fetchall()
        )

    def cost(self, call: Call) -> Cost:
        query = self.door.query(call.function, list(call.arguments))
        self.admin.execute("set pg_stat_statements.track = 'none'")
        for _ in range(2):
            self.door.transaction(call.person, query, call.values(), b"rollback")
        before = self._scans()
        with self._all_statements():
            self.door.transaction(call.person, query, call.values(), b"rollback")
        after = self._scans()
        row = self.admin.execute(
            "select coalesce(sum(s.calls) filter (where not s.toplevel), 0)::int,"
            " (sum(s.shared_blks_hit + s.shared_blks_read) filter (where s.toplevel and s.query like 'select public.%%'))::int"
            " from extensions.pg_stat_statements as s"
            " where s.dbid = (select oid from pg_database where datname = current_database())"
            " and s.query !~ '^set pg_stat'"
        ).fetchone() or (0, 0)
        return Cost(row[1], row[0], tuple(sorted(name for name in after if after[name] != before.get(name))))


def timed(door: Door, calls: Sequence[Call], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Percentiles in milliseconds of calls that take turns."""
    samples: dict[str, list[float]] = {call.name: [] for call in calls}
    queries = {call.name: door.query(call.function, list(call.arguments)) for call in calls}
    deadline = time.perf_counter() + seconds * len(calls)
    for number in range(rounds + 3):
        for call in calls:
            elapsed = door.transaction(call.person, queries[call.name], call.values(), b"rollback")[0]
            if number >= 3:  # the first ones compile the functions and fill the caches
                samples[call.name].append(elapsed)
        if number > 10 and time.perf_counter() > deadline:
            break
    return {name: summary(values) for name, values in samples.items()}


def make_bare(admin: psycopg.Connection[Any]) -> None:
    """The table of the bare insert: a message's columns, types, constraints; a primary key; one policy."""
    admin.execute(
        """
        create schema if not exists bench;
        grant usage on schema bench to authenticated, authenticator, postgres;
        create table if not exists bench.bare (like public.messages including defaults including constraints, primary key (id));
        alter table bench.bare alter column id set default gen_random_uuid(), enable row level security;
        drop policy if exists bare_insert on bench.bare;
        create policy bare_insert on bench.bare for insert to authenticated with check (from_user_id = (select auth.uid()));
        grant insert on bench.bare to authenticated, postgres;
        """
    )


INSERT = (
    "insert into bench.bare (conversation_id, seq, event_seq, from_user_id, to_user_id, client_message_id, body, created_at,"
    " changed_position) values ($1, $2, $2, $3, $4, $5, $6, now(), 0)"
)


def processor_s(conn: psycopg.Connection[Any]) -> float:
    """Processor time of a connection's server process: other load on the machine changes it least; to the ns on Linux."""
    try:
        return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return cpu_s(conn.info.backend_pid)


def send_beside_insert(cluster: Cluster, database: str, world: World, rounds: int) -> dict[str, dict[str, float]]:
    """A send, a bare insert, and one without role and policy in turns, by people who take turns.

    Percentiles in ms, and `processor`: how much of the server's time one takes.
    """
    said = data.bodies(data.SEED)
    people = world.pairs[DESK:]  # the others are on the moderators' desk
    samples: dict[str, list[float]] = {"send": [], "insert": [], "floor": []}
    with (
        cluster.connect(database) as admin,
        cluster.connect(database, "authenticator") as sending,
        cluster.connect(database, "authenticator") as inserting,
        cluster.connect(database, "postgres") as owner,
    ):
        make_bare(admin)
        admin.execute("update private.settings set classifier_mode = 'off', send_count_max = 500, send_window_s = 1")
        door, other, floor = Door(sending), Door(inserting), Door(owner)
        connections = {"send": sending, "insert": inserting, "floor": owner}
        query = door.query("send_message", ["body", "conversation_id", "client_message_id"])
        used: dict[str, float] = {}
        deadline = time.perf_counter() + SEND_SECONDS
        for number in range(-30, rounds):  # the first ones compile the functions
            if number == 0:
                used = {kind: processor_s(conn) for kind, conn in connections.items()}
            sender, recipient, conversation = people[number % len(people)]
            body, key = text(said[number * 7919 % len(said)]), text(uuid.uuid4())
            row = [text(conversation), text(number + 31), text(sender), text(recipient), key, body]
            for kind in sorted(samples, reverse=number % 2 == 0):
                if kind == "send":
                    elapsed, answer = door.transaction(sender, query, [body, text(conversation), key], b"commit")
                    if json.loads(answer).get("created") is not True:
                        raise Refused(f"a send was not accepted: {answer!r}")
                elif kind == "insert":
                    elapsed, _ = other.transaction(sender, INSERT, row, b"commit")
                else:
                    elapsed = floor.statement(INSERT, row)
                if number >= 0:
                    samples[kind].append(elapsed)
            if number > 50 and time.perf_counter() > deadline:
                break
        return {
            kind: summary(values) | {"processor": (processor_s(connections[kind]) - used[kind]) * 1000 / len(values)}
            for kind, values in samples.items()
        }


def pgbench(cluster: Cluster, database: str, seconds: int, directory: Path) -> float | None:
    """Milliseconds of one insert of the same row without role, claims and policy, as pgbench measures it; None without pgbench."""
    places = [
        shutil.which("pgbench"),
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), reverse=True)),
    ]
    found = next((place for place in places if place), None)
    if found is None:
        return None
    script = directory / "insert.sql"
    script.write_text(
        "insert into bench.bare (conversation_id, seq, event_seq, from_user_id, client_message_id, body, created_at, changed_position)"
        " values ('00000000-0000-4000-8000-000000000001', 1, 1, '00000000-0000-4000-8000-000000000001',"
        " '00000000-0000-4000-8000-000000000001', 'The ladder is in the shed, the key is under the blue pot.', now(), 0);\n"
    )
    said = subprocess.run(
        [found, "-n", "-M", "prepared", "-c", "1", "-T", str(seconds), "-f", str(script), cluster.url(database)],
        capture_output=True, text=True, check=False, env={**os.environ, "PGOPTIONS": ""},
    )  # fmt: skip
    latency = re.search(r"latency average = ([0-9.]+) ms", said.stdout)
    return float(latency[1]) if latency else None


def cacheable(door: Door, world: World, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """What a cache of inbox pages and profile cards could save: each beside a call that asks for nothing, in turns."""
    samples: dict[str, list[float]] = {}
    asked: list[tuple[str, str, str, list[bytes | None]]] = [
        ("nothing", world.small, "select 1", []),
        ("profile card", world.small, "select public.get_profile()", []),
        ("inbox page of 50, of 100", world.small, "select public.list_inbox(p_limit => 50)", []),
        ("inbox page of 50, of 10,000", world.large, "select public.list_inbox(p_limit => 50)", []),
    ]
    deadline = time.perf_counter() + seconds * len(asked)
    for number in range(rounds + 3):
        for name, person, query, values in asked:
            elapsed = door.transaction(person, query, values, b"commit")[0]
            if number >= 3:
                samples.setdefault(name, []).append(elapsed)
        if number > 10 and time.perf_counter() > deadline:
            break
    return {name: summary(values) for name, values in samples.items()}


@dataclass
class Measured:
    """What one size showed."""

    counts: dict[str, int]
    load_s: float
    times: dict[str, dict[str, float]]
    costs: dict[str, Cost]
    sends: dict[str, dict[str, float]]
    floor_ms: float | None
    cache: dict[str, dict[str, float]]


def measure(scratch: Scratch, name: str, rounds: int) -> tuple[Measured, World]:
    """Fill a database of this size and call everything."""
    cluster, shape = scratch.cluster, Shape.of(SIZES[name])
    database = f"bench_{name}"
    with cluster.connect() as connection:
        connection.execute(f'create database "{database}" template {TEMPLATE} owner postgres strategy file_copy')
    began = time.perf_counter()
    with step(f"{name}: filling a database"):
        world = data.load(cluster, database, shape)
    load_s = time.perf_counter() - began
    with step(f"{name}: asking whether it is consistent"), cluster.connect(database) as admin:
        admin.execute("set work_mem = '256MB'")
        if wrong := {said: count for said, count in data.violations(admin).items() if count}:
            raise SystemExit(f"The generated data is not what the functions would have left: {wrong}")
        admin.execute("checkpoint")
    with cluster.connect(database) as admin, cluster.connect(database, "authenticator") as conn:
        door = Door(conn)
        scene = Scene(door, admin, world, scratch.keys)
        calls = scene.calls()
        if missing := uncalled(admin, calls):
            raise SystemExit(f"No call of {', '.join(sorted(missing))}: add one to Scene.calls.")
        with step(f"{name}: {len(calls)} calls of every function"):
            counter = Counter(admin)
            costs = {call.name: counter.cost(call) for call in calls}
            pair = [call for call in calls if call.name in (INBOX_SMALL, INBOX_LARGE)]
            times = timed(door, pair, 2 * rounds, INBOX_SECONDS)
            for call in calls:
                if call not in pair:
                    times |= timed(door, [call], rounds, SECONDS)
            cache = cacheable(door, world, rounds, 2 * SECONDS)
    with step(f"{name}: a send beside a bare insert, fsync off"):
        sends = send_beside_insert(cluster, database, world, SEND_ROUNDS)
        floor_ms = pgbench(cluster, database, 3, scratch.directory)
    return Measured(world.counts, load_s, times, costs, sends, floor_ms, cache), world


def durable(scratch: Scratch, name: str, world: World) -> tuple[dict[str, dict[str, float]], float | None]:
    """The comparison once more with fsync and full_page_writes, on the same database."""
    cluster = scratch.cluster
    cluster.stop()
    cluster.durable = True
    try:
        cluster.start()
        with step(f"{name}: a send beside a bare insert, fsync on"):
            found = send_beside_insert(cluster, f"bench_{name}", world, SEND_ROUNDS)
            floor = pgbench(cluster, f"bench_{name}", 3, scratch.directory)
    finally:
        cluster.stop()
        cluster.durable = False
        cluster.start()
    return found, floor


def tune(cluster: Cluster) -> None:
    """Settings of a server of this size, as a hosted one has them; the rest is as the stack starts it."""
    with cluster.connect() as connection:
        for setting, value in (
            ("shared_buffers", "1GB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "30min"),
            ("autovacuum", "off"),
        ):
            connection.execute(f"alter system set {setting} = '{value}'")
    cluster.stop()
    cluster.start()


def tables(found: dict[str, Measured]) -> str:
    """The page: a table of calls, one of sends, one of what a cache could save."""
    sizes = list(found)
    first, last = found[sizes[0]], found[sizes[-1]]

    def number(value: float) -> str:
        return f"{value:.2f}"

    calls = table(
        ["call", *(f"{size}: p50 / p99 ms" for size in sizes), f"pages {sizes[0]} → {sizes[-1]}", "statements inside"],
        [
            [
                f"`{name.partition(':')[0]}`{name.partition(':')[2]}",
                *(f"{number(found[size].times[name]['p50'])} / {number(found[size].times[name]['p99'])}" for size in sizes),
                f"{first.costs[name].buffers} → {last.costs[name].buffers}",
                last.costs[name].statements,
            ]
            for name in first.times
        ],
    )  # fmt: skip
    cache = table(
        ["one transaction with", *(f"{size}: p50 ms" for size in sizes)],
        [[name, *(number(found[size].cache[name]["p50"]) for size in sizes)] for name in first.cache],
    )
    filled = "; ".join(
        f"{size}: {m.counts['messages']:,} messages in {m.counts['conversations']:,} conversations of {m.counts['people']:,} people, "
        f"the longest of {m.counts['long']:,}, loaded in {m.load_s:.0f} s" for size, m in found.items()
    )  # fmt: skip
    return f"Data: {filled}.\n\n{calls}\n\nWhat a cache of inbox pages and profile cards could save at most, per request:\n\n{cache}"


def sends_table(rows: Sequence[tuple[str, dict[str, dict[str, float]], float | None]]) -> str:
    return table(
        [
            "p50 ms, in a whole transaction", "send", "bare insert", "ratio", "ratio of the server's processor time",
            "insert alone, no role or policy", "pgbench, the same insert",
        ],
        [
            [
                name, f"{sends['send']['p50']:.2f}", f"{sends['insert']['p50']:.2f}", f"{ratio(sends):.2f}",
                f"{ratio(sends, 'processor'):.2f}", f"{sends['floor']['p50']:.2f}", "-" if floor is None else f"{floor:.2f}",
            ]
            for name, sends, floor in rows
        ],
    )  # fmt: skip


def ratio(sends: dict[str, dict[str, float]], of: str = "p50") -> float:
    return sends["send"][of] / sends["insert"][of]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default=",".join(SIZES), help="some of " + ",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="calls of each kind at most")
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    chosen = parser.parse_args()
    sizes = chosen.sizes.split(",")
    if unknown := set(sizes) - set(SIZES):
        raise SystemExit(f"Unknown sizes: {', '.join(sorted(unknown))}")
    found: dict[str, Measured] = {}
    with step("Starting a throw-away cluster"):
        scratch = Scratch().__enter__()
    try:
        tune(scratch.cluster)
        for number, size in enumerate(sizes):
            found[size], world = measure(scratch, size, chosen.rounds)
            if number == 0:
                synced, synced_floor = durable(scratch, size, world)
            with scratch.cluster.connect() as connection:
                connection.execute(f'drop database "bench_{size}" with (force)')
    finally:
        scratch.close()

    rows = [
        (sizes[0] + ", fsync on", synced, synced_floor),
        *((size + ", fsync off", m.sends, m.floor_ms) for size, m in found.items()),
    ]
    scanned = {
        f"{size} {name}": cost.scanned for size, m in found.items() for name, cost in m.costs.items() if cost.scanned
    }
    first, last = found[sizes[0]], found[sizes[-1]]
    figures = {
        "send_over_insert_fsync_off": statistics.median(ratio(m.sends) for m in found.values()),
        "send_over_insert_fsync_on": ratio(synced),
        f"send_p50_{sizes[-1]}_over_{sizes[0]}": last.sends["send"]["p50"] / first.sends["send"]["p50"],
        "inbox_p99_10000_over_100": max(
            m.times[INBOX_LARGE]["p99"] / m.times[INBOX_SMALL]["p99"] for m in found.values()
        ),
    }
    within = dict(zip(figures, (SEND_FASTER, SEND_DURABLE, SEND_GROWTH, INBOX_GROWTH), strict=True))
    page = f"{ABOUT}\n\n{sends_table(rows)}\n\n{tables(found)}"
    if chosen.dry:
        print(page)
    else:
        write_section("sql", page)
        say(sends_table(rows))
    slowest = sorted(last.times.items(), key=lambda item: -item[1]["p50"])[:8]
    say("slowest at " + sizes[-1] + ": " + ", ".join(f"{name} {times['p50']:.1f} ms" for name, times in slowest))
    finish(
        {
            **{name: round(value, 2) for name, value in figures.items()},
            "within_budget": {name: value <= within[name] for name, value in figures.items()},
            "send_over_insert_processor": {size: round(ratio(m.sends, "processor"), 2) for size, m in found.items()},
            "send_processor_ms": {size: round(m.sends["send"]["processor"], 3) for size, m in found.items()},
            "sequential_scans": scanned,
            "send_p50_ms": {size: m.sends["send"]["p50"] for size, m in found.items()},
            "insert_p50_ms": {size: m.sends["insert"]["p50"] for size, m in found.items()},
            "inbox_p50_ms": {size: m.times[INBOX_LARGE]["p50"] for size, m in found.items()},
            "cache": {size: {name: times["p50"] for name, times in m.cache.items()} for size, m in found.items()},
        }
    )


if __name__ == "__main__":
    main()
