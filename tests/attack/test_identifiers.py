"""Ids, keys, cursors and names of others are worth nothing."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest

from tests.attack.test_matrix import none_of
from tests.attack.world import PNG, World, outcome, told_of


def test_somebody_elses_idempotency_key_is_just_a_key(db: Any, attacked: World, new_person: Any) -> None:
    """A key counts per person: no conflict, no message of theirs, no hint that it was used."""
    key, other = str(uuid.uuid4()), new_person()
    first = attacked.rpc(
        "owner", "send_message", body="Mine", conversation_id=attacked.ids["group"], client_message_id=key
    )
    used, fresh = (
        attacked.rpc("outsider", "send_message", body="Yours", to_user_id=other.id, client_message_id=each)
        for each in (key, str(uuid.uuid4()))
    )
    assert used.json()["created"] is fresh.json()["created"] is True
    assert used.json()["message"]["id"] != first.json()["message"]["id"]
    assert (used.json()["message"]["body"], used.json()["message"]["fromUserId"]) == ("Yours", attacked.ids["outsider"])
    for body in ("Mine", "Other"):
        answers = [
            attacked.rpc(
                "outsider", "send_message", body=body, conversation_id=attacked.ids["group"], client_message_id=each
            )
            for each in (key, str(uuid.uuid4()))
        ]
        assert told_of(answers[0]) == told_of(answers[1])
        assert outcome(answers[0]) == "not_found"


def test_somebody_elses_group_key_is_just_a_key(attacked: World, new_person: Any) -> None:
    key, friend = str(uuid.uuid4()), new_person().id
    groups = [
        attacked.rpc(role, "create_group", title="Same", member_ids=[friend], client_group_id=key).json()
        for role in ("owner", "outsider")
    ]
    assert [each["created"] for each in groups] == [True, True]
    assert groups[0]["conversation"]["id"] != groups[1]["conversation"]["id"]
    assert attacked.ids["owner"] not in str(groups[1])


def test_a_key_outlives_neither_a_membership_nor_the_message(db: Any, attacked: World, new_person: Any) -> None:
    """A replay tells a former member nothing of what became of the message."""
    key, owner, gone = str(uuid.uuid4()), new_person(), new_person()
    ask = attacked.client
    make = {"p_title": "Crew", "p_member_ids": [gone.id]}
    there = ask.post("/rest/v1/rpc/create_group", json=make, headers=owner.headers).json()["conversation"]["id"]
    send = {"p_body": "One", "p_conversation_id": there, "p_client_message_id": key}
    assert ask.post("/rest/v1/rpc/send_message", json=send, headers=gone.headers).json()["created"]
    leave = {"p_conversation_id": there, "p_user_id": gone.id}
    assert ask.post("/rest/v1/rpc/remove_member", json=leave, headers=owner.headers).is_success
    again = ask.post("/rest/v1/rpc/send_message", json=send, headers=gone.headers)
    other = ask.post("/rest/v1/rpc/send_message", json={**send, "p_body": "Two"}, headers=gone.headers)
    fresh = ask.post("/rest/v1/rpc/send_message", json={**send, "p_client_message_id": None}, headers=gone.headers)
    assert told_of(again) == told_of(other) == told_of(fresh)
    assert outcome(again) == "not_found"


def test_cursors_of_others(attacked: World) -> None:
    """A sync cursor belongs to one person; a place in an inbox or a list of members shows only what is one's own."""
    cursor = attacked.rpc("owner", "sync").json()["cursor"]
    assert outcome(attacked.rpc("outsider", "sync", cursor=cursor)) == "cursor_invalid"
    own = attacked.rpc("outsider", "sync").json()["cursor"]
    digest, _, rest = own.partition(".")
    for forged in (f"{digest}.0.0", f"{cursor.partition('.')[0]}.{rest}", f"{digest}.0.0.{attacked.ids['group']}.0"):
        answer = attacked.rpc("outsider", "sync", cursor=forged)
        if answer.is_success:
            assert attacked.ids["group"] not in answer.text
            assert attacked.ids["direct"] not in answer.text
        else:
            assert outcome(answer) == "cursor_invalid"
    page = attacked.rpc("owner", "list_inbox", limit=1).json()
    assert page["nextCursor"]
    told = attacked.rpc("outsider", "list_inbox", cursor=page["nextCursor"])
    assert attacked.ids["group"] not in told.text
    members = attacked.rpc("owner", "list_members", conversation_id=attacked.ids["group"], limit=1).json()["nextCursor"]
    answer = attacked.rpc("outsider", "list_members", conversation_id=attacked.ids["group"], cursor=members)
    assert outcome(answer) == "not_found"
    place = base64.urlsafe_b64encode(f"1 99999999999999999 {attacked.ids['group']}".encode()).rstrip(b"=").decode()
    forged_place = attacked.rpc("outsider", "list_inbox", cursor=place)
    assert forged_place.is_success
    assert attacked.ids["group"] not in forged_place.text


@pytest.mark.parametrize("role", ["member", "outsider"])
def test_ids_have_one_owner_however_they_are_written(role: str, attacked: World) -> None:
    """Other spellings of an id find what the id finds, or are refused; never something else."""
    group = attacked.ids["group"]
    for spelling in (group.upper(), f"{{{group}}}", group.replace("-", ""), f" {group} ", f"{group[:8]}{group[9:]}"):
        answer = attacked.rpc(role, "get_conversation", conversation_id=spelling)
        if role == "outsider":
            assert outcome(answer) in ("not_found", "22P02"), answer.text
        elif answer.is_success:
            assert answer.json()["conversation"]["id"] == group
    for wrong in ("", "null", "0", "*", "%", f"{group},{group}", f"in.({group})", f"eq.{group}", f"{group}' or '1'='1"):
        assert not attacked.rpc(role, "get_conversation", conversation_id=wrong).is_success, wrong


def test_ids_of_one_kind_are_none_of_another(attacked: World) -> None:
    ids = attacked.ids
    for function, params in (
        ("get_conversation", {"conversation_id": ids["message"]}),
        ("get_conversation", {"conversation_id": ids["owner"]}),
        ("mark_read", {"message_id": ids["group"]}), ("message_history", {"message_id": ids["owner"]}),
        ("delete_message", {"message_id": ids["direct"]}), ("list_members", {"conversation_id": ids["message"]}),
    ):  # fmt: skip
        assert outcome(attacked.rpc("owner", function, **params)) == "not_found", function
    to_a_thing = attacked.rpc("member", "send_message", body="x", to_user_id=ids["group"])
    assert outcome(to_a_thing) == "recipient_unavailable"


def test_a_gig_does_not_open_conversations_of_others(attacked: World, new_person: Any) -> None:
    gig, ann, bob = str(uuid.uuid4()), new_person(), new_person()
    told = {"p_body": "About the gig", "p_to_user_id": bob.id, "p_gig_id": gig}
    there = attacked.client.post("/rest/v1/rpc/send_message", json=told, headers=ann.headers).json()["conversation"][
        "id"
    ]
    assert attacked.rpc("outsider", "list_inbox", gig_id=gig).json()["conversations"] == []
    assert attacked.rpc("outsider", "list_inbox", gig_id=gig, with_user_id=bob.id).json()["conversations"] == []
    own = attacked.rpc("outsider", "send_message", body="Me too", to_user_id=bob.id, gig_id=gig).json()["conversation"][
        "id"
    ]
    assert own != there
    moved = attacked.rpc("outsider", "send_message", body="x", conversation_id=own, gig_id=str(uuid.uuid4()))
    assert outcome(moved) == "recipient_mismatch"
    assert (
        attacked.ask(
            "outsider", "GET", f"/rest/v1/messages?select=id&gig_id=eq.{gig}&conversation_id=eq.{there}"
        ).json()
        == []
    )


# Pictures that are not one's own, or no pictures; {base} is the public address of the bucket.
PICTURES = [
    "{base}/{other}/avatar.png", "{base}/{me}/../{other}/avatar.png", "{base}/{me}%2F..%2F{other}/avatar.png",
    "{base}/{other}/avatar.png?x={me}/picture.png", "{base}/{other}/avatar.png#{me}/picture.png",
    "{base}/{me}/missing.png",
    "{base}/{ME}/picture.png", "{base}/", "{base}/{me}", "http://evil.example/x.png", "http://127.0.0.1:1/x.png",
    "https://user@evil.example/x.png", "https://evil.example\\@good.example/x.png", "https:/evil.example/x.png",
    "//evil.example/x",
    "https://evil.example/é.png", "https://evil.example/a b.png", "https://evil.example/a\nb.png", "https://", "https:///x",
    "javascript:alert(1)", "data:image/png;base64,AAAA", "HTTPS://evil.example/x.png", " https://evil.example/x.png",
    "https://evil.example/" + "x" * 2048, "file:///etc/passwd", "blob:https://x/y", "https://evil.example/\u202egnp.exe",
]  # fmt: skip


def test_a_profile_shows_only_ones_own_pictures_or_a_link(attacked: World, supabase_stack: Any) -> None:
    base = f"{supabase_stack.url}/storage/v1/object/public/avatars"
    me, other = attacked.ids["member"], attacked.ids["owner"]
    for role, path in (("member", f"{me}/picture.png"), ("owner", f"{other}/avatar.png")):
        stored = attacked.ask(role, "POST", f"/storage/v1/object/avatars/{path}", content=PNG,
                              headers={"Content-Type": "image/png", "x-upsert": "true"})  # fmt: skip
        assert stored.status_code == 200, stored.text
    problems = []
    for picture in PICTURES:
        url = picture.format(base=base, me=me, other=other, ME=me.upper())
        answer = attacked.rpc("member", "update_profile", changes={"avatarUrl": url})
        if outcome(answer) != "validation_failed":
            problems.append(f"{picture}: {answer.status_code} {answer.text[:100]}")
    none_of(problems)
    own = attacked.rpc("member", "update_profile", changes={"avatarUrl": f"{base}/{me}/picture.png"})
    assert own.json()["profile"]["avatarUrl"] == f"{base}/{me}/picture.png"
