"""One POST to a stranger's server: bounded in time and bytes, never redirected, to a checked address only."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import httpcore

from app.kit.addresses import Network, is_public

TOTAL_SECONDS: Final = 10.0
"""From the look-up of the name to the last byte that is read."""
CONNECT_SECONDS: Final = 3.0
"""For one address; one that swallows everything must not take the time of the others."""
MOST_ADDRESSES: Final = 3
"""So many of a name's are tried."""
KEPT_BYTES: Final = 2048
"""So much of an answer's body is read and kept; the connection is closed after that."""


class PostError(StrEnum):
    """Why there was no good answer."""

    unknown_host = "unknown_host"
    """The name has no address."""
    refused_address = "refused_address"
    """The name stands for an address that is not of the public internet."""
    not_connected = "not_connected"
    tls_failed = "tls_failed"
    timeout = "timeout"
    broken_off = "broken_off"
    """The connection ended before the answer, or what came was not HTTP."""
    bad_status = "bad_status"
    """An answer, but none of 200 to 299; a redirect is not followed."""
    gone = "gone"
    """410: the receiver wants no more."""


@dataclass(frozen=True)
class Answer:
    """What came of a POST."""

    seconds: float
    status: int | None = None
    error: PostError | None = None
    body: str | None = None
    retry_after: float | None = None
    """Seconds that the receiver asks for."""


_HEADERS: Final = {
    "Content-Type": "application/json",
    "User-Agent": "Secateur-Webhooks",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host. Raises OSError."""


class _Refused(Exception):
    """The name has an address that may not be spoken to."""


async def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver, on a thread of its own: it may hang for longer than anybody waits for it."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str] | OSError) -> None:
        if found.done():
            return
        if isinstance(addresses, OSError):
            found.set_exception(addresses)
        else:
            found.set_result(addresses)

    def look() -> None:
        outcome: list[str] | OSError
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            outcome = list(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as error:
            outcome = error if isinstance(error, OSError) else OSError("not a name")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=look, name="resolver", daemon=True).start()
    return await found


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the very address that was checked; TLS and the Host header keep the name."""

    def __init__(self, resolve: Resolve, allowed: Collection[Network]) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        # One bad address is enough: who owns the name could have the next connection go there.
        if not all(is_public(each, self._allowed) for each in addresses):
            raise _Refused
        failure: Exception = OSError("no address")
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return await self._inner.connect_tcp(address, port, CONNECT_SECONDS, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class Poster:
    """Sends bodies to receivers. One for all of a process; keeps no connection."""

    def __init__(
        self, allowed: Collection[Network] = (), tls: ssl.SSLContext | None = None, resolve: Resolve = resolve
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=_CheckedNetwork(resolve, allowed),
        )

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float = TOTAL_SECONDS
    ) -> Answer:
        """The receiver's answer, or why there is none; raises nothing."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(seconds):
                status, retry_after, text = await self._exchange(url, headers, body)
        except TimeoutError:
            return Answer(seconds, error=PostError.timeout)
        except Exception as error:  # whatever it is, it was an attempt, and counts as one
            return Answer(loop.time() - started, error=_kind(error))
        error_kind = None if 200 <= status < 300 else PostError.gone if status == 410 else PostError.bad_status
        return Answer(loop.time() - started, status, error_kind, text, retry_after)

    async def close(self) -> None:
        await self._pool.aclose()

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None, str]:
        sent: list[tuple[bytes | str, bytes | str]] = [*headers.items(), *_HEADERS.items()]
        kept = bytearray()
        async with self._pool.stream("POST", url, headers=sent, content=body) as response:
            async for part in response.aiter_stream():
                kept += part[: KEPT_BYTES - len(kept)]
                if len(kept) >= KEPT_BYTES:
                    break
        text = kept.decode(errors="replace").replace("\0", "\ufffd")
        return response.status, _retry_after(response.headers), text


def _kind(error: Exception) -> PostError:
    """What to call it; nothing of the message is shown, because it may name addresses."""
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(type(cause))
        cause = cause.__cause__ or cause.__context__
    for kind, name in _KINDS:
        if any(issubclass(each, kind) for each in causes):
            return name
    return PostError.broken_off


_KINDS: Final[tuple[tuple[type[BaseException], PostError], ...]] = (
    (_Refused, PostError.refused_address),
    (socket.gaierror, PostError.unknown_host),
    (ssl.SSLError, PostError.tls_failed),
    (httpcore.ConnectError, PostError.not_connected),
    (httpcore.ConnectTimeout, PostError.not_connected),
    (httpcore.ReadError, PostError.broken_off),
    (OSError, PostError.not_connected),
)


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Seconds of the header, when it is a whole number of at most a day."""
    for name, value in headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) <= 5:
            return float(min(int(value), 86_400))
    return None
