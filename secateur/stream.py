"""A job's events or lines as they come: the server's event stream, taken up again where it broke."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import httpx

from secateur.errors import BadAnswer, NotReachable, ProblemError
from secateur.retries import BACKOFF, requested_pause
from secateur.transport import Transport
from secateur.waiting import Absence

MEDIA_TYPE: Final = "text/event-stream"
SILENCE: Final = 30.0
"""Seconds without a byte after which the connection counts as broken; the server sends something every 15."""
RETRY: Final = 2.0
"""Seconds before coming back, until the server says otherwise."""
MOST: Final = 30.0
"""It may say no more than this."""


async def stream_rows(transport: Transport, path: str, after: int) -> AsyncGenerator[Any, None]:
    """The rows above `after`, until the job has ended and all were read. A server that is away for a while is
    waited for. Raises ProblemError, NotReachable, BadAnswer."""
    stream, absence, failures = _Stream(transport, path, after), Absence(), 0
    while not stream.ended:
        try:
            async with aclosing(stream.read()) as rows:
                async for row in rows:
                    yield row
        except (NotReachable, ProblemError) as error:
            if stream.answered:
                absence.answered()
            failures = 0 if stream.answered else failures + 1
            absence.forgive(error)
            stream.pause = max(stream.pause, BACKOFF.after(failures))
        else:
            absence.answered()
            failures = 0
        if not stream.ended and stream.pause > 0:
            await transport.wire.sleep(stream.pause)


class _Stream:
    """One connection after the other to a job's stream."""

    def __init__(self, transport: Transport, path: str, after: int) -> None:
        self.transport = transport
        self.path = path
        self.after = after
        self.ended = False
        self.answered = False
        """Whether the newest connection was one to a stream."""
        self.pause = 0.0
        """Seconds to wait before the next one."""
        self._retry = RETRY

    async def read(self) -> AsyncGenerator[Any, None]:
        """The rows of one connection. Raises ProblemError, NotReachable, after which it may be read again, and
        BadAnswer."""
        self.answered = False
        try:
            async with self.transport.open(
                self.path, {"Accept": MEDIA_TYPE, "Last-Event-ID": str(self.after)}, silence=SILENCE
            ) as response:
                if not await self._is_stream(response):
                    return
                self.answered = True
                async with aclosing(_messages(self.transport.wire.pieces(response))) as messages:
                    async for fields in messages:
                        if (row := self._row(fields)) is not None:
                            yield row
        except httpx.TransportError as error:
            self.pause = self._retry
            raise self.transport.not_reachable(error) from error

    def _row(self, fields: dict[str, str]) -> Any:
        """The row of a message, if it has one. Raises BadAnswer."""
        try:
            if "retry" in fields:
                # The last word of a server that stops; after a row there is more, or the end.
                self._retry = self.pause = min(max(0.0, float(fields["retry"]) / 1000), MOST)
            if "data" not in fields:
                return None
            row = json.loads(fields["data"])
            self.after, self.pause = int(row["seq"]), 0.0
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise BadAnswer(f"{self.path} does not answer with rows") from error
        return row

    async def _is_stream(self, response: httpx.Response) -> bool:
        """False at the end of it. Raises ProblemError."""
        if response.is_error:
            await self.transport.wire.read(response)
            requested = requested_pause(response)
            self.pause = self._retry if requested is None else requested
            raise ProblemError.of(response)
        self.ended = response.status_code == 204
        if not self.ended and not response.headers.get("content-type", "").startswith(MEDIA_TYPE):
            raise BadAnswer(f"{response.url} does not answer with a stream ({response.status_code})")
        return not self.ended


async def _messages(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, str], None]:
    """Each message's fields (HTML standard, 9.2.6), of lines that end with LF or CRLF. Comments are left out, and
    so is a message that breaks off."""
    fields: dict[str, str] = {}
    rest = b""
    async with aclosing(pieces):
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                name, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
                value = value.removeprefix(" ")
                if name:
                    fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
                elif line in (b"", b"\r") and fields:
                    yield fields
                    fields = {}
