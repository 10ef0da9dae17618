"""Around every request: its id, one line in the log, limits, safe headers, and an answer whatever happens."""

import asyncio
import re
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import structlog
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.kit.calls import count_call, method_of, route_of
from app.kit.handlers import problem_response
from app.kit.problems import Malformed, Problem, TooLarge, TooSlow, Unavailable
from app.kit.tracing import span

log = structlog.get_logger("app.http")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_QUIET: Final = frozenset({"/livez", "/readyz"})
_PATH_SHOWN: Final = 200
BODY_IDLE_SECONDS: Final = 20.0
"""Longest wait for the next bytes of a body."""
BODY_RATE: Final = 1024
"""Bytes a second that a body comes at on the average, or it is not waited for."""


class RequestContext:
    """Gives the request its id, logs its end, and turns an unforeseen exception into a 500 without its inside."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=id)
        if scope["path"] in _QUIET:
            await self._answer(scope, receive, send, id)
            return
        caller = {"traceparent": Headers(scope=scope).get("traceparent", "")}
        with span(method_of(scope), {"request_id": id}, kind=SpanKind.SERVER, origin=caller) as current:
            _note_end(current, scope, await self._answer(scope, receive, send, id))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, id: str) -> int | None:
        """The status, if there was one."""
        reply = _Reply(send, id)
        started = time.monotonic()
        try:
            await self._app(scope, receive, reply.send)
        except asyncio.CancelledError:  # the server stops, and does not wait any longer
            if reply.status is None:
                problem = Unavailable("The service is being restarted.")
                await problem_response(problem, id)(scope, receive, reply.send)
            else:
                log.info("broken_off", path=scope["path"][:_PATH_SHOWN])
        except ClientDisconnect:
            log.info("client_gone", path=scope["path"][:_PATH_SHOWN])
        except Exception:
            log.exception("unforeseen_error", path=scope["path"][:_PATH_SHOWN])
            if reply.status is not None:
                raise
            await problem_response(Problem(), id)(scope, receive, reply.send)
        finally:
            seconds = time.monotonic() - started
            count_call(scope, reply.status, seconds)
            _log_end(scope, reply.status, seconds)
        return reply.status


class _Reply:
    """Adds our headers to the answer and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


class RequestLimits:
    """Refuses bodies above the address's limit (announced or streamed) or that arrive too slowly, hosts that are
    not ours, and addresses with a NUL in them."""

    def __init__(self, app: ASGIApp, default: int, larger: Mapping[str, int], hosts: Collection[str] = ()) -> None:
        """default: bytes. larger: paths that take more; `{…}` stands for one part. hosts: names that requests may
        be for, in small letters; none for any."""
        self._app = app
        self._default = default
        self._larger = [(compile_path(path)[0], limit) for path, limit in larger.items()]
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        refusal = self._refusal(scope, limit)
        if refusal is not None:
            await problem_response(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        await self._app(scope, _Body(receive, limit).receive, send)

    def _limit(self, path: str) -> int:
        return next((limit for pattern, limit in self._larger if pattern.match(path)), self._default)

    def _refusal(self, scope: Scope, limit: int) -> Problem | None:
        headers = Headers(scope=scope)
        if "\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"]):
            return Malformed("The address contains a NUL character.")
        host = headers.get("host", "").lower().rpartition("@")[2]
        name = host if host.endswith("]") else re.sub(r":\d*$", "", host)
        if self._hosts and name not in self._hosts and scope["path"] not in _QUIET:
            return Malformed("The Host header does not name this service.")
        announced = headers.get("content-length")
        if announced is not None and announced.isdecimal() and int(announced[:20]) > limit:
            return TooLarge(limit)
        return None


class _Body:
    """One request's body as it arrives."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._bytes = 0
        self._waited = 0.0
        self._whole = False

    async def receive(self) -> Message:
        """Raises TooLarge, TooSlow. Only the time counts in which nothing was there to be read."""
        if self._whole:
            return await self._receive()
        asked = time.monotonic()
        try:
            async with asyncio.timeout(BODY_IDLE_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise TooSlow(f"Nothing of the body has come for {BODY_IDLE_SECONDS:g} seconds.") from None
        self._waited += time.monotonic() - asked
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limit:
            raise TooLarge(self._limit)
        if not self._whole and self._bytes < BODY_RATE * (self._waited - BODY_IDLE_SECONDS):
            raise TooSlow(f"The body comes at less than {BODY_RATE} bytes a second.")
        return message


def _note_end(current: Span, scope: Scope, status: int | None) -> None:
    """By the conventions for spans of servers; the address itself may name what is nobody's business."""
    method, route = method_of(scope), route_of(scope)
    if route is not None:
        current.update_name(f"{method} {route}")
        current.set_attribute("http.route", route)
    current.set_attribute("http.request.method", method)
    if status is not None:
        current.set_attribute("http.response.status_code", status)
    if status is None or status >= 500:
        current.set_status(Status(StatusCode.ERROR))


def _log_end(scope: Scope, status: int | None, seconds: float) -> None:
    """One line a request. Neither headers nor the query are in it: they may carry what is nobody's business."""
    if scope["path"] in _QUIET and status == 200:
        return
    client = scope.get("client")
    log.info(
        "request",
        method=scope["method"],
        route=route_of(scope),
        path=scope["path"][:_PATH_SHOWN],
        status=status,
        milliseconds=round(seconds * 1000, 1),
        client=client[0] if client else None,
    )
