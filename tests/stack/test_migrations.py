"""Every migration against a database that is in use: it blocks nobody for a second, breaks nobody, or gives up."""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from stack import database
from stack.console import StackError
from stack.places import SUPABASE
from stack.scratch import Attached

MIGRATIONS = sorted((SUPABASE / "migrations").glob("*.sql"))
HELD_S_MAX = 1.0
# Accounts of a project that had people before it had messaging.
ACCOUNTS = 20_000
# Modes that some reader or writer of the table has to wait for.
BLOCKING = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
NOT_YET = (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)


# ----- people who use the database meanwhile -----


@dataclass
class Traffic:
    """Connections of several kinds that never stop; what each statement cost, and everything that went wrong."""

    url: str
    done: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    errors: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True, application_name="traffic")

    @contextmanager
    def running(self) -> Iterator[None]:
        jobs = (self.sign_up, self.broadcast, self.upload, self.write_rows, self.send, self.send, self.read)
        threads = [threading.Thread(target=self.repeat, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join()

    def repeat(self, job: Callable[[psycopg.Connection[Any]], None]) -> None:
        with self.connect() as connection:
            while not self.stopping.is_set():
                began = time.monotonic()
                try:
                    job(connection)
                    self.done[job.__name__] += 1
                except NOT_YET:
                    self.done[f"{job.__name__}, not yet"] += 1
                except psycopg.Error as error:
                    self.errors.append(f"{job.__name__}: {error.sqlstate} {error}")
                self.slowest_s[job.__name__] = max(self.slowest_s[job.__name__], time.monotonic() - began)
                self.stopping.wait(0.005)

    def account(self, connection: psycopg.Connection[Any]) -> str:
        row = connection.execute(
            "insert into auth.users (id, aud, role, email, raw_user_meta_data)"
            " select u, 'authenticated', 'authenticated', u || '@example.com', jsonb_build_object('name', 'Ada')"
            " from gen_random_uuid() as u returning id"
        ).fetchone()
        assert row
        return str(row[0])

    def sign_up(self, connection: psycopg.Connection[Any]) -> None:
        person = self.account(connection)
        connection.execute("update auth.users set last_sign_in_at = now() where id = %s", [person])
        connection.execute("update auth.users set deleted_at = now() where id = %s", [person])
        connection.execute("delete from auth.users where id = %s", [person])

    def broadcast(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("select realtime.send('{}', 'x', 'somewhere', true)")

    def upload(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("insert into storage.objects (bucket_id, name) values ('traffic', %s)", [str(uuid.uuid4())])
        connection.execute("select count(*) from storage.objects where bucket_id = 'traffic'")

    def write_rows(self, connection: psycopg.Connection[Any]) -> None:
        """Into our tables as they are, before there is a function for it."""
        with connection.transaction():
            group = connection.execute(
                "insert into public.conversations (kind, title, created_by, last_seq, event_seq)"
                " values ('group', 'Crew', gen_random_uuid(), 1, 1) returning id, created_by"
            ).fetchone()
            connection.execute(
                "insert into public.conversation_members (conversation_id, user_id) values (%s, %s)", group
            )
            connection.execute(
                "insert into public.messages (conversation_id, from_user_id, seq, event_seq, client_message_id, body,"
                " created_at, changed_position) values (%s, %s, 1, 1, gen_random_uuid(), 'Hello', now(), 1)",
                group,
            )

    def acting(self, connection: psycopg.Connection[Any], person: str, statement: str, *values: Any) -> None:
        with connection.transaction():
            claims = {"role": "authenticated", "sub": person, "aud": "authenticated"}
            connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
            connection.execute("set local role authenticated")
            connection.execute(statement, values)  # type: ignore[arg-type]

    def send(self, connection: psycopg.Connection[Any]) -> None:
        ann, bob = self.account(connection), self.account(connection)
        for number in range(4):
            self.acting(
                connection, ann if number % 2 else bob,
                "select public.send_message(p_body => 'Hello', p_to_user_id => %s)",
                bob if number % 2 else ann,
            )  # fmt: skip

    def read(self, connection: psycopg.Connection[Any]) -> None:
        person = self.account(connection)
        for statement in (
            "select count(*) from (select from public.profiles limit 10) as t",
            "select count(*) from public.messages",
            "select public.list_conversations()",
            "select public.sync()",
            "select public.update_profile(jsonb_build_object('displayName', 'Bea'))",
        ):
            with suppress(*NOT_YET):
                self.acting(connection, person, statement)


# ----- who holds what -----


class Watch:
    """Samples the locks that hold others up, and how long anybody waits."""

    def __init__(self, traffic: Traffic) -> None:
        self.held_s: dict[str, float] = defaultdict(float)
        self.waited_s = 0.0
        self._connection = traffic.connect()
        self._tables = [
            row[0] for row in self._connection.execute(
                "select c.oid from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace"
                " where c.relkind in ('r', 'p') and n.nspname in ('public', 'private', 'auth', 'storage', 'realtime')"
            )
        ]  # fmt: skip
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _look(self) -> None:
        since: dict[tuple[Any, ...], float] = {}
        while not self._over.wait(0.003):
            now, seen = time.monotonic(), set()
            for pid, table, mode, granted, waits_s in self._connection.execute(
                "select l.pid, l.relation::regclass::text, l.mode, l.granted,"
                " coalesce(extract(epoch from clock_timestamp() - l.waitstart), 0)::float"
                " from pg_locks as l inner join pg_stat_activity as a on a.pid = l.pid"
                " where l.locktype = 'relation' and l.relation = any(%s) and l.database = a.datid"
                " and a.datname = current_database()"
                " and (not l.granted or (l.mode = any(%s) and a.application_name <> 'traffic'))",
                [self._tables, list(BLOCKING)],
            ):
                if not granted:
                    self.waited_s = max(self.waited_s, waits_s)
                    continue
                key = (pid, table, mode)
                seen.add(key)
                held_s = now - since.setdefault(key, now)
                self.held_s[f"{mode} on {table}"] = max(self.held_s[f"{mode} on {table}"], held_s)
            since = {key: at for key, at in since.items() if key in seen}


def add_bucket(cluster: Attached, name: str) -> None:
    with cluster.cluster.connect(name) as connection:
        connection.execute("insert into storage.buckets (id, name) values ('traffic', 'traffic')")


class Growing:
    """A database without our migrations, and a project directory to which they are added one by one."""

    def __init__(self, cluster: Attached, name: str, directory: Path) -> None:
        self.cluster, self.name = cluster, name
        self.files = directory / "supabase" / "migrations"
        self.files.mkdir(parents=True)
        shutil.copyfile(SUPABASE / "config.toml", directory / "supabase" / "config.toml")
        self.project = database.project_directory(directory / "project", directory / "supabase")
        with cluster.cluster.connect() as connection:
            made = sql.SQL("create database {} owner postgres template template0")
            connection.execute(made.format(sql.Identifier(name)))
        database.bootstrap_database(cluster.cluster, name, self.project, cluster.keys)
        add_bucket(cluster, name)

    def add(self, *paths: Path) -> None:
        for path in paths:
            shutil.copyfile(path, self.files / path.name)

    def migrate(self) -> None:
        """As `supabase db push` does it."""
        database.migrate(self.cluster.cluster, self.name, self.project)

    @property
    def url(self) -> str:
        return self.cluster.cluster.url(self.name, "supabase_admin")

    def versions(self) -> list[str]:
        with psycopg.connect(self.url) as connection:
            try:
                found = connection.execute("select version from supabase_migrations.schema_migrations order by 1")
            except psycopg.errors.UndefinedTable:
                return []
            return [row[0] for row in found]


@pytest.fixture
def growing(cluster: Attached, worker: str, tmp_path: Path) -> Iterator[Growing]:
    name = f"growing_{worker}"
    yield Growing(cluster, name, tmp_path)
    cluster.drop(name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_migration_under_traffic(growing: Growing) -> None:
    with psycopg.connect(growing.url, autocommit=True) as connection:
        connection.execute(
            "insert into auth.users (id, aud, role, email, raw_user_meta_data)"
            " select gen_random_uuid(), 'authenticated', 'authenticated', n || '@old.example.com',"
            " jsonb_build_object('name', 'Old')"
            " from generate_series(1, %s) as n",
            [ACCOUNTS],
        )
    traffic = Traffic(growing.url)
    problems = []
    with traffic.running():
        for path in MIGRATIONS:
            growing.add(path)
            sent = traffic.done["send"]
            with Watch(traffic) as watch:
                growing.migrate()
            held_s = max(watch.held_s.values(), default=0.0)
            print(path.name, {name: round(s, 3) for name, s in watch.held_s.items()}, round(watch.waited_s, 3))
            if held_s >= HELD_S_MAX or watch.waited_s >= HELD_S_MAX:
                problems.append(f"{path.name}: {dict(watch.held_s)}, somebody waited {watch.waited_s:.2f} s")
            if sent:  # send_message is there, and works from here on
                deadline = time.monotonic() + 30
                while traffic.done["send"] < sent + 3:
                    assert time.monotonic() < deadline, f"after {path.name} nobody can send: {traffic.done}"
                    time.sleep(0.01)
        last = traffic.done["send"]
    print(traffic.done, dict(traffic.slowest_s))
    assert not problems, "\n".join(problems)
    assert not traffic.errors, "\n".join(traffic.errors[:20])
    assert last > 50
    done = growing.versions()
    assert done == [path.name[:14] for path in MIGRATIONS]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_migration_gives_up_rather_than_hold_everybody_up(growing: Growing) -> None:
    """Behind a long transaction it waits for its lock, and everybody behind it, for no longer than its lock_timeout."""
    locking = next(path for path in MIGRATIONS if path.name.endswith("_create_profiles.sql"))
    before = MIGRATIONS[: MIGRATIONS.index(locking)]
    traffic = Traffic(growing.url)
    growing.add(*before)
    growing.migrate()
    growing.add(locking)
    with traffic.running(), traffic.connect() as connection:
        with connection.transaction(force_rollback=True):
            traffic.account(connection)
            with Watch(traffic) as watch, pytest.raises(StackError, match="lock timeout"):
                growing.migrate()
        assert 3.5 < watch.waited_s < 5
        assert growing.versions() == [path.name[:14] for path in before]
        assert connection.execute("select to_regclass('public.profiles')").fetchone() == (None,)
        growing.migrate()
        assert growing.versions() == [path.name[:14] for path in [*before, locking]]
        made = connection.execute("select count(*) from pg_class").fetchone()
        growing.migrate()
        assert connection.execute("select count(*) from pg_class").fetchone() == made, "the second time does nothing"
        # As docs/operations.md has it for tables that have grown.
        (growing.files / "20990101000000_add_index.sql").write_text(
            "create index concurrently profiles_locale_idx on public.profiles (locale);\n"
        )
        with Watch(traffic) as watch:
            growing.migrate()
        assert not watch.held_s
        index = "select indisvalid from pg_index where indexrelid = 'public.profiles_locale_idx'::regclass"
        assert connection.execute(index).fetchone() == (True,)
    assert not traffic.errors, "\n".join(traffic.errors[:20])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_functions_are_replaced_while_they_are_called(cluster: Attached, worker: str) -> None:
    """What the next release mostly does, `create or replace`: of all at once, it waits for and breaks nobody."""
    name = cluster.clone(f"replaced_{worker}")
    try:
        add_bucket(cluster, name)
        traffic = Traffic(cluster.cluster.url(name, "supabase_admin"))
        with traffic.running(), psycopg.connect(cluster.cluster.url(name), autocommit=True) as connection:
            functions = connection.execute(
                "select pg_get_functiondef(p.oid) from pg_proc as p where p.prokind = 'f' and p.pronamespace"
                " in ('public'::regnamespace, 'private'::regnamespace) and pg_get_userbyid(p.proowner) = 'postgres'"
            ).fetchall()
            assert len(functions) > 100
            for _ in range(5):
                sent = traffic.done["send"]
                with connection.transaction():
                    for (definition,) in functions:
                        connection.execute(definition)
                deadline = time.monotonic() + 30
                while traffic.done["send"] < sent + 3:
                    assert time.monotonic() < deadline, traffic.errors[:5]
                    time.sleep(0.01)
        assert not traffic.errors, "\n".join(traffic.errors[:20])
        assert not [kind for kind in traffic.done if kind.endswith("not yet")]
    finally:
        cluster.drop(name)
