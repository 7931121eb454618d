"""One class per correction that stack/server.mjs makes to @supabase/lite, by its letter.

They say what a hosted project does. Tests marked `hosted` need only the URL and keys of a project, so they hold the
stand-in and the real thing to the same words; the others make tables of their own.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from stack import dataapi, demo
from stack.processes import free_port
from tests.stack.conftest import Project
from tests.stack.probe import PROBE_SQL

# Connections of the data API to its database, if nobody says otherwise.
POOL = 20


def until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def probe(supabase_stack: Any) -> Iterator[Callable[..., httpx.Response]]:
    """`probe(name, token=None, **arguments)`: call a function of PROBE_SQL, made for this module only."""
    with psycopg.connect(supabase_stack.database_url, autocommit=True) as connection:
        connection.execute(PROBE_SQL)
        with httpx.Client(base_url=supabase_stack.url, headers={"apikey": supabase_stack.publishable_key}) as client:

            def call(name: str, token: str | None = None, **arguments: Any) -> httpx.Response:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return client.post(f"/rest/v1/rpc/{name}", json=arguments, headers=headers)

            deadline = time.monotonic() + 10
            while call("probe_echo", value=1).status_code != 200:  # the schema cache hears of them in a moment
                assert time.monotonic() < deadline, call("probe_echo", value=1).text
                time.sleep(0.05)
            yield call
        connection.execute("drop table public.probe_secrets")
        for row in connection.execute("select oid::regprocedure::text from pg_proc where proname like 'probe\\_%'"):
            connection.execute(f"drop function {row[0]}")


class TestAGrants:
    """Grants are those of the migrations, whatever was asked of the API before."""

    def test_a_revoked_column_stays_revoked(self, probe, new_person, supabase_stack):
        token = new_person().token
        headers = {"apikey": supabase_stack.publishable_key, "Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=supabase_stack.url, headers=headers) as client:
            assert client.get("/rest/v1/probe_secrets?select=id").status_code == 200
            refused = client.get("/rest/v1/probe_secrets?select=hidden")
            assert (refused.status_code, refused.json()["code"]) == (403, "42501")
            assert client.post("/rest/v1/probe_secrets", json={"id": 2}).status_code == 403

    def test_default_privileges_are_untouched(self, probe, db, cluster):
        """lite would also change what later tables grant."""
        query = (
            "select defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype, defaclacl::text"
            " from pg_default_acl order by 1, 2, 3, 4"
        )
        fresh = cluster.clone(f"acl_{uuid.uuid4().hex}")
        try:
            with cluster.cluster.connect(fresh) as untouched:
                assert db.execute(query).fetchall() == untouched.execute(query).fetchall()
        finally:
            cluster.drop(fresh)


class TestBParameters:
    @pytest.mark.parametrize("value", [{"a": [1, None]}, [1, 2], 3, True, None, "words"])
    def test_json_arguments_are_json(self, probe, value):
        kinds = {dict: "object", list: "array", int: "number", bool: "boolean", str: "string"}
        answer = probe("probe_kind", value=value)
        assert answer.json() == kinds.get(type(value))

    def test_json_comes_back_as_it_went(self, probe):
        value = {"text": 'quotes " and \\ and é🎻', "deep": [{"n": 1.5}]}
        assert probe("probe_echo", value=value).json() == value

    def test_bytea_is_hex_both_ways(self, probe):
        assert probe("probe_bytes", value="\\x00ff10").json() == "\\x00ff10"


class TestCValues:
    def test_times_are_iso_8601(self, probe):
        text = probe("probe_time").json()
        assert text == "2026-01-02T03:04:05.678901+00:00"
        assert datetime.fromisoformat(text).utcoffset() is not None

    def test_times_without_zone(self, probe):
        assert probe("probe_local_time").json() == "2026-01-02T03:04:05"

    def test_numeric_is_a_number(self, probe):
        assert probe("probe_numeric").json() == 1.1

    @pytest.mark.hosted
    def test_times_of_auth_parse(self, project):
        user = project.sign_up()["user"]
        assert datetime.fromisoformat(user["created_at"]).utcoffset() is not None


class TestDErrors:
    @pytest.mark.parametrize(
        ("sqlstate", "status"),
        [
            ("P0001", 400),
            ("23514", 400),
            ("23505", 409),
            ("23503", 409),
            ("22P02", 400),
            ("42501", 403),
            ("28000", 403),
            ("0L000", 403),
            ("40001", 500),
            ("40P01", 500),
            ("57014", 500),
            ("XX000", 500),
            ("08006", 503),
            ("53300", 503),
            ("PT418", 418),
            ("PT429", 429),
        ],
    )
    def test_sqlstate_decides_the_status(self, probe, new_person, sqlstate, status):
        answer = probe("probe_raise", new_person().token, state=sqlstate)
        assert answer.status_code == status
        assert answer.json() == {
            "code": sqlstate,
            "message": "the message",
            "details": "the details",
            "hint": "the hint",
        }

    def test_a_function_may_set_the_status(self, probe):
        answer = probe("probe_status")
        assert (answer.status_code, answer.json()) == (202, {"accepted": True})


class TestESchemaCache:
    def test_a_new_function_is_callable_at_once(self, probe, db):
        name = f"probe_new_{uuid.uuid4().hex[:8]}"
        assert probe(name).status_code == 404
        db.execute(f"create function public.{name}() returns int language sql return 7;")
        db.execute(f"grant execute on function public.{name}() to anon")
        deadline = time.monotonic() + 5
        while (answer := probe(name)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.02)
        assert answer.json() == 7


class TestFTokens:
    """Refusals are those of PostgREST. A request without a bearer token is anon."""

    def ask(self, project: Project, authorization: str) -> httpx.Response:
        return project.client.get("/rest/v1/profiles?limit=1", headers={"Authorization": authorization})

    @pytest.mark.hosted
    def test_garbage(self, project):
        answer = self.ask(project, "Bearer garbage")
        assert (answer.status_code, answer.json()["code"]) == (401, "PGRST301")

    @pytest.mark.hosted
    def test_alg_none(self, project):
        answer = self.ask(project, "Bearer " + jwt.encode({"role": "authenticated"}, None, algorithm="none"))
        assert answer.status_code == 401

    @pytest.mark.hosted
    def test_foreign_secret(self, project):
        token = jwt.encode({"role": "service_role", "exp": time.time() + 60}, "x" * 40, algorithm="HS256")
        answer = self.ask(project, f"Bearer {token}")
        assert (answer.status_code, answer.json()["code"]) == (401, "PGRST301")

    @pytest.mark.hosted
    def test_no_key(self, project):
        assert httpx.get(f"{project.url}/rest/v1/profiles?limit=1").status_code == 401

    @pytest.mark.parametrize(
        ("claims", "status", "code"),
        [
            ({"exp": -60}, 401, "PGRST303"),
            ({"nbf": 120}, 401, "PGRST303"),
            ({"exp": -10}, 200, None),
            ({"nbf": 10}, 200, None),
        ],
    )
    def test_times_have_thirty_seconds_of_tolerance(self, project, mint_token, claims, status, code):
        shifted = {name: int(time.time()) + seconds for name, seconds in claims.items()}
        answer = self.ask(project, f"Bearer {mint_token(str(uuid.uuid4()), **shifted)}")
        assert answer.status_code == status, answer.text
        assert code is None or answer.json()["code"] == code

    @pytest.mark.parametrize("role", ["postgres", "supabase_admin", "lite_api"])
    def test_other_roles_are_refused(self, project, mint_token, role):
        answer = self.ask(project, f"Bearer {mint_token(str(uuid.uuid4()), role=role)}")
        assert (answer.status_code, answer.json()["code"]) == (403, "42501")


@pytest.fixture(scope="module")
def bucket(project: Project) -> Iterator[tuple[str, httpx.Client]]:
    """A private bucket of at most 1,000 bytes a file, and a client with the secret key."""
    name = f"probe-{uuid.uuid4().hex[:8]}"
    headers = {"apikey": project.secret_key, "Authorization": f"Bearer {project.secret_key}"}
    with httpx.Client(base_url=f"{project.url}/storage/v1", headers=headers, timeout=30) as client:
        made = client.post("/bucket", json={"id": name, "name": name, "public": False, "file_size_limit": 1000})
        assert made.status_code == 200, made.text
        stored = client.post(f"/object/{name}/a.png", content=demo.picture(), headers={"Content-Type": "image/png"})
        assert stored.status_code == 200, stored.text
        yield name, client
        client.post(f"/bucket/{name}/empty")
        client.delete(f"/bucket/{name}")


class TestGSignedUrls:
    """Storage as storage-js and storage3 expect it."""

    @pytest.mark.hosted
    def test_one_link(self, project, bucket):
        name, client = bucket
        link = client.post(f"/object/sign/{name}/a.png", json={"expiresIn": 60}).json()["signedURL"]
        assert link.startswith(f"/object/sign/{name}/a.png?token=")
        assert httpx.get(f"{project.url}/storage/v1{link}").content == demo.picture()

    @pytest.mark.hosted
    def test_many_links(self, project, bucket):
        name, client = bucket
        there, missing = client.post(f"/object/sign/{name}", json={"expiresIn": 60, "paths": ["a.png", "b.png"]}).json()
        assert there["error"] is None
        assert httpx.get(f"{project.url}/storage/v1{there['signedURL']}").status_code == 200
        assert (missing["path"], missing["signedURL"]) == ("b.png", None)
        assert missing["error"]

    @pytest.mark.hosted
    def test_an_invalid_link(self, project, bucket):
        answer = httpx.get(f"{project.url}/storage/v1/object/sign/{bucket[0]}/a.png?token=x.y.z")
        assert (answer.status_code, answer.json()["error"]) == (400, "InvalidJWT")

    @pytest.mark.hosted
    def test_upload_through_a_link(self, project, bucket):
        name, client = bucket
        made = client.post(f"/object/upload/sign/{name}/c.txt").json()
        assert set(made) >= {"url", "token"}
        put = httpx.put(f"{project.url}/storage/v1{made['url']}", files={"": ("c.txt", b"words", "text/plain")})
        assert put.status_code == 200, put.text
        read = client.get(f"/object/{name}/c.txt")
        assert (read.content, read.headers["content-type"].split(";")[0]) == (b"words", "text/plain")

    @pytest.mark.hosted
    def test_the_size_limit_holds_for_links(self, project, bucket):
        name, client = bucket
        made = client.post(f"/object/upload/sign/{name}/d.bin").json()
        put = httpx.put(f"{project.url}/storage/v1{made['url']}", content=b"x" * 1001)
        assert (put.status_code, put.json()["statusCode"]) == (400, "413")


@pytest.fixture
def es256(cluster: Any, worker: str, supabase_stack: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A second data API on this worker's database, whose Auth signs with the asymmetric key."""
    monkeypatch.setenv("STACK_JWT_ALG", "ES256")
    port, keys = free_port(), cluster.keys
    log = cluster.directory / "log" / f"es256-{worker}.log"
    api = dataapi.data_api(cluster.cluster, supabase_stack.database, cluster.project, keys, port, log, cluster.ledger)
    api.start()
    try:
        api.wait_until(lambda: dataapi.data_api_ready(port, keys), dataapi.READY_S)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"apikey": keys.publishable_key}, timeout=30) as client:
            yield Project(url, keys.publishable_key, keys.secret_key, client)
    finally:
        api.stop()


class TestHSessions:
    @pytest.mark.hosted
    def test_claims(self, project):
        session = project.sign_up()
        claims = jwt.decode(session["access_token"], options={"verify_signature": False})
        assert claims["iss"] == f"{project.url}/auth/v1"
        assert (claims["aud"], claims["role"], claims["sub"]) == (
            "authenticated",
            "authenticated",
            session["user"]["id"],
        )
        assert claims["exp"] - claims["iat"] == session["expires_in"]
        assert claims["app_metadata"]["provider"] == "email"
        assert claims["is_anonymous"] is False
        assert {"email", "phone", "user_metadata", "aal", "amr", "session_id"} <= set(claims)

    @pytest.mark.hosted
    def test_a_refreshed_session_has_them_too(self, project):
        session = project.sign_up()
        again = project.client.post(
            "/auth/v1/token?grant_type=refresh_token", json={"refresh_token": session["refresh_token"]}
        )
        claims = jwt.decode(again.json()["access_token"], options={"verify_signature": False})
        assert claims["iss"] == f"{project.url}/auth/v1"

    def test_es256_on_request(self, es256):
        """Every part takes the tokens that Auth signs with the asymmetric key."""
        token = es256.sign_up()["access_token"]
        key = es256.client.get("/auth/v1/.well-known/jwks.json").json()["keys"][0]
        assert "d" not in key
        assert jwt.get_unverified_header(token)["kid"] == key["kid"]
        claims = jwt.decode(token, jwt.PyJWK(key).key, algorithms=["ES256"], audience="authenticated")
        bearer = {"Authorization": f"Bearer {token}"}
        assert es256.client.get("/rest/v1/profiles?limit=1", headers=bearer).status_code == 200
        assert es256.client.get("/auth/v1/user", headers=bearer).json()["id"] == claims["sub"]

    def test_the_service_needs_no_shared_secret(self, es256, cluster, worker):
        """Our service on a project with asymmetric keys only, as new hosted projects are."""
        port = free_port()
        told = {"SUPABASE_URL": es256.url, "SUPABASE_PUBLISHABLE_KEY": es256.publishable_key, "SUPABASE_JWT_SECRET": ""}
        log = cluster.directory / "log" / f"es256-service-{worker}.log"
        service = dataapi.service(told, port, log, cluster.ledger)
        service.start()
        try:
            url = f"http://127.0.0.1:{port}"
            service.wait_until(lambda: dataapi.answers(f"{url}/health/ready"), dataapi.READY_S)
            session = es256.sign_up()
            answer = httpx.post(
                f"{url}/api/messages/conversations",
                json={"userId": session["user"]["id"]},
                headers={"Authorization": f"Bearer {session['access_token']}"},
            )
            assert (answer.status_code, answer.json()) == (200, {"conversations": [], "total": 0})
        finally:
            service.stop()


class TestTheRest:
    """What is not there answers clearly."""

    def test_nothing_internal_is_served(self, supabase_stack):
        for path in ("/_system", "/_system/config", "/"):
            answer = httpx.get(f"{supabase_stack.url}{path}")
            assert answer.status_code == 404
            assert supabase_stack.attached.keys.database_password not in answer.text

    def test_browsers_may_ask_before_they_call(self, supabase_stack):
        """The preflight of supabase-js."""
        answer = httpx.options(
            f"{supabase_stack.url}/rest/v1/rpc/send_message",
            headers={
                "Origin": "http://localhost:3000",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "apikey,authorization,content-type,x-client-info",
            },
        )
        assert answer.status_code in (200, 204)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert {"apikey", "authorization"} <= set(answer.headers["access-control-allow-headers"].lower().split(","))
        told = httpx.get(f"{supabase_stack.url}/rest/v1/profiles", headers={"Origin": "http://localhost:3000"})
        assert told.headers["access-control-allow-origin"] == "*"
        assert json.loads(told.text)["message"]


class TestIObjects:
    """A bucket's limit holds for plain uploads, and what is served has the type it was stored with."""

    @pytest.mark.hosted
    def test_the_size_limit_holds_for_plain_uploads(self, bucket):
        name, client = bucket
        for method in ("POST", "PUT"):
            answer = client.request(method, f"/object/{name}/a.png", content=b"x" * 1001, headers={"x-upsert": "true"})
            assert (answer.status_code, answer.json()["statusCode"]) == (400, "413"), method

    @pytest.mark.hosted
    def test_the_name_does_not_decide_the_type(self, bucket):
        name, client = bucket
        stored = client.post(f"/object/{name}/page.html", content=b"<p>", headers={"Content-Type": "image/png"})
        assert stored.status_code == 200, stored.text
        link = client.post(f"/object/sign/{name}/page.html", json={"expiresIn": 60}).json()["signedURL"]
        for path in (f"/object/{name}/page.html", link):
            assert client.get(path).headers["content-type"].split(";")[0] == "image/png"


class TestJQueue:
    """When all connections are busy, requests wait in order; what nobody waits for any more is not done."""

    def test_whoever_has_left_is_not_served(self, probe, new_person, supabase_stack, db):
        ada, ben = new_person(), new_person()
        headers = {"apikey": supabase_stack.publishable_key, "Authorization": f"Bearer {ada.token}"}
        key = str(uuid.uuid4())
        send = {"p_to_user_id": ben.id, "p_body": "Hello", "p_client_message_id": key}
        with (
            httpx.Client(base_url=supabase_stack.url, headers=headers, timeout=30) as client,
            ThreadPoolExecutor(POOL) as others,
        ):
            with db.transaction():
                db.execute("lock table public.probe_secrets in access exclusive mode")
                busy = [others.submit(client.get, "/rest/v1/probe_secrets?select=id") for _ in range(POOL)]
                wait = "select count(*) from pg_locks where not granted and relation = 'public.probe_secrets'::regclass"
                until(lambda: db.execute(wait).fetchone()[0] == POOL)
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/rest/v1/rpc/send_message", json=send, timeout=0.3)
                assert not any(each.done() for each in busy)
            assert {each.result().status_code for each in busy} == {200}
            # Sends of one person go one after the other.
            later = client.post("/rest/v1/rpc/send_message", json={**send, "p_client_message_id": str(uuid.uuid4())})
            assert later.json()["message"]["seq"] == 1, later.text
        assert db.execute("select from public.messages where client_message_id = %s", (key,)).fetchone() is None
