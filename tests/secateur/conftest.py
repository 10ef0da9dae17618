"""A real HTTP server that answers as a test scripts it, for what the real service does not do on demand; both
clients and the command line against it."""

import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from secateur import AsyncClient, Client
from secateur.calls.base import Calls
from tests import command_line


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What is sent; with `cut`, the connection breaks after so many bytes of the body."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


Answer = Callable[[Request], Reply]
Run = Callable[..., tuple[int, str, str]]
Connect = Callable[..., Client]
"""Makes a client of the kind that is tested."""


class Bridge:
    """An AsyncClient for tests written for a Client: each call runs on an event loop in another thread."""

    def __init__(self, target: Any, portal: BlockingPortal) -> None:
        self._target = target
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if isinstance(found, Calls):
            return Bridge(found, self._portal)
        return self._calling(found) if callable(found) else found

    def _calling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            answer = function(*arguments, **named)
            return (
                self._rows(answer) if isinstance(answer, AsyncGenerator) else self._portal.call(_awaited, answer)
            )

        return call

    def _rows(self, rows: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while True:
                try:
                    row = self._portal.call(rows.__anext__)
                except StopAsyncIteration:
                    return
                yield row
        finally:
            self._portal.call(rows.aclose)

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._target.close)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(params=["blocking", "awaited"])
def connect(request: pytest.FixtureRequest, portal: BlockingPortal) -> Iterator[Connect]:
    """Client, and AsyncClient as if it were one: what holds for one holds for the other."""
    if request.param == "blocking":
        yield Client
        return
    made: list[AsyncClient] = []

    def bridge(*arguments: Any, **named: Any) -> Client:
        made.append(AsyncClient(*arguments, **named))
        return cast("Client", Bridge(made[-1], portal))

    yield bridge
    for each in made:
        portal.call(each.close)


class ScriptedServer:
    """Answers with the next reply of the script, or with `answer` when that is set."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: list[Reply] = []
        self.answer: Answer | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                server.requests.append(request)
                reply = server.answer(request) if server.answer else server.script.pop(0)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if reply.cut is None:
                    self.wfile.write(reply.body)
                else:
                    self.wfile.write(reply.body[: reply.cut])
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        return Handler


@pytest.fixture(autouse=True)
def _no_login(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has stored on this machine is not the tests'."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """The server, and nothing of the environment that would point elsewhere."""
    server = ScriptedServer()
    yield server
    server.close()


def job_document(state: str, **more: Any) -> dict[str, Any]:
    """A job as the service shows it."""
    return {
        "id": "job_1",
        "state": state,
        "phase": None,
        "method": "copal",
        "model": "mdl_1",
        "spec": {"sparsity": {"target": 0.5}},
        "progress": None,
        "failure": None,
        "result": None,
        "attempts": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "finished_at": None,
        **more,
    }


@pytest.fixture
def run(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("SECATEUR_URL", scripted.url)
    monkeypatch.setenv("SECATEUR_API_KEY", "sctr_key")
    return lambda *arguments: command_line.call(arguments, monkeypatch, capsys)
