"""The vault: what is sealed opens in its own place only, says nothing about itself, and survives a change of keys."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import keys, log, settings
from app.settings import MessageKey, SettingsError
from app.vault import About, Text, Vault, Verdict, base64_of, opened
from tests.unit.fakes import ADA, BEN, CONVERSATION, KEY

ONE, TWO = MessageKey(1, b"\x01" * 32), MessageKey(2, b"\x02" * 32)
WORDS = "My number is 0170 5550123, the code is 4711"
TEXT = Text(WORDS)
ABOUT = About(ADA, KEY, to_user_id=BEN)
OLD = {
    "keyVersion": 1,
    "wrappedKey": "cDZpJCCSBgfgcn5Ap9O5nEeANKueDsS7tpdEmFlR6tOj2xGb0T89OrbJFbkZ+e93CnBlzCojTyCp1eKr",
    "nonce": "BuzX2XpOXVX2pjnj",
    "ciphertext": "QKpZ7LuEhfNiqyqj4VXM2/Ff7vo1UiambCx0LPx5CfbgKy1WajqF3xOqsBbtNoPpRaqLvAPafXpJtb11"
    "b8yZJOr6BGZx2oK3ZEjzgbcJJUI=",
    "sender": ADA,
    "clientMessageId": KEY,
    "target": f"- {BEN} -",
}
ALLOW = Verdict("allow", None, None, [])
MASK = Verdict("mask", "Contact details", "They are hidden.", [{"id": "r1", "version": 3}], "My number is •••")
REJECT = Verdict("reject", None, "Not here.", [{"id": "r2", "version": 1}])


@pytest.fixture
def vault() -> Vault:
    return Vault([ONE])


def stored(vault: Vault, text: Text = TEXT, about: About = ABOUT) -> dict[str, Any]:
    """An envelope as SQL answers it."""
    return dict(msgspec.to_builtins(vault.seal(text, about)))


def signed(vault: Vault, body: str = WORDS, about: About = ABOUT, verdict: Verdict = ALLOW, **more: Any) -> Any:
    given = {"text_digest": 99, "has_link": False, "rules_revision": 7, **more}
    return vault.signed(about, body, verdict, given.pop("allowed", verdict), **given)


class TestSealing:
    @given(body=st.text(min_size=1, max_size=4000), masked=st.none() | st.text(max_size=4000))
    def test_round_trip(self, body: str, masked: str | None) -> None:
        vault = Vault([ONE])
        text = Text(body, masked)
        assert vault.open(stored(vault, text)) == text

    def test_nothing_repeats(self, vault: Vault) -> None:
        envelopes = [stored(vault) for _ in range(50)]
        for name in ("wrappedKey", "nonce", "ciphertext"):
            assert len({envelope[name] for envelope in envelopes}) == 50

    def test_nothing_of_the_text_shows(self, vault: Vault) -> None:
        told = signed(vault, verdict=MASK)
        raw = json.dumps([stored(vault, Text(WORDS, "masked form")), told])
        document = json.loads(told["signed"])
        raw += "".join(base64.b64decode(document[n]).decode("latin-1") for n in ("wrappedKey", "nonce", "ciphertext"))
        for word in ("5550123", "number", "the code", "masked form", "•••"):
            assert word not in raw
        assert not (hashlib.sha256(WORDS.encode()).hexdigest() in raw or "number" in repr(Text(WORDS)))

    @pytest.mark.parametrize("length", [1, 20, 51, 52, 53, 4000])
    def test_length_is_hidden(self, vault: Vault, length: int) -> None:
        sizes = [
            len(base64.b64decode(stored(vault, Text("x" * n))["ciphertext"])) - 16 for n in range(length, length + 64)
        ]
        assert all(size % 64 == 0 for size in sizes)
        assert len(set(sizes)) <= 2

    def test_ids_in_capitals_are_the_same_ids(self, vault: Vault) -> None:
        envelope = stored(vault, about=About(ADA.upper(), KEY.upper(), CONVERSATION.upper(), BEN.upper(), None))
        assert envelope["target"] == f"{CONVERSATION} {BEN} -"
        assert (envelope["sender"], envelope["clientMessageId"]) == (ADA, KEY)
        assert vault.open(envelope) == Text(WORDS)


class TestOpening:
    @pytest.mark.parametrize("name", ["wrappedKey", "nonce", "ciphertext"])
    def test_every_bit_counts(self, vault: Vault, name: str) -> None:
        envelope = stored(vault)
        whole = base64.b64decode(envelope[name])
        for place in range(len(whole)):
            broken = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            assert vault.open({**envelope, name: base64_of(broken)}) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"sender": BEN},
            {"clientMessageId": CONVERSATION},
            {"target": f"{CONVERSATION} - -"},
            {"target": f"- {BEN} {CONVERSATION}"},
            {"keyVersion": 2},
            {"keyVersion": 3},
            {"keyVersion": "1"},
            {"keyVersion": None},
            {"wrappedKey": ""},
            {"nonce": ""},
            {"nonce": "AAAA"},
            {"ciphertext": ""},
            {"ciphertext": "not base64"},
            {"ciphertext": 7},
        ],
    )
    def test_in_another_place_it_is_unreadable(self, change: dict[str, Any]) -> None:
        vault = Vault([ONE, TWO])
        assert vault.open(stored(vault)) == Text(WORDS)
        assert vault.open({**stored(vault), **change}) is None

    def test_parts_of_another_message_do_not_fit(self, vault: Vault) -> None:
        one, other = stored(vault), stored(vault, about=About(ADA, CONVERSATION, to_user_id=BEN))
        for names in (["wrappedKey"], ["ciphertext"], ["ciphertext", "nonce"], ["ciphertext", "nonce", "wrappedKey"]):
            assert vault.open(one | {name: other[name] for name in names}) is None

    @pytest.mark.parametrize("odd", [None, 7, "x", [], {}, {"keyVersion": 1}])
    def test_what_is_no_envelope(self, vault: Vault, odd: Any) -> None:
        assert vault.open(odd) is None

    def test_lost_or_wrong_key(self, vault: Vault) -> None:
        envelope = stored(vault)
        assert Vault([TWO]).open(envelope) is None
        assert Vault([MessageKey(1, b"\x09" * 32)]).open(envelope) is None
        assert Vault([MessageKey(2, ONE.secret)]).open({**envelope, "keyVersion": 2}) is None

    def test_what_is_sealed_must_be_a_text(self, vault: Vault) -> None:
        class Other(msgspec.Struct):
            words: str

        assert vault.open(stored(vault, Other("x"))) is None  # type: ignore[arg-type]


class TestSignature:
    def test_is_an_hmac_over_what_is_sent(self, vault: Vault) -> None:
        told = signed(vault)
        [(version, key)] = vault.signing_keys()
        assert version == told["keyVersion"] == 1
        assert hmac.digest(key, told["signed"].encode(), "sha256").hex() == told["signature"]

    def test_says_what_sql_needs(self, vault: Vault) -> None:
        document = json.loads(signed(vault, verdict=MASK, allowed=ALLOW, has_link=True)["signed"])
        assert document["sender"] == ADA
        assert document["clientMessageId"] == KEY
        assert document["target"] == f"- {BEN} -"
        assert document["keyVersion"] == 1
        assert document["rulesRevision"] == 7
        assert document["hasLink"] is True
        assert abs(document["issuedAt"] - time.time()) < 60
        assert document["verdict"] == {
            "action": "mask", "label": "Contact details", "explanation": "They are hidden.",
            "rules": [{"id": "r1", "version": 3}], "isMasked": True,
        }  # fmt: skip
        assert document["verdictIfContactAllowed"]["action"] == "allow"

    def test_opens_with_its_masked_form(self, vault: Vault) -> None:
        document = json.loads(signed(vault, verdict=MASK, allowed=ALLOW)["signed"])
        assert vault.open(document) == Text(WORDS, "My number is •••")

    def test_what_is_rejected_is_not_sealed(self, vault: Vault) -> None:
        document = json.loads(signed(vault, verdict=REJECT)["signed"])
        assert not {"wrappedKey", "nonce", "ciphertext"} & set(document)
        assert document["digests"]
        assert "ciphertext" in json.loads(signed(vault, verdict=REJECT, allowed=ALLOW)["signed"])

    def test_the_same_request_has_the_same_digest_under_either_key(self) -> None:
        before, during = (json.loads(signed(Vault(masters))["signed"]) for masters in ([ONE], [TWO, ONE]))
        assert list(before["digests"]) == ["1"]
        assert set(during["digests"]) == {"1", "2"}
        assert before["digests"]["1"] == during["digests"]["1"] != during["digests"]["2"]
        assert during["keyVersion"] == 2

    @pytest.mark.parametrize("about", [About(BEN, KEY), About(ADA, CONVERSATION)])
    def test_equal_texts_are_not_equal_elsewhere(self, vault: Vault, about: About) -> None:
        one, other = (json.loads(signed(vault, about=where)["signed"]) for where in (ABOUT, about))
        assert one["digests"] != other["digests"]

    def test_another_target_is_the_same_request(self, vault: Vault) -> None:
        """The text alone is digested here; SQL adds the conversation both targets lead to."""
        one, other = (json.loads(signed(vault, about=a)["signed"]) for a in (ABOUT, About(ADA, KEY, CONVERSATION)))
        assert one["digests"] == other["digests"]

    def test_repetition_is_seen_per_person_only(self, vault: Vault) -> None:
        def digest(sender: str, number: int | None) -> int | None:
            document = json.loads(signed(vault, about=About(sender, KEY), text_digest=number)["signed"])
            found: int | None = document["textDigest"]
            return found

        assert digest(ADA, 5) == digest(ADA, 5) != 5
        assert len({digest(ADA, 5), digest(BEN, 5), digest(ADA, 6)}) == 3
        assert digest(ADA, None) is None
        assert all(-(2**63) <= (digest(ADA, n) or 0) < 2**63 for n in range(40))


class TestKeys:
    def test_purposes_are_separate(self) -> None:
        inner = Vault([ONE, TWO])._keys
        derived = [part for one in inner.values() for part in (one.sign, one.digest, one.repetition)]
        assert len(set(derived)) == 6
        assert ONE.secret not in derived
        assert all(len(part) == 32 for part in derived)

    def test_derivation_is_for_ever(self) -> None:
        """RFC 5869 by hand: whoever changes it makes every stored envelope unreadable."""
        pseudo_random = hmac.digest(b"\0" * 32, ONE.secret, "sha256")
        assert dict(Vault([ONE]).signing_keys())[1] == hmac.digest(pseudo_random, b"messages/sign/1\x01", "sha256")

    def test_an_old_envelope_opens(self) -> None:
        """Made by the first version of this program."""
        assert Vault([ONE]).open(OLD) == Text("Grüße, \u00e4lter", "•••")

    def test_rewrapping(self) -> None:
        old, both, fresh = Vault([ONE]), Vault([TWO, ONE]), Vault([TWO])
        envelope = stored(old)
        rewrapped = both.rewrap(envelope)
        assert rewrapped is not None
        changed = {**envelope, "keyVersion": 2, "wrappedKey": base64_of(rewrapped.wrapped_key)}
        assert fresh.open(changed) == both.open(changed) == Text(WORDS)
        assert old.open(changed) is None
        assert rewrapped.old_digest == json.loads(signed(old)["signed"])["digests"]["1"]
        assert rewrapped.digest == json.loads(signed(fresh)["signed"])["digests"]["2"]
        assert fresh.rewrap(envelope) is None

    def test_new_and_sql(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MESSAGE_KEYS", raising=False)
        keys.run(["new"])
        first = capsys.readouterr().out.strip()
        [made] = settings.message_keys({"MESSAGE_KEYS": first})
        assert (made.version, len(set(made.secret)) > 16) == (1, True)
        monkeypatch.setenv("MESSAGE_KEYS", first)
        keys.run(["new"])
        second = capsys.readouterr().out.strip()
        assert second.startswith("2:")
        monkeypatch.setenv("MESSAGE_KEYS", f"{second},{first}")
        keys.run(["sql"])
        said = capsys.readouterr().out
        for entry in (first, second):
            assert entry.split(":")[1] not in said
        for version, key in Vault(settings.message_keys()).signing_keys():
            assert f"select private.register_envelope_key({version}, '\\x{key.hex()}');" in said

    @pytest.mark.parametrize("words", [[], ["old"], ["new", "sql"], ["--help"]])
    def test_other_words(self, words: list[str]) -> None:
        with pytest.raises(SystemExit, match="usage"):
            keys.run(words)

    def test_without_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESSAGE_KEYS", "")
        for word in ("sql", "rotate"):
            with pytest.raises(SystemExit, match="MESSAGE_KEYS is missing"):
                keys.run([word])

    @pytest.mark.parametrize(
        "text",
        [
            "hunter2", "1:hunter2", "1:" + base64_of(b"x" * 31), "1:" + base64_of(b"x" * 33),
            "0:" + base64_of(b"x" * 32), "-1:" + base64_of(b"x" * 32),
            "a:" + base64_of(b"x" * 32), "1" * 10 + ":" + base64_of(b"x" * 32),
            ":" + base64_of(b"x" * 32), "1:" + base64_of(b"x" * 32)[:-1], "1:" + base64_of(b"x" * 32) + "\u00e9",
            f"1:{base64_of(b'x' * 32)},1:{base64_of(b'y' * 32)}", f"1:{base64_of(b'x' * 32)},2:{base64_of(b'x' * 32)}",
        ],
    )  # fmt: skip
    def test_bad_setting_is_not_repeated(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {"SUPABASE_URL": "https://a.example", "SUPABASE_PUBLISHABLE_KEY": "x", "MESSAGE_KEYS": text}
        with pytest.raises(SettingsError, match="MESSAGE_KEYS is invalid") as caught:
            settings.load(environment)
        assert "hunter2" not in str(caught.value)
        assert base64_of(b"x" * 32)[:20] not in str(caught.value)
        monkeypatch.setenv("MESSAGE_KEYS", text)
        with pytest.raises(SystemExit, match="settings: MESSAGE_KEYS is invalid"):
            keys.run(["sql"])

    def test_good_setting(self) -> None:
        text = f" 2:{base64_of(TWO.secret)} , 1:{base64_of(ONE.secret)},"
        environment = {"SUPABASE_URL": "https://a.example", "SUPABASE_PUBLISHABLE_KEY": "x", "MESSAGE_KEYS": text}
        read = settings.load(environment)
        assert read.message_keys == (TWO, ONE)
        assert Vault(read.message_keys).version == 2
        assert base64_of(TWO.secret) not in repr(read.message_keys)
        assert repr(TWO.secret) not in repr(read.message_keys)


class TestAnswers:
    def message(self, vault: Vault, **members: Any) -> dict[str, Any]:
        return {"id": "x", "body": None, "sensitive": True, "masked": False, **members}

    def test_opened_anywhere(self, vault: Vault) -> None:
        sealed = self.message(vault, envelope=stored(vault))
        answer = {"rows": [{"lastMessage": sealed}, {"lastMessage": None}], "plain": {"body": "Hello"}, "n": 1}
        assert opened(answer, vault) == {
            "rows": [{"lastMessage": self.message(vault, body=WORDS, unreadable=False)}, {"lastMessage": None}],
            "plain": {"body": "Hello"},
            "n": 1,
        }

    def test_masked_form(self, vault: Vault) -> None:
        envelope = stored(vault, Text(WORDS, "•••"))
        assert opened(self.message(vault, masked=True, envelope=envelope), vault)["body"] == "•••"
        assert opened(self.message(vault, masked=False, envelope=envelope), vault)["body"] == WORDS

    def test_masked_without_a_masked_form_shows_nothing(self, vault: Vault) -> None:
        shown = opened(self.message(vault, masked=True, envelope=stored(vault)), vault)
        assert (shown["body"], shown["unreadable"]) == (None, True)

    @pytest.mark.parametrize("have", [None, Vault([TWO])])
    def test_lost_key(self, vault: Vault, have: Vault | None) -> None:
        shown = opened(self.message(vault, envelope=stored(vault)), have)
        assert shown == self.message(vault, body=None, unreadable=True)

    def test_lost_envelope(self, vault: Vault) -> None:
        assert opened(self.message(vault, envelope=None), vault) == self.message(vault, unreadable=True)

    def test_the_log_names_the_key_and_nothing_else(self, vault: Vault, tmp_path: Any) -> None:
        with (tmp_path / "log").open("wb", buffering=0) as stream:
            log.configure(stream)
            opened([self.message(vault, envelope=stored(vault))] * 3, None)
        log.configure()
        line = json.loads((tmp_path / "log").read_text())
        assert (line["event"], line["key_versions"]) == ("sensitive_unreadable", [1])
        assert set(line) == {"event", "key_versions", "level", "timestamp", "request_id"}
