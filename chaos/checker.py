"""What must be true at the end, whatever was done to the parts: pure functions from what clients know to complaints.

`check` compares the account that clients kept (what they asked, what was acknowledged), the database, and what devices
hold.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

KINDS = (
    "lost",  # acknowledged, and not there
    "doubled",  # there more than once
    "reordered",  # the messages of one person are in another order than they were acknowledged
    "altered",  # there, but not as it was asked for or acknowledged
    "ghost",  # there, and nobody asked for it
    "seq",  # the numbers of a conversation are not 1, 2, 3 ...
    "events",  # a number of event_seq is missing or was given twice
    "positions",  # somebody's chain of positions is broken
    "unread",  # a count that a recount does not give
    "watermark",  # a read or delivered mark that cannot be
    "pointer",  # a conversation or an inbox row does not name its newest message
    "device",  # a device holds something else than the database
    "stuck",  # something did not get over a fault by itself, or ended without one
)


class Complaint(NamedTuple):
    """One thing that should not be."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Acknowledged(NamedTuple):
    """What the answer to a send said."""

    message_id: str
    conversation_id: str
    seq: int


@dataclass
class Send:
    """One message somebody wanted to send, however often it was tried."""

    person: str
    key: str
    body: str
    acknowledged: Acknowledged | None = None


@dataclass
class Change:
    """What its author asked to become of one message: texts in the order of asking, and whether it should go."""

    texts: list[str] = field(default_factory=list)
    delete_asked: bool = False
    delete_acknowledged: bool = False


@dataclass
class Mark:
    """How far somebody asked a watermark to move, and how far that was acknowledged."""

    asked: int = 0
    acknowledged: int = 0


@dataclass
class Account:
    """All that clients asked for and were told. The sends of one person are in the order of their acknowledgement."""

    sends: list[Send] = field(default_factory=list)
    changes: dict[str, Change] = field(default_factory=lambda: defaultdict(Change))
    read: dict[tuple[str, str], Mark] = field(default_factory=lambda: defaultdict(Mark))  # (conversation, person)
    delivered: dict[tuple[str, str], Mark] = field(default_factory=lambda: defaultdict(Mark))


@dataclass
class History:
    """What one device of somebody holds after it has synced; messages and conversations as the API shows them."""

    name: str
    person: str
    messages: Sequence[Mapping[str, Any]]  # per conversation in the order the device shows them
    conversations: Mapping[str, Mapping[str, Any]]
    receipts: Mapping[tuple[str, str], Mapping[str, Any]]  # (conversation, person)


class Stored(NamedTuple):
    """A row of messages, and what it said when it was sent."""

    id: str
    conversation_id: str
    seq: int
    event_seq: int
    author: str
    key: str
    body: str | None
    state: str
    first_body: str | None


STORED = """
    select m.id::text, m.conversation_id::text, m.seq, m.event_seq, m.from_user_id::text, m.client_message_id::text,
      m.body, m.state, coalesce(v.body, m.body)
    from public.messages as m
    left join private.message_versions as v on v.message_id = m.id and v.version = 1
    order by m.conversation_id, m.seq
"""


def check(db: psycopg.Connection[Any], account: Account, histories: Sequence[History]) -> list[Complaint]:
    """Everything that is wrong; nothing when all is well. `db` owns the tables and best reads in one snapshot."""
    stored = [Stored(*row) for row in db.execute(STORED)]
    return [
        *_sends(account, stored),
        *_changes(account, stored),
        *_numbers(stored),
        *_claims(db),
        *_marks(db, account),
        *_chains(db),
        *_devices(db, stored, histories),
    ]


# ----- what was asked against what is stored -----


def _sends(account: Account, stored: Sequence[Stored]) -> Iterator[Complaint]:
    by_key: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    by_body: dict[tuple[str, str | None], list[Stored]] = defaultdict(list)
    for row in stored:
        by_key[row.author, row.key].append(row)
        by_body[row.author, row.first_body].append(row)
    newest: dict[tuple[str, str], int] = {}
    for send in account.sends:
        there = by_key.pop((send.person, send.key), [])
        of_body = by_body[send.person, send.body]
        if len(there) > 1 or len(of_body) > 1:
            ids = sorted({row.id for row in (*there, *of_body)})
            yield Complaint("doubled", f"key {send.key} of {send.person} is there as {', '.join(ids)}")
        told = send.acknowledged
        if told and not there:
            yield Complaint("lost", f"{told} with key {send.key} of {send.person} was acknowledged")
        for row in there[:1]:
            if row.first_body != send.body:
                yield Complaint("altered", f"{row.id} was sent as {send.body!r} and says {row.first_body!r}")
            if told and told != (row.id, row.conversation_id, row.seq):
                yield Complaint("altered", f"{told} was acknowledged and {row[:3]} is there")
        if told:
            place = (send.person, told.conversation_id)
            seq = there[0].seq if there else told.seq
            if seq <= newest.get(place, 0):
                yield Complaint(
                    "reordered",
                    f"{told} of {send.person} was acknowledged later and is {seq}, not after {newest[place]}",
                )
            newest[place] = max(seq, newest.get(place, 0))
    for (person, key), rows in by_key.items():
        yield Complaint("ghost", f"{rows[0].id} of {person} has the key {key} that nobody asked for")


def _changes(account: Account, stored: Sequence[Stored]) -> Iterator[Complaint]:
    for row in stored:
        asked = account.changes.get(row.id, Change())
        if row.state == "deleted":
            if not asked.delete_asked:
                yield Complaint("altered", f"{row.id} is deleted and nobody asked for that")
        elif row.state != "visible" or asked.delete_acknowledged:
            yield Complaint(
                "altered", f"{row.id} is {row.state}, and its deletion acknowledged: {asked.delete_acknowledged}"
            )
        # A request that was given up may still arrive after the next one: any text that was asked for may be there.
        elif row.body != row.first_body and row.body not in asked.texts:
            yield Complaint("altered", f"{row.id} says {row.body!r}, which nobody asked for")


def _numbers(stored: Sequence[Stored]) -> Iterator[Complaint]:
    for conversation_id, rows in itertools.groupby(stored, lambda row: row.conversation_id):
        seqs, event_seqs = zip(*((row.seq, row.event_seq) for row in rows), strict=True)
        if list(seqs) != list(range(1, len(seqs) + 1)):
            missing = sorted(set(range(1, max(seqs) + 1)) - set(seqs))
            yield Complaint(
                "seq", f"{conversation_id} goes to {max(seqs)} with {len(seqs)} messages, without {missing[:9]}"
            )
        twice = [number for number, count in Counter(event_seqs).items() if count > 1]
        if twice:
            yield Complaint("events", f"{conversation_id} has messages with the same event_seq: {twice[:9]}")


# ----- what the database says of itself: each query answers what should not be -----

CLAIMS = (
    ("pointer", "the conversation does not know its newest message", """
        select c.id, c.last_seq, c.last_message_at
        from public.conversations as c
        left join lateral (
            select m.seq, m.created_at from public.messages as m
            where m.conversation_id = c.id order by m.seq desc limit 1
        ) as newest on true
        where c.last_seq <> coalesce(newest.seq, 0) or c.last_message_at is distinct from newest.created_at
    """),
    ("pointer", "the inbox row is not in the place of the newest message its person sees", """
        select m.conversation_id, m.user_id, m.last_activity_at
        from public.conversation_members as m
        inner join public.conversations as c on c.id = m.conversation_id
        where m.left_at is null and m.last_activity_at <> case
            when c.last_seq >= m.visible_from_seq then c.last_message_at else m.joined_at
        end and (c.kind = 'group' or c.last_seq > 0)
    """),
    ("pointer", "the message is not the one of its key", """
        select m.id, k.message_id
        from public.messages as m
        full join private.send_keys as k
            on k.from_user_id = m.from_user_id and k.client_message_id = m.client_message_id
        where k.message_id is distinct from m.id
    """),
    ("unread", "unread_count is not what a recount says", """
        select m.conversation_id, m.user_id, m.unread_count, recounted.unread
        from public.conversation_members as m
        cross join lateral (
            select count(*) as unread
            from public.messages as x
            where
                x.conversation_id = m.conversation_id and x.from_user_id <> m.user_id and x.state = 'visible'
                and x.seq > greatest(m.last_read_seq, m.visible_from_seq - 1)
                and not exists (
                    select from private.blocks as b where b.blocker_id = m.user_id and b.blocked_id = x.from_user_id
                )
        ) as recounted
        where m.left_at is null and m.unread_count <> recounted.unread
    """),
    ("watermark", "a mark is beyond the newest message, or read goes beyond delivered", """
        select m.conversation_id, m.user_id, m.last_read_seq, m.shared_read_seq, m.shared_delivered_seq, c.last_seq
        from public.conversation_members as m
        inner join public.conversations as c on c.id = m.conversation_id
        where m.left_at is null and (
            greatest(m.last_read_seq, m.shared_delivered_seq) > c.last_seq
            or m.shared_read_seq <> m.last_read_seq
            or m.shared_delivered_seq < m.shared_read_seq
        )
    """),
    ("events", "the conversation is behind its messages", """
        select c.id, c.event_seq, c.position, newest.event_seq, newest.position
        from public.conversations as c
        inner join (
            select m.conversation_id, max(m.event_seq) as event_seq, max(m.changed_position) as position
            from public.messages as m
            group by m.conversation_id
        ) as newest on newest.conversation_id = c.id
        where c.event_seq < newest.event_seq or c.position < newest.position
    """),
    ("positions", "positions are not in the order of event_seq", """
        select t.id, t.event_seq, t.changed_position
        from (
            select m.*, lag(m.changed_position) over (partition by m.conversation_id order by m.event_seq) as before
            from public.messages as m
        ) as t
        where t.changed_position <= t.before
    """),
    ("positions", "a change has a position above its person's head", """
        select m.conversation_id, m.user_id, m.changed_position, h.position
        from public.conversation_members as m
        left join private.heads as h on h.user_id = m.user_id
        where m.changed_position > coalesce(h.position, 0)
    """),
    ("positions", "somebody's row is behind a change that they can see", """
        select m.conversation_id, m.user_id, m.changed_position, newest.position
        from public.conversation_members as m
        inner join (
            select x.conversation_id, max(x.changed_position) as position
            from public.messages as x
            group by x.conversation_id
        ) as newest on newest.conversation_id = m.conversation_id
        where m.left_at is null and m.changed_position < newest.position
    """),
)  # fmt: skip


def _claims(db: psycopg.Connection[Any]) -> Iterator[Complaint]:
    for kind, what, query in CLAIMS:
        for row in db.execute(query):
            yield Complaint(kind, f"{what}: {', '.join(map(str, row))}")


def _marks(db: psycopg.Connection[Any], account: Account) -> Iterator[Complaint]:
    """A watermark is at least where it was acknowledged to be, and not beyond what was asked for."""
    rows = db.execute(
        """
        select conversation_id::text, user_id::text, last_read_seq, shared_delivered_seq
        from public.conversation_members
        where left_at is null and visible_from_seq = 1
        """
    )
    for conversation_id, person, read, delivered in rows:
        read_mark = account.read.get((conversation_id, person), Mark())
        delivered_mark = account.delivered.get((conversation_id, person), Mark())
        where = f"{person} in {conversation_id}"
        if not read_mark.acknowledged <= read <= read_mark.asked:
            yield Complaint("watermark", f"{where} has read to {read}: {read_mark}")
        low, high = (max(pair) for pair in zip(_pair(read_mark), _pair(delivered_mark), strict=True))
        if not low <= delivered <= high:
            yield Complaint("watermark", f"{where} was delivered to {delivered}: {delivered_mark}, {read_mark}")


def _pair(mark: Mark) -> tuple[int, int]:
    return mark.acknowledged, mark.asked


# ----- the chains that events make -----

# Each move of a head is one event that names the one before.
CHAIN = """
    select t.person, t.before, t.named, t.position
    from (
        select
            split_part(e.topic, ':', 2) as person,
            (e.payload ->> 'previousPosition')::bigint as named,
            (e.payload ->> 'position')::bigint as position,
            coalesce(lag((e.payload ->> 'position')::bigint) over (
                partition by e.topic order by (e.payload ->> 'position')::bigint
            ), 0) as before
        from realtime.messages as e
        where e.topic like 'user:%' and e.payload ? 'position'
    ) as t
    where t.named <> t.before
"""
HEADS = """
    select h.user_id::text, coalesce(newest.position, 0), h.position
    from private.heads as h
    left join (
        select e.topic, max((e.payload ->> 'position')::bigint) as position
        from realtime.messages as e
        where e.payload ? 'position'
        group by e.topic
    ) as newest on newest.topic = 'user:' || h.user_id
    where h.position <> coalesce(newest.position, 0)
"""
# Each change of a conversation was told to somebody, with the number it has.
TOLD = """
    select c.id::text, c.event_seq, count(distinct t.event_seq), max(t.event_seq)
    from public.conversations as c
    left join (
        select
            (e.payload ->> 'conversationId')::uuid as conversation_id,
            (e.payload -> 'conversation' ->> 'eventSeq')::bigint as event_seq
        from realtime.messages as e
        where e.topic like 'user:%' and e.payload ? 'conversation'
    ) as t on t.conversation_id = c.id
    group by c.id, c.event_seq
    having c.event_seq <> count(distinct t.event_seq) or c.event_seq <> coalesce(max(t.event_seq), 0)
"""


def _chains(db: psycopg.Connection[Any]) -> Iterator[Complaint]:
    for person, before, named, position in db.execute(CHAIN):
        yield Complaint("positions", f"the event of {person} at {position} follows {before} and names {named}")
    for person, newest, head in db.execute(HEADS):
        yield Complaint("positions", f"the head of {person} is {head} and the newest event {newest}")
    for conversation_id, event_seq, told, newest in db.execute(TOLD):
        yield Complaint("events", f"{conversation_id} is at {event_seq}, and {told} were told, the newest {newest}")


# ----- devices -----

TOLD_ALL_MAX = 16  # members of a group in which everybody is told what everybody has read

MEMBERS = """
    select m.user_id::text, m.conversation_id::text, m.visible_from_seq, m.unread_count, c.last_seq,
      m.shared_read_seq, m.shared_delivered_seq
    from public.conversation_members as m
    inner join public.conversations as c on c.id = m.conversation_id
    where m.left_at is null
"""


def _devices(
    db: psycopg.Connection[Any], stored: Sequence[Stored], histories: Sequence[History]
) -> Iterator[Complaint]:
    messages: dict[str, list[Stored]] = defaultdict(list)
    for row in stored:
        messages[row.conversation_id].append(row)
    rooms: dict[str, dict[str, tuple[int, int, int]]] = defaultdict(dict)
    marks: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for person, conversation_id, first, unread, last, read, delivered in db.execute(MEMBERS):
        rooms[person][conversation_id] = (first, unread, last)
        marks[conversation_id][person] = (read, delivered)
    for history in histories:
        mine = rooms[history.person]
        for what in _differences(history, mine, messages, marks):
            yield Complaint("device", f"{history.name} of {history.person}: {what}")


def _differences(
    history: History,
    rooms: Mapping[str, tuple[int, int, int]],
    messages: Mapping[str, Sequence[Stored]],
    marks: Mapping[str, Mapping[str, tuple[int, int]]],
) -> Iterator[str]:
    held: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for each in history.messages:
        held[each["conversationId"]].append(
            (each["id"], each["seq"], each["eventSeq"], each["fromUserId"], each["body"], each["state"])
        )
    if history.conversations.keys() != rooms.keys():
        yield f"conversations differ by {sorted(history.conversations.keys() ^ rooms.keys())}"
    for conversation_id in held.keys() | rooms.keys():
        first, unread, last = rooms.get(conversation_id, (1 << 62, 0, 0))
        truth = [
            (row.id, row.seq, row.event_seq, row.author, row.body, row.state)
            for row in messages.get(conversation_id, ())
            if row.seq >= first
        ]
        mine = held.get(conversation_id, [])
        if mine != truth:
            yield from _why(conversation_id, mine, truth)
        shown = history.conversations.get(conversation_id)
        if shown and (shown["unreadCount"], shown["lastSeq"]) != (unread, last):
            said = f"{shown['unreadCount']} unread of {shown['lastSeq']}"
            yield f"{conversation_id} shows {said}, and it is {unread} of {last}"
        for person, (read, delivered) in marks[conversation_id].items() if conversation_id in rooms else ():
            receipt = history.receipts.get((conversation_id, person), {"lastReadSeq": 0, "lastDeliveredSeq": 0})
            told = (receipt["lastReadSeq"], receipt["lastDeliveredSeq"])
            # The receipts of larger groups are told to few; a device learns the rest when something else happens there.
            is_told = len(marks[conversation_id]) <= TOLD_ALL_MAX
            if told != (read, delivered) and (is_told or told[0] > read or told[1] > delivered):
                yield f"{conversation_id} shows the receipt {told} of {person}, and it is {(read, delivered)}"


def _why(conversation_id: str, held: Sequence[tuple[Any, ...]], truth: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    missing, ghosts = set(truth) - set(held), set(held) - set(truth)
    by_id = {row[0]: row for row in truth}
    for row in sorted(ghosts, key=lambda row: row[:3]):
        yield f"{conversation_id} has {row} where {by_id.get(row[0], 'nothing')} is"
    for row in sorted(missing, key=lambda row: row[:3]):
        if row[0] not in {ghost[0] for ghost in ghosts}:
            yield f"{conversation_id} lacks {row}"
    if len(held) != len(set(held)):
        yield f"{conversation_id} has a message twice"
    elif not missing and not ghosts:
        yield f"{conversation_id} has its messages in another order"
