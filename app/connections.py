"""What one connection may cost: heads, answers and silence have their limits, and so has the number of them.

uvicorn's protocol on httptools sets none to heads, to slow callers and to what waits in a pipeline.
"""

import asyncio
import json
import resource
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import Any, Final

import structlog
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.kit.handlers import problem_response
from app.kit.problems import MEDIA_TYPE, HeadTooLarge, Malformed, Problem, TooSlow, Unavailable, document

log = structlog.get_logger("app.connections")


@dataclass(frozen=True)
class Patience:
    """How long a connection may keep others waiting, in seconds."""

    head: float = 10.0
    """For a request's head, from the connection's begin or the end of the keep-alive."""
    crowded: float = 3.0
    """The same above the limit of connections."""
    keep_alive: float = 15.0
    """Silence between two requests."""
    unread: float = 5.0
    """For the rest of a body that has been answered already."""
    write: float = 30.0
    """For a caller to begin to read what is ready for it; what is ready comes to it at WRITE_RATE."""
    sweep: float = 0.5
    """Between two looks at them all."""


WRITE_RATE: Final = 16_384
"""Bytes a second."""
HEAD_BYTES: Final = 32 * 2**10
MAX_FIELDS: Final = 100
"""Header fields of a request, its trailers with them."""
_AT_MOST_ONCE: Final = frozenset({b"host", b"authorization", b"content-type", b"idempotency-key"})
"""Of two, a proxy might have believed the other one."""
MAX_PIPELINED: Final = 16
"""Requests that wait for the answer of the one before them."""
RESERVE: Final = 64
"""Connections above the limit, for `/livez` and for saying that there are too many."""
UNSENT_BYTES: Final = 2**17
"""Of an answer that the kernel holds for a caller who does not read."""
_NOT_SENT_LIMIT: Final[int] = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
SPARE_FILES: Final = 256
"""Descriptors that are not for callers: database, store, files of uploads."""


def raise_file_limit() -> int:
    """As many descriptors as the process may have; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Gate:
    """All connections of one process.

    A newcomer above a limit takes the place of the connection that has waited longest for a request to begin, or
    of one whose request is answered and whose body has not ended; when every one has a request under way, only
    `/livez` is answered.
    """

    def __init__(self, most: int, most_per_address: int, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = min(most, max(1, files - SPARE_FILES - RESERVE))
        self._most_per_address = most_per_address
        self._open: dict[Connection, None] = {}
        self._of: Counter[str] = Counter()
        self._waiting: dict[Connection, None] = {}
        """Those without a request, the longest first."""
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> "Iterator[Connection]":
        return iter(self._open)

    def enter(self, newcomer: "Connection") -> None:
        """Count it, and make room for it or mark it as one too many."""
        address = newcomer.address
        full, crowd = len(self._open) >= self._most, self._of[address] >= self._most_per_address
        self._open[newcomer] = None
        self._of[address] += 1
        if full or crowd:
            self._make_room(newcomer, address if crowd else None)
        self.waits(newcomer)
        if not self._sweeping:
            self._sweeping = True
            newcomer.loop.call_later(self.patience.sweep, self._sweep, newcomer.loop)

    def leave(self, connection: "Connection") -> None:
        """It is closed."""
        if connection in self._open:
            del self._open[connection]
            self._waiting.pop(connection, None)
            self._of[connection.address] -= 1
            if not self._of[connection.address]:
                del self._of[connection.address]

    def waits(self, connection: "Connection") -> None:
        """It has no request under way from now on."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def works(self, connection: "Connection") -> None:
        """It has a request under way."""
        self._waiting.pop(connection, None)

    def _make_room(self, newcomer: "Connection", address: str | None) -> None:
        lingering = (each for each in self._open if each.is_lingering())
        ready = (each for each in chain(self._waiting, lingering) if address in (None, each.address))
        longest = next(ready, None)
        if longest is not None:
            log.warning("connection_gave_way")
            longest.abort()
        elif (
            len(self._open) > self._most + RESERVE or self._of[newcomer.address] > self._most_per_address + RESERVE
        ):
            log.warning("connection_refused")
            newcomer.abort()
        else:
            newcomer.crowd()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            connection.look(now)
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(self.patience.sweep, self._sweep, loop)


class Connection(HttpToolsProtocol):
    """One connection, whose caller may be slow, silent or wrong, each within its limit."""

    def __init__(self, gate: Gate, **options: Any) -> None:
        super().__init__(**options)
        self.address = ""
        self._gate = gate
        self._patience = gate.patience.head
        self._since = self.loop.time()
        self._in_head = False
        self._is_deaf = False
        self._head_bytes = 0
        self._refusal: Problem | None = None
        self._running: RequestResponseCycle | None = None
        self._must_be_read: float | None = None
        """When the caller must have read what is ready for it."""

    # What uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        handle = transport.get_extra_info("socket")
        if handle is not None and handle.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                handle.setsockopt(socket.IPPROTO_TCP, _NOT_SENT_LIMIT, UNSENT_BYTES)
        self._gate.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > 2 * HEAD_BYTES:
                self._refusal = HeadTooLarge()
                self.send_400_response("")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_FIELDS:
            self._refuse(HeadTooLarge())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(Malformed("Too many requests wait on this connection."))
        names = Counter(name for name, _ in self.headers if name in _AT_MOST_ONCE)
        if any(count > 1 for count in names.values()):
            self._refuse(Malformed("A header that counts once is there twice."))
        if not names[b"host"] and self.parser.get_http_version() == "1.1":
            self._refuse(Malformed("The Host header is missing."))
        self._in_head = False
        self._gate.works(self)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        self._patience = self._gate.patience.keep_alive + self._gate.patience.head
        super().on_response_complete()
        if not self._is_busy():
            self._gate.waits(self)

    def pause_writing(self) -> None:
        self._must_be_read = self._deadline()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._must_be_read = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read is answered unless an answer is under way, which then is the last one."""
        problem, self._refusal = self._refusal or Malformed("This is not HTTP."), None
        self._is_deaf = True
        self.pipeline.clear()
        running = self._running
        if running is None or running.response_complete:
            self._answer(problem)
        elif not running.more_body:
            running.keep_alive = False
        elif running.response_started:
            self.abort()
        else:
            running.disconnected = True
            running.message_event.set()
            self._answer(problem)

    # What the gate calls

    def abort(self) -> None:
        """Close without a word."""
        self._gate.leave(self)
        self.transport.abort()

    def crowd(self) -> None:
        """It is one too many."""
        self._patience = self._gate.patience.crowded
        self.app = _Crowded(self.app)

    def is_lingering(self) -> bool:
        """Its caller has an answer and still sends."""
        running = self._running
        return running is not None and running.response_started and running.more_body

    def look(self, now: float) -> None:
        """End what takes too long."""
        closing = self.transport.is_closing()
        if closing and self._must_be_read is None:
            self._must_be_read = self._deadline()
        is_read = self._must_be_read is None or now < self._must_be_read
        if not is_read or (self._is_unread() and now - self._since > self._gate.patience.unread):
            self.abort()
        elif not closing and not self._is_busy() and now - self._since > self._patience:
            self._give_up()

    def _give_up(self) -> None:
        if self._in_head:
            self._is_deaf = True
            self._answer(TooSlow("The head of a request must come sooner."))
        else:
            self.transport.close()

    def _deadline(self) -> float:
        ready = self.transport.get_write_buffer_size()
        return self.loop.time() + self._gate.patience.write + ready / WRITE_RATE

    def _is_busy(self) -> bool:
        return bool(self.pipeline) or (self._running is not None and not self._running.response_complete)

    def _is_unread(self) -> bool:
        return self._running is not None and self._running.response_complete and self._running.more_body

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            self._refuse(HeadTooLarge())

    def _refuse(self, problem: Problem) -> None:
        self._refusal = problem
        raise problem

    def _answer(self, problem: Problem) -> None:
        """Written past the application, which never hears of the request."""
        log.info("request_refused", code=problem.code, client=self.address)
        body = json.dumps(document(problem, uuid.uuid4().hex)).encode()
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Crowded:
    """The application for a connection above the limit."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/livez":
            await self._app(scope, receive, send)
            return
        log.warning("too_many_connections")
        problem = Unavailable("There are too many connections at the moment.")
        problem.headers = {**(problem.headers or {}), "Connection": "close"}
        await problem_response(problem, uuid.uuid4().hex)(scope, receive, send)
