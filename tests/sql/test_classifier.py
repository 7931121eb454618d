"""The classifier's queue: one worker per message, verdicts for the text they are about, and nothing of it for people."""

import json
import threading
import time
import uuid

import psycopg
import pytest

from tests.sql.rpc import call, refused, state

HIDE = {"action": "hide", "label": "Threat", "score": 0.98, "model": "tox-3"}


def service(conn, function, /, **params):
    """Call public.<function> as the role service_role, as the data API does for the secret key."""
    arguments = ", ".join(f"p_{name} => %s" for name in params)
    values = [json.dumps(value) if isinstance(value, dict) else value for value in params.values()]
    with conn.transaction():
        conn.execute("set local role service_role")
        conn.execute("""select set_config('request.jwt.claims', '{"role": "service_role"}', true)""")
        answer = conn.execute(f"select public.{function}({arguments})", values).fetchone()[0]
        conn.execute("reset role")
    return answer


def claim(conn, limit=10, lease_s=60):
    return service(conn, "claim_classifications", limit=limit, lease_s=lease_s)["jobs"]


def finish(conn, job, **outcome):
    told = {"message_id": job["messageId"], "lease": job["lease"], "outcome": outcome}
    return service(conn, "finish_classification", **told)["result"]


def fail(conn, job, error="timeout"):
    told = {"message_id": job["messageId"], "lease": job["lease"], "error": error}
    return service(conn, "fail_classification", **told)["result"]


def release(conn, job):
    return service(conn, "release_classification", message_id=job["messageId"], lease=job["lease"])["result"]


def mode(db, name, attempts_max=8):
    db.execute("update private.settings set classifier_mode = %s, classifier_attempts_max = %s", [name, attempts_max])


def due(db):
    """Let everything that waits be due now, and every lease be over."""
    db.execute("update private.classifier_jobs set run_at = now() - interval '1 hour'")
    db.execute("update private.classifier_jobs set leased_until = now() where lease is not null")


def totals(db):
    return dict(
        db.execute("select outcome, sum(total)::int from private.classifier_totals group by outcome").fetchall()
    )


@pytest.fixture(autouse=True)
def queue(db):
    """An empty queue that is on; off and empty again afterwards, for the other tests of this database."""
    db.execute("delete from private.classifier_jobs")
    db.execute("delete from private.classifier_totals")
    mode(db, "open")
    yield
    mode(db, "off")
    db.execute("delete from private.classifier_jobs")


@pytest.fixture
def talk(db, new_person):
    ann, bob = new_person("Ann"), new_person("Bob")
    return ann, bob, call(db, ann.id, "send_message", body="one", to_user_id=bob.id)["message"]


class TestQueue:
    def test_a_sent_message_is_handed_out_once(self, db, talk):
        ann, _, message = talk
        (job,) = claim(db)
        assert uuid.UUID(job.pop("lease"))
        assert job == {
            "attempt": 1, "reason": "created", "messageId": message["id"], "eventSeq": message["eventSeq"],
            "conversationId": message["conversationId"], "fromUserId": ann.id, "gigId": None, "body": "one",
            "createdAt": message["createdAt"],
        }  # fmt: skip
        assert claim(db) == []

    def test_off_queues_nothing_and_hands_out_nothing(self, db, talk):
        ann, bob, message = talk
        mode(db, "off")
        assert claim(db) == []
        call(db, ann.id, "send_message", body="two", to_user_id=bob.id)
        call(db, ann.id, "edit_message", message_id=message["id"], body="one and a half")
        assert db.execute("select message_id::text, event_seq from private.classifier_jobs").fetchall() == [
            (message["id"], message["eventSeq"])
        ]
        mode(db, "open")
        assert [job["body"] for job in claim(db)] == ["one and a half"], "what waited is asked about as it is now"

    @pytest.mark.parametrize(("given", "queued"), [("off", 0), ("open", 1), (None, 1)])
    def test_callers_may_know_the_mode(self, db, talk, given, queued):
        *_, message = talk
        db.execute("delete from private.classifier_jobs")
        db.execute("select private.enqueue_classification(%s, %s)", [message["id"], given])
        assert db.execute("select count(*)::int from private.classifier_jobs").fetchone() == (queued,)

    def test_sensitive_messages_are_never_queued_nor_handed_out(self, db, talk):
        *_, message = talk
        db.execute("update public.messages set body = null, is_sensitive = true where id = %s", [message["id"]])
        assert claim(db) == []
        assert db.execute("select count(*) from private.classifier_jobs").fetchone() == (0,)
        db.execute("select private.enqueue_classification(%s)", [message["id"]])
        assert db.execute("select count(*) from private.classifier_jobs").fetchone() == (0,)

    def test_in_order_and_no_more_than_asked_for(self, db, talk):
        ann, bob, _ = talk
        for number in range(4):
            call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)
        assert [job["body"] for job in claim(db, limit=3)] == ["one", "0", "1"]
        assert [job["body"] for job in claim(db, limit=3)] == ["2", "3"]

    def test_workers_do_not_wait_for_each_other(self, db, supabase_stack, talk):
        ann, bob, _ = talk
        for number in range(20):
            call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)
        with psycopg.connect(supabase_stack.database_url) as slow, slow.transaction():
            taken = claim(slow, limit=5)
            db.execute("set lock_timeout = '1s'")
            others = claim(db, limit=100)
        assert len(taken) == 5 and len(others) == 16
        assert {job["messageId"] for job in taken}.isdisjoint(job["messageId"] for job in others)

    def test_many_at_once_share_without_overlap(self, db, supabase_stack, talk):
        ann, bob, _ = talk
        for number in range(29):
            call(db, ann.id, "send_message", body=str(number), to_user_id=bob.id)
        found, gate = [], threading.Barrier(4)

        def work():
            with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                gate.wait(10)
                while jobs := claim(conn, limit=3):
                    for job in jobs:
                        found.append(job["messageId"])
                        assert finish(conn, job, action="allow") == "done"

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert len(found) == len(set(found)) == 30
        assert totals(db) == {"allow": 30}

    def test_a_crashed_worker_loses_nothing_and_counts_nothing(self, db, talk):
        (lost,) = claim(db)
        due(db)
        (job,) = claim(db)
        assert job["attempt"] == 1 and job["lease"] != lost["lease"]
        assert finish(db, lost, **HIDE) == "outdated", "its lease is somebody else's by now"
        assert fail(db, lost) == "outdated" and release(db, lost) == "outdated"
        assert finish(db, job, action="allow") == "done"
        assert finish(db, job, **HIDE) == "outdated", "a verdict counts once"

    def test_given_back_is_due_at_once_and_not_counted(self, db, talk):
        (job,) = claim(db)
        assert release(db, job) == "released"
        (again,) = claim(db)
        assert again["attempt"] == 1 and again["body"] == "one"

    def test_a_long_queue_is_not_read_from_end_to_end(self, sql, talk):
        sql.execute(
            "insert into private.classifier_jobs (message_id, reason, event_seq, run_at, leased_until, lease) "
            "select gen_random_uuid(), 'created', 1, now() - interval '1 day', now() + interval '1 hour', gen_random_uuid() "
            "from generate_series(1, 50000)"
        )
        sql.execute("analyze private.classifier_jobs")
        pages = sql.one("select pg_relation_size('private.classifier_jobs') / 8192")
        sql.execute("set local role service_role")
        explain = "explain (analyze, buffers, format json) select public.claim_classifications(10, 60)"
        sql.one(explain)  # reads the catalogue
        plan = sql.one(explain)[0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < pages / 2

    @pytest.mark.parametrize(("limit", "lease_s"), [(0, 60), (101, 60), (None, 60), (10, 0), (10, 901), (10, None)])
    def test_bounds(self, db, limit, lease_s):
        with refused(400, "validation_failed"):
            claim(db, limit, lease_s)


class TestVerdicts:
    def test_allow_changes_nothing_else(self, db, talk):
        ann, bob, message = talk
        before = state(db, message["conversationId"], ann.id, bob.id)
        (job,) = claim(db)
        assert finish(db, job, action="allow", score=0.01) == "done"
        assert state(db, message["conversationId"], ann.id, bob.id) == before
        assert totals(db) == {"allow": 1}
        assert db.execute("select count(*) from private.classifier_jobs").fetchone() == (0,)

    def test_hide(self, db, talk):
        ann, bob, message = talk
        assert call(db, bob.id, "unread_counts")["messages"] == 1
        (job,) = claim(db)
        assert finish(db, job, **HIDE) == "done"
        shown = call(db, bob.id, "list_inbox")["conversations"][0]
        assert (shown["lastMessage"]["state"], shown["lastMessage"]["body"], shown["unreadCount"]) == (
            "hidden",
            None,
            0,
        )
        assert call(db, bob.id, "unread_counts")["messages"] == 0
        details = {**HIDE, "eventSeq": message["eventSeq"]}
        item = db.execute(
            "select id, kind, status, user_id::text, conversation_id::text, details from private.moderation_items "
            "where message_id = %s", [message["id"]],
        ).fetchall()  # fmt: skip
        assert [row[1:] for row in item] == [("classified", "open", ann.id, message["conversationId"], details)]
        assert db.execute(
            "select moderator_id, action, item_id, user_id::text, details from private.moderation_actions where message_id = %s",
            [message["id"]],
        ).fetchall() == [(None, "classifier_hid", item[0][0], ann.id, details)]
        assert totals(db) == {"hide": 1}

    def test_warn(self, db, talk):
        _, bob, message = talk
        (job,) = claim(db)
        heads = "select position, previous_position from private.heads where user_id = %s"
        before = db.execute(heads, [bob.id]).fetchone()
        assert finish(db, job, action="warn", label=" Strong\n language ") == "done"
        shown = call(db, bob.id, "list_inbox")["conversations"][0]
        assert shown["lastMessage"]["warning"] == "Strong language" and shown["lastMessage"]["body"] == "one"
        assert shown["lastMessage"]["editedAt"] is None and shown["unreadCount"] == 1
        assert shown["lastMessage"]["eventSeq"] == shown["eventSeq"] == message["eventSeq"] + 1
        after = db.execute(heads, [bob.id]).fetchone()
        assert after[0] > before[0] == after[1], "one move, one event"
        (event,) = db.execute(
            "select event, payload from realtime.messages where topic = %s and (payload ->> 'position')::bigint = %s",
            [f"user:{bob.id}", after[0]],
        ).fetchall()
        assert event[0] == "message.updated" and event[1]["message"]["warning"] == "Strong language"
        assert event[1]["previousPosition"] == before[0]
        synced = call(db, bob.id, "sync")
        assert "Strong language" in json.dumps(synced)
        assert db.execute(
            "select action from private.moderation_actions where message_id = %s", [message["id"]]
        ).fetchall() == [("classifier_warned",)]
        assert db.execute(
            "select count(*) from private.moderation_items where message_id = %s", [message["id"]]
        ).fetchone() == (0,)

    def test_the_same_warning_again_changes_nothing(self, db, talk):
        ann, bob, message = talk
        (job,) = claim(db)
        finish(db, job, action="warn", label="Spam")
        before = state(db, message["conversationId"], ann.id, bob.id)
        db.execute("select private.enqueue_classification(%s)", [message["id"]])
        (job,) = claim(db)
        assert finish(db, job, action="warn", label="Spam") == "done"
        assert state(db, message["conversationId"], ann.id, bob.id) == before

    def test_review_is_for_moderators_only(self, db, talk):
        ann, bob, message = talk
        before = state(db, message["conversationId"], ann.id, bob.id)
        (job,) = claim(db)
        assert finish(db, job, action="review", score=0.5) == "done"
        assert state(db, message["conversationId"], ann.id, bob.id) == before
        items = "select kind, status, details ->> 'action' from private.moderation_items where message_id = %s"
        assert db.execute(items, [message["id"]]).fetchall() == [("classified", "open", "review")]
        call(db, ann.id, "edit_message", message_id=message["id"], body="worse")
        (job,) = claim(db)
        finish(db, job, action="hide")
        assert db.execute(items, [message["id"]]).fetchall() == [("classified", "open", "hide")], (
            "one item, the last word"
        )

    @pytest.mark.parametrize(
        ("outcome", "pointer"),
        [
            ({}, "/outcome/action"),
            ({"action": "delete"}, "/outcome/action"),
            ({"action": None}, "/outcome/action"),
            ({"action": "warn"}, "/outcome/label"),
            ({"action": "warn", "label": " \n "}, "/outcome/label"),
            ({"action": "warn", "label": "x" * 65}, "/outcome/label"),
            ({"action": "hide", "label": 7}, "/outcome/label"),
            ({"action": "hide", "score": "high"}, "/outcome"),
            ({"action": "hide", "model": ["m"]}, "/outcome"),
            ({"action": "hide", "model": "m" * 65}, "/outcome"),
        ],
    )
    def test_odd_outcomes_are_refused_and_the_job_stays(self, db, talk, outcome, pointer):
        (job,) = claim(db)
        with refused(400, "validation_failed") as said:
            finish(db, job, **outcome)
        assert said["hint"] == pointer
        assert finish(db, job, action="allow") == "done"

    def test_no_outcome_at_all_is_refused(self, db, talk):
        (job,) = claim(db)
        with refused(400, "validation_failed"):
            service(db, "finish_classification", message_id=job["messageId"], lease=job["lease"])


class TestChangesInBetween:
    def test_a_verdict_about_an_older_text_does_not_touch_the_new_one(self, db, talk):
        ann, bob, message = talk
        (old,) = claim(db)
        edited = call(db, ann.id, "edit_message", message_id=message["id"], body="kind words")["message"]
        assert finish(db, old, **HIDE) == "outdated" and fail(db, old) == "outdated"
        assert call(db, bob.id, "list_inbox")["conversations"][0]["lastMessage"] == edited
        (new,) = claim(db)
        assert (new["body"], new["reason"], new["eventSeq"]) == ("kind words", "edited", edited["eventSeq"])
        assert finish(db, old, **HIDE) == "outdated", "not even while the new text is with another worker"
        assert finish(db, new, action="allow") == "done"

    def test_any_other_change_has_it_asked_again(self, db, talk):
        *_, message = talk
        (old,) = claim(db)
        db.execute(
            "update public.conversations set event_seq = event_seq + 1 where id = %s", [message["conversationId"]]
        )
        db.execute("update public.messages set event_seq = event_seq + 1 where id = %s", [message["id"]])
        assert finish(db, old, **HIDE) == "outdated"
        (new,) = claim(db)
        assert new["eventSeq"] == message["eventSeq"] + 1 and new["attempt"] == 1
        assert finish(db, new, **HIDE) == "done"

    def test_an_edit_forgives_failures(self, db, talk):
        ann, _, message = talk
        mode(db, "closed", attempts_max=2)
        (job,) = claim(db)
        assert fail(db, job) == "retry"
        call(db, ann.id, "edit_message", message_id=message["id"], body="two")
        (job,) = claim(db)
        assert job["attempt"] == 1 and fail(db, job) == "retry"

    @pytest.mark.parametrize("when", ["waiting", "leased"])
    def test_deleted_meanwhile(self, db, talk, when):
        ann, bob, message = talk
        if when == "leased":
            (job,) = claim(db)
        gone = call(db, ann.id, "delete_message", message_id=message["id"])["message"]
        if when == "leased":
            assert finish(db, job, **HIDE) == "outdated"
        else:
            assert claim(db) == []
        assert db.execute("select count(*) from private.classifier_jobs").fetchone() == (0,)
        assert call(db, bob.id, "list_inbox")["conversations"][0]["lastMessage"] == gone

    def test_hidden_meanwhile(self, db, talk):
        *_, message = talk
        (job,) = claim(db)
        db.execute("select private.hide_message(%s)", [message["id"]])
        assert fail(db, job) == "retry"
        due(db)
        assert claim(db) == []
        assert db.execute("select count(*) from private.classifier_jobs").fetchone() == (0,)
        db.execute("select private.enqueue_classification(%s)", [message["id"]])
        assert claim(db) == []

    def test_an_edit_under_way_makes_the_verdict_wait(self, db, supabase_stack, talk):
        """No deadlock: verdicts and edits lock the conversation before the job."""
        ann, bob, message = talk
        (job,) = claim(db)
        answers = []
        with psycopg.connect(supabase_stack.database_url) as editor, editor.transaction():
            call(editor, ann.id, "edit_message", message_id=message["id"], body="two")

            def verdict():
                with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                    answers.append(finish(conn, job, **HIDE))

            waiting = threading.Thread(target=verdict)
            waiting.start()
            waiting.join(0.3)
            assert answers == []
        waiting.join(10)
        assert answers == ["outdated"]
        assert call(db, bob.id, "list_inbox")["conversations"][0]["lastMessage"]["body"] == "two"

    def test_everything_at_once(self, db, supabase_stack, new_person):
        """Senders, editors and workers with all kinds of verdicts: no deadlock, and unread counts stay exact."""
        people = [new_person() for _ in range(3)]
        db.execute("update private.settings set edit_count_max = 500, send_count_max = 500")
        errors, ended = [], threading.Event()

        def connected(work):
            def run(number):
                try:
                    with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                        work(conn, number)
                except BaseException as error:
                    errors.append(error)

            return run

        @connected
        def write(conn, number):
            me, others = people[number].id, [each.id for each in people if each is not people[number]]
            for turn in range(25):
                sent = call(conn, me, "send_message", body=f"{turn}", to_user_id=others[turn % 2])["message"]["id"]
                try:
                    call(conn, me, "edit_message", message_id=sent, body=f"{turn} edited")
                except psycopg.Error as error:
                    # The classifier has hidden it already.
                    assert error.sqlstate == "PT409", error

        @connected
        def classify(conn, number):
            turn, deadline = number, time.monotonic() + 60
            while time.monotonic() < deadline:
                over = ended.is_set()
                jobs = claim(conn, limit=3)
                for job in jobs:
                    turn += 1
                    if turn % 7 == 0:
                        fail(conn, job)
                    elif turn % 7 == 1:
                        release(conn, job)
                    else:
                        finish(conn, job, action=("hide", "warn", "review", "allow")[turn % 4], label="Spam")
                conn.execute(
                    "update private.classifier_jobs set run_at = now() where leased_until is null and attempts = 1"
                )
                # An empty answer may be a job that the other worker's update has locked just now: ask the queue itself.
                left = "select 1 from private.classifier_jobs where attempts < 2 limit 1"
                if over and not jobs and conn.execute(left).fetchone() is None:
                    return

        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        workers = [threading.Thread(target=classify, args=(number,)) for number in range(2)]
        for thread in writers + workers:
            thread.start()
        for thread in writers:
            thread.join(40)
        ended.set()
        for thread in workers:
            thread.join(40)
        db.execute("update private.settings set edit_count_max = 30, send_count_max = 100")
        assert not any(thread.is_alive() for thread in writers + workers)
        assert errors == []
        assert db.execute("select count(*)::int from private.classifier_jobs where attempts < 2").fetchone() == (0,)
        for person in people:
            wrong = db.execute(
                "select m.unread_count, private.unread_count(m.conversation_id, m.user_id, m.last_read_seq) "
                "from public.conversation_members as m where m.user_id = %s",
                [person.id],
            ).fetchall()  # fmt: skip
            assert wrong and all(kept == counted for kept, counted in wrong), wrong


class TestFailures:
    def test_pauses_double_up_to_an_hour(self, db, talk):
        mode(db, "open", attempts_max=100)
        pauses = []
        for attempt in range(1, 14):
            (job,) = claim(db)
            assert job["attempt"] == attempt
            assert fail(db, job, "status_503") == "retry"
            assert claim(db) == []
            pauses.append(
                db.execute(
                    "select extract(epoch from run_at - clock_timestamp())::float from private.classifier_jobs"
                ).fetchone()[0]
            )
            due(db)
        for number, pause in enumerate(pauses):
            wanted = min(3600, 10 * 2**number)
            assert 0.7 * wanted < pause < 1.3 * wanted
        assert db.execute("select last_error from private.classifier_jobs").fetchone() == ("status_503",)

    def exhaust(self, db, attempts):
        for _ in range(attempts - 1):
            (job,) = claim(db)
            assert fail(db, job) == "retry"
            due(db)
        (job,) = claim(db)
        return fail(db, job)

    def test_open_lets_it_stand_and_counts(self, db, talk):
        ann, bob, message = talk
        mode(db, "open", attempts_max=3)
        before = state(db, message["conversationId"], ann.id, bob.id)
        assert self.exhaust(db, 3) == "shown"
        assert state(db, message["conversationId"], ann.id, bob.id) == before
        assert totals(db) == {"unclassified_shown": 1} and claim(db) == []

    def test_closed_hides_it_for_moderators_to_look_at(self, db, talk):
        _, bob, message = talk
        mode(db, "closed", attempts_max=3)
        assert self.exhaust(db, 3) == "hidden"
        shown = call(db, bob.id, "list_inbox")["conversations"][0]
        assert (shown["lastMessage"]["state"], shown["unreadCount"]) == ("hidden", 0)
        assert totals(db) == {"unclassified_hidden": 1}
        details = {"action": None, "error": "timeout", "eventSeq": message["eventSeq"]}
        assert db.execute(
            "select kind, details from private.moderation_items where message_id = %s", [message["id"]]
        ).fetchall() == [("classified", details)]
        assert db.execute(
            "select moderator_id, action, details from private.moderation_actions where message_id = %s",
            [message["id"]],
        ).fetchall() == [(None, "unclassified_hidden", details)]

    def test_switched_off_in_between_nothing_happens_any_more(self, db, talk):
        ann, bob, message = talk
        mode(db, "closed", attempts_max=1)
        (job,) = claim(db)
        mode(db, "off")
        before = state(db, message["conversationId"], ann.id, bob.id)
        assert finish(db, job, **HIDE) == "off"
        mode(db, "closed", attempts_max=1)
        (job,) = claim(db)
        mode(db, "off", attempts_max=1)
        assert fail(db, job) == "retry"
        assert state(db, message["conversationId"], ann.id, bob.id) == before

    @pytest.mark.parametrize("error", [None, "", "Two words", "x" * 41, "one\n"])
    def test_an_error_is_one_word(self, db, talk, error):
        (job,) = claim(db)
        with refused(400, "validation_failed"):
            fail(db, job, error)


class TestRights:
    CALLS = (
        "public.claim_classifications(1, 1)",
        'public.finish_classification(gen_random_uuid(), gen_random_uuid(), \'{"action": "hide"}\')',
        "public.fail_classification(gen_random_uuid(), gen_random_uuid(), 'x')",
        "public.release_classification(gen_random_uuid(), gen_random_uuid())",
    )

    @pytest.mark.parametrize("query", CALLS)
    @pytest.mark.parametrize("role", ["anon", "authenticated"])
    def test_people_may_not(self, sql, role, query):
        sql.execute(f"set local role {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(f"select {query}")

    @pytest.mark.parametrize("query", CALLS)
    def test_not_past_the_wrapper_either(self, sql, query):
        sql.execute("set local role service_role")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(f"select {query.replace('public.', 'private.')}")
