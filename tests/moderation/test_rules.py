"""Rules are data: checked when they are written, versioned, in force at once, and never able to stall a send."""

import random
import time
import uuid

import psycopg
import pytest

from tests.moderation.conftest import insert_rule


def judge(sql, text, contact_allowed=False):
    """Shape: (action, label, explanation, rules, masked_body)."""
    query = "select j.* from private.normalize_text(%s) as t cross join private.judge_text(t, private.moderation_fold(t), %s) as j"
    return sql.execute(query, [text, contact_allowed]).fetchone()


def names(sql, text):
    return [rule["name"] for rule in judge(sql, text)[3]]


class TestChanges:
    def test_a_rule_is_in_force_at_once_and_gone_at_once(self, sql):
        assert judge(sql, "a blorp for you")[0] == "allow"
        insert_rule(sql, "blorps", "term", "reject", terms=["blorp"])
        action, label, explanation, (rule,), masked = judge(sql, "a BLÓRP for you")
        assert (action, label, explanation, masked) == ("reject", "test", "For a test.", None)
        assert (rule["name"], rule["version"], rule["kind"], rule["action"]) == ("blorps", 1, "term", "reject")
        sql.execute("update private.moderation_rules set is_enabled = false where name = 'blorps'")
        assert judge(sql, "a blorp for you")[0] == "allow"
        sql.execute("update private.moderation_rules set is_enabled = true, terms = '{floop}' where name = 'blorps'")
        assert judge(sql, "a blorp for you")[0] == "allow"
        assert judge(sql, "a floop for you")[3][0]["version"] == 3
        sql.execute("delete from private.moderation_rules where name = 'blorps'")
        assert judge(sql, "a floop for you")[0] == "allow"

    def test_what_ordinary_texts_are_told_by_follows_the_rules(self, sql):
        def first_words():
            kept = sql.execute("select word from private.moderation_words where kind = 'term'").fetchall()
            asked = sql.execute("select distinct first_word from private.moderation_terms where is_enabled").fetchall()
            assert sorted(kept) == sorted(asked)
            return {word for (word,) in kept}

        insert_rule(sql, "blorps", "term", terms=["blorp", "floop gloop"])
        insert_rule(sql, "more_blorps", "term", terms=["blorp"])
        assert {"blorp", "floop"} <= first_words()
        sql.execute("update private.moderation_rules set is_enabled = false where name = 'blorps'")
        assert first_words() & {"blorp", "floop"} == {"blorp"}
        sql.execute("delete from private.moderation_rules where name = 'more_blorps'")
        assert not first_words() & {"blorp", "floop"}
        # Written by the trigger from the lexicon, of which it repeats what every text is held against.
        said = sql.one("select to_jsonb(s) from private.moderation_state as s")
        lexicon = dict(sql.execute("select name, pattern from private.moderation_lexicon").fetchall())
        repeated = {name: expression for name, expression in said.items() if name in lexicon}
        assert set(repeated) == {"odd", "stretched", "messenger_anywhere", "cjk_number", "articles", "particles"}
        assert repeated == {name: lexicon[name] for name in repeated}
        assert said["suspects"] == [lexicon["suspect"]]
        insert_rule(sql, "numbers", "pattern", pattern="x[0-9]+")
        insert_rule(sql, "evil", "link", domains=["evil.io"], settings='{"mode": "deny"}')
        assert sql.one("select suspects from private.moderation_state") == [
            lexicon["suspect"],
            "(?:x[0-9]+)",
            lexicon["hosts_hint"],
        ]

    def test_every_version_is_kept_also_of_what_is_deleted(self, sql):
        rule_id = insert_rule(sql, "blorps", "term", terms=["blorp"])
        sql.execute("update private.moderation_rules set terms = '{floop}', version = 99 where name = 'blorps'")
        sql.execute("update private.moderation_rules set label = label where name = 'blorps'")
        sql.execute("delete from private.moderation_rules where name = 'blorps'")
        kept = sql.execute(
            "select version, definition ->> 'terms' from private.moderation_rule_versions where rule_id = %s order by 1",
            [rule_id],
        ).fetchall()
        assert kept == [(1, '["blorp"]'), (2, '["floop"]')]

    def test_the_revision_rises_with_every_change(self, sql):
        seen = [sql.one("select private.moderation_revision()")]
        for change in (
            "insert into private.moderation_rules (name, kind, action, label, explanation, terms)"
            " values ('blorps', 'term', 'warn', 'test', 'For a test.', '{blorp}')",
            "update private.moderation_rules set action = 'hold' where name = 'blorps'",
            "delete from private.moderation_rules where name = 'blorps'",
        ):
            sql.execute(change)
            seen.append(sql.one("select private.moderation_revision()"))
        assert seen == sorted(set(seen))
        assert sql.one("select count(*) from private.moderation_terms where term = 'blorp'") == 0

    def test_the_strongest_rule_decides_and_all_are_named(self, sql):
        insert_rule(sql, "one", "term", "warn", terms=["blorp"])
        insert_rule(sql, "two", "pattern", "hold", pattern="bl(o|0)rps?")
        insert_rule(sql, "three", "term", "reject", terms=["no blorp"])
        assert names(sql, "blorp") == ["two", "one"]
        assert names(sql, "NO  Blorp, ada@example.com") == ["three", "two", "contact_details", "one"]
        # What a mask rule found is masked, whatever a stronger one says.
        assert judge(sql, "no blorp, ada@example.com")[4] == "no blorp, •••"

    def test_all_kinds_can_mask_what_they_find(self, sql):
        insert_rule(sql, "terms", "term", "mask", terms=["blorp", "big floop"])
        insert_rule(sql, "pattern", "pattern", "mask", pattern="code [0-9]{3}")
        insert_rule(sql, "link", "link", "mask", domains=["evil.io"], settings='{"mode": "deny"}')
        assert judge(sql, "A bl0rp, then; CODE １２３ and www.evil.io/x now")[4] == "A ••• then; ••• and ••• now"
        # It takes two words to make this one: the whole text goes.
        assert judge(sql, "a big floop")[4] == "•••"

    def test_only_allowed_links(self, sql):
        insert_rule(sql, "ours", "link", "reject", domains=["example.org"], settings='{"mode": "allowOnly"}')
        assert names(sql, "see https://example.org/x and docs.example.org, file main.py, e.g. Node.js") == []
        for text in (
            "https://example.org@evil.io",
            "see example.org.evil.io",
            "evil dot com",
            "http://10.0.0.1/x",
            "notexample.org",
        ):
            assert "ours" in names(sql, text), text


WRONG = {
    "name": [{"name": "Bad Name"}, {"name": ""}],
    "kind": [{"kind": "spell"}],
    "action": [{"action": "shout"}, {"kind": "flood", "terms": [], "action": "mask", "settings": '{"conversations": 5, "windowS": 60}'}],
    "terms": [
        {"terms": []}, {"terms": ["...", "ok"]}, {"terms": ["x" * 101]}, {"terms": ["a"], "kind": "contact"}, {"terms": [None]},
    ],
    "pattern": [
        {"kind": "pattern", "terms": [], "pattern": pattern}
        for pattern in (
            None, "", "a(", "a)", "(a", "[a", "a**", "*a", "a{1000}", "a{3,2}", "(a{50}){50}", "((a{9}){9}){9}", "(?=a)", "(?i)a", "(a)\\1", "\\w+", "\\ma",
            "a*", "a|", "|a", "()", "(a|)", "^*", "x" * 501, "a??", "[[:alpha:]]", "[a\\]]", "a{,3}", "a{0}", "[z-a]", ".*?a", "(?<=a)b", "\\",
        )
    ],
    "domains": [
        {"kind": "link", "terms": [], "settings": '{"mode": "deny"}'}, {"domains": ["evil.io"]},
        {"kind": "link", "terms": [], "domains": ["https://evil.io"], "settings": '{"mode": "deny"}'},
    ],
    "settings": [
        {"settings": '{"mode": "deny"}'}, {"settings": "[]"}, {"kind": "link", "terms": [], "domains": ["evil.io"]},
        {"kind": "flood", "terms": [], "settings": '{"conversations": 5}'}, {"kind": "repetition", "terms": [], "settings": '{"conversations": 33, "windowS": 60}'},
        {"kind": "first_contact", "terms": [], "settings": '{"accountAgeS": "long"}'}, {"kind": "first_contact", "terms": [], "settings": '{"accountAgeS": 1, "onlyWithLink": 1}'},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("column", "values"), [(column, values) for column, many in WRONG.items() for values in many])
def test_a_rule_that_cannot_work_is_refused_with_its_column(sql, column, values):
    rule = {"name": "blorps", "kind": "term", "action": "warn", "terms": ["blorp"], **values}
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        insert_rule(sql, **rule)
    assert refused.value.diag.column_name == column, refused.value
    assert f": {column}: " in str(refused.value)


def test_what_patterns_may_say(sql):
    for number, (pattern, yes, no) in enumerate(
        [
            ("western +union", "Western   Union", "western"),
            ("^only$", "ONLY", "only this"),
            ("(buy|sell) [a-z]{2,4}s?", "sell cars", "buy 12"),
            ("\\$[0-9]+\\.[0-9]{2}", "pay $12.50", "pay 12.50"),
            ("[^a-z ]{3}", "a ### b", "a b"),
            ("купи сейчас", "Купи сейчас!", "купи"),
            ("a.b", "a\nb", "ab"),
        ]
    ):
        insert_rule(sql, f"pattern_{number}", "pattern", pattern=pattern)
        assert f"pattern_{number}" in names(sql, yes), pattern
        assert f"pattern_{number}" not in names(sql, no), pattern


EVIL = [
    "(a+)+b",
    "(a|a)*b",
    "(a|aa)+b",
    "(.*a){20}",
    "(a*)*b",
    "([a-z]+)*9",
    "(x+x+)+y",
    ".*.*.*.*=x",
    "(a?){50}b",
    "(ab?a?)*c",
    "(a|b)*a(a|b){12}x",
]


def best_of(sql, text, rounds=3):
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        judge(sql, text)
        spent.append(time.perf_counter() - started)
    return min(spent)


@pytest.mark.parametrize("pattern", EVIL)
def test_no_pattern_can_stall_a_send(sql, pattern):
    assert judge(sql, "aab")[0] == "allow"
    try:
        with sql.savepoint():
            insert_rule(sql, "evil", "pattern", pattern=pattern)
    except psycopg.errors.CheckViolation:
        return  # Refused at once: fine as well.
    for piece in ("a", "ab", "x", "a="):
        text = piece * 4000
        half, whole = best_of(sql, text[:2000]), best_of(sql, text[:4000])
        # Twice the text, about twice the time; a busy machine has its say, an explosion is far beyond it.
        assert whole < 8 * half + 0.5, (piece, half, whole)


@pytest.mark.parametrize(
    "piece",
    ["a", "ab", "aabb", "s c a m ", "s-c-a-m-", "@", "a@a.", "ada@example.com ", "1 ", "0151 2345678 ", "one two ", "a dot ", "a at b dot ", "xn--a.",
     "a.", "https://a.io/ ", "f*ck ", "sc am ", "telegram: adab ", "add me on telegram ", "привет ", "飛", "카톡 ab ", "🇸", "é\u200b", "'s "],
)  # fmt: skip
def test_no_text_can_stall_a_send(sql, piece):
    text = piece * 4000
    half, whole = best_of(sql, text[:2000].strip() + "x"), best_of(sql, text[:4000].strip() + "x")
    assert whole < 6 * half + 0.3, (half, whole)


def test_an_ordinary_text_is_one_that_all_rules_allow(sql):
    """judge_text tells by one look what judge_with, which asks all rules, would say; of few letters, so that terms are near."""
    chance = random.Random(20261122)
    letters, others = "abutilodv", "好的谢감사은는اللж"
    signs = [
        *" ''-!.(+|$1*,0\n/，！",
        *"      ",
        "'s ",
        "l'",
        "  ",
        "aa",
        "@",
        "ok ",
        "at ",
        "one ",
        "€",
        "é",
        "А",
        "в",
    ]
    plain_signs = " ''-.*,\n，   "
    query = """
        select f.t, (private.judge_text(n.t, f.t, false)).action, (private.judge_with(n.t, f.t, false, null)).action
        from unnest(%s::text[]) as x (t)
        cross join lateral (select private.normalize_text(x.t)) as n (t)
        cross join lateral (select private.moderation_fold(n.t)) as f (t)
        where n.t is not null
    """

    def some(of, most):
        return "".join(chance.choices(of, k=chance.randint(1, most)))

    sql.execute("delete from private.moderation_rules")
    caught = 0
    for sort in [
        [*letters * 3, *others, *signs],
        [*letters * 3, *others, *plain_signs],
        [*others * 2, *letters, *plain_signs],
    ] * 3:
        phrases = [f"{some(letters, 3)} {some(letters, 3)}" for _ in range(8)]
        terms = phrases + [some(letters, 5) for _ in range(30)] + [some(others, 3) for _ in range(12)]
        insert_rule(sql, "near", "term", terms=terms)
        for text, quick, full in sql.execute(query, [[some(sort, 13) for _ in range(200)]]):
            assert quick == full, (text, terms)
            caught += full != "allow"
        sql.execute("delete from private.moderation_rules")
    assert 200 < caught < 1600


class TestConduct:
    RECENT = "select private.recent_with(%s::bigint[], %s, %s, to_timestamp(%s))"

    @pytest.fixture
    def me(self, sql):
        return sql.new_person()

    def behave(self, sql, me, recent, digest, conversation_id, now, first=False, link=False):
        query = "select action, rules from private.judge_behaviour(%s, %s::bigint[], %s, %s, %s, %s, to_timestamp(%s))"
        action, rules = sql.execute(query, [me, recent, digest, conversation_id, first, link, now]).fetchone()
        return action, [rule["name"] for rule in rules]

    def sent(self, sql, count, digest=7, now=1000, recent=()):
        recent = list(recent)
        for _ in range(count):
            recent = sql.one(self.RECENT, [recent, digest, uuid.uuid4(), now])
        return recent

    def test_repetition_counts_conversations_not_messages(self, sql, me):
        recent = self.sent(sql, 8)
        assert self.behave(sql, me, recent, 7, uuid.uuid4(), 1000) == ("allow", [])
        recent = self.sent(sql, 1, recent=recent)
        assert self.behave(sql, me, recent, 7, uuid.uuid4(), 1000) == ("hold", ["spam_repetition"])
        assert self.behave(sql, me, recent, 7, None, 1000) == ("hold", ["spam_repetition"])
        assert self.behave(sql, me, recent, 8, uuid.uuid4(), 1000) == ("allow", [])
        assert self.behave(sql, me, recent, None, uuid.uuid4(), 1000) == ("allow", [])
        assert self.behave(sql, me, recent, 7, uuid.uuid4(), 1000 + 3600) == ("allow", [])
        room, again = uuid.uuid4(), []
        for _ in range(40):
            again = sql.one(self.RECENT, [again, 7, room, 1000])
        assert len(again) == 3
        assert self.behave(sql, me, again, 7, room, 1000) == ("allow", [])

    def test_flood(self, sql, me):
        recent = []
        for digest in range(1, 25):
            recent = self.sent(sql, 1, digest, recent=recent)
        assert self.behave(sql, me, recent, 99, uuid.uuid4(), 1000) == ("hold", ["flood"])
        assert self.behave(sql, me, recent[3:], 99, uuid.uuid4(), 1000) == ("allow", [])
        assert self.behave(sql, me, recent, None, uuid.uuid4(), 1600) == ("allow", [])

    def test_chatting_in_one_conversation_does_not_hide_the_others(self, sql, me):
        recent, room = self.sent(sql, 24, None), uuid.uuid4()
        for digest in range(100, 160):
            recent = sql.one(self.RECENT, [recent, digest, room, 1000])
        assert len(recent) == 96
        assert self.behave(sql, me, recent, None, uuid.uuid4(), 1000) == ("hold", ["flood"])

    def test_first_contact_of_a_new_account_with_a_link(self, sql, me):
        now = sql.one("select extract(epoch from now())")
        sql.execute("update auth.users set created_at = now() where id = %s", [me])
        assert self.behave(sql, me, [], None, None, now, first=True, link=True) == ("hold", ["new_account_links"])
        assert self.behave(sql, me, [], None, None, now, first=True) == ("allow", [])
        assert self.behave(sql, me, [], None, uuid.uuid4(), now, link=True) == ("allow", [])
        sql.execute("update auth.users set created_at = now() - interval '2 days' where id = %s", [me])
        assert self.behave(sql, me, [], None, None, now, first=True, link=True) == ("allow", [])

    def test_digests_see_through_small_changes(self, sql):
        digest = "select private.text_digest(private.moderation_fold(private.normalize_text(%s)))"
        said = sql.one(digest, ["Hello, I have a great offer for you"])
        assert said is not None
        assert said == sql.one(digest, ["hello i have a GREAT offer, for you!! 🎉 17"])
        assert said == sql.one(digest, ["Hellо, I have а gr\u200beat offer for you"])
        assert said != sql.one(digest, ["Hello, I have a great offer for him"])
        assert sql.one(digest, ["Message 17"]) is None


class TestReplay:
    @pytest.fixture
    def conversation(self, sql):
        ada, bob = sql.new_person("Ada"), sql.new_person("Bob")
        sql.act_as(ada)
        ids = []
        for text in ("a blorp", "nothing", "BLORP again", "innocent"):
            said = sql.one("select public.send_message(p_body => %s, p_to_user_id => %s)", [text, bob])
            ids.append(said["message"]["id"])
        sql.reset()
        return ids

    def replay(self, sql, *arguments):
        rows = sql.execute(
            f"select * from private.replay_rule({', '.join(['%s'] * len(arguments))})", arguments
        ).fetchall()
        *caught, (*_, looked_at, count) = rows
        assert count == len(caught)
        return [(str(row[0]), row[4]) for row in caught], looked_at

    def test_a_draft_shows_what_it_would_have_caught(self, sql, conversation):
        insert_rule(sql, "blorps", "term", "reject", terms=["blorp"])
        sql.execute("update private.moderation_rules set is_enabled = false where name = 'blorps'")
        before = sql.execute("select id, body, xmin from public.messages order by id").fetchall()
        caught, looked_at = self.replay(sql, "blorps")
        assert caught == [(conversation[2], "BLORP again"), (conversation[0], "a blorp")]
        assert looked_at == min(len(before), 1000), "bounded, and others wrote into this database before"
        assert self.replay(sql, "blorps", "-infinity", 2) == ([(conversation[2], "BLORP again")], 2)
        assert self.replay(sql, "blorps", "infinity") == ([], 0)
        assert sql.execute("select id, body, xmin from public.messages order by id").fetchall() == before
        assert judge(sql, "a blorp")[0] == "allow"

    def test_masked_messages_are_judged_by_what_they_really_say(self, sql, conversation):
        insert_rule(sql, "blorps", "term", terms=["zonk"])
        sql.execute("insert into private.originals (message_id, body) values (%s, 'a zonk')", [conversation[1]])
        assert self.replay(sql, "blorps")[0] == [(conversation[1], "a zonk")]

    def test_conduct_and_unknown_rules_cannot_be_replayed(self, sql):
        with pytest.raises(psycopg.errors.InvalidParameterValue), sql.savepoint():
            self.replay(sql, "flood")
        with pytest.raises(psycopg.errors.NoDataFound), sql.savepoint():
            self.replay(sql, "no_such_rule")


def test_the_service_reads_the_rules_and_nobody_else(sql):
    for role in ("anon", "authenticated"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), sql.savepoint():
            sql.execute(f"set local role {role}")
            sql.execute("select public.get_moderation_rules()")
    sql.execute("set local role service_role")
    told = sql.one("select public.get_moderation_rules()")
    sql.reset()
    assert told["revision"] == sql.one("select private.moderation_revision()")
    assert {"abuse", "contact_details", "off_platform_payment"} <= {rule["name"] for rule in told["rules"]}
