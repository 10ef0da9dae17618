"""When and how long to wait before asking again."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from secateur.backoff import Backoff
from secateur.errors import problem_code

BACKOFF: Final = Backoff(0.25, longest=10.0)
LONGEST_REQUESTED: Final = 120.0
"""A server may ask for no longer pause than this."""
NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""The server has not seen the request, so anything may be tried again."""
REFUSED: Final = {429, 503}
"""The server has done nothing, so anything may be tried again."""

IN_FLIGHT: Final = "idempotency_key_in_flight"
"""An earlier try of the same request is still being worked on."""


@dataclass
class Retries:
    """The retries of one operation: growing pauses with jitter until `seconds` are used up."""

    seconds: float
    sleep: Callable[[float], Awaitable[None]]
    _deadline: float = field(init=False)
    _failures: int = 0

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Progress was made: the whole time is there again."""
        self._failures = 0
        self._deadline = time.monotonic() + self.seconds

    async def pause(self, requested: float | None = None) -> bool:
        """Sleep before the next try; False, at once, when that would be too late."""
        self._failures += 1
        # Jitter, so that many clients do not come back in step; nothing secret about it.
        own = BACKOFF.after(self._failures) * random.uniform(0.5, 1.0)  # noqa: S311
        pause = requested or own
        if time.monotonic() + pause > self._deadline:
            return False
        await self.sleep(pause)
        return True


def may_repeat(error: httpx.TransportError, repeatable: bool) -> bool:
    """Whether a request that broke may be sent again."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.ProxyError):
        return False
    return repeatable or isinstance(error, NOT_SENT)


def should_repeat(response: httpx.Response, repeatable: bool) -> bool:
    """Whether an answer asks for another try. The response's body has been read."""
    status = response.status_code
    if status in REFUSED:
        return True
    return repeatable and (status in (502, 504) or (status == 409 and problem_code(response) == IN_FLIGHT))


def requested_pause(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`, given as a number or a date; None without a usable one."""
    text = response.headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    if seconds != seconds:  # NaN
        return None
    return min(max(seconds, 0.0), LONGEST_REQUESTED)
