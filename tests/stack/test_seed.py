"""The demo data: who can sign in, what they find, and that writing it twice changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from stack import dataapi, database, demo
from stack.places import SUPABASE
from stack.processes import free_port

COUNTS = """
    select
        (select count(*) from auth.users), (select count(*) from auth.identities),
        (select count(*) from public.profiles),
        (select count(*) from public.gigs), (select count(*) from public.conversations),
        (select count(*) from public.messages), (select sum(unread_count) from public.conversation_members)
"""


@dataclass(frozen=True)
class Seeded:
    url: str
    key: str
    secret_key: str
    database_url: str

    def sign_in(self, email: str) -> httpx.Client:
        headers = {"apikey": self.key}
        answer = httpx.post(
            f"{self.url}/auth/v1/token?grant_type=password",
            json={"email": email, "password": demo.PASSWORD},
            headers=headers,
        )
        assert answer.status_code == 200, answer.text
        headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def seeded(cluster: Any, worker: str) -> Iterator[Seeded]:
    """A database of its own with the seed, and a data API on it."""
    name, port = cluster.clone(f"seeded_{worker}"), free_port()
    url = cluster.cluster.url(name)
    with psycopg.connect(url) as connection:
        connection.execute((SUPABASE / "seed.sql").read_bytes())
    log = cluster.directory / "log" / f"seeded-{worker}.log"
    project = database.project_directory(cluster.directory / f"seeded-{worker}")
    api = dataapi.data_api(cluster.cluster, name, project, cluster.keys, port, log, cluster.ledger)
    api.start()
    try:
        api.wait_until(lambda: dataapi.data_api_ready(port, cluster.keys), dataapi.READY_S)
        yield Seeded(f"http://127.0.0.1:{port}", cluster.keys.publishable_key, cluster.keys.secret_key, url)
    finally:
        api.stop()
        cluster.drop(name)


def test_writing_it_twice_changes_nothing(seeded):
    with psycopg.connect(seeded.database_url) as connection:
        before = connection.execute(COUNTS).fetchone()
        connection.execute((SUPABASE / "seed.sql").read_bytes())
        assert connection.execute(COUNTS).fetchone() == before
        assert before[:6] == (5, 5, 4, 3, 3, 7)


@pytest.mark.parametrize("name", ["ada", "ben", "chloe", "dora", "emil"])
def test_everybody_can_sign_in(seeded, name):
    with seeded.sign_in(f"{name}@example.com") as client:
        assert client.get("/auth/v1/user").json()["email"] == f"{name}@example.com"


def test_the_conversation_is_two_sided_and_partly_read(seeded):
    with seeded.sign_in("ada@example.com") as client:
        inbox = client.post("/rest/v1/rpc/list_conversations", json={}).json()["conversations"]
        quartet = next(each for each in inbox if each["gigId"])
        assert quartet["unreadCount"] == 2
        opened = client.post("/rest/v1/rpc/get_conversation", json={"p_conversation_id": quartet["id"]}).json()[
            "conversation"
        ]
        assert len({message["fromUserId"] for message in opened["messages"]}) == 2
        assert {message["status"] for message in opened["messages"]} >= {"read", "sent"}
        gigs = client.get("/rest/v1/gigs?select=id,title").json()
        assert quartet["gigId"] in {gig["id"] for gig in gigs}


def test_one_person_has_no_profile(seeded):
    with seeded.sign_in("ada@example.com") as client:
        inbox = client.post("/rest/v1/rpc/list_conversations", json={}).json()["conversations"]
        cards = [card for each in inbox for card in each["members"]]
        assert [card["displayName"] != "" for card in cards if card["isFallback"]] == [True]


def test_the_picture_is_really_there(seeded):
    for _ in range(2):
        demo.store_avatar(seeded.url, seeded.secret_key, seeded.database_url)
    with seeded.sign_in("ada@example.com") as client:
        row = client.get(f"/rest/v1/profiles?select=avatar_url&user_id=eq.{demo.PICTURED}").json()[0]
    picture = httpx.get(row["avatar_url"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert picture.content == demo.picture()


def test_gigs_are_closed_to_strangers_and_writers(seeded):
    assert httpx.get(f"{seeded.url}/rest/v1/gigs", headers={"apikey": seeded.key}).status_code == 401
    with seeded.sign_in("ben@example.com") as client:
        assert client.post("/rest/v1/gigs", json={"title": "x", "price_cents": 1}).status_code == 403
