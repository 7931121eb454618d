"""Realtime frame by frame, through a raw WebSocket: what client libraries hide or never send."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stack import dataapi, keys
from stack.processes import free_port
from stack.realtime_tokens import Refused, Tokens
from tests.stack.realtime_world import SETUP_SQL, TEARDOWN_SQL, World, until

OK = {"status": "ok", "response": {}}
FORGED = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIiwiZXhwIjo5OTk5OTk5OTk5fQ.AAAA"


@pytest.fixture(scope="module")
def world(realtime_stack: Any, mint_token: Callable[..., str]) -> Iterator[World]:
    with psycopg.connect(realtime_stack.database_url, autocommit=True) as connection:
        connection.execute(SETUP_SQL)
        yield World(realtime_stack.url, realtime_stack.publishable_key, connection, mint_token)
        connection.execute(TEARDOWN_SQL)


class TestConnection:
    @pytest.mark.parametrize(
        ("key", "error"),
        [
            ("", "API key is missing"),
            ("nonsense", "The token provided is not a valid JWT"),
            ("sb_publishable_somebody_else", "The token provided is not a valid JWT"),
            (FORGED, "Failed to validate JWT signature"),
        ],
    )
    async def test_a_bad_key(self, world, key, error):
        url = f"{world.url.replace('http', 'ws')}/realtime/v1/websocket?apikey={key}&vsn=2.0.0"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, proxy=None):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"") == {"error": error}

    async def test_tokens_that_say_too_little(self, world):
        for token, error in (
            (world.mint(None, role=None), "Fields `role` and `exp` are required in JWT"),
            (world.mint(None, exp=None), "Fields `role` and `exp` are required in JWT"),
            (world.mint(None, exp=int(time.time()) - 100), "Token has expired 100 seconds ago"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with world.socket(token):
                    pass
            assert json.loads(refused.value.response.body or b"")["error"].split(" 10")[0] == error.split(" 10")[0]

    async def test_heartbeats(self, world):
        async with world.socket() as socket:
            ref = await socket.say("phoenix", "heartbeat", {})
            assert await socket.next() == [None, ref, "phoenix", "phx_reply", OK]
        async with world.socket(vsn="1.0.0") as socket:
            told = {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": None, "join_ref": None}
            await socket.connection.send(json.dumps(told))
            answer = json.loads(await socket.connection.recv())
            assert answer == {"topic": "phoenix", "event": "phx_reply", "payload": OK, "ref": None}

    @pytest.mark.parametrize(
        "frame",
        [
            "", "{", "null", "[]", '["1","1","realtime:x"]', '["1","1","realtime:x","phx_join",7]', "[" * 5000,
            '{"topic":"realtime:x"}', '["1","1",5,"phx_join",{}]', '["1","1","realtime:x","broadcast",{"event":[]}]',
            b"", b"\x03", b"\x03\xff\xff\xff\xff\xff\x01", b"\x04\x01\x01\x01\x01abc",
            b"\x03\x00\x00\x0a\x01\x00\x07realtime:xe{}",
            b"\x03\x00\x00\x0a\x01\x00\x01realtime:xe{oops", b"\x03\x00\x00\x02\x00\x00\x01\xff\xfe{}",
        ],
    )  # fmt: skip
    async def test_malformed_frames_are_survived(self, world, frame):
        async with world.socket() as socket:
            assert (await socket.join("x"))["status"] == "ok"
            await socket.connection.send(frame)
            ref = await socket.say("phoenix", "heartbeat", {})
            while (await socket.next("phx_reply"))[1] != ref:
                pass

    async def test_too_large_a_frame_ends_the_socket(self, world):
        async with world.socket() as socket:
            with pytest.raises(ConnectionClosed):
                await socket.connection.send("x" * 5_000_001)
                await socket.next()

    async def test_a_slow_reader_is_cut_off_and_costs_nobody_else(self, world, realtime_stack):
        payload = {"text": "x" * 100_000}
        rss_kb = _rss_kb(realtime_stack.realtime.pid)
        async with world.socket(max_queue=1, write_limit=1) as slow, world.socket() as fast, world.socket() as sender:
            for each in (slow, fast, sender):
                assert (await each.join("flood"))["status"] == "ok"
            slow.connection.transport.pause_reading()
            for n in range(300):  # 30 MB; the kernel and the proxy hold a few, the queue 2
                await sender.say(
                    "realtime:flood", "broadcast", {"type": "broadcast", "event": "n", "payload": {**payload, "n": n}}
                )
                assert (await fast.next("broadcast"))[4]["payload"]["n"] == n
            assert _rss_kb(realtime_stack.realtime.pid) - rss_kb < 30_000
            slow.connection.transport.resume_reading()
            with pytest.raises(ConnectionClosed):
                while True:
                    await slow.next()


def _rss_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


class TestChannels:
    async def test_the_frames_of_a_life(self, world):
        async with world.socket() as socket:
            ref = await socket.say("realtime:life", "phx_join", {"config": {}}, join_ref="1")
            reply = {"status": "ok", "response": {"postgres_changes": []}}
            assert await socket.next() == ["1", ref, "realtime:life", "phx_reply", reply]
            ref = await socket.say("realtime:life", "phx_leave", {}, join_ref="1")
            assert await socket.next() == ["1", ref, "realtime:life", "phx_reply", OK]
            assert await socket.next() == ["1", "1", "realtime:life", "phx_close", {}]

    async def test_a_second_join_closes_the_first(self, world):
        async with world.socket() as socket:
            await socket.join("twice")
            await socket.say("realtime:twice", "phx_join", {"config": {}}, join_ref="9")
            assert await socket.next() == ["1", "1", "realtime:twice", "phx_close", {}]
            assert (await socket.next())[:4] == ["9", "2", "realtime:twice", "phx_reply"]

    async def test_what_was_never_joined(self, world):
        async with world.socket() as socket:
            await socket.say("realtime:never", "broadcast", {"event": "x", "payload": {}}, join_ref="5")
            assert (await socket.next())[4] == {"status": "error", "response": {"reason": "unmatched topic"}}
            await socket.say("realtime:never", "phx_leave", {}, join_ref="5")
            assert (await socket.next())[4] == OK

    async def test_no_topic(self, world):
        async with world.socket() as socket:
            refused = await socket.join("")
            assert refused["response"]["reason"].startswith("TopicNameRequired: ")

    async def test_acks_and_self(self, world):
        async with world.socket() as socket:
            await socket.join("echo", broadcast={"ack": "TRUE", "self": True})
            told = {"type": "broadcast", "event": "e", "payload": {"n": 1}, "meta": {"id": "forged"}}
            ref = await socket.say("realtime:echo", "broadcast", told, join_ref="1")
            assert await socket.next() == [None, None, "realtime:echo", "broadcast", told]
            assert await socket.next() == ["1", ref, "realtime:echo", "phx_reply", OK]

    async def test_public_and_private_never_meet(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        async with world.socket(world.mint(ann)) as private, world.socket() as public:
            assert (await private.join(topic, private=True))["status"] == "ok"
            assert (await public.join(topic))["status"] == "ok"
            world.send(topic, "private", {})
            world.send(topic, "public", {}, private=False)
            assert (await private.next("broadcast"))[4]["event"] == "private"
            assert (await public.next("broadcast"))[4]["event"] == "public"
            await public.say(f"realtime:{topic}", "broadcast", {"event": "loud", "payload": {}})
            await private.silent()

    async def test_bytes_from_the_database(self, world):
        async with world.socket() as new, world.socket(vsn="1.0.0") as old:
            await new.join("bytes")
            join = {
                "topic": "realtime:bytes",
                "event": "phx_join",
                "payload": {"config": {}},
                "ref": "1",
                "join_ref": "1",
            }
            await old.connection.send(json.dumps(join))
            await old.connection.recv()
            world.connection.execute("select realtime.send_binary('\\x00ff10', 'raw', 'bytes', false)")
            assert (await new.next("broadcast"))[4]["payload"] == b"\x00\xff\x10"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(old.connection.recv(), 0.3)

    async def test_rows_nobody_may_hear(self, world):
        async with world.socket() as socket:
            await socket.join("rows")
            insert = (
                "insert into realtime.messages (topic, private, extension, event, payload)"
                " values ('rows', false, %s, %s, %s)"
            )
            for row in (("presence", "e", "{}"), ("broadcast", None, "{}"), ("broadcast", "e", None)):
                world.connection.execute(insert, row)
            await socket.silent()
            world.connection.execute(insert, ("broadcast", "e", "{}"))
            assert (await socket.next())[4]["event"] == "e"

    async def test_replication_ready(self, world):
        async with world.socket() as socket:
            await socket.join("ready", broadcast={"replication_ready": True})
            told = (await socket.next("system"))[4]
            assert (told["extension"], told["status"], told["channel"]) == ("system", "ok", "ready")
            assert told["message"] == "Replication connection established"

    async def test_topics_with_long_names_come_as_text(self, world):
        topic = "n" * 300
        async with world.socket() as socket:
            await socket.join(topic, broadcast={"self": True})
            world.send(topic, "e", {"id": 1}, private=False)
            assert (await socket.next("broadcast"))[4]["payload"] == {"id": 1}


class TestAuthorization:
    async def test_keys_stand_for_roles(self, world, realtime_stack):
        topic = world.topic()
        async with world.socket(realtime_stack.secret_key) as service, world.socket() as anon:
            assert (await service.join(topic, private=True))["status"] == "ok"
            assert (await anon.join(topic, private=True))["response"]["reason"].startswith("Unauthorized: ")
            assert (await anon.join(topic, realtime_stack.secret_key, private=True))["status"] == "error"

    async def test_tokens_that_are_refused(self, world):
        cases = (
            ("garbage", "MalformedJWT"), (FORGED, "JwtSignatureError"), (world.mint("x", exp=1), "Token has expired"),
            (world.mint("x", role=None), "InvalidJWTToken"), (world.mint(None, role="nobody"), "Unauthorized"),
        )  # fmt: skip
        async with world.socket() as socket:
            for token, reason in cases:
                refused = await socket.join(f"t:{uuid.uuid4()}", token, private=True)
                assert refused["status"] == "error"
                assert reason in refused["response"]["reason"]

    def test_asymmetric_tokens(self, world):
        made = keys.generate()
        tokens = Tokens(made.jwt_secret, made.publishable_key, made.secret_key, made.signing_jwk)
        jwk = json.loads(made.signing_jwk)
        claims = {"role": "authenticated", "sub": "x", "exp": int(time.time()) + 60}
        key = jwt.PyJWK(jwk).key
        signed = jwt.encode(claims, key, algorithm="ES256", headers={"kid": jwk["kid"]})
        assert tokens.claims(signed) == claims
        shared = jwt.encode(claims, made.jwt_secret, algorithm="HS256", headers={"kid": "unknown"})
        assert tokens.claims(shared) == claims
        for wrong in (
            jwt.encode(claims, key, algorithm="ES256"),  # names no key
            jwt.encode(claims, key, algorithm="ES256", headers={"kid": "other"}),
            jwt.encode(claims, "", algorithm="none"),
            signed[:-4] + "AAAA",
        ):
            with pytest.raises(Refused, match="JwtSignatureError"):
                tokens.claims(wrong)

    async def test_an_error_in_a_policy_is_a_denial(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        world.connection.execute(
            # Postgres evaluates the last name first, and stops at the first policy that holds.
            "create policy probe_zz on realtime.messages for select to authenticated using (1 / (length('') + 0) = 1)"
        )
        try:
            async with world.socket(world.mint(ann)) as socket:
                refused = await socket.join(topic, private=True)
                assert refused["response"]["reason"].startswith("Unauthorized: ")
        finally:
            world.connection.execute("drop policy probe_zz on realtime.messages")

    async def test_strange_topics_are_denied(self, world):
        async with world.socket(world.mint(str(uuid.uuid4()))) as socket:
            for topic in ("\x00", "'; drop table x; --", "probe:" + "9" * 4000, "%s", "user:not-a-uuid"):
                assert (await socket.join(topic, private=True))["response"]["reason"].startswith("Unauthorized")

    async def test_a_denied_write_is_never_answered(self, world):
        ann, bob = str(uuid.uuid4()), str(uuid.uuid4())
        topic = world.topic(ann, readers=(bob,))
        async with world.socket(world.mint(bob)) as socket:
            await socket.join(topic, private=True, broadcast={"ack": True})
            await socket.say(f"realtime:{topic}", "broadcast", {"event": "x", "payload": {}}, join_ref="1")
            await socket.silent()
            await socket.say(f"realtime:{topic}", "presence", {"event": "track", "payload": {}}, join_ref="1")
            assert (await socket.next())[4] == {"status": "error", "response": {}}

    async def test_probes_leave_nothing_behind(self, world):
        ann = str(uuid.uuid4())
        topic = world.topic(ann)
        async with world.socket(world.mint(ann)) as socket, world.socket(world.mint(ann)) as other:
            for each in (socket, other):
                await each.join(topic, private=True, presence={"enabled": True, "key": "k"})
            await socket.say(f"realtime:{topic}", "broadcast", {"event": "x", "payload": {}}, join_ref="1")
            assert (await other.next("broadcast"))[4]["event"] == "x"
        assert world.connection.execute("select from realtime.messages where topic = %s", (topic,)).fetchall() == []


class TestPresence:
    async def test_state_diffs_and_refs(self, world):
        async with world.socket() as one, world.socket() as other:
            await one.join("present", presence={"enabled": True, "key": "ann"})
            assert await one.next() == ["1", None, "realtime:present", "presence_state", {}]
            ref = await one.say(
                "realtime:present", "presence", {"type": "presence", "event": "TRACK", "payload": {"n": 1}}, "1"
            )
            told = await one.next("presence_diff")
            assert told[:2] == [None, None]
            first = told[4]["joins"]["ann"]["metas"][0]
            assert (told[4]["leaves"], first["n"]) == ({}, 1)
            assert await one.next() == ["1", ref, "realtime:present", "phx_reply", OK]
            await other.join("present", presence={"enabled": True, "key": "bob"})
            assert (await other.next())[4] == {"ann": {"metas": [first]}}
            await one.say("realtime:present", "presence", {"event": "track", "payload": {"n": 1}}, "1")
            assert (await one.next())[3] == "phx_reply"  # the same again: no diff
            await one.say("realtime:present", "presence", {"event": "track", "payload": {"n": 2}}, "1")
            diff = (await other.next())[4]
            second = diff["joins"]["ann"]["metas"][0]
            assert (second["n"], second["phx_ref_prev"]) == (2, first["phx_ref"])
            assert diff["leaves"] == {"ann": {"metas": [first]}}
            await one.connection.close()
            assert (await other.next())[4] == {"joins": {}, "leaves": {"ann": {"metas": [second]}}}

    async def test_a_payload_that_is_not_a_map(self, world):
        async with world.socket() as socket:
            await socket.join("odd")
            await socket.say("realtime:odd", "presence", {"event": "track", "payload": [1]}, "1")
            reason = {"reason": "Presence track payload must be a map"}
            assert (await socket.next())[4] == {"status": "error", "response": reason}


class TestRest:
    @pytest.fixture
    def rest(self, world) -> Iterator[httpx.Client]:
        with httpx.Client(
            base_url=f"{world.url}/realtime/v1/api/", headers={"apikey": world.key}, timeout=10
        ) as client:
            yield client

    async def test_a_batch(self, world, rest):
        ann, eve = str(uuid.uuid4()), str(uuid.uuid4())
        topic = world.topic(ann)
        messages = [
            {"topic": "batch", "event": "one", "payload": {"n": 1}},
            {"topic": topic, "event": "two", "payload": {"n": 2}, "private": True},
        ]
        async with world.socket(world.mint(ann)) as socket:
            await socket.join("batch")
            await socket.join(topic, private=True)
            for person in (eve, ann):  # hosted answers both the same, and drops what was not allowed
                bearer = {"Authorization": f"Bearer {world.mint(person)}"}
                answer = rest.post("broadcast?vsn=2.0.0", json={"messages": messages}, headers=bearer)
                assert (answer.status_code, answer.content) == (202, b"")
            heard = [(await socket.next("broadcast"))[4]["event"] for _ in range(3)]
        assert heard == ["one", "one", "two"]

    async def test_one_with_an_encoded_topic(self, world, rest):
        async with world.socket() as socket:
            await socket.join("a/b c")
            kind = {"content-type": "application/octet-stream"}
            assert rest.post("broadcast/a%2Fb%20c/events/e%2F", content=b"\x00\xff", headers=kind).status_code == 202
            told = (await socket.next("broadcast"))[4]
            assert (told["event"], told["payload"]) == ("e/", b"\x00\xff")

    def test_refusals(self, world, rest):
        one, batch = "broadcast/t/events/e", "broadcast"
        message = {"topic": "t", "event": "e", "payload": {}}
        assert rest.post(one, content=b"x", headers={"content-type": "text/plain"}).status_code == 415
        assert rest.post(one, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        denied = rest.post(f"{one}?private=true", json={})
        assert (denied.status_code, denied.json()) == (403, {"message": "Unauthorized"})
        unknown = rest.post(one, json={}, headers={"Authorization": "Bearer nonsense"})
        assert (unknown.status_code, unknown.json()) == (401, {"message": "Unauthorized"})
        assert rest.post(one, json={}, headers={"apikey": ""}).status_code == 401
        for body in ({}, {"messages": []}, {"messages": [{**message, "payload": None}]}, {"messages": [7]}, []):
            answer = rest.post(batch, json=body)
            assert (answer.status_code, list(answer.json())) == (422, ["errors"])
        assert rest.get(batch).status_code == 404
        assert rest.post("nothing", json={}).status_code == 404

    def test_cors(self, rest):
        for answer in (rest.options("broadcast"), rest.post("broadcast", json={})):
            assert answer.headers["access-control-allow-origin"] == "*"


@pytest.fixture(scope="module")
def strict(world, realtime_stack) -> Iterator[World]:
    """The same world behind a second Realtime with limits and delays like a hosted project's."""
    attached = realtime_stack.attached
    port = free_port()
    process = dataapi.realtime(
        attached.cluster, realtime_stack.database, attached.keys, port,
        attached.directory / "log" / f"strict-realtime-{attached.worker}.log", attached.ledger,
        STACK_REALTIME_LIMITS="1", STACK_REALTIME_DENIAL_DELAY_S="1", STACK_REALTIME_PRIVATE_ONLY="1",
        STACK_REALTIME_IDLE_S="0.5",
    )  # fmt: skip
    process.start()
    try:
        process.wait_until(lambda: dataapi.realtime_ready(port), dataapi.READY_S)
        yield World(f"http://127.0.0.1:{port}", world.key, world.connection, world.mint)
    finally:
        process.stop()


class TestHostedLimits:
    async def test_a_denial_takes_its_time_and_nobody_else_s(self, strict):
        async with strict.socket() as socket:
            began = time.monotonic()
            ref = await socket.say("realtime:p", "phx_join", {"config": {}}, "1")
            beat = await socket.say("phoenix", "heartbeat", {})
            assert (await socket.next())[1] == beat
            refused = await socket.next()
            assert refused[1] == ref
            assert refused[4]["response"]["reason"] == "PrivateOnly: This project only allows private channels"
            assert time.monotonic() - began >= 1

    async def test_sizes_and_rates(self, strict):
        ann = str(uuid.uuid4())
        topic = strict.topic(ann)
        async with strict.socket(strict.mint(ann)) as socket:
            await socket.join(topic, private=True, broadcast={"ack": True})
            large = {"event": "x", "payload": {"text": "x" * 256_600}}
            await socket.say(f"realtime:{topic}", "broadcast", large, "1")
            assert (await socket.next())[4] == {"status": "error", "response": {"error": "payload_size_exceeded"}}
            for n in range(5):
                await socket.say(f"realtime:{topic}", "presence", {"event": "track", "payload": {"n": n}}, "1")
                assert (await socket.next())[4] == OK
            await socket.say(f"realtime:{topic}", "presence", {"event": "untrack"}, "1")
            assert (await socket.next("system"))[4]["message"] == "Client presence rate limit exceeded"
            assert (await socket.next())[3] == "phx_close"

    async def test_replication_only_while_somebody_listens(self, strict):
        def slots() -> set[Any]:
            query = "select slot_name, temporary from pg_replication_slots where database = current_database()"
            return set(strict.connection.execute(query).fetchall())

        await asyncio.sleep(2)  # after whoever was there before
        before, ann = slots(), str(uuid.uuid4())
        async with strict.socket(strict.mint(ann)) as socket:
            binding = {"event": "*", "schema": "public", "table": "*"}
            await socket.join(strict.topic(ann), private=True, postgres_changes=[binding])
            await until(lambda: len(slots() - before) == 2)
            assert all(temporary for _, temporary in slots())
        await until(lambda: slots() == before)

    async def test_channels_per_connection(self, strict):
        ann = str(uuid.uuid4())
        async with strict.socket(strict.mint(ann)) as socket:
            for n in range(100):
                if n in (0, 60):
                    await asyncio.sleep(1.1)  # another second, another hundred joins
                assert (await socket.join(strict.topic(ann), private=True))["status"] == "ok", n
            refused = await socket.join(strict.topic(ann), private=True)
            assert refused["response"]["reason"] == "ChannelRateLimitReached: Too many channels"
