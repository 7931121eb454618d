"""`make advisors`: advisors (security, performance) and linter of the Supabase CLI, on a throw-away database."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from stack import database
from stack.console import StackError, say, step
from stack.places import postgres_bin
from stack.scratch import TEMPLATE, Scratch

SCHEMAS = ("public", "private")
# "This index was never used" says nothing about a database in which nothing ever ran.
VOID = {"unused_index"}


def check() -> None:
    """Raise StackError when there is a finding about our schemas."""
    with Scratch() as scratch:
        with step("Asking the advisors"):
            output = _cli(scratch, ["db", "advisors", "--type", "all", "--level", "info", "--fail-on", "none"])
        findings = [finding for finding in json.loads(output) if _counts(finding)]
        for finding in findings:
            print(f"{finding['level']} {finding['name']}: {finding['detail']}")
        linted = _lint(scratch)
    if findings or not linted:
        raise StackError(f"The advisors found {len(findings)} problems; the linter {'none' if linted else 'some'}.")
    print("The advisors found nothing.")


def _counts(finding: dict[str, Any]) -> bool:
    schema = (finding.get("metadata") or {}).get("schema")
    return finding["name"] not in VOID and schema in (*SCHEMAS, None)


def _lint(scratch: Scratch) -> bool:
    """True when the linter has nothing to say, or cannot run because this Postgres lacks plpgsql_check (said so)."""
    with scratch.cluster.connect(TEMPLATE) as connection:
        available = "select from pg_available_extensions where name = 'plpgsql_check'"
        if connection.execute(available).fetchone() is None:
            say(
                f"the Postgres in {postgres_bin()} has no plpgsql_check, so `db lint` was left out; "
                "STACK_POSTGRES_BIN names another (Debian: postgresql-15-plpgsql-check)"
            )
            return True
        connection.execute("create extension plpgsql_check with schema extensions")
    words = ["db", "lint", "--schema", ",".join(SCHEMAS), "--level", "warning", "--fail-on", "none"]
    with step("Asking the linter"):
        output = _cli(scratch, words).strip()
    problems = [
        (problem["function"], issue)
        for problem in (json.loads(output) if output.startswith("[") else [])
        for issue in problem["issues"]
        if issue["level"] in ("warning", "error")  # not "warning extra": a hook does not use its parameters yet
    ]
    for function, issue in problems:
        print(f"{issue['level']} {function}: {issue['message']}")
    if not problems:
        print("The linter found nothing.")
    return not problems


def _cli(scratch: Scratch, words: list[str]) -> str:
    """The standard output of one command of the CLI."""
    argv, environment = database.cli(words, scratch.cluster.url(TEMPLATE), scratch.project)
    said = subprocess.run(argv, cwd=scratch.project, env=environment, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise StackError(f"`supabase {words[0]} {words[1]}` failed: {(said.stderr or said.stdout).strip()}")
    return said.stdout
