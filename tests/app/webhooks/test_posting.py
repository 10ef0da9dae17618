"""Receivers of all bad kinds harm nothing: each ends within its time, and nothing internal is spoken to."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.webhooks import posting
from app.webhooks.posting import KEPT_BYTES, Answer, Poster, PostError, Resolve, resolve

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def post(serve: Serve, path: str = "/", seconds: float = 10.0) -> Answer:
    """What comes of a POST to a server that behaves so."""

    async def run() -> Answer:
        async with serving(serve) as port:
            return await Poster(LOOPBACK).post(f"http://127.0.0.1:{port}{path}", {}, b"{}", seconds)

    return asyncio.run(run())


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that does this with each connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def head(reader: asyncio.StreamReader) -> str:
    """The request's head."""
    return (await reader.readuntil(b"\r\n\r\n")).decode()


def test_an_answer_is_its_status_and_the_beginning_of_its_body() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await head(reader)
        assert "Host: 127.0.0.1" in request
        assert "Content-Length: 2" in request
        writer.write(b"HTTP/1.1 201 Created\r\nRetry-After: 7\r\nContent-Length: 7\r\n\r\na\0\xffbody")
        await writer.drain()

    answer = post(serve)
    assert (answer.status, answer.error, answer.body, answer.retry_after) == (201, None, "a\ufffd\ufffdbody", 7)


@pytest.mark.parametrize("length", ["Content-Length: 99999999999", "Transfer-Encoding: chunked", "X: y"])
def test_an_endless_answer_is_cut_off(length: str) -> None:
    sent = 0
    ended = threading.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head(reader)
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        part = b"x" * 65536
        try:
            while sent < 2**30:
                writer.write(b"10000\r\n" + part + b"\r\n" if "chunked" in length else part)
                await writer.drain()
                sent += len(part)
        finally:
            ended.set()

    answer = post(serve)
    assert (answer.status, answer.error, answer.body) == (200, None, "x" * KEPT_BYTES)
    assert ended.wait(10)
    assert sent < 2**30


def test_a_head_without_an_end_is_cut_off() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(10_000):
            writer.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    assert post(serve).error is PostError.broken_off


@pytest.mark.parametrize("when", ["silent", "drips its head", "drips its body", "says that it goes on"])
def test_a_slow_receiver_has_its_time_and_no_more(when: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        if when == "drips its body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        drips = {"silent": b"", "says that it goes on": b"HTTP/1.1 102 Processing\r\n\r\n"}.get(when, b"H")
        for _ in range(1000):
            writer.write(drips)
            await writer.drain()
            await asyncio.sleep(0.02)

    answer = post(serve, seconds=0.5)
    assert (answer.error, answer.status, answer.seconds) == (PostError.timeout, None, 0.5)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", PostError.broken_off),
        (b"HTTP/1.1 200", PostError.broken_off),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", PostError.broken_off),
        (b"SSH-2.0-OpenSSH_9.9\r\n", PostError.broken_off),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", PostError.bad_status),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", PostError.gone),
        *(
            (
                b"HTTP/1.1 %d Elsewhere\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n" % status,
                PostError.bad_status,
            )
            for status in (301, 302, 303, 307, 308)
        ),
    ],
)
def test_what_is_no_good_answer_is_an_error_and_no_redirect_is_followed(reply: bytes, error: PostError) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await head(reader))
        writer.write(reply)
        await writer.drain()

    assert post(serve).error is error
    assert len(requests) == 1


def answer_of(url: str, resolve: Resolve = resolve, allowed: bool = False) -> Answer:
    return asyncio.run(Poster(LOOPBACK if allowed else (), resolve=resolve).post(url, {}, b"{}"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"),
        *("[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254", "0"),
    ],
)
def test_nothing_internal_is_connected_to(host: str) -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(reader)

    async def run() -> Answer:
        async with serving(serve) as port:
            return await Poster().post(f"http://{host}:{port}/", {}, b"{}")

    assert asyncio.run(run()).error is PostError.refused_address
    assert connections == []


def says(*answers: list[str]) -> tuple[Resolve, list[str]]:
    """A resolver with these answers, one after the other, and what it was asked."""
    asked: list[str] = []

    async def look(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    return look, asked


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "::ffff:10.0.0.1"]])
def test_a_name_with_one_internal_address_is_refused(addresses: list[str]) -> None:
    look, _ = says(addresses)
    assert answer_of("http://hooks.example.com/", look).error is PostError.refused_address


def test_a_name_is_looked_up_once_and_the_checked_address_is_connected_to() -> None:
    hosts = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hosts.append(await head(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    look, asked = says(["127.0.0.1"], ["127.0.0.2"])

    async def run() -> Answer:
        async with serving(serve) as port:
            return await Poster(LOOPBACK, resolve=look).post(f"http://rebound.example:{port}/", {}, b"{}")

    assert asyncio.run(run()).status == 204
    assert asked == ["rebound.example"]
    assert "Host: rebound.example" in hosts[0]


def test_an_address_that_swallows_everything_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "CONNECT_SECONDS", 0.2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async def run(*addresses: str) -> Answer:
        look, _ = says(list(addresses))
        # A queue that is full answers no more: what comes then hangs.
        full = socket.create_server(("127.0.0.9", 0), backlog=0)
        port = full.getsockname()[1]
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.9", port))
        try:
            return await Poster(LOOPBACK, resolve=look).post(f"http://two.example:{port}/", {}, b"{}")
        finally:
            server.close()
            for each in (full, *waiting):
                each.close()

    assert asyncio.run(run("127.0.0.9", "127.0.0.1")).status == 204
    assert asyncio.run(run("127.0.0.9")).error is PostError.not_connected


def test_what_does_not_answer_is_named() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        return await resolve("host.invalid", port)

    async def hangs(host: str, port: int) -> list[str]:
        await asyncio.sleep(3600)
        return []

    async def nowhere() -> Answer:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await Poster(LOOPBACK).post(f"http://127.0.0.1:{port}/", {}, b"{}")

    assert answer_of("http://x.example/", unknown).error is PostError.unknown_host
    assert asyncio.run(Poster(resolve=hangs).post("http://x.example/", {}, b"", 0.1)).error is PostError.timeout
    assert asyncio.run(nowhere()).error is PostError.not_connected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of hooks.example, signed by itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    name = ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example", "-days", "2"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["openssl", "req", "-x509", *kind, *name, "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.mark.parametrize(
    ("host", "trusted", "error"),
    [
        ("hooks.example", True, None),
        ("hooks.example", False, PostError.tls_failed),
        ("other.example", True, PostError.tls_failed),
    ],
)
def test_tls_is_checked_by_the_name_and_not_by_the_address(
    certificate: Path, host: str, trusted: bool, error: PostError | None
) -> None:
    names: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    caller = ssl.create_default_context(cafile=str(certificate) if trusted else None)
    look, _ = says(["127.0.0.1"])

    async def run() -> Answer:
        async with serving(serve, server) as port:
            return await Poster(LOOPBACK, caller, look).post(f"https://{host}:{port}/", {}, b"{}")

    assert asyncio.run(run()).error is error
    assert names == [host]


def test_a_server_without_tls_is_named_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def run() -> Answer:
        async with serving(serve) as port:
            return await Poster(LOOPBACK).post(f"https://127.0.0.1:{port}/", {}, b"{}")

    assert asyncio.run(run()).error is PostError.tls_failed
