"""Whatever goes wrong on the way to a server and back: callers of both clients see this package's errors alone."""

import gzip
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secateur import AsyncClient, BadAnswer, Client, SecateurError
from secateur.digests import tree_digest
from secateur.transport import _trusted
from tests.secateur.conftest import Connect, Reply, Request, ScriptedServer

FILE = {"path": "a", "sha256": hashlib.sha256(b"a").hexdigest(), "bytes": 1}
MANIFEST = {"files": [FILE], "digest": tree_digest([("a", FILE["sha256"])])}
CALLS: dict[str, Callable[[Client, Path], Any]] = {
    "call": lambda client, _: client.job("job_1"),
    "create": lambda client, _: client.submit({}),
    "change": lambda client, _: client.change("job_1", priority=1),
    "delete": lambda client, _: client.delete_job("job_1"),
    "list": lambda client, _: list(client.jobs()),
    "wait": lambda client, _: client.wait("job_1", timeout=0),
    "stream": lambda client, _: list(client.stream("job_1")),
    "download": lambda client, folder: client.download("job_1", folder),
    "export": lambda client, folder: client.export_state("job_1", folder / "state.tar"),
    "upload": lambda client, folder: client.upload_dataset(_text(folder)),
}
"""One of each way to the server."""
READ_PIECEMEAL = ("stream", "download", "export")
ERRORS = sorted(
    (each for each in vars(httpx).values() if isinstance(each, type) and issubclass(each, Exception)),
    key=lambda each: each.__name__,
)


def _text(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_text("text")
    return path


def _made(kind: type[Exception]) -> Exception:
    if issubclass(kind, httpx.HTTPStatusError):
        request = httpx.Request("GET", "http://server")
        return kind("broken", request=request, response=httpx.Response(500, request=request))
    try:
        return kind("broken")
    except TypeError:
        return kind()


class Spoilt(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that ends in an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        yield b""
        raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""
        raise self.error


@pytest.fixture(autouse=True)
def _given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.waiting.AWAY", -1)


@pytest.fixture
def client(connect: Connect, scripted: ScriptedServer) -> Client:
    return connect(scripted.url, "sctr_key", retry_seconds=0)


@pytest.mark.parametrize("in_body", [False, True], ids=["for an answer", "in its body"])
@pytest.mark.parametrize("kind", ERRORS)
def test_no_error_of_httpx_comes_through(
    kind: type[Exception], in_body: bool, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/artifacts"):
            return httpx.Response(200, json=MANIFEST)
        if not in_body:
            raise _made(kind)
        header = {"Content-Type": "text/event-stream"}
        return httpx.Response(200, stream=Spoilt(_made(kind)), headers=header)

    async def later(_: Any, request: httpx.Request) -> httpx.Response:
        return answer(request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: answer(request))
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", later)
    with connect("http://server", "sctr_key", retry_seconds=0) as client:
        for call in CALLS.values():
            with pytest.raises(SecateurError):
                call(client, tmp_path)


@pytest.mark.parametrize("call", CALLS)
def test_a_body_that_is_not_packed_as_it_says_is_a_bad_answer(
    call: str, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    """Streams and files are read as they are sent; of them only a refusal is unpacked."""
    spoilt = Reply(
        400 if call in READ_PIECEMEAL else 200, gzip.compress(b"{}")[::-1], {"Content-Encoding": "gzip"}
    )
    scripted.answer = _after_the_manifest(spoilt)
    with pytest.raises(BadAnswer, match="cannot be read"):
        CALLS[call](client, tmp_path)


@pytest.mark.parametrize("call", CALLS)
def test_redirects_that_lead_nowhere_are_a_bad_answer(
    call: str, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    """Only what may lie in an object store is looked for elsewhere, and not without end."""
    scripted.answer = lambda request: _after_the_manifest(Reply(307, b"", {"Location": request.path}))(request)
    with pytest.raises(BadAnswer, match="redirects" if call in READ_PIECEMEAL else "not answer like Secateur"):
        CALLS[call](client, tmp_path)
    assert (len(scripted.requests) > 5) == (call in READ_PIECEMEAL)


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:99999/", f"http://{'a' * 64}.test/", "http://[", "ftp://host/"]
)
@pytest.mark.parametrize("call", READ_PIECEMEAL)
def test_a_redirect_to_what_is_no_address_is_told(
    call: str, place: str, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.answer = _after_the_manifest(Reply(307, b"", {"Location": place}))
    with pytest.raises(SecateurError):
        CALLS[call](client, tmp_path)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"[]"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_body_that_is_no_object_is_told(
    status: int, body: bytes, client: Client, scripted: ScriptedServer
) -> None:
    scripted.answer = lambda _: Reply(status, body, {"Content-Type": "application/json"})
    with pytest.raises(SecateurError):
        client.job("job_1")


@pytest.mark.parametrize(
    "message", [b"data: {", b"data: []", b"data: {}", b'data: {"seq": "x"}', b"data: \xff", b"retry: soon"]
)
def test_a_stream_of_something_else_is_a_bad_answer(
    message: bytes, client: Client, scripted: ScriptedServer
) -> None:
    scripted.answer = lambda _: Reply(200, message + b"\n\n", {"Content-Type": "text/event-stream"})
    with pytest.raises(BadAnswer, match="with rows"):
        list(client.stream("job_1"))


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.job("j" * 70_000),
        lambda client: client.submit({}, idempotency_key="é"),
        lambda client: client.submit({"target": float("nan")}),
        lambda client: client.submit({"name": "\udcff"}),
    ],
)
def test_what_is_no_request_is_told_and_not_sent(
    call: Callable[[Client], Any], client: Client, scripted: ScriptedServer
) -> None:
    with pytest.raises(SecateurError, match="cannot be sent"):
        call(client)
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "carrier-pigeon://loft"), ("ALL_PROXY", "http://proxy:port"), ("SSL_CERT_FILE", "/nowhere")],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_machine_that_is_set_up_wrong_is_told(
    kind: type[Client | AsyncClient], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.transport._trusted", _trusted.__wrapped__)
    monkeypatch.setenv(name, value)
    with pytest.raises(SecateurError, match="this machine's"):
        kind("http://server", "sctr_key")


def _after_the_manifest(reply: Reply) -> Callable[[Request], Reply]:
    return lambda request: Reply.json(MANIFEST) if request.path.endswith("/artifacts") else reply
