"""HEAD works wherever GET does: the same answer without its content."""

from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ONLY_HEADERS: Final = "only_headers"
"""In the request's state: whoever would read much for its content need not."""


class HeadAsGet:
    """Asks for a HEAD as for a GET and sends no more than the headers, where an address has no HEAD of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _has_own(scope):
            await self._app(scope, receive, send)
            return
        scope["state"][ONLY_HEADERS] = True
        asked = {**scope, "method": "GET"}
        reply = _Headers(send)
        try:
            await self._app(asked, receive, reply.send)
        # Whoever goes on sending was stopped as if the caller had gone.
        except (ClientDisconnect, _Complete, BaseExceptionGroup):
            if not reply.complete:
                raise
        finally:
            scope["route"] = asked.get("route")


class _Complete(OSError):
    """The headers are sent, and nobody wants the content."""


class _Headers:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
            return
        if self.complete:
            raise _Complete
        self.complete = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if message.get("more_body", False):
            raise _Complete


def _has_own(scope: Scope) -> bool:
    routes: list[Any] = scope["app"].routes
    return any(route.matches(scope)[0] is Match.FULL for route in routes)
