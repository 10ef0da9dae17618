"""One connection of uvicorn's protocol on httptools, within its limits."""

import asyncio
import json
import socket
import uuid
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import structlog
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.connections.gate import Gate
from app.connections.limits import HEAD_BYTES, MAX_FIELDS, MAX_PIPELINED, UNSENT_BYTES, WRITE_RATE
from app.kit.handlers import problem_response
from app.kit.problems import MEDIA_TYPE, HeadTooLarge, Malformed, Problem, TooSlow, Unavailable, document

log = structlog.get_logger("app.connections")

_AT_MOST_ONCE: Final = frozenset({b"host", b"authorization", b"content-type", b"idempotency-key"})
"""Of two, a proxy might have believed the other one."""
_NOT_SENT_LIMIT: Final[int] = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


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
