"""Envelopes of sensitive messages: SQL believes what the service signed for this very call, and nothing else."""

import asyncio
import hmac
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid

import psycopg
import pytest
from psycopg.types.json import Jsonb

from app import keys, settings
from app.settings import MessageKey
from app.vault import About, Text, Vault, Verdict, base64_of
from tests.sql.rpc import call, refused

WORDS = "The code is 4711-0815-7700, on the back of the picture."
MASK = Verdict("mask", "Contact details", "They are hidden.", [{"id": "r1", "version": 3}], "The code is •••")
ALLOW = Verdict("allow", None, None, [])
REJECT = Verdict("reject", None, "Not here.", [{"id": "r2", "version": 1}])
VERIFY = "select s.* from private.verify_envelope(%s, %s, %s, %s, %s, %s) as s"


@pytest.fixture
def masters(supabase_stack):
    return settings.message_keys({"MESSAGE_KEYS": supabase_stack.attached.keys.message_keys})


@pytest.fixture
def vault(masters):
    return Vault(masters)


@pytest.fixture
def about():
    return About(str(uuid.uuid4()), str(uuid.uuid4()), to_user_id=str(uuid.uuid4()))


@pytest.fixture
def revision(sql):
    return sql.one("select private.moderation_revision()")


def made(vault, about, revision, verdict=ALLOW, allowed=ALLOW, **members):
    """An envelope as the service sends it; `members` are changed in it and signed again with the right key."""
    told = vault.signed(about, WORDS, verdict, allowed, text_digest=5, has_link=False, rules_revision=revision)
    if members:
        document = json.dumps(json.loads(told["signed"]) | members)
        key = dict(vault.signing_keys())[told["keyVersion"]]
        told |= {"signed": document, "signature": hmac.digest(key, document.encode(), "sha256").hex()}
    return told


def verified(sql, envelope, about, **other):
    asked = about._replace(**other)
    told = Jsonb(envelope) if envelope is not None else None
    cursor = sql.execute(VERIFY, [asked.sender, told, *asked[1:]])
    return dict(zip([column.name for column in cursor.description], cursor.fetchone(), strict=True))


class TestVerifying:
    def test_what_it_says(self, sql, vault, about, revision):
        sealed = verified(sql, made(vault, about, revision, MASK), about)
        assert (sealed["action"], sealed["label"], sealed["explanation"], sealed["is_masked"]) == (
            "mask",
            "Contact details",
            "They are hidden.",
            True,
        )
        assert sealed["rules"] == [{"id": "r1", "version": 3}]
        assert (sealed["has_link"], sealed["key_version"], sealed["rules_revision"]) == (False, vault.version, revision)
        assert sealed["target"] == f"- {about.to_user_id} -"
        assert isinstance(sealed["text_digest"], int)
        assert (len(sealed["wrapped_key"]), len(sealed["nonce"]), len(sealed["ciphertext"]) % 64) == (60, 12, 16)

    def test_the_other_judgement(self, sql, vault, about, revision):
        envelope = made(vault, about, revision, MASK, ALLOW)
        for allowed, action, masked in ((True, "allow", False), (False, "mask", True), (None, "mask", True)):
            row = sql.execute(
                "select s.action, s.label, s.rules, s.is_masked, s.ciphertext is not null from private.sealed_for(private.verify_envelope(%s, %s, %s, %s, %s, %s), %s) as s",
                [about.sender, Jsonb(envelope), *about[1:], allowed],
            ).fetchone()
            assert (row[0], row[3], row[4]) == (action, masked, True)
            assert (row[1], row[2]) == ((None, []) if allowed else ("Contact details", [{"id": "r1", "version": 3}]))

    def test_what_is_rejected_has_no_ciphertext(self, sql, vault, about, revision):
        sealed = verified(sql, made(vault, about, revision, REJECT, REJECT), about)
        assert (sealed["action"], sealed["ciphertext"], sealed["wrapped_key"]) == ("reject", None, None)
        assert sealed["digests"]

    @pytest.mark.parametrize(
        "change",
        [
            {"signed": None}, {"signature": None}, {"keyVersion": None}, {"signature": ""}, {"signature": "0" * 64}, {"signed": ""},
            {"signed": {}}, {"keyVersion": 99}, {"keyVersion": "x"}, {"keyVersion": [1]}, {"keyVersion": 10**40},
            {"signature": ["a"]}, {"signed": "x" * 200_000}, {"signature": "\\x00"},
        ],
        ids=lambda change: str(change)[:40],
    )  # fmt: skip
    def test_unsigned(self, sql, vault, about, revision, change):
        envelope = made(vault, about, revision) | change
        for told in (envelope, {name: value for name, value in envelope.items() if name not in change}):
            with refused(403, "envelope_invalid"), sql.savepoint():
                verified(sql, told, about)

    @pytest.mark.parametrize("odd", [None, [], {}, "x", 7, True, [{"signed": "x"}]])
    def test_no_envelope(self, sql, about, odd):
        with refused(403, "envelope_invalid"):
            verified(sql, odd, about)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("verdict", {"action": "allow"}),
            ("sender", "00000000-0000-4000-8000-0000000000aa"),
            ("issuedAt", 4e9),
            ("rulesRevision", 10**9),
            ("ciphertext", "AAAA"),
            ("digests", {}),
            ("hasLink", None),
        ],
    )
    def test_forged(self, sql, vault, about, revision, name, value):
        """Every member is covered: a change of one, with the signature of before."""
        envelope = made(vault, about, revision, REJECT, REJECT)
        envelope["signed"] = json.dumps(json.loads(envelope["signed"]) | {name: value})
        with refused(403, "envelope_invalid"):
            verified(sql, envelope, about)

    def test_another_writing_of_the_same_is_not_what_was_signed(self, sql, vault, about, revision):
        envelope = made(vault, about, revision)
        with refused(403, "envelope_invalid"):
            verified(sql, envelope | {"signed": " " + envelope["signed"]}, about)

    def test_with_another_key(self, sql, vault, about, revision):
        stranger = Vault([MessageKey(vault.version, b"\x07" * 32)])
        with refused(403, "envelope_invalid"):
            verified(sql, made(stranger, about, revision), about)

    @pytest.mark.parametrize("part", ["sender", "client_message_id", "conversation_id", "to_user_id", "gig_id"])
    @pytest.mark.parametrize("value", [None, "00000000-0000-4000-8000-0000000000aa"])
    def test_for_another_call(self, sql, vault, about, revision, part, value):
        if getattr(about, part) is value is None:
            value = str(uuid.uuid4())
        with refused(403, "envelope_invalid"):
            verified(sql, made(vault, about, revision), about, **{part: value})

    def test_parts_of_the_target_do_not_change_places(self, sql, vault, about, revision):
        with refused(403, "envelope_invalid"):
            verified(sql, made(vault, about, revision), about, to_user_id=None, conversation_id=about.to_user_id)

    @pytest.mark.parametrize("age_s", [310, 86400, -70, None])
    def test_too_old_or_from_the_future(self, sql, vault, about, revision, age_s):
        issued = None if age_s is None else time.time() - age_s
        with refused(403, "envelope_invalid"):
            verified(sql, made(vault, about, revision, issuedAt=issued), about)

    @pytest.mark.parametrize("age_s", [250, -30])
    def test_clocks_may_differ_a_little(self, sql, vault, about, revision, age_s):
        assert verified(sql, made(vault, about, revision, issuedAt=time.time() - age_s), about)

    def test_judged_by_older_rules(self, sql, vault, about, revision):
        with refused(409, "conflict"), sql.savepoint():
            verified(sql, made(vault, about, revision - 1), about)
        assert verified(sql, made(vault, about, revision + 1), about)

    def test_retired_key(self, sql, vault, about, revision):
        sql.execute("update private.envelope_keys set retired_at = now() where version = %s", [vault.version])
        with refused(403, "envelope_invalid"):
            verified(sql, made(vault, about, revision), about)

    def test_a_version_is_never_used_twice(self, sql, vault):
        [(version, key)] = vault.signing_keys()
        sql.execute("select private.register_envelope_key(%s, %s)", [version, key])
        with pytest.raises(psycopg.errors.UniqueViolation, match="registered with another key"):
            sql.execute("select private.register_envelope_key(%s, %s)", [version, b"\x07" * 32])


class TestDigests:
    def test_the_current_key_comes_first(self, sql, masters, about, revision):
        both = Vault([MessageKey(999, b"\x02" * 32), *masters])
        sql.execute(keys.registration(both))
        digests = "select private.sealed_digests(%s, private.verify_envelope(%s, %s, %s, %s, %s, %s))"
        where, elsewhere = uuid.uuid4(), uuid.uuid4()

        def of(vault, conversation):
            return sql.one(digests, [conversation, about.sender, Jsonb(made(vault, about, revision)), *about[1:]])

        before, during = of(Vault(masters), where), of(both, where)
        assert (len(before), len(during)) == (1, 2)
        assert during[1:] == before
        assert during[0] == of(Vault([MessageKey(999, b"\x02" * 32)]), where)[0]
        assert not set(during) & set(of(both, elsewhere))


def keep(conn, vault, text=WORDS):
    """A stored envelope, and where."""
    about = About(str(uuid.uuid4()), str(uuid.uuid4()), to_user_id=str(uuid.uuid4()))
    message_id = str(uuid.uuid4())
    revision = conn.execute("select private.moderation_revision()").fetchone()[0]
    told = vault.signed(about, text, ALLOW, ALLOW, text_digest=None, has_link=False, rules_revision=revision)
    conn.execute(
        "select private.keep_envelope(%s, %s, %s, private.verify_envelope(%s, %s, %s, %s, %s, %s))",
        [message_id, about.sender, about.client_message_id, about.sender, Jsonb(told), *about[1:]],
    )
    return message_id


def kept(conn, message_id):
    return conn.execute("select private.envelope_json(%s)", [message_id]).fetchone()[0]


class TestKeeping:
    def test_opens_again(self, sql, vault):
        message_id = keep(sql, vault, "x" * 4000)
        assert vault.open(kept(sql, message_id)) == Text("x" * 4000)
        assert kept(sql, uuid.uuid4()) is None

    def test_no_key_is_forgotten_while_something_is_under_it(self, sql, vault):
        keep(sql, vault)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            sql.execute("delete from private.envelope_keys where version = %s", [vault.version])

    @pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
    @pytest.mark.parametrize("table", ["private.envelopes", "private.envelope_keys"])
    def test_nobody_reads_the_tables(self, sql, role, table):
        sql.execute("select set_config('role', %s, true)", [role])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(f"select * from {table}")


def ruled(kind, action):
    return {"id": str(uuid.uuid4()), "name": kind, "version": 1, "kind": kind, "action": action}


class TestMasks:
    """When contact is allowed, a mask goes that was for contact details alone."""

    @pytest.fixture
    def pair(self, new_person):
        return new_person("Ada"), new_person("Ben")

    @pytest.fixture
    def send(self, db, vault, pair):
        def sent(*rules, action="mask"):
            about = About(pair[0].id, str(uuid.uuid4()), to_user_id=pair[1].id)
            revision = db.execute("select private.moderation_revision()").fetchone()[0]
            envelope = made(vault, about, revision, Verdict(action, "covered", "It is covered.", list(rules), "•••"))
            return call(
                db, pair[0].id, "send_message", to_user_id=pair[1].id, client_message_id=about.client_message_id,
                envelope=Jsonb(envelope),
            )  # fmt: skip

        return sent

    def masked(self, db, pair, room):
        return [m["masked"] for m in call(db, pair[1].id, "list_messages", conversation_id=room)["messages"]]

    def test_of_other_rules_stay(self, db, pair, send):
        room = send(ruled("contact", "mask"))["conversation"]["id"]
        send(ruled("contact", "mask"), ruled("term", "mask"))
        send(ruled("link", "mask"))
        send(ruled("contact", "mask"), ruled("term", "warn"))
        assert self.masked(db, pair, room) == [True] * 4
        allow = "select private.allow_contact(%s, true)"
        assert db.execute(allow, [room]).fetchone()[0]["unmaskedCount"] == 2
        assert self.masked(db, pair, room) == [False, True, True, False]
        assert db.execute(allow, [room]).fetchone()[0]["unmaskedCount"] == 0

    def test_of_other_rules_stay_when_released(self, db, pair, send):
        held = [
            send(*rules, ruled("term", "hold"), action="hold")
            for rules in ([ruled("contact", "mask")], [ruled("contact", "mask"), ruled("pattern", "mask")])
        ]
        room = held[0]["conversation"]["id"]
        db.execute("select private.allow_contact(%s, true)", [room])
        for message in held:
            db.execute("select private.release_pending(%s)", [message["message"]["id"]])
        assert self.masked(db, pair, room) == [False, True]


class TestRotation:
    @pytest.fixture
    def as_service(self, sql):
        def call(function, *arguments):
            places = ", ".join(["%s"] * len(arguments))
            with sql.savepoint():
                sql.execute("select set_config('role', 'service_role', true)")
                answer = sql.one(f"select public.{function}({places})", list(arguments))
                sql.execute("select set_config('role', 'postgres', true)")
            return answer

        return call

    @pytest.fixture
    def newer(self, masters, sql):
        found = Vault([MessageKey(1000, b"\x0a" * 32), *masters])
        sql.execute(keys.registration(found))
        return found

    def changed(self, newer, row, **members):
        return keys._change(newer, row) | members

    def test_pages_in_order_and_only_older_versions(self, sql, vault, newer, as_service):
        sql.execute("delete from private.envelopes")
        ids = sorted(keep(sql, vault) for _ in range(7))
        keep(sql, newer)
        found, after = [], None
        while page := as_service("list_envelopes", newer.version, after, 3)["envelopes"]:
            assert len(page) <= 3
            found += [row["messageId"] for row in page]
            after = found[-1]
        assert found == ids
        assert as_service("list_envelopes", vault.version, None, 100) == {"envelopes": []}
        assert as_service("list_envelopes", None, None, 100) == {"envelopes": []}

    def test_only_what_still_is_as_it_was_read(self, sql, vault, newer, as_service):
        message_id = keep(sql, vault)
        row = {"messageId": message_id, "envelope": kept(sql, message_id)}
        first, second = self.changed(newer, row), self.changed(newer, row)
        assert as_service("rewrap_envelopes", Jsonb([first])) == {"rewrapped": 1}
        done = kept(sql, message_id)
        assert (done["keyVersion"], done["wrappedKey"]) == (1000, first["wrappedKey"])
        assert as_service("rewrap_envelopes", Jsonb([second])) == {"rewrapped": 0}
        assert kept(sql, message_id) == done
        assert newer.open(done) == Text(WORDS)
        assert {name: done[name] for name in ("nonce", "ciphertext", "sender")} == {
            name: row["envelope"][name] for name in ("nonce", "ciphertext", "sender")
        }

    @pytest.mark.parametrize("odd", [None, {}, "x", [{"messageId": str(uuid.uuid4())}], [{"keyVersion": 77}]])
    def test_odd_arguments(self, as_service, odd):
        with refused(400, "validation_failed"):
            as_service("rewrap_envelopes", None if odd is None else Jsonb(odd))

    def test_not_to_a_retired_key(self, sql, vault, newer, as_service):
        message_id = keep(sql, vault)
        change = self.changed(newer, {"messageId": message_id, "envelope": kept(sql, message_id)})
        sql.execute("update private.envelope_keys set retired_at = now() where version = 1000")
        with refused(400, "validation_failed"):
            as_service("rewrap_envelopes", Jsonb([change]))

    @pytest.mark.parametrize("role", ["anon", "authenticated"])
    @pytest.mark.parametrize("call", ["list_envelopes(9, null, 1)", "rewrap_envelopes('[]')"])
    def test_for_the_service_only(self, sql, role, call):
        sql.execute("select set_config('role', %s, true)", [role])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(f"select public.{call}")


class TestRotationWhileEverythingRuns:
    async def test_nobody_notices(self, supabase_stack, db, masters, vault, monkeypatch):
        """Two rotations at once over small batches, with readers throughout: every read opens, before, during and after."""
        newer = MessageKey(1001, b"\x0b" * 32)
        both = Vault([newer, *masters])
        db.execute(keys.registration(both))
        ids = [keep(db, vault, f"{WORDS} {n}") for n in range(60)]
        lost = keep(db, vault)
        db.execute(
            "update private.envelopes set ciphertext = set_byte(ciphertext, 0, 255 - get_byte(ciphertext, 0)) where message_id = %s",
            [lost],
        )
        monkeypatch.setattr(keys, "_BATCH_COUNT", 7)
        environment = {**supabase_stack.api_settings(), "MESSAGE_KEYS": "", "UPSTREAM_TIMEOUT_S": "20"}
        config = settings.load(environment)
        stop, faults, reads = threading.Event(), [], []

        def read():
            with psycopg.connect(supabase_stack.database_url, autocommit=True) as conn:
                while not stop.is_set():
                    for number, message_id in enumerate(ids):
                        if both.open(kept(conn, message_id)) != Text(f"{WORDS} {number}"):
                            faults.append(message_id)
                    reads.append(len(ids))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            results = await self.twice(config, both)
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert reads
        assert not faults
        assert {kept(db, message_id)["keyVersion"] for message_id in ids} == {1001}
        assert kept(db, lost)["keyVersion"] == vault.version
        assert sum(rewrapped for rewrapped, _ in results) >= 60
        assert all(unreadable >= 1 for _, unreadable in results)
        # Again there is nothing to do, and the old key is not needed any more.
        assert (await keys.rotate(config, both))[0] == 0
        assert Vault([newer]).open(kept(db, ids[7])) == Text(f"{WORDS} 7")
        db.execute("delete from private.envelopes where message_id = %s", [lost])

    async def twice(self, config, vault):
        return await asyncio.gather(keys.rotate(config, vault), keys.rotate(config, vault))


class TestCommand:
    @pytest.fixture
    def run(self, supabase_stack):
        def command(**changes):
            environment = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
            return subprocess.run(
                [sys.executable, "-m", "app", "keys", "rotate"],
                env={**environment, **supabase_stack.api_settings(), **changes},
                capture_output=True, text=True, check=False,
            )  # fmt: skip

        return command

    def test_rotates(self, run, db, supabase_stack, masters, vault):
        entry = f"1002:{base64_of(b'c' * 32)}"
        newer = Vault([MessageKey(1002, b"c" * 32)])
        db.execute(keys.registration(newer))
        message_id = keep(db, vault)
        done = run(MESSAGE_KEYS=f"{entry},{supabase_stack.attached.keys.message_keys}")
        assert re.search(r"^[1-9]\d* envelopes are now under version 1002; ", done.stdout), done.stderr
        assert newer.open(kept(db, message_id)) == Text(WORDS)
        assert "4711-0815" not in done.stdout + done.stderr
        assert entry[5:] not in done.stdout + done.stderr

    def test_to_a_key_the_database_does_not_know(self, run, db, supabase_stack, vault):
        keep(db, vault)
        done = run(MESSAGE_KEYS=f"1003:{base64_of(b'd' * 32)},{supabase_stack.attached.keys.message_keys}")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("validation_failed: ")

    def test_without_the_secret_key(self, run):
        assert run(SUPABASE_SECRET_KEY="").stderr == "settings: SUPABASE_SECRET_KEY is missing\n"
