"""The vault: seals the text of sensitive messages, so that the database keeps and hands out what it cannot read.

Per message: a fresh data key and nonce, AES-256-GCM; the data key is wrapped by the current master key. What is sealed
is bound to its author, key and target, so a stored envelope opens in no other place. The service also signs what SQL
cannot judge itself (the verdict, and digests of the text), and SQL believes nothing that is not signed.

From each master key (MESSAGE_KEYS) four keys are derived with HKDF-SHA256, one per purpose. The database learns only
the one that signs, which proves who made an envelope and opens none.
"""

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import UNSET, Struct, UnsetType

from app import log
from app.settings import MessageKey

# The length of what is sealed says no more than this about the text.
_PADDED_BYTES = 64
_NONCE_BYTES = 12


class Text(Struct, frozen=True, omit_defaults=True):
    """What is sealed. `masked` is shown instead of `body` as long as the message is masked."""

    body: str
    masked: str | None = None

    def __repr__(self) -> str:
        return "Text(...)"


class About(NamedTuple):
    """What an envelope is bound to: author, idempotency key, and the target as the request named it."""

    sender: str
    client_message_id: str
    conversation_id: str | None = None
    to_user_id: str | None = None
    gig_id: str | None = None

    @property
    def target(self) -> str:
        """Conversation, person and gig in this order, in lower case, `-` for what was not named."""
        return " ".join((part or "-").lower() for part in (self.conversation_id, self.to_user_id, self.gig_id))


class Verdict(Struct, frozen=True):
    """What the moderation rules say about a text; `masked_body` is its masked form, if it has one."""

    action: str
    label: str | None
    explanation: str | None
    rules: Sequence[Any]
    masked_body: str | None = None


class Envelope(Struct, frozen=True, rename="camel"):
    """A sealed text as SQL stores it and hands it to members."""

    key_version: int
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes
    sender: str
    client_message_id: str
    target: str


class _Verdict(Struct, frozen=True, rename="camel"):
    action: str
    label: str | None
    explanation: str | None
    rules: Sequence[Any]
    is_masked: bool


class _Signed(Struct, frozen=True, rename="camel"):
    """What SQL believes when the signature is right (private.verify_envelope)."""

    sender: str
    client_message_id: str
    target: str
    key_version: int
    digests: dict[str, str]
    text_digest: int | None
    has_link: bool
    verdict: _Verdict
    verdict_if_contact_allowed: _Verdict
    rules_revision: int
    issued_at: float
    wrapped_key: bytes | UnsetType = UNSET
    nonce: bytes | UnsetType = UNSET
    ciphertext: bytes | UnsetType = UNSET


class Rewrapped(NamedTuple):
    """The same envelope under the current master key, and the digests of its text before and after."""

    wrapped_key: bytes
    old_digest: str
    digest: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Text).decode


class _Keys:
    """The keys of one version."""

    __slots__ = ("digest", "repetition", "sign", "version", "wrap")

    def __init__(self, master: MessageKey) -> None:
        self.version = master.version

        def derived(purpose: str) -> bytes:
            return HKDF(SHA256(), 32, None, f"messages/{purpose}/{master.version}".encode()).derive(master.secret)

        self.wrap = AESGCM(derived("wrap"))
        self.sign = derived("sign")
        self.digest = derived("digest")
        self.repetition = derived("repetition")


class Vault:
    """Seals with the first of the master keys, opens with any of them."""

    def __init__(self, masters: Sequence[MessageKey]) -> None:
        self._keys = {master.version: _Keys(master) for master in masters}
        self._current = self._keys[masters[0].version]

    @property
    def version(self) -> int:
        """The version that seals."""
        return self._current.version

    def signing_keys(self) -> Iterator[tuple[int, bytes]]:
        """What the database must know to believe us."""
        return ((keys.version, keys.sign) for keys in self._keys.values())

    def seal(self, text: Text, about: About) -> Envelope:
        """Encrypt a text for one message."""
        data_key, nonce = AESGCM.generate_key(256), os.urandom(_NONCE_BYTES)
        plain = _encode(text)
        # Spaces after a JSON value mean nothing to whoever reads it.
        plain = plain.ljust(-(-len(plain) // _PADDED_BYTES) * _PADDED_BYTES)
        sender, client_message_id, target = about.sender.lower(), about.client_message_id.lower(), about.target
        return Envelope(
            self._current.version,
            _wrapped(self._current, data_key),
            nonce,
            AESGCM(data_key).encrypt(nonce, plain, _bound_to(sender, client_message_id, target)),
            sender,
            client_message_id,
            target,
        )

    def open(self, envelope: Any) -> Text | None:
        """The text of an envelope as SQL answers it.

        Shape:  the members of `Envelope`, bytes in base64.
        Errors: none; None when it cannot be opened: its key is not among ours, or it is not what was sealed.
        """
        try:
            read = msgspec.convert(envelope, Envelope)
            return self._opened(read, self._unwrapped(read))
        # A lost or wrong key is a state of the message, never a failed request; whatever is wrong is one answer.
        except (InvalidTag, KeyError, ValueError, msgspec.MsgspecError, RecursionError):
            return None

    def signed(
        self,
        about: About,
        body: str,
        verdict: Verdict,
        verdict_if_contact_allowed: Verdict,
        *,
        text_digest: int | None,
        has_link: bool,
        rules_revision: int,
    ) -> dict[str, Any]:
        """The p_envelope of `send_message`: sealed, judged and signed.

        Shape:  body is normalised. Which verdict counts is known only under the conversation's lock, so both are given.
                What both reject is not sealed at all.
        """
        sealed = None
        if {verdict.action, verdict_if_contact_allowed.action} != {"reject"}:
            # The masked form is the one for conversations in which contact details are not allowed.
            masked = verdict.masked_body if verdict.masked_body is not None else verdict_if_contact_allowed.masked_body
            sealed = self.seal(Text(body, masked), about)
        sender, client_message_id = about.sender.lower(), about.client_message_id.lower()
        document = _encode(
            _Signed(
                sender=sender,
                client_message_id=client_message_id,
                target=about.target,
                key_version=self._current.version,
                digests={
                    str(keys.version): _digest(keys, sender, client_message_id, body) for keys in self._keys.values()
                },
                text_digest=self._repetition(sender, text_digest),
                has_link=has_link,
                verdict=_without_text(verdict),
                verdict_if_contact_allowed=_without_text(verdict_if_contact_allowed),
                rules_revision=rules_revision,
                issued_at=round(time.time(), 3),
                wrapped_key=sealed.wrapped_key if sealed else UNSET,
                nonce=sealed.nonce if sealed else UNSET,
                ciphertext=sealed.ciphertext if sealed else UNSET,
            )
        )
        return {
            "signed": document.decode(),
            "signature": hmac.digest(self._current.sign, document, "sha256").hex(),
            "keyVersion": self._current.version,
        }

    def rewrap(self, envelope: Any) -> Rewrapped | None:
        """The envelope for the current master key, whose text does not change; None when it cannot be opened."""
        text = self.open(envelope)
        if text is None:
            return None
        read = msgspec.convert(envelope, Envelope)
        old = self._keys[read.key_version]
        return Rewrapped(
            _wrapped(self._current, self._unwrapped(read)),
            _digest(old, read.sender, read.client_message_id, text.body),
            _digest(self._current, read.sender, read.client_message_id, text.body),
        )

    def _unwrapped(self, envelope: Envelope) -> bytes:
        keys = self._keys[envelope.key_version]
        nonce, wrapped = envelope.wrapped_key[:_NONCE_BYTES], envelope.wrapped_key[_NONCE_BYTES:]
        return keys.wrap.decrypt(nonce, wrapped, _wrapped_for(keys))

    def _opened(self, envelope: Envelope, data_key: bytes) -> Text:
        about = _bound_to(envelope.sender, envelope.client_message_id, envelope.target)
        return _decode(AESGCM(data_key).decrypt(envelope.nonce, envelope.ciphertext, about))

    def _repetition(self, sender: str, text_digest: int | None) -> int | None:
        """A keyed 64-bit digest: equal for equal texts of one person, and no help in guessing one."""
        if text_digest is None:
            return None
        keyed = hmac.digest(self._current.repetition, _encode((sender, text_digest)), "sha256")
        return int.from_bytes(keyed[:8], "big", signed=True)


def _wrapped(keys: _Keys, data_key: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + keys.wrap.encrypt(nonce, data_key, _wrapped_for(keys))


def _wrapped_for(keys: _Keys) -> bytes:
    return _encode(("data key", keys.version))


def _bound_to(sender: str, client_message_id: str, target: str) -> bytes:
    """The associated data: an array of strings, so that no two triples look the same."""
    return _encode(("message", sender, client_message_id, target))


def _digest(keys: _Keys, sender: str, client_message_id: str, body: str) -> str:
    # With sender and key inside, equal texts in two messages are not equal in the database.
    return hmac.digest(keys.digest, _encode((sender, client_message_id, body)), hashlib.sha256).hex()


def _without_text(verdict: Verdict) -> _Verdict:
    return _Verdict(verdict.action, verdict.label, verdict.explanation, verdict.rules, verdict.masked_body is not None)


def opened(answer: Any, vault: Vault | None) -> Any:
    """Put texts in the place of envelopes, anywhere in a decoded answer of SQL; changes it and answers it.

    Shape:  an object with `envelope` gets `body`, or `unreadable` and no body, and loses `envelope`. The masked form is
            taken where `masked` says so.
    """
    unreadable: set[int | None] = set()
    _open_all(answer, vault, unreadable)
    if unreadable:
        log.warning("sensitive_unreadable", key_versions=sorted(unreadable, key=str))
    return answer


def _open_all(value: Any, vault: Vault | None, unreadable: set[int | None]) -> None:
    if isinstance(value, list):
        for item in value:
            _open_all(item, vault, unreadable)
    elif isinstance(value, dict):
        if "envelope" in value:
            envelope = value.pop("envelope")
            text = vault.open(envelope) if vault is not None else None
            # Masked without a masked form is not what was sealed; the whole text must not show in its place.
            body = text and (text.masked if value.get("masked") else text.body)
            value["body"], value["unreadable"] = body, body is None
            if body is None:
                version = envelope.get("keyVersion") if isinstance(envelope, dict) else None
                unreadable.add(version if isinstance(version, int) else None)
        for item in value.values():
            _open_all(item, vault, unreadable)


def base64_of(data: bytes) -> str:
    """Bytes as the data API takes them in JSON."""
    return base64.b64encode(data).decode()
