"""What only a client with an event loop can do wrong: hold the loop up, or leave something behind when it is
cancelled. That it does what the other one does is shown by the other files, which run over both."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from secateur import AsyncClient, DownloadError, wire
from secateur.digests import file_sha256, tree_digest
from tests.secateur.conftest import Reply, Request, ScriptedServer

CONTENT = bytes(range(256)) * 4096
HELD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\n"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await coroutine

    return asyncio.run(limited())


class Turnstile:
    """Lets file work end only after the event loop has had a turn, which it has not while the work holds it up."""

    def __init__(self) -> None:
        self.passed = 0
        self._turned = threading.Event()

    def wait(self) -> None:
        self._turned.clear()
        assert self._turned.wait(20), "the event loop stands still"
        self.passed += 1

    async def turn(self) -> None:
        while True:
            self._turned.set()
            await asyncio.sleep(0.001)


async def beside(turnstile: Turnstile, work: Awaitable[Any]) -> Any:
    turning = asyncio.create_task(turnstile.turn())
    try:
        return await work
    finally:
        turning.cancel()


def artifact(request: Request) -> Reply:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    if request.path.endswith("/artifacts"):
        files = [{"path": "a", "sha256": sha256, "bytes": len(CONTENT)}]
        return Reply.json({"digest": tree_digest([("a", sha256)]), "files": files})
    return Reply(200, CONTENT)


def test_files_are_written_and_hashed_beside_the_event_loop(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turnstile = Turnstile()
    original = wire.AsyncWire.work

    async def slow(self: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        return await original(self, lambda: (turnstile.wait(), function(*arguments))[1])

    def hashed(path: Path) -> str:
        turnstile.wait()
        return file_sha256(path)

    monkeypatch.setattr(wire.AsyncWire, "work", slow)
    monkeypatch.setattr(wire, "file_sha256", hashed)
    scripted.answer = artifact

    async def download() -> None:
        async with AsyncClient(scripted.url, "sctr_key") as client:
            await beside(turnstile, client.download("job_1", tmp_path))

    run(download())
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert turnstile.passed >= 2


def test_files_are_read_beside_the_event_loop(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turnstile, path = Turnstile(), tmp_path / "a.txt"
    path.write_bytes(CONTENT * 3)
    original = Path.open

    class Slow:
        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def read(self, size: int) -> bytes:
            turnstile.wait()
            return self.file.read(size)

        def seek(self, place: int) -> int:
            return self.file.seek(place)

        def __enter__(self) -> "Slow":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    monkeypatch.setattr(wire, "file_sha256", lambda _: hashlib.sha256(CONTENT * 3).hexdigest())
    monkeypatch.setattr(Path, "open", lambda self, *mode: Slow(original(self, *mode)))
    scripted.answer = lambda _: Reply.json({"id": "ds_1", "state": "ready"}, 201)
    told: list[tuple[int, int]] = []

    async def upload() -> None:
        async with AsyncClient(scripted.url, "sctr_key") as client:
            sending = client.upload_dataset(path, on_bytes=lambda done, total: told.append((done, total)))
            await beside(turnstile, sending)

    run(upload())
    assert scripted.requests[0].body == CONTENT * 3
    size = len(CONTENT)
    assert told == [(done, 3 * size) for done in (size, 2 * size, 3 * size)]
    assert turnstile.passed == 3


@asynccontextmanager
async def holding(reply: str) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """A server that answers so and never ends: its URL, when somebody has asked, when he is gone."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply.encode())
        await writer.drain()
        asked.set()
        while await reader.read(1000):
            pass
        gone.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked, gone


async def read_stream(client: AsyncClient, _: Path) -> None:
    async with aclosing(client.stream("job_1")) as events:
        async for _event in events:
            pass


CALLS: dict[str, tuple[str, Callable[[AsyncClient, Path], Awaitable[Any]]]] = {
    "wait": ("", lambda client, _: client.wait("job_1")),
    "stream": (HELD, read_stream),
    "export": (HELD + "x" * 1000, lambda client, at: client.export_state("job_1", at / "state.tar")),
    "page": (HELD, lambda client, _: anext(client.jobs())),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_cancelled_call_leaves_no_open_connection(call: str, tmp_path: Path) -> None:
    reply, begin = CALLS[call]

    async def cancel() -> None:
        async with holding(reply) as (url, asked, gone), AsyncClient(url, "sctr_key") as client:
            task = asyncio.ensure_future(begin(client, tmp_path))
            await asked.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone.wait()  # while the client itself is open

    run(cancel())
    assert not (tmp_path / "state.tar").exists()


def test_a_body_that_is_not_read_to_its_end_is_closed_at_once(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when its error, which holds it, is forgotten."""
    closed: list[bool] = []

    async def endless(*_: object) -> AsyncIterator[bytes]:
        try:
            while True:
                yield CONTENT
        finally:
            closed.append(True)

    monkeypatch.setattr(wire.AsyncWire, "pieces", endless)
    scripted.answer = lambda request: artifact(request) if request.path.endswith("/artifacts") else Reply(200, b"")

    async def download() -> None:
        async with AsyncClient(scripted.url, "sctr_key") as client:
            with pytest.raises(DownloadError, match="more than the manifest says"):
                await client.download("job_1", tmp_path)
            assert closed == [True]

    run(download())


def test_an_upload_cancelled_while_a_piece_is_read_ends_as_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads is not waited for."""
    path, reading, read = tmp_path / "a.txt", threading.Event(), threading.Event()
    path.write_bytes(CONTENT)

    def slow(_: wire.Body) -> Iterator[bytes]:
        reading.set()
        assert read.wait(30)
        yield CONTENT

    monkeypatch.setattr(wire.Body, "pieces", slow)

    async def cancel() -> None:
        async with holding("") as (url, _, gone), AsyncClient(url, "sctr_key") as client:
            task = asyncio.ensure_future(client.upload_dataset(path))
            while not reading.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            try:
                with pytest.raises(asyncio.CancelledError):
                    await task
            finally:
                read.set()
            await gone.wait()

    run(cancel())


def test_many_wait_at_once(scripted: ScriptedServer) -> None:
    """Each answer comes only when all have asked."""
    everybody = threading.Barrier(8)

    def answer(request: Request) -> Reply:
        everybody.wait(30)
        return Reply.json({"id": request.path[9:14], "state": "succeeded"})

    scripted.answer = answer

    async def wait() -> list[Any]:
        async with AsyncClient(scripted.url, "sctr_key") as client:
            return await asyncio.gather(*(client.wait(f"job_{number}") for number in range(8)))

    assert [job["id"] for job in run(wait())] == [f"job_{number}" for number in range(8)]


def test_a_client_that_blocks_works_where_a_loop_runs(scripted: ScriptedServer) -> None:
    """As in a notebook: also its lists, which are left early."""
    from secateur import Client

    scripted.answer = lambda _: Reply.json({"data": [{"id": 1}, {"id": 2}], "next_cursor": None})

    async def cell() -> int:
        with Client(scripted.url, "sctr_key") as client:
            return int(next(client.jobs())["id"])

    assert run(cell()) == 1
