"""What a client that blocks and one that is awaited do differently: HTTP, pauses, and work on files."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx

from secateur.digests import file_sha256
from secateur.errors import BadAnswer, SecateurError

CHUNK_BYTES: Final = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """A part of a file to send, read anew for every try. on_sent is told how many bytes are on their way."""

    path: Path
    start: int
    size: int
    on_sent: Callable[[int], None] | None = None

    def pieces(self) -> Iterator[bytes]:
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                left -= len(piece)
                yield piece

    def report(self, sent: int) -> None:
        if self.on_sent is not None:
            self.on_sent(sent)


class Wire(Protocol):
    """The way to a server. Raises httpx.TransportError for what broke, which may be tried again, and SecateurError
    for what would break again."""

    def __init__(self, **options: Any) -> None: ...

    async def send(self, method: str, path: str, *, body: Body | None = None, **options: Any) -> httpx.Response:
        """The answer, read whole."""

    def open(self, path: str, **options: Any) -> AbstractAsyncContextManager[httpx.Response]:
        """The answer to a GET, not yet read. Follows redirects (to an object store, without our key)."""

    async def read(self, response: httpx.Response) -> None:
        """Read the whole body of an opened answer."""

    def pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body of an opened answer, as it comes."""

    async def sleep(self, seconds: float) -> None: ...

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns that reads or writes files."""

    async def sha256(self, path: Path) -> str:
        """Hex sha256 of a file's bytes."""

    async def close(self) -> None: ...


class BlockingWire:
    """Never suspends: a coroutine over it ends at its first step."""

    def __init__(self, **options: Any) -> None:
        with _usable_machine():
            self._client = httpx.Client(**options)

    async def send(self, method: str, path: str, *, body: Body | None = None, **options: Any) -> httpx.Response:
        with _sendable():
            content = _flow(body) if body else None
            request = self._client.build_request(method, path, content=content, **options)
        with _readable():
            return self._client.send(request)

    @asynccontextmanager
    async def open(self, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        with _sendable():
            request = self._client.build_request("GET", path, **options)
        with _readable():
            response = self._client.send(request, stream=True, follow_redirects=True)
        with closing(response):
            yield response

    async def read(self, response: httpx.Response) -> None:
        with _readable():
            response.read()

    async def pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        with _readable():
            for piece in response.iter_raw():
                yield piece

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    async def sha256(self, path: Path) -> str:
        return file_sha256(path)

    async def close(self) -> None:
        self._client.close()


class AsyncWire:
    """Over an event loop; files are read and written in threads."""

    def __init__(self, **options: Any) -> None:
        with _usable_machine():
            self._client = httpx.AsyncClient(**options)

    async def send(self, method: str, path: str, *, body: Body | None = None, **options: Any) -> httpx.Response:
        async with aclosing(_async_flow(body)) if body else nullcontext() as content:
            with _sendable():
                request = self._client.build_request(method, path, content=content, **options)
            with _readable():
                return await self._client.send(request)

    @asynccontextmanager
    async def open(self, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        with _sendable():
            request = self._client.build_request("GET", path, **options)
        with _readable():
            response = await self._client.send(request, stream=True, follow_redirects=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def read(self, response: httpx.Response) -> None:
        with _readable():
            await response.aread()

    async def pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        with _readable():
            async for piece in response.aiter_raw():
                yield piece

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(function, *arguments)

    async def sha256(self, path: Path) -> str:
        # Minutes of a large file are not waited for by whoever cancels.
        return await anyio.to_thread.run_sync(file_sha256, path, abandon_on_cancel=True)

    async def close(self) -> None:
        await self._client.aclose()


@contextmanager
def _usable_machine() -> Iterator[None]:
    """Raises SecateurError where a client cannot be made."""
    try:
        yield
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise SecateurError(f"this machine's proxy settings cannot be used: {error}") from error


@contextmanager
def _sendable() -> Iterator[None]:
    """Raises SecateurError for what is no request: an address too long, headers and JSON that are no text."""
    try:
        yield
    except (httpx.InvalidURL, ValueError) as error:
        raise SecateurError(f"this cannot be sent: {error}") from error


@contextmanager
def _readable() -> Iterator[None]:
    """Raises BadAnswer for an answer that cannot be read. What broke stays httpx's.

    An address that the system will not look up is a UnicodeError or OverflowError, of which anyio makes a group.
    """
    try:
        yield
    except httpx.TransportError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
        raise BadAnswer(f"the answer cannot be read: {str(error) or type(error).__name__}") from error
    except (UnicodeError, OverflowError, ExceptionGroup) as error:
        raise SecateurError(f"the address cannot be used: {error}") from error


def _flow(body: Body) -> Iterator[bytes]:
    sent = 0
    for piece in body.pieces():
        yield piece
        sent += len(piece)
        body.report(sent)


async def _async_flow(body: Body) -> AsyncGenerator[bytes, None]:
    pieces, sent = body.pieces(), 0
    try:
        while piece := await anyio.to_thread.run_sync(next, pieces, b""):
            yield piece
            sent += len(piece)
            body.report(sent)
    finally:
        # A read that asyncio's cancellation has not waited for is under way; the file is closed behind it.
        with suppress(ValueError):
            pieces.close()  # type: ignore[attr-defined]
