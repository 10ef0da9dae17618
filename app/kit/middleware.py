"""Around every request: its id, one line in the log, limits, safe headers, and an answer whatever happens."""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.kit.handlers import problem_response
from app.kit.problems import Malformed, Problem, TooLarge, Unavailable

log = structlog.get_logger("app.http")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_DOCS_POLICY: Final = (
    "default-src 'self'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https:; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; frame-ancestors 'none'"
)
"""FastAPI's page loads its script from there."""
_QUIET: Final = frozenset({"/livez", "/readyz"})


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
        reply = _Reply(send, id, _DOCS_POLICY if scope["path"] == "/docs" else None)
        started = time.monotonic()
        try:
            await self._app(scope, receive, reply.send)
        except asyncio.CancelledError:  # the server stops, and does not wait any longer
            if reply.status is not None:
                raise
            await problem_response(Unavailable("The service is being restarted."), id)(scope, receive, reply.send)
        except ClientDisconnect:
            log.info("client_gone", path=scope["path"])
        except Exception:
            log.exception("unforeseen_error", path=scope["path"])
            if reply.status is not None:
                raise
            await problem_response(Problem(), id)(scope, receive, reply.send)
        finally:
            _log_end(scope, reply.status, time.monotonic() - started)


class _Reply:
    """Adds our headers to the answer and remembers its status."""

    def __init__(self, send: Send, request_id: str, content_policy: str | None) -> None:
        self._send = send
        self._request_id = request_id
        self._content_policy = content_policy
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            if self._content_policy is not None:
                headers["content-security-policy"] = self._content_policy
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


class RequestLimits:
    """Refuses bodies above the address's limit (announced or streamed) and addresses with a NUL in them."""

    def __init__(self, app: ASGIApp, default: int, larger: Mapping[str, int]) -> None:
        """default: bytes. larger: paths that take more."""
        self._app = app
        self._default = default
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(scope["path"], self._default)
        refusal = _refusal(scope, limit)
        if refusal is not None:
            await problem_response(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if seen > limit:
                raise TooLarge(limit)
            return message

        await self._app(scope, counted, send)


def _refusal(scope: Scope, limit: int) -> Problem | None:
    if "\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"]):
        return Malformed("The address contains a NUL character.")
    announced = Headers(scope=scope).get("content-length")
    if announced is not None and announced.isdecimal() and int(announced[:20]) > limit:
        return TooLarge(limit)
    return None


def _log_end(scope: Scope, status: int | None, seconds: float) -> None:
    """One line a request. Neither headers nor the query are in it: they may carry what is nobody's business."""
    if scope["path"] in _QUIET and status == 200:
        return
    route: Any = scope.get("route")
    client = scope.get("client")
    log.info(
        "request",
        method=scope["method"],
        route=getattr(route, "path", None),
        path=scope["path"],
        status=status,
        milliseconds=round(seconds * 1000, 1),
        client=client[0] if client else None,
    )
