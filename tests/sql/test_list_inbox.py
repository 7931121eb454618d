"""list_inbox: order, cursors that survive change, filters, search; and the badge."""

import random

import pytest

from tests.sql.rpc import call, make_group, refused

FILES = "update public.conversation_members set {} where user_id = %s and conversation_id = any(%s::uuid[])"


@pytest.fixture(scope="module")
def inbox(supabase_stack, new_person):
    """Somebody with 25 conversations, some pinned, some archived, some read; and their ids, newest first."""
    import psycopg

    with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
        conn.execute("update private.settings set first_contact_count_max = 500")
        me, others = new_person("Me"), [new_person(f"Other {n}") for n in range(25)]
        rooms = [call(conn, o.id, "send_message", body="x", to_user_id=me.id)["conversation"]["id"] for o in others][
            ::-1
        ]
        conn.execute(FILES.format("pinned_at = now()"), [me.id, [rooms[5], rooms[20]]])
        conn.execute(FILES.format("archived_at = now()"), [me.id, rooms[10:13]])
        for room in rooms[::2]:
            call(conn, me.id, "mark_all_read", conversation_id=room)
        conn.execute("update private.settings set first_contact_count_max = 30")
        order = [rooms[5], rooms[20], *(r for r in rooms if r not in (rooms[5], rooms[20]) and r not in rooms[10:13])]
        yield me, others[::-1], rooms, order


def ids(page):
    return [conversation["id"] for conversation in page["conversations"]]


def walk(db, me, limit, **filters):
    """All pages; the last has no cursor, and no page but the last is short."""
    seen, cursor = [], None
    while True:
        page = call(db, me.id, "list_inbox", limit=limit, cursor=cursor, **filters)
        seen += ids(page)
        cursor = page["nextCursor"]
        if cursor is None:
            return seen
        assert len(page["conversations"]) == limit


class TestPages:
    @pytest.mark.parametrize("limit", [1, 2, 7, 21, 22, 23, 100])
    def test_every_conversation_once_in_order(self, db, inbox, limit):
        me, _, _, order = inbox
        assert walk(db, me, limit) == order

    def test_archive(self, db, inbox):
        me, _, rooms, _ = inbox
        assert walk(db, me, 2, archived=True) == rooms[10:13]

    def test_unread(self, db, inbox):
        me, _, rooms, order = inbox
        unread = [room for room in order if rooms.index(room) % 2 == 1]
        assert walk(db, me, 3, unread=True) == unread
        assert walk(db, me, 30, unread=False) == order

    def test_marked_is_unread(self, sql, inbox):
        me, _, rooms, _ = inbox
        sql.execute(FILES.format("marked_unread = true"), [me.id, [rooms[0]]])
        assert rooms[0] in walk(sql.connection, me, 30, unread=True)

    def test_what_jumps_to_the_top_meanwhile_hides_nothing_and_repeats_nothing(self, sql, inbox):
        me, others, _, order = inbox
        db, chance = sql.connection, random.Random(3)
        seen, jumped, cursor = [], set(), None
        while True:
            page = call(db, me.id, "list_inbox", limit=3, cursor=cursor)
            seen += ids(page)
            cursor = page["nextCursor"]
            if cursor is None:
                break
            for other in chance.sample(others, 2):
                jumped.add(call(db, other.id, "send_message", body="up", to_user_id=me.id)["conversation"]["id"])
        assert len(seen) == len(set(seen))
        assert set(order) - jumped <= set(seen)
        assert [room for room in seen if room not in jumped] == [room for room in order if room not in jumped]

    def test_same_rows_as_the_page_by_offset(self, db, inbox):
        me = inbox[0]
        by_cursor = call(db, me.id, "list_inbox", limit=50)["conversations"]
        assert by_cursor == call(db, me.id, "list_conversations", limit=50)["conversations"]


class TestFilters:
    def test_person_and_gig(self, db, new_person):
        me, ann, bob = new_person(), new_person(), new_person()
        gig, other_gig = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
        sent = {
            name: call(db, a.id, "send_message", body="x", to_user_id=b.id, gig_id=g)["conversation"]["id"]
            for name, a, b, g in (
                ("ann", me, ann, None),
                ("ann gig", ann, me, gig),
                ("bob gig", me, bob, gig),
                ("bob other", bob, me, other_gig),
                ("not mine", ann, bob, gig),
            )
        }
        group = make_group(db, [me.id, ann.id])
        db.execute("update public.conversations set gig_id = %s where id = %s", [gig, group])

        def found(**filters):
            return set(ids(call(db, me.id, "list_inbox", **filters)))

        assert found(gig_id=gig) == {sent["ann gig"], sent["bob gig"], group}
        assert found(with_user_id=ann.id) == {sent["ann"], sent["ann gig"]}
        assert found(gig_id=gig, with_user_id=bob.id) == {sent["bob gig"]}
        assert found(gig_id=gig, unread=True) == {sent["ann gig"]}
        assert found(with_user_id=me.id) == set()
        assert found(gig_id=other_gig, q="Person") == {sent["bob other"]}
        assert found(gig_id="33333333-3333-4333-8333-333333333333") == set()

    @pytest.mark.parametrize(
        ("name", "queries"),
        [
            ("Emil Sørensen", ["emil", "SORENSEN", "sørensen", "l s", "sö"]),
            ("Chloé 陈", ["chloe", "CHLOÉ", "陈"]),
            ("Ðorđe Łukasz", ["dorde", "lukasz"]),
            ("Ἀθηνᾶ Παπαδόπουλος", ["αθηνα", "παπαδοπουλος"]),
            ("Дмитрий Ёлкин", ["дмитр", "ЕЛКИН"]),
            ("ＦＵＬＬ ﬁne", ["full", "FINE"]),
            ("Straße Æsir Œuvre", ["strasse", "aesir", "oeuvre"]),
            ("مُحَمَّد", ["محمد"]),
            ("이영희", ["영희", "이"]),
        ],
    )
    def test_search_folds_names_of_any_script(self, db, new_person, name, queries):
        me, other = new_person("Me myself"), new_person(name)
        there = call(db, other.id, "send_message", body="x", to_user_id=me.id)["conversation"]["id"]
        call(db, new_person("Zuzu").id, "send_message", body="x", to_user_id=me.id)
        for query in queries:
            assert ids(call(db, me.id, "list_inbox", q=query)) == [there], query
        assert ids(call(db, me.id, "list_inbox", q="myself")) == []
        assert ids(call(db, me.id, "list_inbox", q="%_")) == []
        assert len(ids(call(db, me.id, "list_inbox", q=" "))) == 2

    def test_search_in_titles(self, db, new_person):
        me = new_person()
        group = make_group(db, [me.id])
        db.execute("update public.conversations set title = 'Équipe déménagement' where id = %s", [group])
        assert ids(call(db, me.id, "list_inbox", q="equipe DEM")) == [group]

    def test_names_of_those_who_left_do_not_count(self, db, new_person):
        me, gone = new_person(), new_person("Gone Girl")
        group = make_group(db, [me.id, gone.id])
        db.execute(
            "update public.conversation_members set left_at = now() where user_id = %s and conversation_id = %s",
            [gone.id, group],
        )
        assert ids(call(db, me.id, "list_inbox", q="gone")) == []


class TestRefusals:
    @pytest.mark.parametrize(
        "cursor",
        [
            "",
            "x",
            "!!!",
            "a" * 201,
            "MSAxIDE",
            "MSAx",
            "eyJ9",
            "MiAxIDAwMDAwMDAwLTAwMDAtMDAwMC0wMDAwLTAwMDAwMDAwMDAwMA",
            "-" * 8,
            "_w",
        ],
    )
    def test_foreign_cursors(self, db, new_person, cursor):
        with refused(400, "cursor_invalid") as said:
            call(db, new_person().id, "list_inbox", cursor=cursor)
        assert said["hint"] == "/cursor"

    @pytest.mark.parametrize(
        ("params", "pointer"), [({"limit": 0}, "/limit"), ({"limit": 101}, "/limit"), ({"q": "x" * 101}, "/q")]
    )
    def test_bounds(self, db, new_person, params, pointer):
        with refused(400, "validation_failed") as said:
            call(db, new_person().id, "list_inbox", **params)
        assert said["hint"] == pointer

    def test_a_cursor_shows_nobody_elses_inbox(self, db, inbox, new_person):
        me = inbox[0]
        cursor = call(db, me.id, "list_inbox", limit=1)["nextCursor"]
        assert call(db, new_person().id, "list_inbox", cursor=cursor) == {"conversations": [], "nextCursor": None}


class TestUnreadCounts:
    def test_without_muted_and_archived(self, db, new_person):
        me, muted, archived, plain, marked = (new_person() for _ in range(5))
        rooms = {}
        for other in (muted, archived, plain, marked):
            for _ in range(2):
                rooms[other.id] = call(db, other.id, "send_message", body="x", to_user_id=me.id)["conversation"]["id"]
        call(db, me.id, "mark_all_read", conversation_id=rooms[marked.id])
        db.execute(FILES.format("muted_until = now() + interval '1 hour'"), [me.id, [rooms[muted.id]]])
        db.execute(FILES.format("archived_at = now()"), [me.id, [rooms[archived.id]]])
        db.execute(FILES.format("marked_unread = true"), [me.id, [rooms[marked.id]]])
        assert call(db, me.id, "unread_counts") == {"messages": 2, "conversations": 2}
        db.execute(FILES.format("muted_until = now() - interval '1 second'"), [me.id, [rooms[muted.id]]])
        assert call(db, me.id, "unread_counts") == {"messages": 4, "conversations": 3}

    def test_nothing(self, db, new_person):
        assert call(db, new_person().id, "unread_counts") == {"messages": 0, "conversations": 0}
