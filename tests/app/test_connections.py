"""One connection harms no other: slow, silent, greedy and malformed callers against a server with short limits."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, Final

import pytest
from fastapi import Response

from app.connections.limits import HEAD_BYTES, MAX_FIELDS, MAX_PIPELINED, UNSENT_BYTES, Patience
from app.docs import files
from app.main import create_app
from app.settings import Settings
from tests.app.bodies import connected, head
from tests.app.conftest import ListeningServer, listening

MOST: Final = 30
OURS: Final = 20
"""Connections of one address."""
SHORT: Final = Patience(head=1, crowded=1, keep_alive=1, unread=1, write=1, sweep=0.05)
NEVER: Final = Patience(*[3600.0] * 5, sweep=0.05)
LARGE: Final = 2 * UNSENT_BYTES
"""An answer that the kernel does not hold as a whole, with little left for WRITE_RATE."""
LIVE: Final = head("GET", "/livez", {})


def serve(patience: Patience, **changes: Any) -> Any:
    """A service without anything behind it, and with a call that ends with its caller."""
    places = {"database_url": "postgresql+psycopg://nowhere/none", "broker_url": "redis://nowhere"}
    rest = {"secret": "-" * 32, "store_url": "file:///nowhere", "stop_seconds": 1}
    app = create_app(Settings.model_validate({**places, **rest, **changes}))

    @app.get("/large", include_in_schema=False)
    async def large() -> Response:
        return Response(bytes(LARGE))

    @app.get("/hold", include_in_schema=False)
    async def hold() -> None:
        await asyncio.Event().wait()

    return listening(app, patience)


@pytest.fixture(scope="module")
def impatient() -> Iterator[ListeningServer]:
    with serve(SHORT) as server:
        yield server


@pytest.fixture(scope="module")
def small() -> Iterator[ListeningServer]:
    """A service that waits for ever and has few connections."""
    with serve(NEVER, connections=MOST, connections_per_address=OURS) as server:
        yield server


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the one answer that is to come."""
    with connection.makefile("rb") as stream:
        return next_of(stream)


def next_of(stream: BinaryIO) -> tuple[int, bytes]:
    """Status and body of the next of several answers."""
    status = int(stream.readline().split()[1])
    length = 0
    while line := stream.readline().strip().lower():
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, stream.read(length)


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the service closes."""
    found = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(2**16):
            found += piece
    return bytes(found)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(url: str) -> bool:
    with connected(url) as connection:
        connection.sendall(LIVE)
        return answer_of(connection) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"G", b"GET /livez HTTP/1.1\r\nHost: a", LIVE[:-2]])
def test_a_head_that_does_not_end_is_not_waited_for(sent: bytes, impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(sent)
        answer = rest_of(connection)
    assert answer == b"" or b" 408 " in answer.splitlines()[0]
    assert (answer != b"") == (sent.strip() != b"")


@pytest.mark.parametrize("before", [b"", LIVE], ids=["new", "kept alive"])
@pytest.mark.parametrize("drop", [b"\r\n", b"a"])
def test_a_head_in_drops_is_not_waited_for(before: bytes, drop: bytes, impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(before)
        if before:
            assert answer_of(connection)[0] == 200
        if drop == b"a":
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        with suppress(ConnectionError):
            connection.settimeout(0.1)
            while True:
                connection.sendall(drop)
                with suppress(TimeoutError):
                    if not connection.recv(2**16):
                        break


def test_a_silent_connection_is_closed_after_its_answer(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(LIVE)
        assert rest_of(connection).count(b"HTTP/1.1 200") == 1


def test_the_rest_of_a_refused_body_is_not_waited_for(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(head("POST", "/livez", {"Content-Length": "1000"}) + b"a")
        assert b"HTTP/1.1 405" in rest_of(connection)


def test_who_does_not_read_is_cut_off(impatient: ListeningServer) -> None:
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = impatient.servers[0].sockets[0].getsockname()
        until(lambda: not len(impatient.gate))
        connection.connect(address)
        until(lambda: bool(len(impatient.gate)))
        for _ in range(2 * MAX_PIPELINED):
            with suppress(OSError):
                connection.sendall(head("GET", "/large", {}))
        until(lambda: not len(impatient.gate))
    assert is_alive(impatient.url)


def test_the_kernel_holds_little_for_who_does_not_read(small: ListeningServer) -> None:
    """The service's own buffer has the rest, which callers of the same file share."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(small.servers[0].sockets[0].getsockname())
        connection.sendall(head("GET", "/docs/swagger-ui-bundle.js", {}))
        whole = files()["swagger-ui-bundle.js"].content
        assert len(whole) > 8 * UNSENT_BYTES
        until(lambda: any(each.transport.get_write_buffer_size() > 0 for each in list(small.gate)))
        [reader] = [each for each in list(small.gate) if each.transport.get_write_buffer_size() > 0]
        assert reader.transport.get_write_buffer_size() > len(whole) // 2
    until(lambda: len(small.gate) == 0)


def test_half_sent_heads_make_way_for_whole_ones(small: ListeningServer) -> None:
    with ExitStack() as stack:
        for _ in range(5 * MOST):
            connection = stack.enter_context(connected(small.url))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        for _ in range(5):
            assert is_alive(small.url)
        assert len(small.gate) <= MOST + 1


def test_above_the_limit_only_liveness_is_answered(small: ListeningServer) -> None:
    until(lambda: len(small.gate) == 0)
    with ExitStack() as stack:
        for _ in range(OURS):
            stack.enter_context(connected(small.url)).sendall(head("GET", "/hold", {}))
        until(lambda: len(small.gate) == OURS)
        assert is_alive(small.url)
        with connected(small.url) as late:
            late.sendall(head("GET", "/v1/methods", {}))
            status, body = answer_of(late)
            assert (status, json.loads(body)["code"]) == (503, "unavailable")
            assert late.recv(1) == b""
    until(lambda: len(small.gate) == 0)
    with connected(small.url) as again:
        again.sendall(head("GET", "/nothing", {}))
        assert answer_of(again)[0] == 404


def test_bodies_that_do_not_end_make_way(small: ListeningServer) -> None:
    until(lambda: len(small.gate) == 0)
    with ExitStack() as stack:
        for _ in range(3 * OURS):
            connection = stack.enter_context(connected(small.url))
            connection.sendall(head("POST", "/livez", {"Content-Length": "1000"}) + b"a")
            assert connection.recv(12) == b"HTTP/1.1 405"
        with connected(small.url) as late:
            late.sendall(head("GET", "/nothing", {}))
            assert answer_of(late)[0] == 404


MALFORMED: Final = {
    "not HTTP": (b"hello\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "CONNECT": (b"CONNECT inside:80 HTTP/1.1\r\nHost: inside:80\r\n\r\n", 400),
    "two lengths": (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "length and chunks": (
        b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "a negative length": (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "an endless length": (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
    "a line folded": (b"GET /livez HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
    "a space before the colon": (b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "NUL in a header": (b"GET /livez HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", 400),
    "chunks that are not last": (
        b"POST /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "two keys": (b"GET /livez HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nauthorization: b\r\n\r\n", 400),
    "many headers": (head("GET", "/livez", {f"a{number}": 1 for number in range(MAX_FIELDS)}), 431),
    "a long header": (head("GET", "/livez", {"a": "b" * HEAD_BYTES}), 431),
    "a long address": (head("GET", "/livez?" + "b" * HEAD_BYTES, {}), 431),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_not_a_request_is_answered_and_ends_the_connection(case: str, impatient: ListeningServer) -> None:
    sent, expected = MALFORMED[case]
    with connected(impatient.url) as connection:
        connection.sendall(sent)
        status, body = answer_of(connection)
        assert status == expected
        assert json.loads(body)["request_id"]
        assert rest_of(connection) == b""
    assert is_alive(impatient.url)


def test_a_head_without_end_is_not_kept(small: ListeningServer) -> None:
    with connected(small.url) as connection:
        with suppress(ConnectionError):
            connection.sendall(b"GET /livez HTTP/1.1\r\na: " + b"b" * 2**23)
        assert rest_of(connection)[:12] in (b"HTTP/1.1 431", b"")
    assert is_alive(small.url)


CHUNKS: Final = {
    "a size that is none": b"zz\r\n",
    "an endless size": b"f" * 40 + b"\r\n",
    "a negative size": b"-1\r\n",
    "more than the size": b"1\r\nabc\r\n",
    "many trailers": b"0\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(2 * MAX_FIELDS)) + b"\r\n",
    "an endless extension": b"1;" + b"a" * 2**20,
}


@pytest.mark.parametrize("case", CHUNKS)
def test_chunks_that_are_none_end_the_connection(case: str, impatient: ListeningServer) -> None:
    start = head("POST", "/v1/jobs", {"Transfer-Encoding": "chunked", "Content-Type": "application/json"})
    with connected(impatient.url) as connection:
        with suppress(ConnectionError):
            connection.sendall(start + CHUNKS[case])
        answer = rest_of(connection)
    assert not answer or answer.split()[1] in (b"400", b"401", b"431")
    assert is_alive(impatient.url)


def test_an_address_in_full_is_read_as_its_path(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(b"GET http://169.254.169.254/livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer_of(connection)[0] == 200


def test_an_upgrade_is_not_made(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(head("GET", "/livez", {"Connection": "Upgrade", "Upgrade": "websocket"}))
        assert answer_of(connection)[0] == 200
    assert is_alive(impatient.url)


def test_a_few_requests_may_wait_for_one_another(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(LIVE * MAX_PIPELINED)
        with connection.makefile("rb") as stream:
            assert [next_of(stream)[0] for _ in range(MAX_PIPELINED)] == [200] * MAX_PIPELINED


def test_many_may_not(small: ListeningServer) -> None:
    with connected(small.url) as connection:
        connection.sendall(LIVE * 1000)
        answers = rest_of(connection)
    assert 1 <= answers.count(b"HTTP/1.1 200") <= MAX_PIPELINED + 1
    assert is_alive(small.url)


def test_a_good_request_before_a_bad_one_is_answered(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(LIVE + b"nonsense\r\n\r\n")
        answers = rest_of(connection)
    assert answers.startswith(b"HTTP/1.1 200")
    assert is_alive(impatient.url)


def test_a_large_answer_reaches_a_slow_caller(impatient: ListeningServer) -> None:
    with connected(impatient.url) as connection:
        connection.sendall(head("GET", "/openapi.json", {"Connection": "close"}))
        pieces = bytearray()
        while piece := connection.recv(20_000):
            pieces += piece
            time.sleep(0.01)
    headers, _, body = bytes(pieces).partition(b"\r\n\r\n")
    assert b" 200 " in headers.splitlines()[0]
    json.loads(body)


def test_every_limit_has_a_default_that_ends() -> None:
    assert all(0 < limit <= 60 for limit in vars(Patience()).values())
