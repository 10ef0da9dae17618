"""Server-sent events: when a caller asks for them, where he wants to go on, and the response that sends them."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final

import structlog
from fastapi import Header, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.types import Receive, Scope, Send

from app.kit.calls import WAITED
from app.kit.head import ONLY_HEADERS
from app.kit.problems import FieldError, Invalid
from app.kit.waiting import Holder, Watcher

log = structlog.get_logger("app.streams")

MEDIA_TYPE: Final = "text/event-stream"
PING_SECONDS: Final = 15.0
"""Between two signs of life, and between two looks at the key."""
SEND_SECONDS: Final = 45.0
"""A reader who takes no message for so long is given up."""

# Our watcher says when the server stops, so that each stream ends with its last message whole.
AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=100,
        description="Of a stream: the `id` of the last message that was read; it goes before `after`.",
    ),
]


def wants_stream(request: Request) -> bool:
    """Whether the Accept header names event streams, and rates no other type higher."""
    rated: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).split(","):
        type, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:].strip() for each in parameters if each.startswith("q=")), "1")
        rated.setdefault(type, float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0)
    wanted = rated.get(MEDIA_TYPE, 0.0)
    return wanted > 0 and wanted >= rated.get("application/json", 0.0)


def position(last_event_id: str | None, after: int) -> int:
    """The number behind which a stream begins. Raises Invalid."""
    if not last_event_id:
        return after
    if not re.fullmatch(r"[0-9]{1,10}", last_event_id) or int(last_event_id) >= 2**31:
        raise Invalid(errors=[FieldError("is not the id of a message of this stream", parameter="Last-Event-ID")])
    return int(last_event_id)


class Stream(EventSourceResponse):
    """One open stream; it counts among its key's waiting calls."""

    def __init__(
        self,
        messages: AsyncIterator[ServerSentEvent | bytes],
        watcher: Watcher,
        holder: Holder,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            messages,
            headers=headers,
            ping=PING_SECONDS,
            sep="\n",
            ping_message_factory=lambda: ServerSentEvent(comment="alive", sep="\n"),
            send_timeout=SEND_SECONDS,
        )
        self._watcher = watcher
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooManyWaits before anything is sent."""
        if scope.get("state", {}).get(ONLY_HEADERS):
            scope = {**scope, "method": "HEAD"}
        with self._watcher.holding(self._holder):
            scope["state"][WAITED] = True
            try:
                await super().__call__(scope, receive, send)
            except SendTimeoutError:
                log.warning("slow_reader_given_up")
