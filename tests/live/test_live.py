"""Our topics through the real server and unmodified Python clients: who hears what, and how a loss is noticed."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from realtime.exceptions import RealtimeHTTPError

from tests.live.device import unbroken, until

# The Python client itself reads these; as an error the warning would end its reading task.
pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")


class TestOwnTopic:
    async def test_messages_reach_both_people_in_order(self, api, device, new_person):
        ann, bob = new_person(), new_person()
        at_ann, at_bob = await (await device(ann)).own(), await (await device(bob)).own()
        sent = api.send(ann, "one 🎻", toUserId=bob.id)
        there = sent["conversation"]["id"]
        answer = api.send(bob, "two", conversationId=there)
        edited = api(ann, "PATCH", f"/messages/{sent['message']['id']}", {"body": "edited"})
        deleted = api(bob, "DELETE", f"/messages/{answer['message']['id']}")
        wanted = ["message.created", "message.created", "message.updated", "message.deleted"]
        for topic_owner, topic, unread in ((ann, at_ann, [0, 1, 1, 0]), (bob, at_bob, [1, 1, 1, 1])):
            events = await topic.hears(4)
            assert topic.types == [each["type"] for each in events] == wanted
            assert [each["message"] for each in events] == [each["message"] for each in (sent, answer, edited, deleted)]
            assert unbroken(events)
            assert events[0]["previousPosition"] == 0
            assert [each["conversation"]["unreadCount"] for each in events] == unread
            assert [each["unreadTotal"] for each in events] == unread
            assert {each["conversationId"] for each in events} == {there}
            assert all("members" not in each["conversation"] for each in events)
            shown = api(topic_owner, "GET", f"/messages/conversations/{there}")["conversation"]
            assert events[-1]["conversation"].items() <= shown.items()

    async def test_the_chain_holds_however_many_write(self, api, device, new_person):
        me, others = new_person(), [new_person() for _ in range(4)]
        topics = [await (await device(each)).own() for each in (me, me, *others)]
        with ThreadPoolExecutor(4) as pool:

            def write(other):
                for number in range(5):
                    api.send(other, str(number), toUserId=me.id)

            await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, write, other) for other in others))
        for topic, count in zip(topics, (20, 20, 5, 5, 5, 5), strict=True):
            events = await topic.hears(count)
            assert unbroken(events)
            assert events[-1]["unreadTotal"] == (20 if count == 20 else 0)
        assert topics[0].events[-1]["position"] == topics[1].events[-1]["position"]

    async def test_groups_come_and_go(self, api, device, new_person):
        owner, bob, eve = new_person(), new_person(), new_person()
        at_owner, at_bob, at_eve = [await (await device(each)).own() for each in (owner, bob, eve)]
        there = api.group(owner, bob)["id"]
        members = f"/messages/conversations/{there}/members"
        api.send(owner, "before", conversationId=there)
        api(owner, "POST", members, {"userIds": [eve.id]})
        api(owner, "DELETE", f"{members}/{bob.id}")
        api.send(owner, "after", conversationId=there)
        await at_eve.hears(3)
        assert at_eve.types == ["conversation.created", "conversation.updated", "message.created"]
        await at_bob.hears(4)
        assert at_bob.types == ["conversation.created", "message.created", "conversation.updated", "conversation.lost"]
        assert "conversation" not in at_bob.events[-1]
        await at_owner.hears(5)
        assert at_owner.types == [*at_bob.types[:3], "conversation.updated", "message.created"]
        assert all(unbroken(each.events) for each in (at_owner, at_bob, at_eve))

    async def test_nobody_else_listens(self, api, device, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        at_ann, theirs = await (await device(ann)).own(), await device(eve)
        for topic in (f"user:{ann.id}", f"user:{ann.id.upper()}", f"user:{ann.id} ", "user:", "user:x", "*"):
            refused = (await theirs.join(topic)).states[0]
            assert refused.startswith("CHANNEL_ERROR"), topic
            assert "Unauthorized" in refused
        public = await theirs.join(f"user:{bob.id}", private=False)  # another world under the same name
        assert public.states == ["SUBSCRIBED"]
        api.send(ann, "for bob", toUserId=bob.id)
        await at_ann.hears(1)
        assert public.heard == []

    async def test_nobody_speaks_but_the_database(self, api, device, new_person):
        ann, bob = new_person(), new_person()
        one, other, theirs = await device(ann), await device(ann), await device(bob)
        tabs = [await one.own(), await other.own()]
        forged = {"type": "message.created", "position": 1, "previousPosition": 0}
        await tabs[0].channel.send_broadcast("message.created", forged)
        await tabs[0].channel.track({"forged": True})
        for who in (one, theirs):
            config = {"config": {"private": True}}
            channel = who.supabase.realtime.channel(f"user:{ann.id}", config)
            with pytest.raises(RealtimeHTTPError, match="Unauthorized"):
                await channel.http_send("message.created", forged)
        public = await theirs.join(f"user:{ann.id}", private=False)
        await public.channel.send_broadcast("message.created", forged)
        api.send(bob, "true", toUserId=ann.id)
        for tab in tabs:
            (event,) = await tab.hears(1)
            assert event["message"]["body"] == "true"


class TestLiveTopic:
    async def test_typing_and_presence_among_members(self, api, device, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        name = api.send(ann, "hi", toUserId=bob.id)["conversation"]["liveTopic"]
        ours, theirs, strange = await device(ann), await device(bob), await device(eve)
        at_ann = await ours.join(name, presence=ann.id)
        at_bob = await theirs.join(name, presence=bob.id)
        assert at_ann.states == at_bob.states == ["SUBSCRIBED"]
        await at_ann.channel.send_broadcast("typing", {"userId": ann.id})
        assert await at_bob.hears(1) == [{"userId": ann.id}]
        await at_ann.channel.track({"since": 1})
        await at_bob.channel.track({"since": 2})
        for topic in (at_ann, at_bob):
            await until(lambda topic=topic: set(topic.channel.presence_state()) == {ann.id, bob.id})
        await theirs.close()
        await until(lambda: set(at_ann.channel.presence_state()) == {ann.id})
        refused = await strange.join(name, presence=eve.id)
        assert "Unauthorized" in refused.states[0]
        with pytest.raises(RealtimeHTTPError, match="Unauthorized"):
            await refused.channel.http_send("typing", {"userId": eve.id})
        assert at_ann.heard == []

    async def test_typing_through_the_api(self, api, device, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        shown = api.send(ann, "hi", toUserId=bob.id)["conversation"]
        topic = await (await device(bob)).join(shown["liveTopic"])
        typing = f"/messages/conversations/{shown['id']}/typing"
        assert api(ann, "POST", typing, status=204) is None
        api(eve, "POST", typing, status=404)
        (told,) = await topic.hears(1)
        assert topic.types == ["typing"]
        assert (told["userId"], told["conversationId"]) == (ann.id, shown["id"])

    async def test_who_was_removed_stays_outside(self, api, device, new_person):
        owner, bob, eve = new_person(), new_person(), new_person()
        group = api.group(owner, bob, eve)
        there, old = group["id"], group["liveTopic"]
        removed = await device(eve)
        cached = await removed.join(old)
        assert cached.states == ["SUBSCRIBED"]
        api(owner, "DELETE", f"/messages/conversations/{there}/members/{eve.id}")
        new = api(bob, "GET", f"/messages/conversations/{there}")["conversation"]["liveTopic"]
        assert new != old
        again = await device(eve)
        for name in (old, new):
            assert "Unauthorized" in (await again.join(name)).states[0]
        rest = [await (await device(each)).join(new) for each in (owner, bob)]
        assert [each.states for each in rest] == [["SUBSCRIBED"]] * 2
        # The old channel is open until its token is looked at again; nothing is said there any more.
        await cached.channel.send_broadcast("typing", {"userId": eve.id})
        await rest[0].channel.send_broadcast("typing", {"userId": owner.id})
        api(owner, "POST", f"/messages/conversations/{there}/typing", status=204)
        await rest[1].hears(2)
        assert {each["userId"] for each in rest[1].events} == {owner.id}
        assert cached.heard == []
        for member in (owner, bob):  # and for those who stay the old one is closed, too
            assert "Unauthorized" in (await (await device(member)).join(old)).states[0]


class TestReceipts:
    async def test_ticks(self, api, device, new_person):
        ann, bob = new_person(), new_person()
        own = await (await device(ann)).own()
        sent = [api.send(ann, str(number), toUserId=bob.id)["message"] for number in range(3)]
        there = sent[0]["conversationId"]

        def statuses():
            shown = api(ann, "GET", f"/messages/conversations/{there}")["conversation"]
            return [each["status"] for each in shown["messages"]]

        assert [each["status"] for each in sent] == statuses() == ["sent"] * 3
        for _ in range(2):  # a repeat says nothing
            api(bob, "PATCH", "/messages/delivered", {"receipts": [{"conversationId": there, "seq": 2}]})
        assert statuses() == ["delivered", "delivered", "sent"]
        for _ in range(2):
            api(bob, "PATCH", f"/messages/{sent[0]['id']}/read")
        assert statuses() == ["read", "delivered", "sent"]
        api(bob, "PATCH", f"/messages/conversations/{there}/read-all", {})
        events = (await own.hears(6))[3:]
        assert [each["type"] for each in events] == ["receipt.updated"] * 3
        assert [each["receipt"] for each in events] == [
            {"userId": bob.id, "lastReadSeq": read, "lastDeliveredSeq": delivered}
            for read, delivered in ((0, 2), (1, 2), (3, 3))
        ]
        assert statuses() == ["read"] * 3
        assert unbroken(own.events)

    async def test_private_reading(self, api, device, new_person):
        ann, bob = new_person(), new_person()
        api(bob, "PATCH", "/profile", {"privateReading": True})
        at_ann, at_bob = await (await device(ann)).own(), await (await device(bob)).own()
        sent = api.send(ann, "secretly read", toUserId=bob.id)["message"]
        api(bob, "PATCH", f"/messages/{sent['id']}/read")
        api.send(ann, "next", toUserId=bob.id)
        await at_ann.hears(2)
        assert at_ann.types == ["message.created"] * 2
        events = await at_bob.hears(3)
        assert at_bob.types == ["message.created", "conversation.updated", "message.created"]
        assert [each["unreadTotal"] for each in events] == [1, 0, 1]
        assert all("receipt" not in each for each in events)
        api(bob, "PATCH", "/profile", {"privateReading": False})
        api(bob, "PATCH", f"/messages/{sent['id']}/read")  # does not reveal what was read before
        shown = api(ann, "GET", f"/messages/conversations/{sent['conversationId']}")["conversation"]
        assert [each["status"] for each in shown["messages"]] == ["sent", "sent"]

    async def test_in_a_large_group_only_the_author_is_told(self, api, device, new_person):
        owner, reader, bystander = new_person(), new_person(), new_person()
        there = api.group(owner, reader, bystander, *(new_person() for _ in range(14)))["id"]
        at_owner, at_other = await (await device(owner)).own(), await (await device(bystander)).own()
        sent = api.send(owner, "seventeen people", conversationId=there)["message"]
        api(reader, "PATCH", "/messages/delivered", {"receipts": [{"conversationId": there, "seq": 1}]})
        api(reader, "PATCH", f"/messages/{sent['id']}/read")
        api.send(owner, "again", conversationId=there)
        await at_owner.hears(3)
        assert at_owner.types == ["message.created", "receipt.updated", "message.created"]
        assert at_owner.events[1]["receipt"]["userId"] == reader.id
        await at_other.hears(2)
        assert at_other.types == ["message.created"] * 2
        assert unbroken(at_owner.events)
        assert unbroken(at_other.events)


class TestTokens:
    async def test_a_refreshed_token_keeps_the_topic(self, api, device, new_person, mint_token):
        ann, bob = new_person(), new_person()
        until_s = int(time.time()) + 7
        short = await device(ann)
        await short.supabase.realtime.set_auth(mint_token(ann.id, exp=until_s))
        kept = await short.own()
        await short.supabase.realtime.set_auth(mint_token(ann.id, session_id="refreshed"))
        forgetful = await device(ann)
        await forgetful.supabase.realtime.set_auth(mint_token(ann.id, exp=until_s))
        lost = await forgetful.own()
        await until(lambda: lost.states[-1] == "CLOSED")
        assert time.time() >= until_s
        api.send(bob, "still there?", toUserId=ann.id)
        await kept.hears(1)
        assert kept.states == ["SUBSCRIBED"]
        assert lost.heard == []

    async def test_a_token_of_somebody_else_closes_the_topic(self, device, new_person):
        ann, eve = new_person(), new_person()
        client = await device(ann)
        topic = await client.own()
        await client.supabase.realtime.set_auth(eve.token)
        await until(lambda: topic.states[-1] == "CLOSED")


async def test_plain_postgres_changes_show_only_ones_own_conversations(api, device, new_person):
    ann, bob, eve, dan = new_person(), new_person(), new_person(), new_person()
    feeds = {each: await (await device(each)).changes() for each in (ann, bob, eve)}
    api.send(ann, "between us", toUserId=bob.id)
    api.send(eve, "something else", toUserId=dan.id)
    group = api.group(ann, bob, eve)["id"]
    api.send(bob, "all of us", conversationId=group)  # rows arrive in commit order: nothing earlier is still to come
    wanted = {ann: ["between us", "all of us"], bob: ["between us", "all of us"], eve: ["something else", "all of us"]}
    for person, bodies in wanted.items():
        rows = feeds[person].rows
        await until(lambda rows=rows, bodies=bodies: len(rows) >= len(bodies))
        assert [each["data"]["record"]["body"] for each in rows] == bodies
        assert all(each["data"]["type"] == "INSERT" and each["data"]["table"] == "messages" for each in rows)


async def test_a_lost_event_is_noticed_and_repaired(api, device, new_person):
    ann, bob = new_person(), new_person()
    client = await device(bob)
    own = await client.own()
    cursor = api.sync(bob)["cursor"]
    sent = [api.send(ann, "heard", toUserId=bob.id)["message"]]
    await own.hears(1)
    client.drop()
    sent.append(api.send(ann, "said while nobody listened", toUserId=bob.id)["message"])
    await until(lambda: own.states[-1] == "SUBSCRIBED" and len(own.states) > 1)
    sent.append(api.send(ann, "heard again", toUserId=bob.id)["message"])
    events = await own.hears(2)
    assert [each["message"]["body"] for each in events] == ["heard", "heard again"]
    assert not unbroken(events)
    page = api.sync(bob, cursor)
    assert page["messages"] == sent
    assert (page["lost"], page["hasMore"]) == ([], False)
    (conversation,) = page["conversations"]
    assert conversation["unreadCount"] == 3
    assert events[-1]["conversation"].items() <= conversation.items()
    again = api.sync(bob, page["cursor"])
    assert (again["messages"], again["conversations"]) == ([], [])
