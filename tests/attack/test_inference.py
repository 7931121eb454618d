"""What somebody learns of things that are not theirs: nothing, whether they exist or not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.attack.test_matrix import none_of
from tests.attack.world import World, outcome, told_of
from tests.sql.rpc import acting, call

# What reads or changes a thing by its id, and what kind of thing.
BY_ID = {
    "conversation": {
        "get_conversation": {}, "list_messages": {}, "list_members": {}, "mark_all_read": {}, "set_typing": {},
        "update_conversation": {"changes": {"pinned": True}}, "send_message": {"body": "x"},
        "add_members": {"user_ids": ["$me"]}, "remove_member": {"user_id": "$owner"},
    },
    "message": {
        "mark_read": {}, "message_history": {}, "delete_message": {}, "edit_message": {"body": "x"},
        "report_message": {"reason": "spam"},
    },
}  # fmt: skip


def exists(db: psycopg.Connection[Any], function: str) -> bool:
    row = db.execute("select to_regproc(%s) is not null", [f"public.{function}"]).fetchone()
    return bool(row and row[0])


@pytest.mark.parametrize("role", ["outsider", "former", "blocked", "moderator", "anonymous", "deleted"])
def test_what_is_not_yours_and_what_does_not_exist_are_one(role: str, db: Any, attacked: World) -> None:
    """Status, headers and every byte of the body."""
    problems = []
    for kind, functions in BY_ID.items():
        real = attacked.ids["group" if kind == "conversation" else "message"]
        for function, others in functions.items():
            if not exists(db, function):
                continue
            answers = [
                attacked.rpc(role, function, **{f"{kind}_id": given}, **attacked.fill(others, role))
                for given in (real, str(uuid.uuid4()))
            ]
            if told_of(answers[0]) != told_of(answers[1]):
                problems.append(f"{function}: {answers[0].text[:150]} and {answers[1].text[:150]}")
            elif answers[0].is_success:
                problems.append(f"{function} succeeds")
    none_of(problems)


def test_everybody_who_cannot_be_written_to_looks_the_same(db: Any, attacked: World) -> None:
    """Unknown, gone, suspended, blocking, and oneself; a first message, a new group, a member to add."""
    other = attacked.ids
    people = {"unknown": str(uuid.uuid4()), "gone": other["deleted"], "suspended": other["suspended"]}
    group = attacked.rpc("blocked", "create_group", title="Mine", member_ids=[other["extra"]]).json()["conversation"][
        "id"
    ]
    sends, groups, adds = {}, {}, {}
    for name, person in {**people, "blocking": other["owner"], "oneself": other["blocked"]}.items():
        sends[name] = attacked.rpc("blocked", "send_message", body="x", to_user_id=person)
        sends[f"{name}, gig"] = attacked.rpc(
            "blocked", "send_message", body="x", to_user_id=person, gig_id=str(uuid.uuid4())
        )
        if name != "oneself":
            groups[name] = attacked.rpc("blocked", "create_group", title="x", member_ids=[person])
            adds[name] = attacked.rpc("blocked", "add_members", conversation_id=group, user_ids=[person])
    for answers in (sends, groups, adds):
        said = {name: told_of(answer) for name, answer in answers.items()}
        assert len(set(said.values())) == 1, {name: answer.text[:120] for name, answer in answers.items()}
        assert outcome(next(iter(answers.values()))) == "recipient_unavailable"


# Filters, orders and embeddings on what the outsider cannot see; all are answered as if there were nothing.
ORACLES = [
    "messages?body=like.*plan*", "messages?body=ilike.*PLAN*", "messages?body=match.plan", "messages?body=fts.plan",
    "messages?body=eq.The%20plan", "messages?body=not.is.null", "messages?seq=gte.1", "messages?id=eq.$message",
    "messages?from_user_id=eq.$owner", "messages?or=(body.like.*plan*,id.eq.$message)",
    "messages?and=(seq.gt.0,seq.lt.9)",
    "messages?client_message_id=not.is.null", "messages?state=eq.hidden", "messages?order=created_at.desc&limit=1",
    "messages?select=*,conversations(*)", "messages?select=id,conversations!inner(title)&conversations.title=eq.Crew",
    "messages?select=body::text,n:seq", "messages?not.and=(seq.lt.0)",
    "conversations?id=eq.$group", "conversations?title=eq.Crew", "conversations?search_title=like.*crew*",
    "conversations?select=*,messages(*),conversation_members(*)", "conversations?direct_low=eq.$owner",
    "conversations?last_seq=gt.0",
    "conversations?created_by=eq.$owner", "conversations?select=id,messages!inner(id)&messages.id=eq.$message",
    "conversation_members?user_id=eq.$owner", "conversation_members?conversation_id=eq.$group",
    "conversation_members?select=*,conversations(*)&role=eq.owner", "conversation_members?user_id=neq.$me",
    "conversation_members?left_at=not.is.null", "conversation_members?order=last_read_seq.desc&user_id=neq.$me",
    "profiles?user_id=eq.$owner", "profiles?display_name=eq.Owner", "profiles?display_name=ilike.own*&user_id=neq.$me",
    "profiles?search_name=like.*own*", "profiles?user_id=in.($owner,$member)",
    "profiles?user_id=neq.$me&order=display_name",
    "profiles?locale=eq.en&user_id=neq.$me", "profiles?avatar_url=not.is.null&user_id=neq.$me",
]  # fmt: skip


@pytest.fixture(scope="module")
def stranger(attacked: World, new_person: Any) -> str:
    """Somebody who has talked to nobody; also a column of the world."""
    attacked.people["stranger"] = new_person("Stranger")
    return "stranger"


@pytest.mark.parametrize("count", ["", "count=exact"])
def test_filters_are_no_oracle(count: str, attacked: World, stranger: str) -> None:
    problems = []
    for query in ORACLES:
        path = "/rest/v1/" + attacked.fill(query, stranger)
        answer = attacked.ask(stranger, "GET", path, headers={"Prefer": count} if count else {})
        total = answer.headers.get("content-range", "").partition("/")[2]
        if answer.is_success and answer.json() == [] and total in ("", "*", "0"):
            continue
        # A refusal must be one of the request itself: the same when there is nothing to find.
        imaginary = query.replace("$message", "$nobody").replace("$owner", "$nobody").replace("$group", "$nobody")
        same = attacked.ask(stranger, "GET", "/rest/v1/" + attacked.fill(imaginary, stranger))
        if answer.is_success or answer.status_code != same.status_code or outcome(answer) != outcome(same):
            problems.append(f"{query}: {answer.status_code} {total} {answer.text[:150]}")
        elif outcome(answer).startswith("22"):
            problems.append(f"{query}: evaluated on rows: {answer.text[:150]}")
    none_of(problems)


def test_estimates_do_not_tell_what_exists(db: Any, attacked: World, stranger: str, new_person: Any) -> None:
    """Prefer: count=planned answers from statistics over everybody's rows, so these must say the same of all."""
    busy, quiet = new_person("Zebulon Quux"), new_person("Zebulon Quux")
    talk = call(db, busy.id, "send_message", body="x", to_user_id=quiet.id)["conversation"]["id"]
    for number in range(60):
        call(db, busy.id, "send_message", body=f"x{number}", conversation_id=talk)
    for _ in range(20):
        new_person("Zebulon Quux")
        call(db, new_person().id, "create_group", title="Zebulon", member_ids=[busy.id])
    db.execute("analyze public.messages, public.conversations, public.conversation_members, public.profiles")
    nothing = str(uuid.uuid4())
    pairs = {
        "messages?select=id&conversation_id=eq.{}": (talk, nothing),
        "messages?select=id&from_user_id=eq.{}": (busy.id, nothing),
        "messages?select=id&to_user_id=eq.{}": (quiet.id, nothing),
        "messages?select=id&body=eq.{}": ("x", "y"),
        "conversation_members?select=user_id&conversation_id=eq.{}": (talk, nothing),
        "conversation_members?select=user_id&user_id=eq.{}": (busy.id, nothing),
        "conversations?select=id&id=eq.{}": (talk, nothing),
        "conversations?select=id&direct_low=eq.{}": (min(busy.id, quiet.id), nothing),
        "conversations?select=id&direct_high=eq.{}": (max(busy.id, quiet.id), nothing),
        "conversations?select=id&created_by=eq.{}": (busy.id, nothing),
        "conversations?select=id&title=eq.{}": ("Zebulon", "Nobody"),
        "conversations?select=id&search_title=eq.{}": ("zebulon", "nobody"),
        "profiles?select=user_id&user_id=eq.{}": (busy.id, nothing),
        "profiles?select=user_id&display_name=eq.{}": ("Zebulon Quux", "Nobody"),
        "profiles?select=user_id&search_name=eq.{}": ("zebulon quux", "nobody"),
        "profiles?select=user_id&display_name=gte.{0}&display_name=lte.{0}z": ("Zebulon", "Nobody"),
    }
    problems = []
    for query, values in pairs.items():
        for kind in ("planned", "estimated"):
            counts = [
                attacked.ask(
                    stranger, "HEAD", f"/rest/v1/{query.format(value)}", headers={"Prefer": f"count={kind}"}
                ).headers["content-range"].partition("/")[2]
                for value in values
            ]  # fmt: skip
            if counts[0] != counts[1]:
                problems.append(f"{query} {kind}: {counts[0]} of what exists, {counts[1]} of what does not")
    none_of(problems)


@pytest.mark.parametrize(
    "kind", ["application/vnd.pgrst.plan", "application/vnd.pgrst.plan+json", "application/vnd.pgrst.plan+text"]
)
def test_plans_are_not_shown(attacked: World, kind: str) -> None:
    for options in ("", "; options=analyze|verbose|buffers|settings|wal", '; for="application/json"'):
        for path in ("/rest/v1/messages", "/rest/v1/rpc/get_profile"):
            answer = attacked.ask("member", "GET", path, headers={"Accept": kind + options})
            assert answer.status_code in (400, 406), answer.text


@pytest.mark.parametrize("select", ["count()", "seq.sum()", "seq.max()", "body.min()", "from_user_id,count()"])
def test_aggregates_are_not_offered_or_count_ones_own(attacked: World, stranger: str, select: str) -> None:
    answer = attacked.ask(stranger, "GET", f"/rest/v1/messages?select={select}")
    told = answer.json()
    assert outcome(answer) == "PGRST123" or told in (
        [],
        [{"count": 0}],
        [{"sum": None}],
        [{"max": None}],
        [{"min": None}],
    )


def test_errors_name_nothing_that_is_private(db: Any, attacked: World, stranger: str) -> None:
    """Hints guess at names, details quote: neither may reach beyond what is public."""
    private = {
        row[0]
        for row in db.execute(
            "select c.relname from pg_class as c where c.relnamespace = 'private'::regnamespace and c.relkind = 'r' "
            "union select p.proname from pg_proc as p where p.pronamespace = 'private'::regnamespace and not exists "
            "(select from pg_proc as q where q.proname = p.proname and q.pronamespace = 'public'::regnamespace)"
        )
    }
    said = []
    for method, path, body in (
        ("GET", "/rest/v1/setting", None), ("GET", "/rest/v1/block", None), ("GET", "/rest/v1/verdict", None),
        ("GET", "/rest/v1/moderator", None), ("GET", "/rest/v1/users", None),
        ("GET", "/rest/v1/messages?select=secret", None),
        ("GET", "/rest/v1/messages?secret=eq.1", None), ("GET", "/rest/v1/messages?select=*,users(*)", None),
        ("POST", "/rest/v1/rpc/judge", {}), ("POST", "/rest/v1/rpc/is_blocked", {}),
        ("POST", "/rest/v1/rpc/get_conversation", {"p_conversation_id": "x"}),
        ("POST", "/rest/v1/rpc/send_message", {"p_to_user_id": "x", "p_body": "x"}),
        ("POST", "/rest/v1/messages", {"id": 1}), ("PATCH", "/rest/v1/profiles?user_id=eq.1", {"a": 1}),
        ("GET", "/rest/v1/messages?id=eq.x", None), ("GET", "/rest/v1/", None),
    ):  # fmt: skip
        for role in ("anon", stranger):
            said.append(attacked.ask(role, method, path, json=body).text)
    text = "\n".join(said)
    none_of(
        [
            name
            for name in sorted(private)
            if name in text.replace("settings", "") and name not in ("settings", "reports")
        ]
    )
    for word in ("PL/pgSQL", "private.", "postgres.js", "node:", "at Object", "stack"):
        assert word not in text, word


def test_the_description_of_the_api_is_not_for_people(attacked: World, stranger: str) -> None:
    for role in ("anon", stranger):
        answer = attacked.ask(role, "GET", "/rest/v1/", headers={"Accept": "application/openapi+json"})
        assert answer.status_code in (401, 403, 404), answer.text[:200]


def test_search_finds_only_where_one_is(db: Any, attacked: World, stranger: str) -> None:
    for q in ("Crew", "Owner", "Member", "e", "%", "_", "*", "'", "\\", "crew%"):
        answer = attacked.rpc(stranger, "list_inbox", q=q)
        assert answer.json() == {"conversations": [], "nextCursor": None}, q
    for params in (
        {"with_user_id": attacked.ids["owner"]}, {"gig_id": str(uuid.uuid4())}, {"archived": True}, {"unread": True},
    ):  # fmt: skip
        assert attacked.rpc(stranger, "list_inbox", **params).json()["conversations"] == []
    # Former members have no name to be found by, and former conversations cannot be found.
    assert attacked.rpc("former", "list_inbox", q="Crew").json()["conversations"] == []
    named = attacked.rpc("member", "list_inbox", q="Former").json()["conversations"]
    assert attacked.ids["group"] not in [each["id"] for each in named]


class TestTiming:
    """The same path for what exists and what does not: minima of many runs, side by side, with a generous margin."""

    RUNS = 60
    FACTOR = 2.5

    def fastest(self, db: psycopg.Connection[Any], person: str, statements: list[tuple[str, list[Any]]]) -> list[float]:
        best = [float("inf")] * len(statements)
        with acting(db, person):
            for _ in range(self.RUNS):
                for number, (statement, values) in enumerate(statements):
                    began = time.perf_counter()
                    try:
                        with db.transaction():
                            db.execute(statement, values)
                    except psycopg.Error as error:
                        if not (error.sqlstate or "").startswith("PT"):
                            raise
                    best[number] = min(best[number], time.perf_counter() - began)
        return best

    @pytest.fixture
    def alike(self, db: Any) -> Callable[..., None]:
        def compare(person: str, statement: str, *values: list[Any]) -> None:
            times = self.fastest(db, person, [(statement, each) for each in values])
            assert max(times) < self.FACTOR * min(times), [f"{each * 1e6:.0f} µs" for each in times]

        return compare

    @pytest.mark.parametrize(
        "function", ["get_conversation", "list_messages", "list_members", "mark_all_read", "set_typing"]
    )
    def test_conversations(self, alike: Any, attacked: World, function: str) -> None:
        statement = f"select public.{function}(%s)"
        alike(
            attacked.ids["outsider"], statement, [attacked.ids["group"]], [attacked.ids["direct"]], [str(uuid.uuid4())]
        )

    @pytest.mark.parametrize("function", ["mark_read", "message_history", "delete_message"])
    def test_messages(self, alike: Any, attacked: World, function: str) -> None:
        alike(attacked.ids["outsider"], f"select public.{function}(%s)", [attacked.ids["message"]], [str(uuid.uuid4())])

    def test_recipients(self, alike: Any, attacked: World) -> None:
        alike(
            attacked.ids["blocked"],
            "select public.send_message(p_body => 'x', p_to_user_id => %s)",
            [str(uuid.uuid4())], [attacked.ids["deleted"]], [attacked.ids["suspended"]], [attacked.ids["owner"]],
        )  # fmt: skip
