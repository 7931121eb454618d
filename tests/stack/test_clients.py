"""Unmodified official clients against the stand-in, and through it against our functions."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import httpx
import pytest
from postgrest.exceptions import APIError
from supabase.lib.client_options import SyncClientOptions

from stack.places import node
from supabase import Client, create_client


@pytest.mark.hosted
def test_supabase_js(project):
    said = subprocess.run(
        [str(node()), str(Path(__file__).with_name("smoke.mjs")), project.url, project.publishable_key],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == {"ok": True}


def signed_in(url: str, key: str, name: str, http: httpx.Client) -> tuple[Client, str]:
    client = create_client(url, key, SyncClientOptions(auto_refresh_token=False, httpx_client=http))
    account = {"email": f"{uuid.uuid4()}@example.com", "password": uuid.uuid4().hex}
    client.auth.sign_up({**account, "options": {"data": {"display_name": name}}})
    session = client.auth.sign_in_with_password(account)
    assert client.auth.get_user().user.email == account["email"]
    return client, session.user.id


# supabase-py itself passes the parameters that its postgrest deprecates.
@pytest.mark.filterwarnings("ignore:The '(timeout|verify)' parameter is deprecated:DeprecationWarning")
@pytest.mark.hosted
def test_supabase_py(project):
    url, key = project.url, project.publishable_key
    with httpx.Client(timeout=30) as one, httpx.Client(timeout=30) as other:
        ann, _ = signed_in(url, key, "Ann", one)
        bob, bob_id = signed_in(url, key, "Bob", other)
        converse(ann, bob, bob_id)


def converse(ann: Client, bob: Client, bob_id: str) -> None:
    sent = ann.rpc("send_message", {"p_body": "Is it free?", "p_to_user_id": bob_id}).execute().data
    inbox = bob.rpc("list_conversations", {}).execute().data
    assert inbox["conversations"][0]["unreadCount"] == 1
    assert inbox["conversations"][0]["lastMessage"] == sent["message"] | {
        "status": inbox["conversations"][0]["lastMessage"]["status"]
    }
    bob.rpc("mark_read", {"p_message_id": sent["message"]["id"]}).execute()
    opened = ann.rpc("get_conversation", {"p_conversation_id": sent["conversation"]["id"]}).execute().data
    assert opened["conversation"]["messages"][0]["status"] == "read"

    assert [row["seq"] for row in ann.table("messages").select("seq").execute().data] == [1]
    with pytest.raises(APIError) as refused:
        ann.table("profiles").update({"display_name": "Bob"}).eq("user_id", bob_id).execute()
    assert refused.value.code == "42501"
    for client in (ann, bob):
        client.auth.sign_out()
