"""Settings: read once, all faults named in one sentence, no secret repeated, every field documented."""

import ipaddress
from pathlib import Path

import msgspec
import pytest

from app import settings
from app.settings import Settings, SettingsError, load

LEAST = {"SUPABASE_URL": "https://abc.supabase.co", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}


def test_least_environment() -> None:
    read = load(LEAST)
    assert read.supabase_url == "https://abc.supabase.co"
    assert read.issuer == "https://abc.supabase.co/auth/v1"
    assert read.supabase_jwt_secret is None
    assert (read.person_requests_per_minute, read.anonymous_requests_per_minute) == (600, 60)


def test_everything_given() -> None:
    read = load(
        {
            **LEAST,
            "SUPABASE_URL": "HTTP://127.0.0.1:54321/",
            "SUPABASE_JWT_SECRET": "x" * 32,
            "SUPABASE_JWT_ISSUER": "https://auth.example.org",
            "CORS_ORIGINS": "https://a.example, http://localhost:3000/ ,",
            "TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::/32, 192.0.2.7",
            "UPSTREAM_TIMEOUT_S": "2.5",
            "PORT": "9000",
        }
    )
    assert read.supabase_url == "http://127.0.0.1:54321"
    assert read.issuer == "https://auth.example.org"
    assert read.cors_origins == ("https://a.example", "http://localhost:3000")
    assert read.trusted_proxies == tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32")))
    assert (read.upstream_timeout_s, read.port) == (2.5, 9000)


def test_every_fault_is_named_at_once() -> None:
    wrong = {
        "SUPABASE_URL": "abc.supabase.co",
        "SUPABASE_JWT_SECRET": "hunter2-too-short",
        "CORS_ORIGINS": "https://a.example/path",
        "TRUSTED_PROXIES": "10.0.0.0/99",
        "UPSTREAM_TIMEOUT_S": "soon",
        "PORT": "99999",
    }
    with pytest.raises(SettingsError) as caught:
        load(wrong)
    message = str(caught.value)
    assert "SUPABASE_PUBLISHABLE_KEY is missing" in message
    assert all(f"{name} is invalid" in message for name in wrong)
    assert "hunter2" not in message


@pytest.mark.parametrize("empty", ["", "   "])
def test_empty_is_absent(empty: str) -> None:
    assert load({**LEAST, "SUPABASE_JWT_SECRET": empty, "PORT": empty}) == load(LEAST)


@pytest.mark.parametrize(
    "url",
    ["ftp://x.example", "https://", "https://u:p@x.example", "https://x.example/rest/v1", "https://x.example:port"],
)
def test_url_must_be_an_origin(url: str) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_URL is invalid"):
        load({**LEAST, "SUPABASE_URL": url})


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (field.name.upper() for field in msgspec.structs.fields(Settings)):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=r"SUPABASE_URL is missing; SUPABASE_PUBLISHABLE_KEY is missing"):
        load()
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    assert load() == load(LEAST)


@pytest.mark.parametrize("key", ["two words", "line\nfeed", "caf\u00e9"])
def test_key_must_fit_into_a_header(key: str) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_PUBLISHABLE_KEY is invalid"):
        load({**LEAST, "SUPABASE_PUBLISHABLE_KEY": key})


def test_no_secret_has_a_default() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    assert fields["supabase_publishable_key"].required
    assert fields["supabase_jwt_secret"].default is None


def test_documentation_is_generated() -> None:
    assert Path("docs/settings.md").read_text() == settings.table()
    assert all(f"`{field.name.upper()}`" in settings.table() for field in msgspec.structs.fields(Settings))
