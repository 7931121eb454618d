"""The secrets of one checkout: made once, kept in .local/keys.json (0600), never committed."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from stack.console import StackError
from stack.places import LOCAL


@dataclass(frozen=True)
class Keys:
    """Secrets in the formats of a hosted project."""

    jwt_secret: str
    publishable_key: str
    secret_key: str
    database_password: str
    signing_jwk: str
    message_keys: str

    @property
    def es256(self) -> bool:
        """True when Auth signs with the asymmetric key (STACK_JWT_ALG=ES256) instead of the shared secret."""
        algorithm = os.environ.get("STACK_JWT_ALG") or "HS256"
        if algorithm not in ("HS256", "ES256"):
            raise StackError(f"STACK_JWT_ALG must be HS256 or ES256, and is {algorithm!r}.")
        return algorithm == "ES256"

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token as Auth signs it."""
        if not self.es256:
            return jwt.encode(dict(claims), self.jwt_secret, algorithm="HS256")
        jwk = jwt.PyJWK(json.loads(self.signing_jwk), "ES256")
        return jwt.encode(dict(claims), jwk.key, algorithm="ES256", headers={"kid": jwk.key_id})


def _signing_jwk() -> str:
    private = ec.generate_private_key(ec.SECP256R1()).private_numbers()

    def number(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()

    public = private.public_numbers
    return json.dumps(
        {
            "kty": "EC",
            "crv": "P-256",
            "alg": "ES256",
            "use": "sig",
            "kid": secrets.token_hex(16),
            "x": number(public.x),
            "y": number(public.y),
            "d": number(private.private_value),
        }
    )


def _message_keys() -> str:
    return "1:" + base64.b64encode(secrets.token_bytes(32)).decode()


def generate() -> Keys:
    """New random secrets."""
    return Keys(
        jwt_secret=secrets.token_urlsafe(48),
        publishable_key="sb_publishable_" + secrets.token_hex(16),
        secret_key="sb_secret_" + secrets.token_hex(24),
        database_password=secrets.token_hex(16),
        signing_jwk=_signing_jwk(),
        message_keys=_message_keys(),
    )


def load(directory: Path = LOCAL) -> Keys:
    """The secrets kept in `directory`, made on first use: written beside and renamed, so whole or not there."""
    path = directory / "keys.json"
    kept: dict[str, str] = {}
    try:
        kept = json.loads(path.read_text())
        # An older checkout did not make these yet; everything else stays as it is.
        keys = Keys(**{"message_keys": _message_keys(), **kept})
    except FileNotFoundError:
        keys = generate()
    except PermissionError as error:
        raise StackError(f"{path} belongs to somebody else: run this as the user who first did.") from error
    except (ValueError, TypeError) as error:
        raise StackError(f"{path} is damaged: delete it and run `make reset`.") from error
    if asdict(keys) != kept:
        _write(directory, keys)
    return keys


def _write(directory: Path, keys: Keys) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f"keys.{os.getpid()}.tmp"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(keys), file, indent=1)
        file.write("\n")
    draft.rename(directory / "keys.json")
