"""GET and PATCH /api/profile on the real stack."""

from typing import Any

import pytest

PROFILE = "/api/profile"


@pytest.fixture
def change(http: Any) -> Any:
    """`change(person, **members)`: the answer."""

    def patch(person: Any, **members: Any) -> Any:
        return http.patch(PROFILE, headers=person.headers, json=members)

    return patch


def test_reading_and_changing(person: Any, send: Any, change: Any, http: Any) -> None:
    ada, ben = person("Ada"), person("Ben")
    own = {"id": ada.id, "displayName": "Ada", "avatarUrl": None, "isFallback": False, "locale": None}
    own |= {"privateReading": False, "hidesLastSeen": False}
    assert http.get(PROFILE, headers=ada.headers).json() == {"profile": own}
    wish = {
        "displayName": "Ada\x00 \n Lovelace\u202e ",
        "avatarUrl": "https://img.example/a.png?x=1#y",
        "locale": "de-AT",
    }
    now = own | {"displayName": "Ada Lovelace", "avatarUrl": wish["avatarUrl"], "locale": "de-AT"}
    for _ in range(2):
        answer = change(ada, **wish)
        assert (answer.status_code, answer.json()) == (200, {"profile": now})
    assert change(ada).json() == {"profile": now}
    assert change(ada, avatarUrl=None).json()["profile"] == now | {"avatarUrl": None}
    assert change(ada, locale=None).json()["profile"] == now | {"avatarUrl": None, "locale": None}
    sender = send(ada, "Hello", toUserId=ben.id).json()["message"]["sender"]
    assert sender == {"id": ada.id, "displayName": "Ada Lovelace", "avatarUrl": None, "isFallback": False}
    assert http.get(PROFILE, headers=ben.headers).json()["profile"]["displayName"] == "Ben"


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>", "'; drop table profiles; --", "שלום سلام", "👩\u200d👩\u200d👧\ufe0f", "\\u0000",
     "null", "𝒳" * 80, "%s {0}", "admin", "\u200b", "Ａda", "á" * 80],
)  # fmt: skip
def test_names_arrive_as_they_were_written(person: Any, change: Any, http: Any, name: str) -> None:
    ada = person()
    assert change(ada, displayName=name).json()["profile"]["displayName"] == name
    assert http.get(PROFILE, headers=ada.headers).json()["profile"]["displayName"] == name


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"displayName": ""}, "/displayName"), ({"displayName": "\u3000\n"}, "/displayName"),
        ({"displayName": "\x00"}, "/displayName"), ({"displayName": "x" * 81}, "/displayName"),
        ({"displayName": None}, "/displayName"), ({"displayName": 7}, "/displayName"),
        ({"displayName": "e" + "\u0301" * 300}, "/displayName"),
        ({"locale": ""}, "/locale"), ({"locale": "d"}, "/locale"), ({"locale": "de_AT"}, "/locale"),
        ({"locale": "de-" + "x" * 33}, "/locale"), ({"locale": "de\n"}, "/locale"), ({"locale": 7}, "/locale"),
        ({"id": "x"}, "/id"), ({"isFallback": True}, "/isFallback"), ({"display_name": "x"}, "/display_name"),
    ],
)  # fmt: skip
def test_wrong_shape_is_pointed_at(
    person: Any, change: Any, http: Any, refused: Any, members: Any, pointer: str
) -> None:
    ada = person()
    before = http.get(PROFILE, headers=ada.headers).json()
    refused(change(ada, **({"displayName": "Changed"} | members)), 400, "validation_failed", pointer)
    assert http.get(PROFILE, headers=ada.headers).json() == before


@pytest.mark.parametrize(
    "url",
    ["", "http://img.example/a.png", "javascript:alert(1)", "data:image/png;base64,AAAA", "//img.example/a.png",
     "https://", "https://u:p@img.example/", "https://img.example/a b", "https://img.example/\n",
     "https://img.example\\@x/", "https://img.example/ü", "https://img.example/" + "x" * 2048, 7, ["https://x/"]],
)  # fmt: skip
def test_addresses_that_are_none(person: Any, change: Any, refused: Any, url: Any) -> None:
    refused(change(person(), avatarUrl=url), 400, "validation_failed", "/avatarUrl")


def test_pictures_in_storage_are_one_s_own(
    person: Any, change: Any, refused: Any, db: Any, supabase_stack: Any
) -> None:
    ada, eve = person(), person()
    place = f"{supabase_stack.url}/storage/v1/object/public/avatars"
    refused(change(ada, avatarUrl=f"{place}/{ada.id}/me.png"), 400, "validation_failed", "/avatarUrl")
    db.execute("insert into storage.objects (bucket_id, name) values ('avatars', %s)", [f"{ada.id}/me.png"])
    assert (
        change(ada, avatarUrl=f"{place}/{ada.id}/me.png").json()["profile"]["avatarUrl"] == f"{place}/{ada.id}/me.png"
    )
    refused(change(eve, avatarUrl=f"{place}/{ada.id}/me.png"), 400, "validation_failed", "/avatarUrl")


def test_without_a_profile_or_an_account(person: Any, change: Any, http: Any, refused: Any, db: Any) -> None:
    ada, gone = person("Ada"), person("Gone")
    db.execute("delete from public.profiles where user_id = %s", [ada.id])
    missing = http.get(PROFILE, headers=ada.headers).json()["profile"]
    assert (missing["isFallback"], missing["displayName"] != "") == (True, True)
    assert change(ada).json()["profile"] == missing
    assert change(ada, locale="de").json()["profile"] == missing | {"locale": "de"}
    assert change(ada, displayName="Ada").json()["profile"]["isFallback"] is False
    db.execute("delete from auth.users where id = %s", [gone.id])
    refused(change(gone, displayName="Back"), 403, "account_unavailable")
    refused(http.get(PROFILE, headers=gone.headers), 403, "account_unavailable")
