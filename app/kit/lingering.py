"""Answers reach callers who are still sending: the connection stays open while the rest of the body arrives."""

import asyncio
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_SECONDS: Final = 30.0
"""Longest time for the rest of a body whose request has been answered."""
IDLE_SECONDS: Final = 5.0
"""A caller who sends nothing for so long has read the answer or is gone."""


class Receiving:
    """The requests whose body is still arriving while nobody has answered them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)

    def discard(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)

    def end(self) -> None:
        """Cancel them; each is answered that the service cannot take it at the moment."""
        for task in self._tasks:
            task.cancel()


class LingeringClose:
    """Sends the whole answer at once, but ends it only after the request's body, which nobody looks at any more.

    A server that closes on a caller who is still sending resets the connection, and the answer is lost with it.
    """

    def __init__(self, app: ASGIApp, receiving: Receiving) -> None:
        self._app = app
        self._receiving = receiving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._receiving)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.settled()
        await exchange.end()


class _Exchange:
    """One request with a body, and its answer."""

    def __init__(self, receive: Receive, send: Send, receiving: Receiving) -> None:
        self._receive = receive
        self._send = send
        self._receiving = receiving
        self._task = asyncio.current_task()
        if self._task is not None:
            receiving.add(self._task)
        self._read = False
        self._held = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self._read = True
            self.settled()
        return message

    async def send(self, message: Message) -> None:
        self.settled()
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._held = last and not self._read
        await self._send({**message, "more_body": True} if self._held else message)

    def settled(self) -> None:
        """The body is there, or its answer has begun."""
        if self._task is not None:
            self._receiving.discard(self._task)

    async def end(self) -> None:
        """Let the rest of the body arrive, then end the answer if its end was held back."""
        if not self._held:
            return
        with suppress(TimeoutError, asyncio.CancelledError):  # cancelled by a server that is about to end
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._read:
                    await asyncio.wait_for(self.receive(), IDLE_SECONDS)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
