"""Data for measurements, straight into a scratch database: as the functions would have left it, much faster.

People, conversations and their lengths are skewed as in real life: conversation r has about r^-0.7 as many messages as
the first. Whatever the size there are: `large`, who is in `Shape.large` conversations; `small`, who is in `Shape.small`;
the `long` conversation of the two; a `group` of 64 with `small` in it. The rest fills up to the asked number of messages.

Triggers and foreign keys sleep while the rows go in (session_replication_role) and the indexes of the big tables are
made afterwards, so everything the functions derive is derived here: seq, event_seq, positions, unread counts, heads,
paces, keys of sends. `violations` asks the finished tables whether all of it is true.

History ends a few days ago, so there are no broadcasts left. Time is cut into slots with a microsecond for each
conversation: no two ever share one, which makes every position unique. In a conversation message s is change 2s-1, and
change 2s its edit, its deletion or a receipt. A seed makes the same data again, but for the date.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from stack.postgres import Cluster

SEED = 20261122
BODIES = 1000
DAYS = 730  # how far the history goes back
LOADERS = 2  # connections that write the big tables at the same time

NAMES = (
    "Ada Moreau", "Björn Håkansson", "Zoë Nguyễn", "Øyvind Šimek", "María José García", "Łukasz Wójcik", "Ayşe Yılmaz",
    "Дмитрий Соколов", "Олена Шевченко", "Γιώργος Παππάς", "محمد الهاشمي", "נועה לוי", "प्रिया शर्मा", "王小明", "佐藤 花子",
    "김민준", "ธนา ศรีสุข", "Chidi Okafor", "Tāne Ngata", "O'Connor",
)  # fmt: skip
SENTENCES = (
    "Ok", "Thanks!", "Yes, that works.", "On my way", "👍", "See you then 🙂", "Perfect, thank you so much.", "One moment please.",
    "Is it still free on Saturday?", "I could come by after work and bring the ladder.", "How long do you think it will take?",
    "The old one was replaced last year, but the new one drips as well.", "Let me ask my sister and tell you tonight.",
    "Danke, passt!", "Könnten Sie am Freitag gegen Abend vorbeikommen?", "Die Tür klemmt seit dem Umbau und schließt nicht richtig.",
    "D'accord, merci.", "Est-ce que vous apportez vos outils ?", "Je préfère la semaine prochaine, si ça vous va.",
    "¿Cuánto tardaría en pintar el pasillo?", "Perfecto, nos vemos mañana.", "El grifo de la cocina sigue goteando.",
    "Obrigado, até já!", "A parede da sala precisa de duas demãos.", "Grazie mille, a domani.", "Jasne, pasuje mi.",
    "Czy mógłby Pan przyjść wcześniej?", "Tamam, teşekkürler.", "Yarın öğleden sonra uygun musunuz?", "Хорошо, спасибо.",
    "Подскажите, пожалуйста, сколько времени займёт ремонт?", "Дякую, до зустрічі.", "Ευχαριστώ πολύ, τα λέμε αύριο.",
    "شكرا جزيلا، إلى اللقاء.", "هل يمكنك المجيء غدا بعد الظهر؟", "תודה רבה, נתראה מחר.", "ठीक है, धन्यवाद।",
    "क्या आप कल शाम को आ सकते हैं?", "好的，谢谢。", "请问周六下午方便吗？厨房的水管还在漏水。", "了解しました。ありがとうございます。",
    "明日の午後は空いていますか。", "네, 감사합니다.", "내일 오후에 시간 괜찮으세요?", "ขอบคุณค่ะ", "Cảm ơn bạn, hẹn gặp lại.", "Ahsante sana.",
)  # fmt: skip
TITLES = ("Crew", "Kitchen on the second floor", "Umzug", "Équipe du jardin", "Ремонт", "搬家", "シフト", "Boda 💐")

# What is written by the million: its indexes and primary keys are made after the rows.
REBUILT = ("public.messages", "public.conversation_members", "private.send_keys")


@dataclass(frozen=True)
class Shape:
    """How much of everything; `of` gives the usual proportions."""

    messages: int
    people: int
    long: int
    large: int = 10_000
    small: int = 100
    group: int = 64

    @classmethod
    def of(cls, messages: int) -> Shape:
        return cls(
            messages,
            people=max(2000, min(messages // 50, 200_000)),
            long=1_000_000 if messages >= 1_000_000 else messages // 2,
        )


@dataclass(frozen=True)
class World:
    """Who and what measurements ask for."""

    large: str
    small: str
    stranger: str  # in no conversation
    moderator: str
    long: str
    ordinary: str  # of `small`
    peer: str  # the other one in it
    group: str
    group_people: list[str]
    pairs: list[tuple[str, str, str]]  # a sender, a recipient and their conversation: nobody twice
    counts: dict[str, int]


def bodies(seed: int) -> list[str]:
    """Texts as people write them, the shorter the more often; several languages and scripts."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    made: dict[str, None] = dict.fromkeys(SENTENCES)
    while len(made) < BODIES:
        count = min(40, max(1, round(chance.lognormvariate(0.6, 0.9))))
        made[" ".join(chance.choice(SENTENCES) for _ in range(count))] = None
    return sorted(made, key=lambda body: len(body) * chance.lognormvariate(0, 0.8))


def one(conn: psycopg.Connection[Any], query: str, parameters: Sequence[Any] = ()) -> Any:
    """The first column of the one row."""
    row = conn.execute(query.encode(), parameters or None).fetchone()
    if row is None:
        raise LookupError(f"no row: {query}")
    return row[0]


def _hash(of: str, salt: str | int) -> str:
    """An SQL expression: a number from 0 below 2^31 that depends on an integer expression and a salt."""
    return f"(hashint8extended({of}, {salt}) & 2147483647)"


def _share(of: str, salt: str | int) -> str:
    return f"({_hash(of, salt)} / 2147483648.0::float8)"


def _person(number: str) -> str:
    return f"md5('person ' || {number})::uuid"


FIRST = 10  # below: the cast
LARGE, SMALL, STRANGER, MODERATOR = range(4)


def plan(conn: psycopg.Connection[Any], shape: Shape, seed: int) -> None:
    """One row per conversation: who, about what, how many messages, when."""
    others = shape.people - FIRST
    scene = shape.large + shape.small
    wanted = max(shape.messages - shape.long - 2 * scene, shape.messages // 2)
    directs = max(1, wanted // 20)
    groups = max(2, directs // 20)
    scale = 0.3 * wanted * 0.9 / directs**0.3  # of the sum of r^-0.7

    def somebody(of: str, salt: int) -> str:
        """Few people write a lot."""
        return f"{FIRST} + floor({others} * power({_share(of, seed + salt)}, 2.2))::int"

    conn.execute(
        f"""
        create schema bench;
        create unlogged table bench.bodies (n int primary key, body text not null);
        create unlogged table bench.plan (
            i bigint, rank int, id uuid, kind text, role text, people int[], gig_id uuid, n bigint, last_slot bigint, gap bigint
        );
        insert into bench.plan (rank, role, kind, people, gig_id, n)
        select 0, 'long', 'direct', array[{LARGE}, {SMALL}], null::uuid, {shape.long}
        union all
        select r, 'large', 'direct', array[{LARGE}, {FIRST} + r % {others}], case when r >= {others} then md5('gig l' || r)::uuid end,
            1 + {_hash("r", seed + 1)} % {3 if shape.messages >= 1_000_000 else 1}
        from generate_series(1, {shape.large} - 1) as r
        union all
        select r, 'small', 'direct', array[{SMALL}, {FIRST} + r % {others}], case when r % 3 = 0 then md5('gig s' || r)::uuid end,
            5 + {_hash("r", seed + 2)} % 60
        from generate_series(1, {shape.small} - 2) as r
        union all
        select 0, 'group', 'group', array[{SMALL}] || array(select {FIRST} + g from generate_series(0, {shape.group} - 2) as g), null, 500
        union all
        select r, 'crew', 'group',
            array(
                select distinct {somebody("r * 64 + g", 3)} from generate_series(0, 2 + {_hash("r", seed + 4)} % 10) as g
            ),
            null, greatest(1, {scale / 4} * power(r, -0.7))::bigint
        from generate_series(1, {groups}) as r
        union all
        select distinct on (t.low, t.high, t.gig_id) r, 'pair', 'direct', array[t.a, t.b], t.gig_id,
            greatest(1, {scale} * power(t.r, -0.7))::bigint
        from (
            select s.*, least(s.a, s.b) as low, greatest(s.a, s.b) as high,
                case when {_hash("r", seed + 5)} % 4 > 0 then md5('gig ' || s.r / 3)::uuid end as gig_id
            from (
                select r, {somebody("r", 6)} as a, {somebody("r", 7)} as b from generate_series(1, {directs}) as r
            ) as s
            where s.a <> s.b
        ) as t;
        delete from bench.plan where cardinality(people) < 2;
        update bench.plan as p set i = t.i, id = md5('conversation ' || t.i)::uuid
        from (select ctid, row_number() over (order by role, rank, gig_id) as i from bench.plan) as t where p.ctid = t.ctid;
        """
    )
    # Ends of history four days ago; most conversations were busy lately.
    conn.execute(
        f"""
        create unlogged table bench.clock as
        select ((extract(epoch from date_trunc('day', now())) - {4 + DAYS} * 86400) * 1000000)::bigint as began, count(*) + 1 as width,
            {DAYS} * 86400::bigint * 1000000 / (count(*) + 1) - 10 as slots
        from bench.plan;
        update bench.plan as p
        set last_slot = (c.slots * (1 - 0.9 * power({_share("p.i", seed + 8)}, 3)))::bigint,
            gap = greatest(2, (c.slots * 0.1 * (0.01 + 0.5 * {_share("p.i", seed + 9)}) / p.n)::bigint)
        from bench.clock as c;
        analyze bench.plan;
        """
    )
    with conn.cursor() as cursor, cursor.copy("copy bench.bodies from stdin") as copy:
        for number, body in enumerate(bodies(seed)):
            copy.write_row((number, body))
    conn.execute("analyze bench.bodies")


def people(conn: psycopg.Connection[Any], shape: Shape, seed: int) -> None:
    conn.execute(
        f"""
        insert into auth.users (instance_id, id, aud, role, email, email_confirmed_at, created_at, raw_app_meta_data, raw_user_meta_data)
        select '00000000-0000-0000-0000-000000000000', {_person("i")}, 'authenticated', 'authenticated', 'person' || i || '@example.com',
            now(), now() - interval '{DAYS + 10} days', '{{"provider": "email"}}', '{{}}'
        from generate_series(0, {shape.people - 1}) as i;
        insert into public.profiles (user_id, display_name, avatar_url, locale)
        select {_person("i")},
            case when i % 50 > 0 then (%(names)s::text[])[1 + {_hash("i", seed + 20)} % {len(NAMES)}] || case i % 3 when 0 then ' ' || i else '' end end,
            case i % 4 when 0 then 'https://cdn.example.com/' || i || '.jpg' end, case i % 2 when 0 then 'en' end
        from generate_series(0, {shape.people - 1}) as i;
        """.replace("%(names)s", "array[" + ", ".join("'" + name.replace("'", "''") + "'" for name in NAMES) + "]")
    )
    conn.execute(
        f"""
        insert into private.blocks (blocker_id, blocked_id)
        select {_person("i")}, {_person(f"i + 1 + i % {FIRST}")}
        from generate_series({FIRST}, {shape.people - 2 * FIRST}, 50) as i;
        insert into private.moderators (user_id, role) values ({_person(str(MODERATOR))}, 'admin');
        """
    )


def conversations(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        f"""
        insert into public.conversations (
            id, kind, gig_id, title, created_by, direct_low, direct_high, last_seq, event_seq, position, last_message_at, created_at
        )
        select p.id, p.kind, p.gig_id,
            case p.kind when 'group' then (array[{", ".join(f"'{title}'" for title in TITLES)}])[1 + p.i % {len(TITLES)}] end,
            t.ids[1],
            case p.kind when 'direct' then least(t.ids[1], t.ids[2]) end, case p.kind when 'direct' then greatest(t.ids[1], t.ids[2]) end,
            p.n, 2 * p.n, c.began + (p.last_slot + 1) * c.width + p.i,
            'epoch'::timestamptz + (c.began + p.last_slot * c.width + p.i) * interval '1 us',
            'epoch'::timestamptz + (c.began + (p.last_slot - p.n * p.gap) * c.width + p.i) * interval '1 us'
        from bench.plan as p
        cross join bench.clock as c
        cross join lateral (select array(select {_person("u")} from unnest(p.people) as u) as ids) as t;
        """
    )


def messages(conn: psycopg.Connection[Any], seed: int, part: int) -> None:
    """One of LOADERS parts; edits and deletions keep what they replaced."""
    conn.execute(
        f"""
        with made as (
            select p.id as conversation_id, p.gig_id, p.people, p.kind, s as seq, b.body, c.width,
                c.began + (p.last_slot - (p.n - s) * p.gap) * c.width + p.i as at, {_hash("s", "p.i")} as chance,
                case when {_hash("s", "p.i")} / 7 % 200 = 0 then 'deleted' when {_hash("s", "p.i")} / 7 % 100 = 1 then 'edited' end as fate,
                md5(p.i || ' ' || s) as digest
            from bench.plan as p
            cross join bench.clock as c
            cross join lateral generate_series(1, p.n) as s
            inner join bench.bodies as b
                on b.n = floor({BODIES} * power({_share("s", f"p.i + {seed}")}, 2))::int
            where (p.i + s / 10000) % {LOADERS} = {part}
        ), kept as (
            insert into private.message_versions (message_id, version, body, replaced_at)
            select (lpad(to_hex(at / 1000), 12, '0') || '7' || substr(digest, 1, 3) || '8' || substr(digest, 4, 15))::uuid, 1, body,
                'epoch'::timestamptz + (at + width) * interval '1 us'
            from made where fate is not null
        )
        insert into public.messages (
            id, conversation_id, seq, event_seq, from_user_id, to_user_id, gig_id, client_message_id, body, state, edited_at,
            deleted_at, created_at, changed_position
        )
        select (lpad(to_hex(at / 1000), 12, '0') || '7' || substr(digest, 1, 3) || '8' || substr(digest, 4, 15))::uuid,
            conversation_id, seq, 2 * seq - (fate is null)::int, t.author,
            case kind when 'direct' then {_person("people[2 - chance % 2]")} end,
            gig_id, md5(digest)::uuid, case when fate = 'edited' then body || ' ✏️' when fate is null then body end,
            case fate when 'deleted' then 'deleted' else 'visible' end,
            case fate when 'edited' then 'epoch'::timestamptz + (at + width) * interval '1 us' end,
            case fate when 'deleted' then 'epoch'::timestamptz + (at + width) * interval '1 us' end,
            'epoch'::timestamptz + at * interval '1 us', at + case when fate is null then 0 else width end
        from made cross join lateral (select {_person("people[1 + chance % cardinality(people)]")} as author) as t
        """
    )


def members(conn: psycopg.Connection[Any], seed: int) -> None:
    """Watermarks, and unread counted as private.unread_count does; needs the index of messages."""
    who = f"(p.i * 4096 + u.person) # {seed}"
    conn.execute(
        f"""
        insert into public.conversation_members (
            conversation_id, user_id, role, joined_at, last_read_seq, shared_read_seq, shared_delivered_seq, unread_count, archived_at,
            muted_until, pinned_at, last_activity_at, changed_position
        )
        select p.id, {_person("u.person")}, case when p.kind = 'group' and u.ordinal = 1 then 'owner' else 'member' end,
            v.created_at, r.read_seq, r.read_seq, greatest(r.read_seq, p.n - {_hash(who, 31)} % 2),
            (
                select count(*)
                from public.messages as m
                where m.conversation_id = p.id and m.seq > r.read_seq and m.from_user_id <> {_person("u.person")} and m.state = 'visible'
                    and not exists (
                        select from private.blocks as b where b.blocker_id = {_person("u.person")} and b.blocked_id = m.from_user_id
                    )
            ),
            case r.fate when 1 then v.changed_at + interval '1 us' * c.width end, case r.fate when 2 then 'infinity'::timestamptz end,
            case r.fate when 3 then v.changed_at + interval '1 us' * c.width end,
            v.last_message_at, c.began + (p.last_slot + case when r.fate in (1, 2, 3) then 2 else 1 end) * c.width + p.i
        from bench.plan as p
        cross join bench.clock as c
        cross join lateral unnest(p.people) with ordinality as u (person, ordinal)
        cross join lateral (
            select
                case when {_hash(who, 32)} % 10 < 6 then p.n else greatest(0, p.n - 1 - {_hash(who, 33)} % 12) end as read_seq,
                case when u.person in ({LARGE}, {SMALL}) or p.role = 'group' then null else {_hash(who, 34)} % 40 end as fate
        ) as r
        cross join lateral (
            select
                'epoch'::timestamptz + (c.began + (p.last_slot - p.n * p.gap) * c.width + p.i) * interval '1 us' as created_at,
                'epoch'::timestamptz + (c.began + p.last_slot * c.width + p.i) * interval '1 us' as last_message_at,
                'epoch'::timestamptz + (c.began + (p.last_slot + 1) * c.width + p.i) * interval '1 us' as changed_at
        ) as v
        """
    )


def send_keys(conn: psycopg.Connection[Any], part: int) -> None:
    conn.execute(
        f"""
        insert into private.send_keys (from_user_id, client_message_id, request_digest, message_id)
        select m.from_user_id, m.client_message_id,
            sha256(convert_to(m.conversation_id || ' ' || coalesce(v.body, m.body), 'UTF8')), m.id
        from public.messages as m left join private.message_versions as v on v.message_id = m.id and v.version = 1
        where m.seq % {LOADERS} = {part}
        """
    )


def traces(conn: psycopg.Connection[Any]) -> None:
    """What follows from the rest: heads, paces, when people were last here."""
    conn.execute(
        """
        insert into private.heads (user_id, position, previous_position)
        select t.user_id, t.position, coalesce(t.others, t.message)
        from (
            select m.user_id, m.changed_position as position,
                lead(m.changed_position) over (partition by m.user_id order by m.changed_position desc) as others,
                row_number() over (partition by m.user_id order by m.changed_position desc) as n,
                (extract(epoch from x.created_at) * 1000000)::bigint as message
            from public.conversation_members as m
            inner join public.conversations as c on c.id = m.conversation_id
            left join public.messages as x on x.conversation_id = c.id and x.seq = c.last_seq
        ) as t
        where t.n = 1;
        create unlogged table bench.last as
        select distinct on (m.from_user_id) m.from_user_id, m.created_at, coalesce(m.to_user_id, m.conversation_id) as target
        from (select from_user_id, max(created_at) as created_at from public.messages group by from_user_id) as t
        inner join public.messages as m using (from_user_id, created_at);
        insert into private.paces (user_id, kind, happened_at, recent)
        select l.from_user_id, 'send', array[l.created_at],
            array[0, hashtextextended(l.target::text, 20261122), floor(extract(epoch from l.created_at))::bigint]
        from bench.last as l;
        insert into private.paces (user_id, kind, happened_at)
        select c.created_by, 'new_conversation', array[max(c.created_at)] from public.conversations as c where c.kind = 'direct'
        group by c.created_by
        union all
        select t.user_id, 'first_contact', array[max(t.created_at)]
        from (
            select case c.created_by when c.direct_low then c.direct_high else c.direct_low end as user_id, c.created_at
            from public.conversations as c where c.kind = 'direct'
        ) as t
        group by t.user_id;
        insert into private.last_seen (user_id, seen_at) select l.from_user_id, date_trunc('minute', l.created_at) from bench.last as l
        """
    )


def violations(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """How often each of what the functions guarantee is not so; every value must be 0. Not only for generated data."""
    questions = {
        "seq is not dense, or the conversation does not know its newest message": """
            select count(*) from public.conversations as c
            left join (
                select conversation_id, count(*) as n, max(seq) as last, min(seq) as first, max(event_seq) as event_seq,
                    max(changed_position) as position
                from public.messages group by conversation_id
            ) as m on m.conversation_id = c.id
            left join public.messages as l on l.conversation_id = c.id and l.seq = c.last_seq
            where coalesce(m.last, c.first_seq - 1) <> c.last_seq or coalesce(m.n, 0) <> c.last_seq - c.first_seq + 1
                or m.first <> c.first_seq or l.created_at is distinct from c.last_message_at or m.event_seq > c.event_seq
                or m.position > c.position""",
        "an unread count is not that of a recount": """
            select count(*) from public.conversation_members as m where m.left_at is null and m.unread_count <> (
                select count(*) from public.messages as x
                where x.conversation_id = m.conversation_id and x.seq > greatest(m.last_read_seq, m.visible_from_seq - 1)
                    and x.from_user_id <> m.user_id and x.state = 'visible'
                    and not exists (select from private.blocks as b where b.blocker_id = m.user_id and b.blocked_id = x.from_user_id))""",
        "a watermark is beyond the newest message, or an inbox is not in the order of its messages": """
            select count(*) from public.conversation_members as m inner join public.conversations as c on c.id = m.conversation_id
            where m.last_read_seq > c.last_seq or m.shared_delivered_seq > c.last_seq
                or (m.left_at is null and m.last_activity_at < c.last_message_at)""",
        "a direct conversation has not its two people": """
            select count(*) from public.conversations as c where c.kind = 'direct' and 2 <> (
                select count(*) from public.conversation_members as m
                where m.conversation_id = c.id and m.user_id in (c.direct_low, c.direct_high))""",
        "an author or a recipient is no member": """
            select count(*) from (select distinct conversation_id, from_user_id, to_user_id from public.messages) as x
            where not exists (
                    select from public.conversation_members as m where m.conversation_id = x.conversation_id and m.user_id = x.from_user_id)
                or (x.to_user_id is not null and not exists (
                    select from public.conversation_members as m where m.conversation_id = x.conversation_id and m.user_id = x.to_user_id))""",
        "a head is not at the newest change of its person": """
            select count(*) from (
                select m.user_id, max(m.changed_position) as position from public.conversation_members as m group by m.user_id
            ) as m left join private.heads as h using (user_id)
            where h.position is null or h.position < m.position or h.previous_position >= h.position""",
        "two changes of a person have one position": """
            select count(*) from (
                select from public.conversation_members as m group by m.user_id, m.changed_position having count(*) > 1
            ) as t""",
        "a message has no key, or another one than it was sent with": """
            select count(*) from public.messages as m
            left join private.send_keys as k on k.from_user_id = m.from_user_id and k.client_message_id = m.client_message_id
            left join private.message_versions as v on v.message_id = m.id and v.version = 1
            where k.message_id is distinct from m.id
                or (m.seq % 10 = 0 and not m.is_masked and not m.is_sensitive
                    and k.request_digest <> sha256(convert_to(m.conversation_id || ' ' || coalesce(v.body, m.body), 'UTF8')))""",
        "somebody has written and has no pace": """
            select count(*) from (select distinct from_user_id from public.messages) as m
            where not exists (select from private.paces as p where p.user_id = m.from_user_id and p.kind = 'send')""",
    }  # fmt: skip
    return {said: one(conn, question) for said, question in questions.items()}


class _Rebuilt:
    """Tables without their indexes inside the block; LOADERS connections make them again."""

    def __init__(self, cluster: Cluster, database: str, tables: Sequence[str]) -> None:
        self.cluster, self.database, self.tables = cluster, database, tables
        self.again: dict[str, list[str]] = {}

    def drop(self, conn: psycopg.Connection[Any]) -> None:
        for table in self.tables:
            keys = conn.execute(
                "select format('alter table %%s add constraint %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)), conname,"
                " conindid from pg_constraint where conrelid = %s::regclass and contype in ('p', 'u')",
                [table],
            ).fetchall()
            rest = conn.execute(
                "select pg_get_indexdef(indexrelid), indexrelid::regclass::text from pg_index"
                " where indrelid = %s::regclass and indexrelid <> all(%s)",
                [table, [key[2] for key in keys]],
            ).fetchall()
            for key in keys:
                conn.execute(f"alter table {table} drop constraint {key[1]}")
            for index in rest:
                conn.execute(f"drop index {index[1]}")
            self.again[table] = [*(index[0] for index in rest), *(key[0] for key in keys)]

    def make(self, *tables: str) -> None:
        """The keys last: adding one locks the table, and the others can share it."""
        jobs = [[index] for table in tables for index in self.again[table] if index.startswith("CREATE")]
        keys = [[key] for table in tables for key in self.again[table] if not key.startswith("CREATE")]
        for some in (jobs, keys):
            together(self.cluster, self.database, [lambda conn, job=job: conn.execute(job[0]) for job in some])


def together(cluster: Cluster, database: str, jobs: Sequence[Any]) -> None:
    """Run jobs, LOADERS at a time, each on a connection that loads fast; the first error is raised."""
    waiting = list(jobs)
    errors: list[Exception] = []

    def work() -> None:
        try:
            with loading(cluster, database) as conn:
                while waiting and not errors:
                    waiting.pop(0)(conn)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(LOADERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def loading(cluster: Cluster, database: str) -> psycopg.Connection[Any]:
    """A connection as the superuser for which no trigger fires and no foreign key is asked."""
    conn = cluster.connect(database)
    conn.execute(
        "set session_replication_role = replica; set maintenance_work_mem = '768MB'; set work_mem = '256MB';"
        " set synchronous_commit = off; set max_parallel_maintenance_workers = 0; set max_parallel_workers_per_gather = 1"
    )
    return conn


def load(cluster: Cluster, database: str, shape: Shape, seed: int = SEED) -> World:
    """Fill an empty, migrated database."""
    rebuilt = _Rebuilt(cluster, database, REBUILT)
    with loading(cluster, database) as conn:
        plan(conn, shape, seed)
        people(conn, shape, seed)
        conversations(conn)
        rebuilt.drop(conn)
        conn.execute("vacuum analyze bench.plan")
    parts = range(LOADERS)
    together(cluster, database, [lambda conn, part=part: messages(conn, seed, part) for part in parts])
    rebuilt.make("public.messages")
    together(
        cluster,
        database,
        [
            lambda conn: members(conn, seed),
            *(lambda conn, part=part: send_keys(conn, part) for part in parts),
        ],
    )
    rebuilt.make("public.conversation_members", "private.send_keys")
    with loading(cluster, database) as conn:
        traces(conn)
        found = _world(conn, shape)
        conn.execute("drop schema bench cascade")
    tables = [
        *REBUILT,
        "public.conversations",
        "public.profiles",
        "private.heads",
        "private.paces",
        "private.blocks",
        "auth.users",
    ]
    together(cluster, database, [lambda conn, table=table: conn.execute(f"vacuum analyze {table}") for table in tables])
    return found


def _world(conn: psycopg.Connection[Any], shape: Shape) -> World:
    def person(number: int) -> str:
        return str(one(conn, f"select {_person(str(number))}"))

    ordinary, peer = conn.execute(
        f"select id, {_person('people[2]')} from bench.plan where role = 'small' and n between 20 and 60 order by i limit 1"
    ).fetchone() or ("", "")
    # People of middling fame, each once.
    pairs, met = [], set()
    for sender, other, conversation in conn.execute(
        f"select {_person('people[1]')}, {_person('people[2]')}, p.id from bench.plan as p where role = 'pair' and n between 6 and 100"
        f" and people[1] > {FIRST + shape.group} and people[2] > {FIRST + shape.group} and not exists ("
        f"   select from private.blocks as b where b.blocker_id in ({_person('people[1]')}, {_person('people[2]')}))"
        " order by n, i limit 5000"
    ):
        if sender not in met and other not in met:
            met |= {sender, other}
            pairs.append((str(sender), str(other), str(conversation)))
    group, group_people = conn.execute(
        f"select id, array(select {_person('u')}::text from unnest(people) as u) from bench.plan where role = 'group'"
    ).fetchone() or ("", [])
    return World(
        large=person(LARGE), small=person(SMALL), stranger=person(STRANGER), moderator=person(MODERATOR),
        long=str(one(conn, "select id from bench.plan where role = 'long'")), ordinary=str(ordinary), peer=str(peer), group=str(group),
        group_people=list(group_people), pairs=pairs[:60],
        counts={
            "messages": one(conn, "select sum(n)::bigint from bench.plan"), "conversations": one(conn, "select count(*) from bench.plan"),
            "people": shape.people, "long": shape.long, "large": shape.large, "small": shape.small, "group": shape.group,
        },
    )  # fmt: skip
