"""Fixtures everybody writes against: a stack per worker, people, tokens, HTTP and SQL.

One throw-away Postgres cluster per test run, started by the controller while the tests are collected; one clone of its
migrated template database, one data API and at most one service process per xdist worker. Nothing is shared between two
runs on one machine, and what a killed run leaves is cleared up by the next.
"""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from websockets.sync.client import connect

from stack import dataapi
from stack.console import StackError
from stack.processes import Process, free_port
from stack.scratch import Attached, Scratch, scratch_directory

CLUSTER_READY_S = 180.0
# Refusals at once instead of after 5 s; a queue that a test can fill.
REALTIME_SETTINGS = {
    "STACK_REALTIME_DENIAL_DELAY_S": "0",
    "STACK_REALTIME_QUEUE_BYTES_MAX": "2000000",
    "STACK_REALTIME_IDLE_S": "86400",
}


# ----- the cluster of this run: owned by the controller, attached to by the workers -----


class Run:
    """The controller's side: builds the cluster in a thread, leaves its address (or its error) in a file."""

    def __init__(self) -> None:
        self.directory = scratch_directory()
        self.address = self.directory / "address.json"
        self.address.touch(mode=0o600)
        self.scratch: Scratch | None = None
        self.thread = threading.Thread(target=self._build, name="cluster", daemon=True)
        self.thread.start()

    def _build(self) -> None:
        try:
            scratch = Scratch()
            scratch.__enter__()
            self.scratch = scratch
            told = scratch.address()
        except Exception as error:
            told = {"error": str(error) if isinstance(error, StackError) else repr(error)}
        draft = self.address.with_suffix(".tmp")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(told))
        draft.replace(self.address)

    def close(self) -> None:
        self.thread.join(CLUSTER_READY_S)
        if self.scratch:
            self.scratch.close()
        shutil.rmtree(self.directory, ignore_errors=True)


RUN = pytest.StashKey[Run]()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start building the cluster, unless only tests that need none were asked for."""
    config = session.config
    asked = [str(Path(str(argument).split("::")[0]).resolve()) for argument in config.args]
    unit = str(config.rootpath / "tests" / "unit")
    only_unit = bool(asked) and all(path.startswith(unit) for path in asked)
    if not _is_worker(config) and not config.option.collectonly and not only_unit:
        config.stash[RUN] = Run()


def pytest_configure_node(node: Any) -> None:
    """xdist: tell a new worker where the cluster's address will be."""
    run = node.config.stash.get(RUN, None)
    node.workerinput["cluster_address"] = str(run.address) if run else ""


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run:
        run.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A few tests start whole stacks or installations; they may take longer than the rest."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


# ----- one stack per worker -----


@dataclass(frozen=True)
class SupabaseStack:
    """A running stand-in of this worker: its own database, its own data API."""

    url: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    database_url: str
    database: str
    attached: Attached
    api: Process
    realtime: Process  # started by the fixture realtime_stack

    def api_settings(self) -> dict[str, str]:
        """The environment our service needs to run on this stack."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_PUBLISHABLE_KEY": self.publishable_key,
            "SUPABASE_SECRET_KEY": self.secret_key,
            "MESSAGE_KEYS": self.attached.keys.message_keys,
            # Like a hosted project with asymmetric keys: there the service knows no secret at all.
            "SUPABASE_JWT_SECRET": "" if self.attached.keys.es256 else self.jwt_secret,
        }


@pytest.fixture(scope="session")
def worker(request: pytest.FixtureRequest) -> str:
    """`gw0`, `gw1`, ... or `main` without xdist."""
    return getattr(request.config, "workerinput", {}).get("workerid", "main")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, worker: str) -> Iterator[Attached]:
    """The run's cluster with the migrated template database; wait here until it is built."""
    config = request.config
    if _is_worker(config):
        name = config.workerinput["cluster_address"]  # type: ignore[attr-defined]
    else:
        if RUN not in config.stash:
            config.stash[RUN] = Run()
        name = str(config.stash[RUN].address)
    assert name, "the controller started no cluster, because only tests/unit was asked for"
    deadline = time.monotonic() + CLUSTER_READY_S
    while not (text := Path(name).read_text()):
        if time.monotonic() > deadline:
            pytest.exit(f"The test cluster was not ready within {CLUSTER_READY_S:.0f} s.", returncode=3)
        time.sleep(0.02)
    told = json.loads(text)
    if "error" in told:
        pytest.exit(f"The test cluster could not be built: {told['error']}", returncode=3)
    attached = Attached(told, worker)
    yield attached
    attached.ledger.reap()


@pytest.fixture(scope="session")
def supabase_stack(cluster: Attached, worker: str) -> Iterator[SupabaseStack]:
    """A clone of the template database and a data API process of its own."""
    database = cluster.clone(f"worker_{worker}")
    port, realtime_port = free_port(), free_port()
    logs = cluster.directory / "log"
    keys, ledger = cluster.keys, cluster.ledger
    api = dataapi.data_api(
        cluster.cluster, database, cluster.project, keys, port, logs / f"data-api-{worker}.log", ledger, realtime_port
    )
    realtime = dataapi.realtime(
        cluster.cluster, database, keys, realtime_port, logs / f"realtime-{worker}.log", ledger, **REALTIME_SETTINGS
    )
    api.start()
    try:
        api.wait_until(lambda: dataapi.data_api_ready(port, cluster.keys), dataapi.READY_S)
        yield SupabaseStack(
            url=f"http://127.0.0.1:{port}",
            publishable_key=cluster.keys.publishable_key,
            secret_key=cluster.keys.secret_key,
            jwt_secret=cluster.keys.jwt_secret,
            database_url=cluster.cluster.url(database),
            database=database,
            attached=cluster,
            api=api,
            realtime=realtime,
        )
    finally:
        api.stop()
        cluster.drop(database)


def _until_replicating(stack: SupabaseStack) -> None:
    """The slot needs every writing transaction of the cluster to end once; afterwards it is kept."""
    url = f"{stack.url.replace('http', 'ws')}/realtime/v1/websocket?vsn=2.0.0&apikey={stack.publishable_key}"
    with connect(url, proxy=None) as socket:
        config = {"broadcast": {"replication_ready": True}}
        socket.send(json.dumps(["1", "1", "realtime:ready", "phx_join", {"config": config}]))
        while (told := json.loads(socket.recv(dataapi.READY_S)))[3] != "system":
            pass
        assert told[4]["status"] == "ok", told


@pytest.fixture(scope="session")
def realtime_stack(supabase_stack: SupabaseStack) -> Iterator[SupabaseStack]:
    """The same stack with Realtime running, started at its first use."""
    realtime = supabase_stack.realtime
    realtime.start()
    try:
        realtime.wait_until(lambda: dataapi.answers(f"{supabase_stack.url}/realtime/v1/health"), dataapi.READY_S)
        _until_replicating(supabase_stack)
        yield supabase_stack
    finally:
        realtime.stop()


@pytest.fixture(scope="session")
def service_url(supabase_stack: SupabaseStack, worker: str) -> Iterator[str]:
    """Our service on this worker's stack, started at its first use."""
    attached = supabase_stack.attached
    port = free_port()
    log = attached.directory / "log" / f"service-{worker}.log"
    service = dataapi.service(supabase_stack.api_settings(), port, log, attached.ledger)
    service.start()
    url = f"http://127.0.0.1:{port}"
    try:
        service.wait_until(lambda: dataapi.answers(f"{url}/health/ready"), dataapi.READY_S)
        yield url
    finally:
        service.stop()


@pytest.fixture
def http(service_url: str) -> Iterator[httpx.Client]:
    """A client of our service."""
    with httpx.Client(base_url=service_url, timeout=30) as client:
        yield client


# ----- people -----


@dataclass(frozen=True)
class Person:
    """Somebody who signed up: a row in auth.users and a token."""

    id: str
    email: str
    name: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="session")
def mint_token(supabase_stack: SupabaseStack) -> Callable[..., str]:
    """`mint_token(sub, **claims)`: a token as Auth signs it; a claim given as None is left out."""

    def mint(sub: str | None, **overrides: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": f"{supabase_stack.url}/auth/v1",
            "sub": sub,
            "aud": "authenticated",
            "role": "authenticated",
            "iat": now,
            "exp": now + 3600,
            **overrides,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return supabase_stack.attached.keys.sign(kept)

    return mint


@pytest.fixture(scope="session")
def new_person(supabase_stack: SupabaseStack, mint_token: Callable[..., str]) -> Iterator[Callable[..., Person]]:
    """`new_person(display_name=None)`: signs somebody up in SQL; the sign-up trigger makes the profile."""
    numbers = itertools.count(1)
    with psycopg.connect(supabase_stack.database_url, autocommit=True) as connection:

        def new(display_name: str | None = None) -> Person:
            person_id = str(uuid.uuid4())
            name = display_name or f"Person {next(numbers)}"
            email = f"{person_id}@example.com"
            connection.execute(
                """
                insert into auth.users (
                  instance_id, id, aud, role, email, email_confirmed_at, raw_app_meta_data, raw_user_meta_data
                ) values (
                  '00000000-0000-0000-0000-000000000000', %s, 'authenticated', 'authenticated', %s, now(),
                  '{"provider": "email", "providers": ["email"]}', %s
                )
                """,
                (person_id, email, json.dumps({"display_name": name})),
            )
            return Person(person_id, email, name, mint_token(person_id, email=email))

        yield new


@pytest.fixture
def person(new_person: Callable[..., Person]) -> Callable[..., Person]:
    """The factory of people: `person()` or `person("Ada")`."""
    return new_person


@pytest.fixture
def people(new_person: Callable[..., Person]) -> Callable[..., Person]:
    """The same factory under the name that reads well when several are made."""
    return new_person


# ----- SQL -----


class Sql:
    """A connection inside one transaction that is rolled back, able to act as anybody."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def execute(self, query: Any, parameters: Any = None) -> psycopg.Cursor[Any]:
        return self.connection.execute(query, parameters)

    def one(self, query: Any, parameters: Any = None) -> Any:
        """The first column of the first row."""
        row = self.execute(query, parameters).fetchone()
        return row[0] if row else None

    def act_as(self, user_id: str | None, **claims: Any) -> None:
        """From here on: the signed-in person `user_id`, or anon for None, as PostgREST sets it up."""
        role = "anon" if user_id is None else "authenticated"
        told = {"role": role, **({"sub": user_id, "aud": "authenticated"} if user_id else {}), **claims}
        self.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(told),))
        self.execute("select set_config('role', %s, true)", (role,))

    def reset(self) -> None:
        """Back to the role postgres without claims."""
        self.execute("reset role")
        self.execute("select set_config('request.jwt.claims', '', true)")

    def savepoint(self) -> psycopg.Transaction:
        """`with sql.savepoint():` keeps the transaction usable when the statement inside is refused."""
        return self.connection.transaction()  # type: ignore[return-value]

    def new_person(self, display_name: str | None = None) -> str:
        """Sign somebody up inside this transaction; returns the id."""
        person_id = str(uuid.uuid4())
        self.execute(
            "insert into auth.users (id, aud, role, email, raw_user_meta_data)"
            " values (%s, 'authenticated', 'authenticated', %s, %s)",
            (person_id, f"{person_id}@example.com", json.dumps({"display_name": display_name or "Somebody"})),
        )
        return person_id


@pytest.fixture
def db(supabase_stack: SupabaseStack) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection as role postgres to this worker's database."""
    with psycopg.connect(supabase_stack.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def _sql_connection(supabase_stack: SupabaseStack) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(supabase_stack.database_url) as connection:
        yield connection
        with suppress(psycopg.Error):
            connection.rollback()


@pytest.fixture
def sql(_sql_connection: psycopg.Connection[Any]) -> Iterator[Sql]:
    """A transaction as role postgres that is rolled back at the end."""
    _sql_connection.rollback()
    yield Sql(_sql_connection)
    _sql_connection.rollback()


@pytest.fixture(scope="session")
def old_acl_database(request: pytest.FixtureRequest, cluster: Attached, worker: str) -> Iterator[str]:
    """A database URL (role postgres): the migrations applied under the default privileges before 30 October 2026."""
    name = f"old_acl_{worker}"
    cluster.create(name, "old")
    yield cluster.cluster.url(name)
    cluster.drop(name)


@pytest.fixture(scope="session")
def new_acl_database(cluster: Attached, worker: str) -> Iterator[str]:
    """The same under today's default privileges: a clone of the template nobody writes to."""
    name = cluster.clone(f"new_acl_{worker}")
    yield cluster.cluster.url(name)
    cluster.drop(name)


__all__ = ["Person", "Sql", "SupabaseStack", "dict_row"]
