"""What stands in a database before anybody uses it: roles, system schema, migrations, seed.

Migrations go through the real Supabase CLI as the non-superuser `postgres`, so that what passes here passes on hosted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from stack.console import StackError
from stack.keys import Keys
from stack.places import ROOT, STACK, SUPABASE, node, supabase_cli
from stack.postgres import SUPERUSER, Cluster
from stack.processes import run

DefaultAcl = Literal["new", "old"]
SQL = STACK / "sql"


def digest(files: Iterable[Path]) -> str:
    """A fingerprint of names and contents."""
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()


def bootstrap_digest() -> str:
    """Changes when the stack's own SQL or the version of lite does."""
    return digest([*SQL.glob("*.sql"), STACK / "package-lock.json"])


def migrations_digest(migrations: Path = SUPABASE / "migrations") -> str:
    return digest(migrations.glob("*.sql"))


def project_directory(directory: Path, supabase: Path = SUPABASE) -> Path:
    """A working directory for the CLI and the data API: the checkout's config and migrations, its own .temp."""
    inside = directory / "supabase"
    inside.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(supabase / "config.toml", inside / "config.toml")
    link = inside / "migrations"
    if not link.is_symlink() or link.resolve() != (supabase / "migrations").resolve():
        link.unlink(missing_ok=True)
        link.symlink_to((supabase / "migrations").resolve())
    return directory


def api_environment(keys: Keys, database_url: str, port: int, realtime_port: int = 0) -> dict[str, str]:
    """The environment of stack/server.mjs."""
    return {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")},
        "LITE_DB_URL": database_url,
        "LITE_PORT": str(port),
        "STACK_REALTIME_PORT": str(realtime_port),
        "LITE_TELEMETRY": "0",
        "EXPERIMENTAL_STORAGE": "1",
        "SUPABASE_JWT_SECRET": keys.jwt_secret,
        "SUPABASE_PUBLISHABLE_KEY": keys.publishable_key,
        "SUPABASE_SECRET_KEY": keys.secret_key,
        "STACK_API_PORT": str(port),
        "STACK_SITE_URL": "http://127.0.0.1:3000",
        **({"LITE_SIGNING_JWK": keys.signing_jwk} if keys.es256 else {}),
    }


def bootstrap_cluster(cluster: Cluster) -> None:
    """Roles, once per cluster. Roles that log in get the cluster's password."""
    with cluster.connect() as connection:
        _execute_file(connection, "00_cluster.sql")
        for role in ("postgres", "lite_api", "authenticator"):
            connection.execute(
                sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(cluster.password))
            )
        connection.execute("alter database postgres owner to postgres")


def bootstrap_database(cluster: Cluster, name: str, project: Path, keys: Keys, acl: DefaultAcl = "new") -> None:
    """Everything a hosted project has before its first migration, in the empty database `name`."""
    with cluster.connect(name) as connection, connection.transaction():
        _execute_file(connection, "10_database.sql")
        _execute_file(connection, f"11_default_acl_{acl}.sql")
    run(
        "The Auth and Storage schema",
        [str(node()), str(STACK / "server.mjs"), "--init-system"],
        log=cluster.log.with_name(f"init-system-{name}.log"),
        ledger=cluster.ledger,
        cwd=project,
        env=api_environment(keys, cluster.url(name, SUPERUSER), 0),
    )
    with cluster.connect(name) as connection, connection.transaction():
        _execute_file(connection, "20_after_system.sql")
    ensure_realtime_partitions(cluster, name)


def ensure_realtime_partitions(cluster: Cluster, name: str = "postgres") -> None:
    """Partitions of realtime.messages around today. Repeatable."""
    with cluster.connect(name) as connection:
        _execute_file(connection, "realtime_partitions.sql")


def cli(words: Iterable[str], database_url: str, workdir: Path) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of one command of the Supabase CLI against one database; the only place that knows.

    --agent no: its output must not depend on who runs it.
    """
    argv = [str(supabase_cli()), *words, "--db-url", f"{database_url}?sslmode=disable", "--workdir", str(workdir)]
    environment = {**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"}
    return [*argv, "--yes", "--agent", "no"], environment


def migrate(cluster: Cluster, name: str, project: Path) -> None:
    """Apply what is not applied yet of supabase/migrations, one transaction per file."""
    if not any((project / "supabase/migrations").glob("*.sql")):
        return  # the CLI wants the history table of a first migration
    argv, environment = cli(["db", "push"], cluster.url(name), project)
    log = cluster.log.with_name(f"migrations-{name}.log")
    run("Applying the migrations", argv, log=log, ledger=cluster.ledger, cwd=project, env=environment)


def register_message_keys(cluster: Cluster, name: str, keys: Keys) -> None:
    """Tell the database whose envelopes to believe, in the way of an administrator. Repeatable."""
    said = subprocess.run(
        [sys.executable, "-m", "app", "keys", "sql"],
        cwd=ROOT,
        env={**os.environ, "MESSAGE_KEYS": keys.message_keys},
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode != 0:
        raise StackError(f"`python -m app keys sql` failed: {said.stderr.strip()}")
    with psycopg.connect(cluster.url(name)) as connection:
        connection.execute(said.stdout.encode())


def seed(cluster: Cluster, file: Path = SUPABASE / "seed.sql") -> None:
    """Run the seed in one transaction as `postgres`."""
    with psycopg.connect(cluster.url()) as connection:
        connection.execute(file.read_bytes())


def _execute_file(connection: psycopg.Connection, name: str) -> None:
    connection.execute((SQL / name).read_bytes())
