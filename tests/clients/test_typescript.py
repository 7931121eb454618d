"""The TypeScript client: types, generated files, the build, and its own tests in Node against the real stack."""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clients import generate
from stack.places import CLIENT, ROOT, node
from tests.conftest import Person, SupabaseStack

TSC = [str(node()), str(CLIENT / "node_modules" / "typescript" / "bin" / "tsc")]


def run(command: list[str], *, timeout_s: float = 50, **environment: str) -> str:
    """Run to the end in the client's directory; a failure is shown whole."""
    done = subprocess.run(
        command,
        cwd=CLIENT,
        env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), "NO_COLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def node_tests(directory: str, **environment: str) -> None:
    files = sorted(str(path.relative_to(CLIENT)) for path in (CLIENT / "tests" / directory).glob("*.test.ts"))
    said = run(
        [str(node()), "--test", "--test-concurrency=3", "--test-reporter=tap", *files], timeout_s=180, **environment
    )
    assert "\n# fail 0\n" in said, said
    assert "\n# skipped 0\n" in said, said
    assert "\n# pass 0\n" not in said, said


def test_types() -> None:
    run(TSC)


def test_generated_files_are_the_ones_that_are_generated() -> None:
    for path, text in generate.documents().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date: make types"


def test_every_recipe_is_printed_once_and_tested() -> None:
    recipes = sorted(path.name for path in (CLIENT / "recipes").iterdir())
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("web.md", "realtime.md"))
    assert sorted(re.findall(r"<!-- recipe: (\S+)(?<!\.py) -->", pages)) == recipes
    tests = "".join((CLIENT / "tests" / "stack" / f"{name}.test.ts").read_text() for name in ("recipes", "live"))
    assert sorted(set(re.findall(r'"../../recipes/([^"]+)"', tests))) == recipes


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text()


def test_copied_sources_compile_as_next_js_compiles_them() -> None:
    like_next = [
        "--strict",
        "--target",
        "es2017",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        "--lib",
        "dom,dom.iterable,esnext",
    ]
    flags = ["--noEmit", "--allowImportingTsExtensions", "--isolatedModules"]
    run([*TSC, *like_next, *flags, "lib/api/messages.ts", "lib/realtime.ts"])


def test_build_for_consumers(tmp_path: Path) -> None:
    """`npm run build` emits JavaScript that Node runs and declarations that a strict consumer compiles against."""
    (CLIENT / "package.json").read_text().index('"build": "tsc -p tsconfig.build.json"')
    package = tmp_path / "node_modules" / "gig-messaging-client"
    run([*TSC, "-p", "tsconfig.build.json", "--outDir", str(package / "dist")])
    (package / "package.json").write_text((CLIENT / "package.json").read_text())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "use.ts").write_text(
        'import { configure, MessagingError, sendMessage } from "gig-messaging-client/lib/api/messages";\n'
        'import { connectMessaging } from "gig-messaging-client/lib/realtime";\n'
        'import { createClient, createStore, type Message, type Store } from "gig-messaging-client";\n'
        'configure({ baseUrl: "", getToken: () => null });\n'
        'export const send = async (): Promise<Message> => (await sendMessage({ toUserId: "x", body: "y" })).message;\n'
        'export const mine: Store = createStore("x");\n'
        "console.log(typeof createClient, MessagingError.name, typeof connectMessaging);\n"
    )
    strict = ["--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"]
    run([*TSC, *strict, "--outDir", str(tmp_path), str(tmp_path / "use.ts")])
    assert run([str(node()), str(tmp_path / "use.js")]) == "function MessagingError function\n"


def test_retries_tokens_requests_and_live() -> None:
    node_tests("unit")


@pytest.fixture
def rules(db: psycopg.Connection[Any]) -> Iterator[None]:
    """Words that safety recipes are tried with: one that warns, one that is held, one that is refused."""
    words = {"warn": "flimflam", "hold": "quarantella", "reject": "zorgonite"}
    for action, word in words.items():
        db.execute(
            "insert into private.moderation_rules (name, kind, action, label, explanation, terms)"
            " values (%s, 'term', %s, 'scam', %s, %s)",
            [f"clients_{word}", action, f"{word} is not wanted here.", [word]],
        )
    yield
    db.execute("delete from private.moderation_rules where name like 'clients\\_%'")


@pytest.mark.timeout(200)
def test_functions_faults_recipes_and_live_on_the_real_stack(
    realtime_stack: SupabaseStack,
    service_url: str,
    mint_token: Callable[..., str],
    new_person: Callable[..., Person],
    rules: None,
    db: psycopg.Connection[Any],
) -> None:
    now = int(time.time())
    moderator = new_person("Moderator")
    db.execute("insert into private.moderators (user_id, role) values (%s, 'moderator')", [moderator.id])
    node_tests(
        "stack",
        API_URL=service_url,
        SUPABASE_URL=realtime_stack.url,
        SUPABASE_PUBLISHABLE_KEY=realtime_stack.publishable_key,
        MODERATOR_TOKEN=moderator.token,
        EXPIRED_TOKEN=mint_token(str(uuid.uuid4()), iat=now - 7200, exp=now - 3600),
    )
