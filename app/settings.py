"""Settings: one struct per process (the service, the worker), read once at start from the environment.

Only this module reads the environment. Every missing or invalid variable is named in one error, so that a deployment
is put right in one go. Units are in the names. A secret has no default.
"""

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

T = TypeVar("T", bound=msgspec.Struct)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """The environment cannot be used; the message names every variable that is missing or wrong."""


class MessageKey(NamedTuple):
    """One master key of sensitive messages. Everything else is derived from it (app/vault.py)."""

    version: int
    secret: bytes

    def __repr__(self) -> str:
        return f"MessageKey(version={self.version})"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service needs to know. A field is the environment variable of the same name in capitals."""

    supabase_url: Annotated[
        str,
        Meta(
            description="Origin of the Supabase project, for example https://abc.supabase.co. "
            "Its certificate is checked against the authorities of certifi, or those in the file SSL_CERT_FILE."
        ),
    ]
    supabase_publishable_key: Annotated[
        str,
        Meta(pattern="^[!-~]+\\Z", description="Key sent as `apikey`; it identifies the project and opens nothing."),
    ]
    # Shorter HMAC keys can be guessed offline from any token (RFC 7518, 3.2: at least the hash's 32 bytes).
    supabase_jwt_secret: Annotated[
        Annotated[str, Meta(min_length=32)] | None,
        Meta(description="Shared secret of HS256 tokens. Without it only the project's key set counts."),
    ] = None
    supabase_jwt_issuer: Annotated[
        str | None, Meta(description="Expected `iss` of tokens. Default: `{SUPABASE_URL}/auth/v1`.")
    ] = None
    supabase_secret_key: Annotated[
        Annotated[str, Meta(pattern="^[!-~]+\\Z")] | None,
        Meta(
            description="Key of the role `service_role`: for rotating keys, for the worker, and to read the moderation "
            "rules that sensitive messages are judged by. Nothing is done with it on behalf of a person."
        ),
    ] = None
    message_keys: Annotated[
        tuple[MessageKey, ...],
        Meta(
            description="Master keys of sensitive messages, `<version>:<base64 of 32 bytes>` separated by commas; the "
            "first one seals, all of them open. `python -m app keys new` makes one. Default: none, so that sensitive "
            "messages cannot be sent or read."
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="Origins whose browsers may call us, separated by commas. Default: none.")
    ] = ()
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Meta(description="Networks (CIDR) whose X-Forwarded-For is believed, separated by commas. Default: none."),
    ] = ()
    # An honest client writes at most 100 messages a minute (SQL counts those) and marks each one read; six times that
    # never catches a replay, and still keeps one person from using a whole core.
    person_requests_per_minute: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Edge limiter: requests of one signed-in person in a minute.")
    ] = 600
    # Without a token nothing can be answered but 401; 60 leaves room for an office behind one address.
    anonymous_requests_per_minute: Annotated[
        int,
        Meta(
            ge=1, le=1_000_000, description="Edge limiter: requests without a valid token from one address in a minute."
        ),
    ] = 60
    # Hosted Supabase ends a statement of `authenticated` after 8 s; a little more lets its own answer reach us.
    upstream_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Deadline of one request to Supabase, a retry included.")
    ] = 10.0
    # At 5 ms a call this carries 20,000 requests a second; more waiting means that Supabase is not keeping up.
    upstream_concurrency_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Requests to Supabase under way at once; the next one is answered 503. While they take more "
            "than 0.75 s on average, fewer are let in.",
        ),
    ] = 100
    redis_url: Annotated[
        str | None,
        Meta(description="Redis or Valkey in which all copies of the service share the edge limiter. Default: none."),
    ] = None
    keep_alive_s: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="How long a connection is kept between two requests. Behind a load balancer: longer than it "
            "keeps its own to us (often 60 s), or it sends on one that is just being closed.",
        ),
    ] = 5
    # How often a load balancer asks, and how many refusals it wants to see, only its owner knows.
    drain_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="After SIGTERM, how long everything is still served while `/health/ready` answers 503, so that "
            "a load balancer stops sending. What has reached us by then is answered either way.",
        ),
    ] = 0.0
    host: Annotated[str, Meta(description="Address that `python -m app serve` listens on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port that `python -m app serve` listens on.")] = 8000

    @property
    def issuer(self) -> str:
        """The `iss` a token must carry."""
        return self.supabase_jwt_issuer or f"{self.supabase_url}/auth/v1"


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker needs to know, in the same way."""

    supabase_url: Annotated[
        str, Meta(description="Origin of the Supabase project, for example https://abc.supabase.co.")
    ]
    supabase_secret_key: Annotated[
        str,
        Meta(pattern="^[!-~]+\\Z", description="Secret (service role) key: claims messages and brings verdicts back."),
    ]
    classifier_url: Annotated[
        str, Meta(description="Where the classifier is asked, for example https://classifier.example.org/v1/classify.")
    ]
    classifier_token: Annotated[
        Annotated[str, Meta(pattern="^[!-~]+\\Z")] | None,
        Meta(description="Sent to the classifier as a bearer token. Default: none."),
    ] = None
    # Nobody waits for it: the message is out. Longer than that, and a stuck classifier holds all our slots.
    classifier_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Deadline of one request to the classifier.")
    ] = 5.0
    worker_concurrency: Annotated[
        int, Meta(ge=1, le=100, description="Requests to the classifier under way at once, per worker.")
    ] = 8


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of the service; see `read`."""
    return read(Settings, environment)


def read(kind: type[T], environment: Mapping[str, str] | None = None) -> T:
    """Read one struct of settings.

    Shape:  names as in `kind`, in capitals; an empty value counts as absent, as in `.env.example`.
    Errors: SettingsError that names every variable at fault; values are never repeated, some are secrets.
    Source: the process environment unless `environment` is given.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in msgspec.structs.fields(kind):
        name = field.name.upper()
        text = source.get(name, "").strip()
        if not text:
            if field.required:
                faults.append(f"{name} is missing")
            continue
        try:
            values[field.name] = _parse(field.name, text, field.type)
        except (ValueError, msgspec.ValidationError) as error:
            faults.append(f"{name} is invalid: {error}")
    if faults:
        raise SettingsError("; ".join(faults))
    return kind(**values)


def message_keys(environment: Mapping[str, str] | None = None) -> tuple[MessageKey, ...]:
    """MESSAGE_KEYS alone, for commands that need nothing else; SettingsError when it is invalid."""
    try:
        return _message_keys((os.environ if environment is None else environment).get("MESSAGE_KEYS", ""))
    except ValueError as error:
        raise SettingsError(f"MESSAGE_KEYS is invalid: {error}") from None


def _parse(name: str, text: str, kind: Any) -> Any:
    if name == "supabase_url":
        return _origin(text)
    if name == "classifier_url":
        return _address(text)
    if name == "cors_origins":
        return tuple(_origin(part) for part in _parts(text))
    if name == "trusted_proxies":
        return tuple(_network(part) for part in _parts(text))
    if name == "message_keys":
        return _message_keys(text)
    return msgspec.convert(text, kind, strict=False)


def _message_keys(text: str) -> tuple[MessageKey, ...]:
    keys = tuple(_message_key(part, place) for place, part in enumerate(_parts(text), 1))
    if len({key.version for key in keys}) < len(keys) or len({key.secret for key in keys}) < len(keys):
        raise ValueError("two entries have the same version or the same key")
    return keys


def _message_key(entry: str, place: int) -> MessageKey:
    version, _, encoded = entry.partition(":")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    # The entry itself must not be repeated. Versions are integers of SQL.
    if len(secret) != 32 or not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise ValueError(f"entry {place} is not <version>:<base64 of 32 bytes>")
    return MessageKey(int(version), secret)


def _parts(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        # The library's sentence repeats the value.
        raise ValueError("expected networks such as 10.0.0.0/8") from None


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text.rstrip("/"))
        _ = parts.port  # raises when it is not a number
    except ValueError:
        parts = urlsplit("")
    wrong = not parts.hostname or parts.username or parts.path or parts.query
    # It becomes a header, which knows no other characters.
    if parts.scheme not in ("http", "https") or wrong or not parts.netloc.isascii():
        raise ValueError("expected an origin such as https://example.org")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _address(text: str) -> str:
    parts = urlsplit(text)
    wrong = not parts.hostname or parts.username or parts.fragment
    if parts.scheme not in ("http", "https") or wrong or not parts.netloc.isascii():
        raise ValueError("expected an address such as https://example.org/classify")
    _ = parts.port  # raises ValueError when it is not a number
    return text


def table() -> str:
    """The settings as the Markdown of docs/settings.md."""
    parts = []
    for command, kind in (("serve", Settings), ("worker", WorkerSettings)):
        rows = [f"`make {command}`:", "", "| variable | default | meaning |", "|---|---|---|"]
        for field in msgspec.structs.fields(kind):
            default = "required" if field.required else _shown(field.default)
            rows.append(f"| `{field.name.upper()}` | {default} | {get_args(field.type)[-1].description} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _shown(value: Any) -> str:
    if value in (None, ()):
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"
