"""Profiles are made on sign-up whatever the metadata says, and end with the account."""

import json
import uuid

import pytest


def sign_up(db, metadata):
    row = db.execute(
        "insert into auth.users (id, email, raw_user_meta_data) values (%s, %s, %s) returning id",
        [uuid.uuid4(), f"{uuid.uuid4()}@example.com", json.dumps(metadata) if metadata is not ... else None],
    ).fetchone()
    return row[0]


def profile(db, user_id):
    return db.execute("select display_name, avatar_url from public.profiles where user_id = %s", [user_id]).fetchone()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"display_name": "Ann"}, ("Ann", None)),
        ({"full_name": " Ann\r\n  Smith ", "name": "no"}, ("Ann Smith", None)),
        ({"name": "\u202eevil"}, ("evil", None)),
        ({"name": "x" * 500, "avatar_url": "https://example.com/a.png"}, ("x" * 80, "https://example.com/a.png")),
        ({"name": "x" * 79 + " y"}, ("x" * 79, None)),
        ({"name": "Ann", "avatar_url": "javascript:alert(1)"}, ("Ann", None)),
        ({"name": "Ann", "picture": "https://" + "x" * 3000}, ("Ann", None)),
        ({"display_name": {"first": "Ann"}, "name": "Ann"}, ("Ann", None)),
        ({"name": "   "}, (None, None)),
        ({"display_name": " ", "full_name": None, "name": "Ann"}, ("Ann", None)),
        ({}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
        ("text", (None, None)),
        (..., (None, None)),
    ],
)
def test_sign_up_makes_a_profile(db, metadata, expected):
    assert profile(db, sign_up(db, metadata)) == expected


def test_the_email_address_is_never_the_name(db):
    user_id = sign_up(db, {"email": "ann@example.com"})
    assert profile(db, user_id) == (None, None)


def test_deleted_account_has_no_profile(db):
    hard, soft = sign_up(db, {"name": "Ann"}), sign_up(db, {"name": "Bob"})
    db.execute("delete from auth.users where id = %s", [hard])
    db.execute("update auth.users set deleted_at = now() where id = %s", [soft])
    assert profile(db, hard) is None and profile(db, soft) is None
