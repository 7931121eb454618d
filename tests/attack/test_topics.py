"""Realtime: the lines of [topics] and [published], each tried by each role with a raw client."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest

from tests.attack.matrix import Matrix
from tests.attack.test_matrix import none_of
from tests.attack.world import ROLES, World
from tests.sql.rpc import call
from tests.stack.realtime_world import Raw
from tests.stack.realtime_world import World as Sockets

TOPIC_OF = {
    ("user:<own>", "private"): "own",
    ("user:<owner>", "private"): "other",
    ("conversation:<group>:live:n", "private, current"): "live",
    ("conversation:<group>:live:n", "private, old"): "old",
    ("conversation:<group>:live:n", "private, next"): "next",
    ("conversation:<group>", "private"): "bare",
    ("room:1", "private"): "room",
}


@pytest.fixture
def sockets(realtime_stack: Any, db: Any, mint_token: Any, attacked: World) -> Sockets:
    """Raw sockets; the name of the live topic is the one that members are told now."""
    told = attacked.rpc("owner", "get_conversation", conversation_id=attacked.ids["group"]).json()
    name, _, epoch = told["conversation"]["liveTopic"].rpartition(":")
    for topic, step in (("old", -1), ("live", 0), ("next", 1)):
        attacked.topics[topic] = f"{name}:{int(epoch) + step}"
    return Sockets(realtime_stack.url, realtime_stack.publishable_key, db, mint_token)


async def settle(raw: Raw) -> list[list[Any]]:
    """Everything that has come so far: what was sent before the answer to a heartbeat."""
    ref, frames = await raw.say("phoenix", "heartbeat", {}), []
    while (frame := await raw.next())[1] != ref:
        frames.append(frame)
    return frames


async def may(raw: Raw, world: World, role: str, topic: str) -> str:
    """Join and try everything: the letters of [topics] but for r, or `no`."""
    token = world.token(role)
    reply = await raw.join(
        topic, None if role in ("anon", "service") else token, private=True, presence={"enabled": True, "key": role}
    )
    if reply["status"] != "ok":
        assert "Unauthorized" in reply["response"]["reason"], reply
        return "no"
    found = "p" if any(frame[3] == "presence_state" for frame in await settle(raw)) else ""
    ref = await raw.say(f"realtime:{topic}", "presence", {"event": "track", "payload": {"a": 1}}, join_ref="1")
    while (tracked := await raw.next("phx_reply"))[1] != ref:
        pass
    path = f"/realtime/v1/api/broadcast/{quote(topic, safe='')}/events/try?private=true"
    sent = await asyncio.to_thread(world.ask, role, "POST", path, json={"by": role})
    assert sent.status_code in (202, 403), sent.text
    return found + "b" * (sent.status_code == 202) + "t" * (tracked[4]["status"] == "ok")


async def hears(raw: Raw, mark: str, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            while (await raw.next("broadcast"))[4]["payload"].get("mark") != mark:
                pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("name", TOPIC_OF, ids=lambda name: ", ".join(name))
async def test_topics_let_each_role_in_as_written(
    name: tuple[str, str], matrix: Matrix, attacked: World, sockets: Sockets
) -> None:
    line = next(line for line in matrix.lines["topics"] if (line.object, line.what) == name)
    problems = []
    async with AsyncExitStack() as stack:
        raws, found, topics = {}, {}, {}
        for role in ROLES:
            topics[role] = attacked.fill(attacked.topics[TOPIC_OF[name]], role)
            token = None if role == "anon" else attacked.token(role)
            raws[role] = await stack.enter_async_context(sockets.socket(token))
            found[role] = await may(raws[role], attacked, role, topics[role])
        mark = str(uuid.uuid4())
        for topic in set(topics.values()):
            sockets.send(topic, "marked", {"mark": mark})
        for role in ROLES:
            if found[role] != "no":
                expected = "r" in line.outcomes[role]
                heard = await hears(raws[role], mark, 10 if expected else 0.3)
                found[role] = "r" * heard + found[role]
            if found[role] != line.outcomes[role]:
                problems.append(f"{role}: {name} {topics[role]}: {found[role]}, not {line.outcomes[role]}")
    none_of(problems)


def test_every_line_of_topics_is_tried(matrix: Matrix) -> None:
    assert {(line.object, line.what) for line in matrix.lines["topics"]} == set(TOPIC_OF)


async def test_a_public_channel_of_the_same_name_hears_nothing_of_the_private_one(
    attacked: World, sockets: Sockets
) -> None:
    topic = attacked.fill(attacked.topics["other"], "outsider")
    live = attacked.fill(attacked.topics["live"], "outsider")
    outsider, owner = attacked.token("outsider"), attacked.token("owner")
    async with sockets.socket(outsider) as bad, sockets.socket(owner) as good:
        for name in (topic, live):
            assert (await good.join(name, owner, private=True))["status"] == "ok"
            await bad.join(name, outsider, private=False)
            await bad.join(name, outsider)
        await settle(bad)
        mark = str(uuid.uuid4())
        for name in (topic, live):
            sockets.send(name, "marked", {"mark": mark})
            assert await hears(good, mark, 10)
        # And nothing said in the public one reaches those who trust the private one.
        for name in (topic, live):
            await bad.say(
                f"realtime:{name}",
                "broadcast",
                {"type": "broadcast", "event": "message.created", "payload": {"forged": True}},
                "1",
            )
            answer = await asyncio.to_thread(
                attacked.ask,
                "outsider",
                "POST",
                f"/realtime/v1/api/broadcast/{quote(name, safe='')}/events/x?private=true",
                json={},
            )
            assert answer.status_code == 403
            batch = {"messages": [{"topic": name, "event": "x", "payload": {"forged": True}, "private": True}]}
            await asyncio.to_thread(attacked.ask, "outsider", "POST", "/realtime/v1/api/broadcast", json=batch)
        frames = await settle(bad)
        assert not [frame for frame in frames if mark in json.dumps(frame)]
        assert not [frame for frame in await settle(good) if "forged" in json.dumps(frame)]


async def test_topic_names_have_one_spelling(attacked: World, sockets: Sockets) -> None:
    """Nothing that only looks like somebody's topic, or is one after cleaning up, is let in."""
    owner, group = attacked.ids["owner"], attacked.ids["group"]
    live = attacked.fill(attacked.topics["live"], "member")
    names = [
        f"user:{owner}", f"user:{owner.upper()}", f"user:{owner} ", f" user:{owner}", f"user:{owner}\n",
        f"USER:{owner}", f"user:{owner}:x", f"user::{owner}", f"user:{{{owner}}}", f"user:{owner.replace('-', '')}",
        "user:*", "user:%", "*", f"realtime:user:{owner}", f"user:{owner}\x00",
        f"user:{attacked.ids['outsider']},user:{owner}", live, live + ":x", f"conversation:{group}:live:*",
        f"conversation:{group}:live:", f"conversation:{group}:LIVE:1", "conversation:*:live:1",
        f"conversation:{group}:live:1 or true", f"conversation:{group}:live:1'--", live.upper(),
        live.replace(":live:", ":live:0"),
    ]  # fmt: skip
    token, problems = attacked.token("outsider"), []
    async with sockets.socket(token) as raw:
        for name in names:
            reply = await raw.join(name, token, private=True, presence={"enabled": True})
            if reply["status"] == "ok":
                problems.append(f"outsider joins {name!r}")
    none_of(problems)


async def test_refused_joins_say_the_same_of_what_exists_and_what_does_not(attacked: World, sockets: Sockets) -> None:
    token = attacked.token("outsider")
    live = attacked.fill(attacked.topics["live"], "outsider")
    pairs = [
        (f"user:{attacked.ids['owner']}", f"user:{uuid.uuid4()}"),
        (live, live.replace(attacked.ids["group"], str(uuid.uuid4()))),
    ]
    async with sockets.socket(token) as raw:
        for there, imaginary in pairs:
            said = []
            for name in (there, imaginary):
                reply = await raw.join(name, token, private=True)
                said.append(json.dumps(reply).replace(name, "<topic>"))
            assert said[0] == said[1]


async def test_changes_are_told_to_whoever_may_read_the_row(
    attacked: World, matrix: Matrix, sockets: Sockets, db: Any
) -> None:
    """Postgres Changes: a new message reaches members and nobody else; other tables tell nobody anything."""
    assert matrix.published == {"public.messages"}
    asked = [
        {"event": "*", "schema": "public", "table": "messages"},
        {"event": "*", "schema": "public"},
        {"event": "*", "schema": "*"},
        {
            "event": "INSERT",
            "schema": "public",
            "table": "messages",
            "filter": f"from_user_id=eq.{attacked.ids['owner']}",
        },
    ]
    others = [
        "public.conversations",
        "public.conversation_members",
        "public.profiles",
        "private.paces",
        "auth.users",
        "realtime.messages",
        "private.blocks",
    ]
    async with AsyncExitStack() as stack:
        raws = {}
        for role in ROLES:
            token = None if role == "anon" else attacked.token(role)
            raws[role] = raw = await stack.enter_async_context(sockets.socket(token))
            wanted = asked + [
                {"event": "*", "schema": each.partition(".")[0], "table": each.partition(".")[2]}
                for each in others * (role in ("outsider", "service"))
            ]
            for number, change in enumerate(wanted):
                # The answer comes when the feed runs; where there can be none, it is refused or says nothing.
                told = {"postgres_changes": [change], "postgres_changes_options": {"wait": number == 0}}
                join = await raw.join(f"changes-{number}", None if role in ("anon", "service") else token, **told)
                if role != "anon" and number == 0:
                    assert join["status"] == "ok", join
        sent = await asyncio.to_thread(
            call,
            db,
            attacked.ids["owner"],
            "send_message",
            body=f"changes {time.time()}",
            conversation_id=attacked.ids["group"],
        )
        # Nobody else's row: only who may read it is asked about.
        readers = {"service", "suspended", "muted", "member", "owner"}
        problems = []
        for role in sorted(readers):
            told = await raws[role].next("postgres_changes")
            assert told[4]["data"]["record"]["id"] == sent["message"]["id"], told
        for role in ROLES:
            for frame in await settle(raws[role]):
                if frame[3] != "postgres_changes":
                    continue
                data = frame[4]["data"]
                if role == "anon":
                    # Without any privilege Realtime says that there was a change, and nothing of it.
                    leaked = {k: v for k, v in data.items() if k not in ("schema", "table", "type", "commit_timestamp")}
                    assert leaked == {"columns": [], "record": {}, "errors": ["Error 401: Unauthorized"]}, leaked
                elif role not in readers or (data["schema"], data["table"]) != ("public", "messages"):
                    problems.append(f"{role} is told of {data['schema']}.{data['table']}: {data.get('record')}")
    none_of(problems)


async def test_filters_of_a_feed_do_not_tell_what_is_in_the_rows(attacked: World, sockets: Sockets, db: Any) -> None:
    """Who may not read a row does not learn that it matched, either."""
    word = uuid.uuid4().hex
    filters = [f"body=like.%{word}%", f"from_user_id=eq.{attacked.ids['owner']}", "seq=gt.0", "body=not.is.null"]
    async with AsyncExitStack() as stack:
        raws = {}
        for role in ("anon", "outsider", "former", "member"):
            token = None if role == "anon" else attacked.token(role)
            raws[role] = raw = await stack.enter_async_context(sockets.socket(token))
            for number, condition in enumerate(filters):
                change = {"event": "*", "schema": "public", "table": "messages", "filter": condition}
                told = {"postgres_changes": [change], "postgres_changes_options": {"wait": role != "anon"}}
                await raw.join(f"filter-{number}", None if role == "anon" else token, **told)
        body = f"Something {word} else"
        await asyncio.to_thread(
            call, db, attacked.ids["owner"], "send_message", body=body, conversation_id=attacked.ids["group"]
        )
        for _ in filters:
            assert (await raws["member"].next("postgres_changes"))[4]["data"]["record"]["body"] == body
        for role in ("anon", "outsider", "former"):
            heard = [frame for frame in await settle(raws[role]) if frame[3] == "postgres_changes"]
            assert not heard, (role, heard)
