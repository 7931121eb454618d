"""What clients and strangers send that they should not: always a problem, never a 500, over real HTTP."""

import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

SEND = "/api/messages/send"
LIST = "/api/messages/conversations"
SOMETHING = "0198c0de-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"null", b"[]", b'"x"', b"1", b"NaN", b'{"body": NaN}', b'{"body": "x"',
        b"\xff\xfe{}", b"\xef\xbb\xbf{}",
        b'{"body": "\xc3\x28"}', b'{"body": "\\ud800"}', b'{"body": "\\udc00\\ud800"}', b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"body":' + b"[" * 10_000 + b"]" * 10_000 + b"}", b'{"body":"x","body":"y"}',
        b'{"body":' + b"9" * 10_000 + b"}",
        b'{"body": 1e999}', b"{'body': 'x'}", b'{"body":"x",}', b"\x00" * 100, b"body=x",
    ],
)  # fmt: skip
def test_malformed_body(http: Any, person: Any, refused: Any, body: bytes) -> None:
    headers = person().headers | {"Content-Type": "application/json"}
    document = refused(http.post(SEND, headers=headers, content=body), 400, "validation_failed")
    assert document["errors"][0]["pointer"] in ("", "/body", "/a")


def test_large_bodies(http: Any, person: Any, refused: Any) -> None:
    headers = person().headers | {"Content-Type": "application/json"}

    def chunks() -> Any:
        for _ in range(160):
            yield b" " * 65536

    refused(http.post(SEND, headers=headers, content=b" " * 10_000_000), 413, "payload_too_large")
    refused(http.post(SEND, headers=headers, content=chunks()), 413, "payload_too_large")
    refused(http.post(SEND, headers=headers, content=b" " * 65537), 413, "payload_too_large")
    refused(http.post(SEND, headers=headers, content=b" " * 65536), 400, "validation_failed")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/json2", ""]
)
def test_other_content_types(http: Any, person: Any, refused: Any, content_type: str) -> None:
    ada = person()
    headers = ada.headers | {"Content-Type": content_type}
    refused(http.post(SEND, headers=headers, content=b'{"body":"x"}'), 415, "unsupported_media_type")


def test_content_encoding(http: Any, person: Any, refused: Any) -> None:
    headers = person().headers | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused(http.post(SEND, headers=headers, content=b"\x1f\x8b"), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/nope",
        "/api/messages",
        "/api/messages/x/y/z",
        "/health",
        "/docs/nope",
        "/schema",
        "/.env",
        "/%00",
        "/%ff",
    ],
)
def test_unknown_path(http: Any, refused: Any, path: str) -> None:
    refused(http.get(path), 404, "not_found")
    if path != "/docs/nope":  # there is a route of this form, for GET
        refused(http.post(path, json={}), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", SEND, "OPTIONS, POST"), ("PUT", SEND, "OPTIONS, POST"), ("DELETE", SEND, "OPTIONS, POST"),
        ("DELETE", LIST, "GET, HEAD, OPTIONS, POST"), ("POST", f"{LIST}/{SOMETHING}", "GET, HEAD, OPTIONS, PATCH"),
        ("POST", f"{LIST}/{SOMETHING}/messages", "GET, HEAD, OPTIONS"),
        ("DELETE", f"{LIST}/{SOMETHING}/members", "GET, HEAD, OPTIONS, POST"),
        ("GET", f"{LIST}/{SOMETHING}/members/{SOMETHING}", "DELETE, OPTIONS"),
        ("GET", f"/api/messages/{SOMETHING}", "DELETE, OPTIONS, PATCH"),
        ("POST", f"/api/messages/{SOMETHING}/read", "OPTIONS, PATCH"),
        ("PATCH", f"/api/messages/{SOMETHING}/history", "GET, HEAD, OPTIONS"),
        # What has a name of its own is never taken for an id.
        ("GET", f"{LIST}/group", "OPTIONS, POST"), ("PATCH", f"{LIST}/group", "OPTIONS, POST"),
        ("PATCH", "/api/messages/unread", "GET, HEAD, OPTIONS"),
        ("POST", "/api/profile", "GET, HEAD, OPTIONS, PATCH"),
        ("POST", "/health/live", "GET, HEAD, OPTIONS"),
    ],
)  # fmt: skip
def test_wrong_method(http: Any, person: Any, refused: Any, method: str, path: str, allow: str) -> None:
    for headers in ({}, person().headers):
        answer = http.request(method, path, headers=headers)
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allow


def test_head_and_options(http: Any) -> None:
    for path in ("/health/live", "/docs", "/schema/openapi.json"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
    assert http.options(SEND).status_code == 204


def test_injection_into_headers_and_log(http: Any, person: Any) -> None:
    for wished in ("a\tb", "x" * 200, "<b>bold</b>", '{"a":1}', "semi;colon-id"):
        answer = http.get("/health/live", headers={"X-Request-Id": wished})
        assert answer.headers["x-request-id"] != wished
    assert http.get("/health/live", headers={"X-Request-Id": "good.id-1"}).headers["x-request-id"] == "good.id-1"


def talk(service_url: str, raw: bytes) -> bytes:
    """Send bytes as they are; answers what comes back until the body is complete or the server hangs up."""
    place = urlsplit(service_url)
    with socket.create_connection((place.hostname, place.port), timeout=5) as connection:
        connection.sendall(raw)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            head, _, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)", head)
            if length is not None and len(body) >= int(length[1]):
                break
        return answer


def test_large_body_is_refused_before_it_is_sent(service_url: str, person: Any) -> None:
    head = f"POST {SEND} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person().token}\r\n"
    answer = talk(
        service_url,
        (head + "Content-Type: application/json\r\nContent-Length: 10485760\r\nExpect: 100-continue\r\n\r\n").encode(),
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "payload_too_large"


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
        b"GET http://other/health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"GET /health/live?a=\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/messages/send HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/messages/send HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_broken_http_is_answered_below_500(service_url: str, http: Any, raw: bytes) -> None:
    answer = talk(service_url, raw)
    assert answer.startswith(b"HTTP/1.1 ")
    assert answer[9:12] < b"500"
    assert b"Traceback" not in answer
    assert http.get("/health/live").status_code == 200
