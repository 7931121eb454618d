"""The servers of a stack as child processes: the data API (Node), Realtime and our service (both uvicorn)."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from stack.database import api_environment
from stack.keys import Keys
from stack.places import ROOT, STACK, node
from stack.postgres import SUPERUSER, Cluster
from stack.processes import Ledger, Process

READY_S = 60.0


def answers(url: str, headers: Mapping[str, str] | None = None) -> bool:
    """True when a GET is answered with a status below 400."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=5):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


def data_api(
    cluster: Cluster,
    database: str,
    project: Path,
    keys: Keys,
    port: int,
    log: Path,
    ledger: Ledger,
    realtime_port: int = 0,
) -> Process:
    """The process that serves /rest/v1, /auth/v1 and /storage/v1 of one database; not started yet.

    It passes /realtime/v1 on to `realtime_port`.
    """
    return Process(
        "The data API",
        [str(node()), str(STACK / "server.mjs")],
        log=log,
        ledger=ledger,
        env=api_environment(keys, cluster.url(database, "lite_api"), port, realtime_port),
        cwd=project,
    )


def data_api_ready(port: int, keys: Keys) -> bool:
    """True when it answers and has read the schema (its first REST request does)."""
    url = f"http://127.0.0.1:{port}"
    return answers(f"{url}/health") and answers(f"{url}/rest/v1/rpc/", {"apikey": keys.publishable_key}) is not None


def realtime(
    cluster: Cluster, database: str, keys: Keys, port: int, log: Path, ledger: Ledger, **settings: str
) -> Process:
    """The process that serves Realtime for one database; not started yet.

    `settings` are its STACK_REALTIME_* names; others come from our environment.
    """
    ours = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return Process(
        "Realtime",
        [sys.executable, "-m", "stack.realtime"],
        log=log,
        ledger=ledger,
        env={
            **{
                name: value
                for name, value in os.environ.items()
                if name in ours or name.startswith(("STACK_REALTIME_", "COVERAGE_"))
            },
            **settings,
            "STACK_REALTIME_PORT": str(port),
            "STACK_REALTIME_DB_URL": cluster.url(database, SUPERUSER),
            "SUPABASE_JWT_SECRET": keys.jwt_secret,
            "SUPABASE_PUBLISHABLE_KEY": keys.publishable_key,
            "SUPABASE_SECRET_KEY": keys.secret_key,
            **({"LITE_SIGNING_JWK": keys.signing_jwk} if keys.es256 else {}),
        },
        cwd=ROOT,
    )


def realtime_ready(port: int) -> bool:
    """True when it answers."""
    return answers(f"http://127.0.0.1:{port}/health")


def client_environment(supabase_url: str, service_url: str, database_url: str, keys: Keys) -> dict[str, str]:
    """What a client of the stack needs to know; `make env` prints it and our service is started with it.

    With STACK_JWT_ALG=ES256 there is no shared secret to know, as on a hosted project with asymmetric keys.
    """
    return {
        "API_URL": service_url,
        "SUPABASE_URL": supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": keys.publishable_key,
        "SUPABASE_SECRET_KEY": keys.secret_key,
        "SUPABASE_JWT_SECRET": "" if keys.es256 else keys.jwt_secret,
        "DATABASE_URL": database_url,
    }


SERVICE_SETTINGS = (
    "SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET", "MESSAGE_KEYS",
)  # fmt: skip
SERVICE_COMMAND = [sys.executable, "-m", "app", "serve"]


def service(environment: Mapping[str, str], port: int, log: Path, ledger: Ledger) -> Process:
    """Our service on one stack; not started yet.

    It does not get the database: it must not need it. Other settings come from our environment.
    """
    told = {name: environment.get(name, "") for name in SERVICE_SETTINGS}
    others = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    return Process(
        "The service",
        SERVICE_COMMAND,
        log=log,
        ledger=ledger,
        env={
            "CORS_ORIGINS": "http://localhost:3000,http://127.0.0.1:3000",
            **others,
            **told,
            "HOST": "127.0.0.1",
            "PORT": str(port),
        },
        cwd=ROOT,
        stop_s=30.0,  # it lets requests under way finish
    )


def worker(environment: Mapping[str, str], log: Path, ledger: Ledger) -> Process:
    """Our worker on one stack; not started yet. Only it gets the secret key. CLASSIFIER_* come from our environment."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    told = {name: environment[name] for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY")}
    return Process(
        "The worker",
        [sys.executable, "-m", "app.worker"],
        log=log,
        ledger=ledger,
        env={**others, **told},
        cwd=ROOT,
        stop_s=30.0,  # it brings back the verdicts it has asked for
    )
