"""mark_read and mark_all_read: watermarks only rise, unread stays exact, a repeat writes nothing."""

import uuid

from tests.sql.rpc import call, refused, state


def talk(db, ann, bob, count=5):
    sent = [call(db, ann.id, "send_message", body=str(n), to_user_id=bob.id) for n in range(count)]
    return sent[0]["conversation"]["id"], [one["message"]["id"] for one in sent]


class TestMarkRead:
    def test_reads_everything_up_to_the_message(self, db, new_person):
        ann, bob = new_person(), new_person()
        there, ids = talk(db, ann, bob)
        answer = call(db, bob.id, "mark_read", message_id=ids[2])
        assert answer == {
            "receipt": {"userId": bob.id, "lastReadSeq": 3, "lastDeliveredSeq": 3},
            "unreadCount": 2,
            "unreadTotal": 2,
        }
        seen = call(db, ann.id, "get_conversation", conversation_id=there)["conversation"]
        assert [m["status"] for m in seen["messages"]] == ["read", "read", "read", "sent", "sent"]
        assert {r["userId"]: r["lastReadSeq"] for r in seen["receipts"]} == {ann.id: 0, bob.id: 3}

    def test_never_goes_back(self, db, new_person):
        ann, bob = new_person(), new_person()
        _, ids = talk(db, ann, bob)
        call(db, bob.id, "mark_read", message_id=ids[4])
        answer = call(db, bob.id, "mark_read", message_id=ids[0])
        assert answer["receipt"]["lastReadSeq"] == 5 and answer["unreadCount"] == 0

    def test_a_repeat_writes_nothing(self, db, new_person):
        ann, bob = new_person(), new_person()
        there, ids = talk(db, ann, bob)
        first = call(db, bob.id, "mark_read", message_id=ids[4])
        before = state(db, there, ann.id, bob.id)
        assert call(db, bob.id, "mark_read", message_id=ids[4]) == first
        assert call(db, bob.id, "mark_all_read", conversation_id=there) == first
        assert state(db, there, ann.id, bob.id) == before

    def test_own_messages_are_never_unread(self, db, new_person):
        ann, bob = new_person(), new_person()
        there, _ = talk(db, ann, bob, 2)
        call(db, bob.id, "send_message", body="mine", conversation_id=there)
        assert call(db, bob.id, "mark_all_read", conversation_id=there, up_to_seq=1)["unreadCount"] == 1
        assert call(db, ann.id, "list_conversations")["conversations"][0]["unreadCount"] == 1

    def test_clears_the_own_mark(self, db, new_person):
        ann, bob = new_person(), new_person()
        _there, ids = talk(db, ann, bob, 1)
        call(db, bob.id, "mark_read", message_id=ids[0])
        db.execute("update public.conversation_members set marked_unread = true where user_id = %s", [bob.id])
        call(db, bob.id, "mark_read", message_id=ids[0])
        assert call(db, bob.id, "list_conversations")["conversations"][0]["markedUnread"] is False

    def test_foreign_and_imaginary_message_look_alike(self, db, new_person):
        ann, bob, eve = new_person(), new_person(), new_person()
        there, ids = talk(db, ann, bob, 1)
        said = []
        for message_id in (ids[0], str(uuid.uuid4()), None):
            with refused(404, "not_found") as one:
                call(db, eve.id, "mark_read", message_id=message_id)
            said.append(one)
        assert said[0] == said[1] == said[2]
        said = []
        for conversation_id in (there, str(uuid.uuid4()), None):
            with refused(404, "not_found") as one:
                call(db, eve.id, "mark_all_read", conversation_id=conversation_id)
            said.append(one)
        assert said[0] == said[1] == said[2]


class TestMarkAllRead:
    def test_up_to_seq_is_bounded_by_the_newest_message(self, db, new_person):
        ann, bob = new_person(), new_person()
        there, _ = talk(db, ann, bob, 3)
        assert call(db, bob.id, "mark_all_read", conversation_id=there, up_to_seq=2)["receipt"]["lastReadSeq"] == 2
        assert call(db, bob.id, "mark_all_read", conversation_id=there, up_to_seq=2**62)["receipt"]["lastReadSeq"] == 3
        later = call(db, ann.id, "send_message", body="later", to_user_id=bob.id)
        assert later["message"]["status"] == "sent"
        assert call(db, bob.id, "list_conversations")["conversations"][0]["unreadCount"] == 1

    def test_zero_reads_nothing_and_negative_is_refused(self, db, new_person):
        ann, bob = new_person(), new_person()
        there, _ = talk(db, ann, bob, 1)
        assert call(db, bob.id, "mark_all_read", conversation_id=there, up_to_seq=0)["unreadCount"] == 1
        with refused(400, "validation_failed") as said:
            call(db, bob.id, "mark_all_read", conversation_id=there, up_to_seq=-1)
        assert said["hint"] == "/upToSeq"

    def test_total_is_over_all_that_is_not_muted_or_archived(self, db, new_person):
        bob, muted, archived, plain = (new_person() for _ in range(4))
        rooms = {p.id: talk(db, p, bob, 2)[0] for p in (muted, archived, plain)}
        db.execute(
            "update public.conversation_members set muted_until = now() + interval '1 hour' where conversation_id = %s",
            [rooms[muted.id]],
        )
        db.execute(
            "update public.conversation_members set archived_at = now() where conversation_id = %s",
            [rooms[archived.id]],
        )
        answer = call(db, bob.id, "mark_all_read", conversation_id=rooms[plain.id], up_to_seq=1)
        assert (answer["unreadCount"], answer["unreadTotal"]) == (1, 1)
