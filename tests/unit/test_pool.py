"""The pool itself: framing, keep-alive, TLS, and that one answer never becomes another's. On both event loops."""

import asyncio
import datetime
import gc
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from app import __version__, pool
from app.pool import Answer, Lost, Pool, TooLarge, Unreadable, origin_and_target
from tests.unit.fakes import Asked, Script, Upstream, always, http, upstream

LIMIT = 100_000


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """The service runs on uvloop, whose transports are classes of its own; tests elsewhere run on asyncio."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@asynccontextmanager
async def opened(script: Script) -> AsyncIterator[tuple[Pool, Upstream]]:
    async with upstream(script) as up:
        made = Pool(up.url, {"apikey": "k"}, LIMIT)
        yield made, up
        made.close()


async def ask(made: Pool, timeout_s: float = 2.0) -> Answer:
    return await made.request("POST", "/x", {"a": "b"}, b"{}", timeout_s)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (http(200, b"plain"), b"plain"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + http(200, b"after"), b"after"),
        (b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 X\r\n\r\n" + http(200, b"hints"), b"hints"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
def test_framing_on_a_kept_connection(run: asyncio.Runner, raw: bytes, body: bytes) -> None:
    async def test() -> None:
        async with opened(always(raw)) as (made, up):
            for _ in range(3):
                answer = await ask(made)
                assert answer.body == body
                assert all(name == name.lower() for name in answer.headers)
            assert up.connections == 1
            assert up.asked[0].headers == {
                "host": up.url.removeprefix("http://"), "user-agent": f"gig-messaging/{__version__}", "apikey": "k",
                "a": "b", "content-length": "2",
            }  # fmt: skip

    run.run(test())


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_body_that_ends_with_the_connection(run: asyncio.Runner, version: bytes) -> None:
    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/" + version + b" 200 OK\r\n\r\nuntil the ")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"end")
        await writer.drain()

    async def test() -> None:
        async with opened(script) as (made, up):
            for _ in range(2):
                assert (await ask(made)).body == b"until the end"
            assert up.connections == 2

    run.run(test())


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", Unreadable),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", Unreadable),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Unreadable),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Unreadable),
        (b"", Lost),
    ],
)
def test_cut_off_answer_is_not_one(run: asyncio.Runner, raw: bytes, error: type[Exception], how: str) -> None:
    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if how == "reset":
            await asyncio.sleep(0.02)
            reset(writer)

    async def test() -> None:
        async with opened(script) as (made, _):
            for _again in range(2):
                with pytest.raises(error) as caught:
                    await ask(made)
                assert type(caught.value) is error

    run.run(test())


def reset(writer: asyncio.StreamWriter) -> None:
    """Hang up so that the other side is told of an error instead of an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_body_without_a_length_that_ends_in_an_error_is_not_whole(run: asyncio.Runner) -> None:
    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n[1, 2")
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)

    async def test() -> None:
        async with opened(script) as (made, _):
            with pytest.raises(Unreadable):
                await ask(made)

    run.run(test())


def test_half_closed_before_the_answer(run: asyncio.Runner) -> None:
    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.sleep(2)

    async def test() -> None:
        async with opened(script) as (made, _):
            with pytest.raises(Lost):
                await ask(made, 1)

    run.run(test())


def test_time_out_of_an_idle_connection_is_no_answer(run: asyncio.Runner) -> None:
    """Some gateways write 408 into a connection they give up, and it may cross a request."""

    async def test() -> None:
        async with opened(always(http(408, b"too late"))) as (made, up):
            for _ in range(2):
                with pytest.raises(Lost):
                    await ask(made)
            assert up.connections == 2

    run.run(test())


@pytest.mark.parametrize(
    "piece",
    [
        b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n", b"x-more: and more\r\n", b"y" * 1000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"1\r\nx\r\n",
    ],
)  # fmt: skip
def test_what_never_ends_ends_here(run: asyncio.Runner, piece: bytes) -> None:
    """Interim answers, a head, one header, trailers, chunks of a byte: by their size, long before the deadline."""
    beginning = b"" if piece.startswith(b"HTTP/1.1 1") else b"HTTP/1.1 200 OK\r\n"
    if piece.startswith(b"HTTP/1.1 2"):
        beginning, piece = piece, b"x-trailer: and more\r\n"
    elif piece.startswith(b"1\r"):
        beginning = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(piece * 50)
            await writer.drain()

    async def test() -> None:
        async with opened(script) as (made, _):
            with pytest.raises(TooLarge):
                await ask(made, 10)

    run.run(test())


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 200 OK\r\n bad: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (LIMIT + 70_000), http(200, b" " * (LIMIT + 1)),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000,
    ],
)  # fmt: skip
def test_what_is_no_http_or_too_much(run: asyncio.Runner, raw: bytes) -> None:
    async def test() -> None:
        async with opened(always(raw)) as (made, _):
            with pytest.raises(Unreadable):
                await ask(made)
            assert not made._idle

    run.run(test())


def test_largest_body(run: asyncio.Runner) -> None:
    async def test() -> None:
        async with opened(always(http(200, b" " * LIMIT))) as (made, _):
            assert len((await ask(made)).body) == LIMIT

    run.run(test())


@pytest.mark.parametrize("extra", [http(200, b"of somebody else"), b"HTTP/1.1 200", b"\r\nnonsense"])
def test_an_answer_nobody_asked_for_reaches_nobody(run: asyncio.Runner, extra: bytes) -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return http(200, b"mine") + (extra if asked.path == "/first" else b"")

    async def late(asked: Asked, writer: asyncio.StreamWriter) -> bytes:
        if asked.path != "/first":
            return http(200, b"mine")
        writer.write(http(200, b"mine"))
        await writer.drain()
        await asyncio.sleep(0.05)
        return extra

    async def test() -> None:
        for how in (script, late):
            async with opened(how) as (made, _):
                assert (await made.request("POST", "/first", {}, b"{}", 2)).body == b"mine"
                await asyncio.sleep(0.1)
                for _again in range(3):
                    assert (await ask(made)).body == b"mine"

    run.run(test())


def test_cancelled_request_takes_its_connection_with_it(run: asyncio.Runner) -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        await asyncio.sleep(0.2 if asked.path == "/slow" else 0)
        return http(200, asked.path.encode())

    async def test() -> None:
        async with opened(script) as (made, up):
            await made.request("POST", "/one", {}, b"{}", 2)
            slow = asyncio.create_task(made.request("POST", "/slow", {}, b"{}", 2))
            await asyncio.sleep(0.05)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            with pytest.raises(TimeoutError):
                await made.request("POST", "/slow", {}, b"{}", 0.05)
            await asyncio.sleep(0.3)
            assert (await made.request("POST", "/two", {}, b"{}", 2)).body == b"/two"
            assert up.connections == 3

    run.run(test())


def test_connections_that_are_not_needed_grow_old(run: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with opened(always(http(200, b"x"))) as (made, up):
            await asyncio.gather(*(ask(made) for _ in range(4)))
            assert (up.connections, len(made._idle)) == (4, 4)
            await ask(made)
            assert len(made._idle) == 4
            monkeypatch.setattr(pool, "_IDLE_S", 0.0)
            await asyncio.sleep(0.01)
            await ask(made)
            assert (up.connections, len(made._idle)) == (5, 1)

    run.run(test())


def test_connections_the_other_side_closed_are_passed_over(run: asyncio.Runner) -> None:
    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, b"x"))
        await writer.drain()

    async def test() -> None:
        async with opened(script) as (made, up):
            for _ in range(3):
                assert (await ask(made)).body == b"x"
                await asyncio.sleep(0.02)
            assert up.connections == 3

    run.run(test())


def test_closing_connection_is_not_kept(run: asyncio.Runner) -> None:
    raw = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"

    async def test() -> None:
        async with opened(always(raw)) as (made, up):
            for _ in range(2):
                assert (await ask(made)).body == b"x"
            assert up.connections == 2

    run.run(test())


def test_request_on_a_connection_that_just_went(run: asyncio.Runner) -> None:
    async def test() -> None:
        async with opened(always(http(200, b"x"))) as (made, up):
            connection = await made._connect(asyncio.get_running_loop())
            connection.abort()
            with pytest.raises(Lost):
                await connection.ask(asyncio.get_running_loop(), b"x")
            assert not connection.usable and up.asked == []

    run.run(test())


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "\x00", "caf\u00e9", "\x7f"])
def test_header_that_would_be_two(run: asyncio.Runner, value: str) -> None:
    async def test() -> None:
        async with opened(always(http(200, b"x"))) as (made, up):
            with pytest.raises(ValueError, match="authorization cannot be sent"):
                await made.request("POST", "/x", {"authorization": value}, b"{}", 1)
            assert up.asked == []

    run.run(test())


def test_nobody_there(run: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with upstream(always(b"")) as up:
            url = up.url
        for origin in (url, "http://no.such.host.invalid"):
            with pytest.raises(Lost):
                await ask(Pool(origin, {}, LIMIT))
        monkeypatch.setattr(pool, "_CONNECT_TIMEOUT_S", 0.0)
        with pytest.raises(Lost):
            await ask(Pool("http://192.0.2.1", {}, LIMIT))

    run.run(test())


def test_head_and_odd_targets_cannot_be_asked(run: asyncio.Runner) -> None:
    async def test() -> None:
        async with opened(always(http(200, b"x"))) as (made, up):
            for method, target in (
                ("HEAD", "/x"),
                ("GET", "x"),
                ("GET", "/x y"),
                ("GET", "/x\r\n"),
                ("GET", "/\u00e9"),
            ):
                with pytest.raises(ValueError, match="cannot be asked"):
                    await made.request(method, target, {}, None, 1)
            assert up.asked == []

    run.run(test())


def test_addresses_are_tried_in_turn(run: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses, one that swallows everything, one that works; and from then on that one first."""
    tried: list[str] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def found(*_: Any, **__: Any) -> list[Any]:
            return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.2", "192.0.2.1", "127.0.0.1", "127.0.0.1")]

        async def watched(factory: Any, address: str, *rest: Any, **options: Any) -> Any:
            tried.append(address)
            if address == "192.0.2.1":
                await asyncio.sleep(30)
            return await connect(factory, address, *rest, **options)

        async with opened(always(http(200, b"x"))) as (made, up):
            # uvloop's loops have no place for attributes of ours.
            monkeypatch.setattr(
                asyncio, "get_running_loop", lambda: Loop(loop, getaddrinfo=found, create_connection=watched)
            )
            monkeypatch.setattr(pool, "_CONNECT_TIMEOUT_S", 0.6)
            for _ in range(2):
                assert (await made.request("GET", "/", {}, None, 2, fresh=True)).body == b"x"
            assert tried == ["127.0.0.2", "192.0.2.1", "127.0.0.1", "127.0.0.1"]
            assert up.connections == 2

    run.run(test())


class Loop:
    """An event loop with some methods replaced."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **replaced: Any) -> None:
        self.__dict__.update(replaced)
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
def test_ten_thousand_requests_and_not_one_thing_left(run: asyncio.Runner) -> None:
    """Answered, given up by their callers, hung up on: no descriptor, no task, and no future nobody looks at."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("counts file descriptors in /proc")
    complaints: list[Any] = []

    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        if asked.path == "/slow":
            await asyncio.sleep(30)
        return None if asked.path == "/gone" else http(200, b"x")

    async def caller(made: Pool, number: int) -> None:
        for again in range(625):
            which = ("/slow", "/gone")[again // 25 % 2] if again % 25 == number else "/x"
            with suppress(TimeoutError, Lost):
                await made.request("POST", which, {}, b"{}", 0.05 if which == "/slow" else 5)

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with opened(script) as (made, _):
            await ask(made)  # the loop opens some of its own
        before = descriptors()
        async with opened(script) as (made, up):
            await asyncio.gather(*(caller(made, number) for number in range(16)))
            assert len(up.asked) == 10_000
            assert len(made._idle) <= 16
        gc.collect()
        deadline = asyncio.get_running_loop().time() + 5
        while (left := descriptors()) > before or len(asyncio.all_tasks()) > 1:
            assert asyncio.get_running_loop().time() < deadline, (before, left, asyncio.all_tasks())
            await asyncio.sleep(0.01)

    run.run(test())
    assert complaints == []


def test_closed_pool_keeps_nothing(run: asyncio.Runner) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def script(_: Asked, __: asyncio.StreamWriter) -> bytes:
        arrived.set()
        await release.wait()
        return http(200, b"x")

    async def test() -> None:
        async with opened(script) as (made, _):
            asking = asyncio.create_task(ask(made))
            await arrived.wait()
            made.close()
            release.set()
            assert (await asking).body == b"x"
            assert not made._idle

    run.run(test())


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://x.example", "https://x.example", "/"),
        ("https://x.example:8443/v1?tenant=7&a=%20", "https://x.example:8443", "/v1?tenant=7&a=%20"),
        ("http://x.example/Gr\u00fc\u00dfe und?q=\u00e9", "http://x.example", "/Gr%C3%BC%C3%9Fe%20und?q=%C3%A9"),
    ],
)
def test_address_becomes_origin_and_target(url: str, origin: str, target: str) -> None:
    assert origin_and_target(url) == (origin, target)


# ----- TLS -----


def certificate(directory: Path, *names: x509.GeneralName) -> Path:
    """A self-signed certificate with its key in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = directory / "certificate.pem"
    path.write_bytes(
        made.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


@pytest.mark.parametrize(
    ("name", "trusted", "reached"),
    [
        (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), True, True),
        (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), False, False),
        (x509.DNSName("localhost"), True, True),
        (x509.DNSName("localhost"), False, False),
        (x509.DNSName("other.example"), True, False),
    ],
)
def test_tls_is_verified(
    run: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, trusted: bool, reached: bool
) -> None:
    path = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    by_name = name == x509.DNSName("localhost")
    asked_for: list[str | None] = []
    context.sni_callback = lambda _socket, asked, _context: asked_for.append(asked)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))

    async def test() -> None:
        up = Upstream(always(http(200, b"secret")))
        server = await asyncio.start_server(up.serve, "127.0.0.1", 0, ssl=context)
        made = Pool(
            f"https://{'localhost' if by_name else '127.0.0.1'}:{server.sockets[0].getsockname()[1]}", {}, LIMIT
        )
        try:
            if reached:
                for _ in range(3):
                    assert (await ask(made)).body == b"secret"
                assert up.connections == 1
                assert asked_for == ["localhost" if by_name else None]
            else:
                with pytest.raises(Lost):
                    await ask(made)
                assert up.asked == []
        finally:
            made.close()
            server.close()
            await asyncio.sleep(0.05)

    run.run(test())
