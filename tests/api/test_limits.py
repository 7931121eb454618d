"""GET /api/messages/limits tells what the refusals go by."""

from typing import Any


def left(http: Any, person: Any) -> dict[str, tuple[int, int]]:
    answer = http.get("/api/messages/limits", headers=person.headers)
    assert answer.status_code == 200, answer.text
    return {quota["name"]: (quota["limit"], quota["remaining"]) for quota in answer.json()["limits"]}


def test_nothing_used(http: Any, person: Any) -> None:
    assert left(http, person()) == {
        "send": (100, 100),
        "new_conversation": (30, 30),
        "edit": (30, 30),
        "report": (20, 20),
        "profile": (30, 30),
        "refused": (100, 100),
    }


def test_counts_what_was_accepted_and_nothing_else(http: Any, person: Any, send: Any) -> None:
    ada, ben = person(), person()
    sent = send(ada, "Hello", toUserId=ben.id, clientMessageId="00000000-0000-4000-8000-000000000001")
    send(ada, "Hello", toUserId=ben.id, clientMessageId="00000000-0000-4000-8000-000000000001")
    send(ada, "Hello", toUserId="00000000-0000-4000-8000-00000000ffff")
    message = sent.json()["message"]["id"]
    http.patch(f"/api/messages/{message}", headers=ada.headers, json={"body": "Hello again"})
    http.patch("/api/profile", headers=ada.headers, json={"displayName": "Ada"})
    http.patch("/api/profile", headers=ada.headers, json={"displayName": "ada@example.org"})
    assert left(http, ada) == {
        "send": (100, 99),
        "new_conversation": (30, 29),
        "edit": (30, 29),
        "report": (20, 20),
        "profile": (30, 29),
        "refused": (100, 99),
    }
    assert left(http, ben)["send"] == (100, 100)


def test_agrees_with_the_headers_of_a_send_and_with_the_refusal(http: Any, person: Any, send: Any, db: Any) -> None:
    ada, ben = person(), person()
    answer = send(ada, "Hello", toUserId=ben.id)
    quota = next(
        q for q in http.get("/api/messages/limits", headers=ada.headers).json()["limits"] if q["name"] == "send"
    )
    assert f'"send";r={quota["remaining"]};' in answer.headers["ratelimit"]
    assert 0 < quota["resetS"] <= quota["windowS"] == 60
    db.execute("update private.settings set send_count_max = 1")
    try:
        assert left(http, ada)["send"] == (1, 0)
        assert send(ada, "Again", toUserId=ben.id).status_code == 429
    finally:
        db.execute("update private.settings set send_count_max = default")


def test_needs_a_person(http: Any) -> None:
    assert http.get("/api/messages/limits").status_code == 401
