"""Storage: the lines of [buckets], each tried by each role, and paths that try to leave the own folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.attack.matrix import Matrix
from tests.attack.test_matrix import none_of
from tests.attack.world import PNG, ROLES, World

STORAGE = "/storage/v1"
IMAGE = {"Content-Type": "image/png"}


def said(answer: httpx.Response) -> str:
    """`ok`, `denied` by row security, `nf`; Storage writes the true status into its body."""
    if answer.is_success:
        return "ok"
    status = str(answer.json().get("statusCode", answer.status_code))
    return {"403": "denied", "404": "not_found"}.get(status, status)


def listed(world: World, role: str, prefix: str = "") -> list[str]:
    answer = world.ask(role, "POST", f"{STORAGE}/object/list/avatars", json={"prefix": prefix, "limit": 1000})
    assert answer.status_code == 200, answer.text
    return [each["name"] for each in answer.json()]


class Doors:
    """What a line of [buckets] says is done, as requests; each starts from the same two objects and cleans up."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owners = f"{world.ids['owner']}/avatar.png"

    def prepare(self, role: str) -> str:
        """The owner's picture is there, the role's folder holds one picture; returns its path."""
        own = f"{self.world.fill('$me', role)}/picture.png"
        put = self.world.ask(
            "service",
            "POST",
            f"{STORAGE}/object/avatars/{self.owners}",
            content=PNG,
            headers={**IMAGE, "x-upsert": "true"},
        )
        assert put.status_code == 200, put.text
        self.world.ask(
            "service",
            "DELETE",
            f"{STORAGE}/object/avatars",
            json={"prefixes": [own, own + "2", f"{self.world.ids['owner']}/new.png"]},
        )
        return own

    def upload(self, role: str, path: str, **headers: str) -> str:
        return said(
            self.world.ask(role, "POST", f"{STORAGE}/object/avatars/{path}", content=PNG, headers={**IMAGE, **headers})
        )

    def relocate(self, role: str, how: str, source: str, target: str) -> str:
        told = {"bucketId": "avatars", "sourceKey": source, "destinationKey": target}
        return said(self.world.ask(role, "POST", f"{STORAGE}/object/{how}", json=told))

    def do(self, what: str, role: str) -> str:
        world, ask = self.world, self.world.ask
        own = self.prepare(role)
        new = f"{world.ids['owner']}/new.png"
        match what:
            case "upload own":
                return self.upload(role, own)
            case "upload owner's":
                return self.upload(role, new)
            case "upsert owner's":
                return self.upload(role, self.owners, **{"x-upsert": "true"})
            case "update owner's":
                return said(ask(role, "PUT", f"{STORAGE}/object/avatars/{self.owners}", content=PNG, headers=IMAGE))
            case "list":
                self.upload(role, own)
                names, everything = listed(world, role), listed(world, "service")
                return counted(names, everything, world.fill("$me", role))
            case "read owner's":
                return said(ask(role, "GET", f"{STORAGE}/object/public/avatars/{self.owners}"))
            case "move owner's to own" | "copy owner's to own":
                return self.relocate(role, what.split()[0], self.owners, own)
            case "move own to owner's" | "copy own to owner's":
                self.upload(role, own)
                return self.relocate(role, what.split()[0], own, new)
            case "sign owner's":
                return said(ask(role, "POST", f"{STORAGE}/object/sign/avatars/{self.owners}", json={"expiresIn": 60}))
            case "sign an upload over owner's":
                return said(ask(role, "POST", f"{STORAGE}/object/upload/sign/avatars/{new}"))
            case "delete owner's":
                answer = ask(role, "DELETE", f"{STORAGE}/object/avatars", json={"prefixes": [self.owners]})
                assert answer.status_code == 200, answer.text
                gone = self.owners not in listed(world, "service")
                assert gone == bool(answer.json())
                return "ok" if gone else "none"
            case "change the bucket":
                return said(ask(role, "PUT", f"{STORAGE}/bucket/avatars", json={"public": True}))
            case "empty the bucket":
                return said(ask(role, "POST", f"{STORAGE}/bucket/avatars/empty"))
            case "make another bucket":
                made = said(ask(role, "POST", f"{STORAGE}/bucket", json={"id": "evil", "name": "evil"}))
                ask("service", "DELETE", f"{STORAGE}/bucket/evil")
                return made
        raise AssertionError(what)


def counted(names: list[str], everything: list[str], own: str) -> str:
    if not names:
        return "none"
    return "all" if set(names) == set(everything) else "mine" if all(each.startswith(own) for each in names) else "?"


def test_buckets_answer_each_role_as_written(matrix: Matrix, attacked: World) -> None:
    doors, problems = Doors(attacked), []
    for line in matrix.lines["buckets"]:
        for role in ROLES:
            happened = doors.do(line.what, role)
            if happened != line.outcomes[role]:
                problems.append(f"{role}: {line.what}: {happened}, not {line.outcomes[role]}")
    none_of(problems)


def test_no_role_but_service_sees_a_bucket(attacked: World) -> None:
    for role in ROLES:
        answer = attacked.ask(role, "GET", f"{STORAGE}/bucket")
        assert bool(answer.json()) == (role == "service"), role


# Ways to name somebody else's folder, or a place outside of every folder; {me} and {other} are ids.
PATHS = [
    "{other}/x.png", "{me}/../{other}/x.png", "{me}%2F..%2F{other}%2Fx.png", "{me}/%2e%2e/{other}/x.png",
    "{me}/..%2f{other}/x.png", "{me}%5c..%5c{other}%5cx.png", "..%2f{other}%2fx.png", "%2e%2e/avatars/{other}/x.png",
    "{other}%2Fx.png", "{ME}/x.png", "%20{me}/x.png", "{me}%20/x.png", "x/{me}/x.png", "{other}/{me}/x.png",
    "{me}{other}/x.png", "{me}.png", "x.png", "../avatars2/{me}/x.png", "{me}%00/x.png", "{other}%00{me}/x.png",
    "{me}%0a/x.png", "null/x.png", "undefined/x.png", "/x.png",
]  # fmt: skip


def test_paths_do_not_leave_the_own_folder(attacked: World) -> None:
    """Whatever is stored afterwards lies below the folder of who stored it."""
    me, other = attacked.ids["member"], attacked.ids["owner"]
    before = set(listed(attacked, "service"))
    for path in PATHS:
        path = path.format(me=me, other=other, ME=me.upper())
        for method in ("POST", "PUT"):
            attacked.ask(
                "member", method, f"{STORAGE}/object/avatars/{path}", content=PNG, headers={**IMAGE, "x-upsert": "true"}
            )
        attacked.ask("member", "POST", f"{STORAGE}/object/upload/sign/avatars/{path}")
        attacked.ask("member", "DELETE", f"{STORAGE}/object/avatars", json={"prefixes": [path]})
    after = set(listed(attacked, "service"))
    assert before <= after
    none_of([name for name in after - before if not name.startswith(f"{me}/") or ".." in name])


def test_listing_shows_nobody_elses_names(attacked: World) -> None:
    doors = Doors(attacked)
    doors.prepare("member")
    for prefix in (
        "",
        "/",
        attacked.ids["owner"],
        f"{attacked.ids['owner']}/",
        "%",
        "_",
        "..",
        f"{attacked.ids['owner']}/av",
    ):
        names = listed(attacked, "outsider", prefix)
        assert all(name.startswith(attacked.ids["outsider"]) for name in names), (prefix, names)
    answer = attacked.ask(
        "outsider",
        "POST",
        f"{STORAGE}/object/list/avatars",
        json={"prefix": "", "search": "avatar", "sortBy": {"column": "name", "order": "asc"}},
    )
    assert all(each["name"].startswith(attacked.ids["outsider"]) for each in answer.json())


def test_others_objects_and_missing_ones_cannot_be_told_apart_by_signing(attacked: World) -> None:
    doors = Doors(attacked)
    doors.prepare("member")
    there, missing = (
        attacked.ask("outsider", "POST", f"{STORAGE}/object/sign/avatars/{path}", json={"expiresIn": 60})
        for path in (doors.owners, f"{attacked.ids['owner']}/missing.png")
    )
    assert (there.status_code, there.text) == (missing.status_code, missing.text)
    many = attacked.ask(
        "outsider",
        "POST",
        f"{STORAGE}/object/sign/avatars",
        json={"expiresIn": 60, "paths": [doors.owners, f"{attacked.ids['owner']}/missing.png"]},
    )
    first, second = many.json()
    assert (first["signedURL"], first["error"]) == (second["signedURL"], second["error"]) == (None, first["error"])


@pytest.fixture
def signed(attacked: World) -> Callable[[], str]:
    """A signed upload of the member into their own folder."""

    def sign() -> str:
        path = f"{attacked.ids['member']}/signed.png"
        attacked.ask("service", "DELETE", f"{STORAGE}/object/avatars", json={"prefixes": [path]})
        answer = attacked.ask("member", "POST", f"{STORAGE}/object/upload/sign/avatars/{path}")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    return sign


def test_a_signed_upload_is_for_its_path_alone(attacked: World, signed: Callable[[], str]) -> None:
    url = signed()
    mine, other = attacked.ids["member"], attacked.ids["owner"]
    for path in (f"{other}/signed.png", f"{mine}/another.png", f"{mine}/../{other}/signed.png"):
        elsewhere = url.replace(f"{mine}/signed.png", path)
        assert not attacked.ask("anon", "PUT", f"{STORAGE}{elsewhere}", content=PNG, headers=IMAGE).is_success, path
    head, claims, seal = url.partition("token=")[2].split(".")
    told: dict[str, Any] = json.loads(base64.urlsafe_b64decode(claims + "=="))
    forged = json.dumps(
        {name: str(value).replace(mine, other) if isinstance(value, str) else value for name, value in told.items()}
    )
    claims = base64.urlsafe_b64encode(forged.encode()).rstrip(b"=").decode()
    target = f"{STORAGE}/object/upload/sign/avatars/{other}/signed.png?token={head}.{claims}.{seal}"
    assert not attacked.ask("anon", "PUT", target, content=PNG, headers=IMAGE).is_success
    assert attacked.ask("anon", "PUT", f"{STORAGE}{url}", content=PNG, headers=IMAGE).is_success


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/javascript", "image/png, text/html", ""])
def test_pages_and_scripts_are_not_pictures(attacked: World, kind: str) -> None:
    path = f"{attacked.ids['member']}/page.png"
    answer = attacked.ask(
        "member", "POST", f"{STORAGE}/object/avatars/{path}", content=b"<script>", headers={"Content-Type": kind}
    )
    assert not answer.is_success, answer.text


def test_what_was_stored_as_a_picture_is_served_as_one(attacked: World) -> None:
    """Whatever its name ends in: a page on the origin of Storage could act for whoever looks at it."""
    for name in ("x.html", "x.svg", "x.js", "x"):
        path = f"{attacked.ids['member']}/{name}"
        attacked.ask("member", "POST", f"{STORAGE}/object/avatars/{path}", content=b"<script>", headers=IMAGE)
        answer = attacked.ask("anon", "GET", f"{STORAGE}/object/public/avatars/{path}")
        assert not answer.is_success or answer.headers["content-type"].startswith("image/png"), (name, answer.headers)


def test_the_size_limit_holds_for_every_way_in(attacked: World) -> None:
    path, large = f"{attacked.ids['member']}/large.png", bytes(1024 * 1024 + 1)
    plain = attacked.ask("member", "POST", f"{STORAGE}/object/avatars/{path}", content=large, headers=IMAGE)
    put = attacked.ask("member", "PUT", f"{STORAGE}/object/avatars/{path}", content=large, headers=IMAGE)
    form = attacked.ask(
        "member", "POST", f"{STORAGE}/object/avatars/{path}", files={"file": ("x.png", large, "image/png")}
    )
    assert [said(each) for each in (plain, form)] == ["413", "413"]
    assert said(put) in ("413", "not_found")
    assert path not in listed(attacked, "service")
