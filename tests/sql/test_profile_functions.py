"""get_profile and update_profile: one's own only, validated; pictures by https or from one's own folder."""

import pytest
from psycopg.types.json import Jsonb

from tests.sql.rpc import acting, call, refused


def update(db, person, **changes):
    return call(db, person.id, "update_profile", changes=Jsonb(changes))["profile"]


class TestUpdate:
    def test_changes_what_is_named(self, db, new_person):
        ann, bob = new_person("Ann"), new_person()
        call(db, ann.id, "send_message", body="x", to_user_id=bob.id)
        shown = update(db, ann, displayName=" Ann\nB. ", locale="pt-BR")
        assert shown == {
            "id": ann.id,
            "displayName": "Ann B.",
            "avatarUrl": None,
            "isFallback": False,
            "locale": "pt-BR",
            "privateReading": False,
            "hidesLastSeen": False,
        }
        assert update(db, ann, avatarUrl="https://example.com/a.png?x=1")["displayName"] == "Ann B."
        seen = call(db, bob.id, "list_inbox")["conversations"][0]["lastMessage"]["sender"]
        assert seen == {
            "id": ann.id,
            "displayName": "Ann B.",
            "avatarUrl": "https://example.com/a.png?x=1",
            "isFallback": False,
        }
        assert update(db, ann, avatarUrl=None, locale=None) == {**shown, "locale": None}
        assert call(db, ann.id, "get_profile")["profile"]["displayName"] == "Ann B."

    def test_makes_a_missing_profile(self, db, new_person):
        ann = new_person()
        db.execute("delete from public.profiles where user_id = %s", [ann.id])
        assert call(db, ann.id, "get_profile")["profile"]["isFallback"] is True
        assert update(db, ann)["displayName"] == "Member"
        assert update(db, ann, displayName="Ann")["isFallback"] is False

    def test_own_object_in_storage(self, db, new_person):
        ann, bob = new_person(), new_person()
        db.execute(
            "insert into storage.objects (bucket_id, name) values ('avatars', %s), ('avatars', %s)",
            [f"{ann.id}/a.png", f"{bob.id}/a.png"],
        )
        base = "http://127.0.0.1:54321/storage/v1/object/public/avatars"
        assert update(db, ann, avatarUrl=f"{base}/{ann.id}/a.png?v=2")["avatarUrl"] == f"{base}/{ann.id}/a.png?v=2"
        for foreign in (f"{base}/{bob.id}/a.png", f"{base}/{ann.id}/missing.png", f"{base}/{ann.id}/../{bob.id}/a.png"):
            with refused(400, "validation_failed") as said:
                update(db, ann, avatarUrl=foreign)
            assert said["hint"] == "/avatarUrl"

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"displayName": ""}, "/displayName"),
            ({"displayName": None}, "/displayName"),
            ({"displayName": "x" * 81}, "/displayName"),
            ({"displayName": ["Ann"]}, "/displayName"),
            ({"avatarUrl": "http://example.com/a.png"}, "/avatarUrl"),
            ({"avatarUrl": "javascript:alert(1)"}, "/avatarUrl"),
            ({"avatarUrl": "http://evil.example/storage/v1/object/public/avatars/x/a.png"}, "/avatarUrl"),
            ({"avatarUrl": "https://user@example.com/a.png"}, "/avatarUrl"),
            ({"avatarUrl": "https://example.com/a b.png"}, "/avatarUrl"),
            ({"avatarUrl": "https://example.com/\n"}, "/avatarUrl"),
            ({"avatarUrl": "https://"}, "/avatarUrl"),
            ({"avatarUrl": "https://exam\u202eple.com/a.png"}, "/avatarUrl"),
            ({"avatarUrl": "https://ex\u0430mple.com/"}, "/avatarUrl"),
            # Parsers of URLs fail on these, and every member of a conversation would be given them.
            ({"avatarUrl": "https://[x/"}, "/avatarUrl"),
            ({"avatarUrl": "https://example.com:/a.png"}, "/avatarUrl"),
            ({"avatarUrl": "https://example.com:x/a.png"}, "/avatarUrl"),
            ({"avatarUrl": "https://example.com/" + "x" * 2048}, "/avatarUrl"),
            ({"locale": "english please"}, "/locale"),
            ({"user_id": "x"}, "/user_id"),
        ],
    )
    def test_shape(self, db, new_person, changes, pointer):
        with refused(400, "validation_failed") as said:
            update(db, new_person(), **changes)
        assert said["hint"] == pointer

    def test_ended_account(self, db, new_person):
        ann = new_person()
        db.execute("delete from auth.users where id = %s", [ann.id])
        with refused(403, "account_unavailable"):
            update(db, ann, displayName="Ghost")


class TestStorage:
    def test_everybody_writes_below_their_own_id_only(self, sql, new_person):
        ann, bob = new_person(), new_person()
        db = sql.connection
        put = "insert into storage.objects (bucket_id, name) values ('avatars', %s)"
        with acting(db, ann.id):
            db.execute(put, [f"{ann.id}/a.png"])
        for person, name in ((bob, f"{ann.id}/b.png"), (bob, "b.png"), (None, "b.png")):
            with (
                pytest.raises(Exception, match=r"row-level security|permission denied"),
                acting(db, person and person.id),
            ):
                db.execute(put, [name])
        with acting(db, bob.id):
            assert db.execute("select name from storage.objects where bucket_id = 'avatars'").fetchall() == []
            assert db.execute("delete from storage.objects where bucket_id = 'avatars'").rowcount == 0
