"""The rotation of keys on bad days of the data API: what passes is outlived, what does not is told at once."""

import json
from typing import Any

import httpx
import pytest
import respx

from app import keys
from app.problems import Problem
from app.settings import MessageKey
from app.vault import Vault
from tests.unit.fakes import config

VAULT = Vault([MessageKey(2, b"k" * 32)])
LIST = "http://up.test/rest/v1/rpc/list_envelopes"
NOTHING = httpx.Response(200, json={"envelopes": []})


def refused(code: str, message: str, details: str | None = None) -> httpx.Response:
    return httpx.Response(400, json={"code": code, "message": message, "details": details, "hint": None})


async def rotate(router: respx.MockRouter, *answers: httpx.Response | Exception) -> tuple[tuple[int, int], Any]:
    route = router.post(LIST).mock(side_effect=answers)
    return await keys.rotate(config("http://up.test", supabase_secret_key="sb_secret_x"), VAULT), route


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_PAUSE_S", 0.0)


async def test_asks_with_the_secret_key(respx_mock: respx.MockRouter) -> None:
    done, route = await rotate(respx_mock, NOTHING)
    (call,) = route.calls
    assert done == (0, 0)
    assert json.loads(call.request.content) == {"p_below_version": 2, "p_after": None, "p_limit": 200}
    assert call.request.headers["apikey"] == "sb_secret_x"
    assert "authorization" not in call.request.headers


async def test_a_restart_of_the_data_api_is_outlived(respx_mock: respx.MockRouter) -> None:
    bad = [httpx.ConnectError("x"), httpx.Response(502, html="<html>"), refused("PGRST001", "no connection")]
    done, route = await rotate(respx_mock, *bad, httpx.Response(200, json={"odd": 1}), NOTHING)
    assert (done, route.call_count) == ((0, 0), 5)


@pytest.mark.parametrize(
    ("answer", "code", "tries"),
    [
        (httpx.ConnectError("x"), "upstream_unavailable", 5),
        (httpx.Response(503, html="<html>"), "upstream_unavailable", 5),
        (httpx.Response(401, json={"message": "Invalid API key"}), "upstream_invalid", 5),
        (refused("42501", "permission denied"), "forbidden", 1),
        (refused("PT400", "validation_failed", "This key is not known."), "validation_failed", 1),
    ],
)
async def test_what_does_not_pass(
    answer: httpx.Response | Exception, code: str, tries: int, respx_mock: respx.MockRouter
) -> None:
    with pytest.raises(Problem) as caught:
        await rotate(respx_mock, *[answer] * 5)
    assert (caught.value.code, respx_mock.calls.call_count) == (code, tries)
    if code == "validation_failed":
        assert caught.value.detail == "This key is not known."


async def test_without_the_secret_key() -> None:
    with pytest.raises(RuntimeError, match="SUPABASE_SECRET_KEY"):
        await keys.rotate(config("http://up.test"), VAULT)
