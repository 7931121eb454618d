"""list_messages: every page in both directions is exactly the part of the sequence it should be."""

import itertools
import uuid

import pytest

from tests.sql.rpc import call, refused


@pytest.fixture(scope="module")
def talk(supabase_stack, new_person):
    """Nine messages for Ann; retention has taken 1 and 2; Bob may read from 5 on."""
    import psycopg

    with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
        ann, bob = new_person(), new_person()
        for number in range(9):
            there = call(conn, ann.id, "send_message", body=str(number), to_user_id=bob.id)["conversation"]["id"]
        conn.execute("delete from public.messages where conversation_id = %s and seq < 3", [there])
        conn.execute("update public.conversations set first_seq = 3 where id = %s", [there])
        conn.execute("update public.conversation_members set visible_from_seq = 5 where user_id = %s", [bob.id])
        yield {"ann": (ann, list(range(3, 10))), "bob": (bob, list(range(5, 10)))}, there


def expected(seqs, limit, before=None, after=None, around=None):
    """The plain reading of the contract."""
    if after is not None:
        page = [s for s in seqs if s > after][:limit]
    elif around is not None:
        middle = min(max(around, seqs[0]), seqs[-1] + 1)
        begin = min(max(middle - limit // 2, seqs[0]), max(seqs[-1] + 1 - limit, seqs[0]))
        page = [s for s in seqs if s >= begin][:limit]
    else:
        page = [s for s in seqs if before is None or s < before][-limit:]
    if page:
        return page, page[0] > seqs[0], page[-1] < seqs[-1]
    return page, after is not None, before is not None


@pytest.mark.parametrize("who", ["ann", "bob"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 8, 100])
def test_every_place(db, talk, who, limit):
    people, there = talk
    person, seqs = people[who]
    places = [-(2**63), -1, 0, *range(1, 12), 2**63 - 1]
    for kind, place in [(None, None), *itertools.product(("before", "after", "around"), places)]:
        params = {kind: place} if kind else {}
        page = call(db, person.id, "list_messages", conversation_id=there, limit=limit, **params)
        got = ([m["seq"] for m in page["messages"]], page["hasMoreBefore"], page["hasMoreAfter"])
        assert got == expected(seqs, limit, **params), params


def test_around_holds_its_message(db, talk):
    people, there = talk
    ann, seqs = people["ann"]
    for limit, seq in itertools.product((1, 2, 3, 100), seqs):
        page = call(db, ann.id, "list_messages", conversation_id=there, around=seq, limit=limit)
        assert seq in [m["seq"] for m in page["messages"]]


def test_walking_both_ways_meets_every_message_once(db, talk):
    people, there = talk
    ann, seqs = people["ann"]
    down, before = [], None
    while True:
        page = call(db, ann.id, "list_messages", conversation_id=there, before=before, limit=2)
        down = [m["seq"] for m in page["messages"]] + down
        if not page["hasMoreBefore"]:
            break
        before = down[0]
    up, after = [], 0
    while True:
        page = call(db, ann.id, "list_messages", conversation_id=there, after=after, limit=2)
        up += [m["seq"] for m in page["messages"]]
        if not page["hasMoreAfter"]:
            break
        after = up[-1]
    assert up == down == seqs


def test_nothing_left_to_read(sql, talk):
    people, there = talk
    bob, _ = people["bob"]
    sql.execute("update public.conversation_members set visible_from_seq = 10 where user_id = %s", [bob.id])
    for params in ({}, {"before": 10}, {"after": 3}, {"around": 5}):
        page = call(sql.connection, bob.id, "list_messages", conversation_id=there, **params)
        assert page == {"messages": [], "hasMoreBefore": False, "hasMoreAfter": False}


def test_refusals(db, talk, new_person):
    people, there = talk
    ann, _ = people["ann"]
    for params, pointer in (
        ({"limit": 0}, "/limit"),
        ({"limit": 101}, "/limit"),
        ({"before": 1, "after": 1}, "/before"),
    ):
        with refused(400, "validation_failed") as said:
            call(db, ann.id, "list_messages", conversation_id=there, **params)
        assert said["hint"] == pointer
    said = []
    for target in (there, str(uuid.uuid4()), None):
        with refused(404, "not_found") as one:
            call(db, new_person().id, "list_messages", conversation_id=target)
        said.append(one)
    assert said[0] == said[1] == said[2]
