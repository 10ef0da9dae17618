"""Waiting for what the server is at work on, by its long poll where it has one."""

import time
from collections.abc import Callable, Collection
from typing import Any, Final, Literal

from secateur.errors import NotReachable, ProblemError, WaitTimeout
from secateur.transport import Look, Transport

FINISHED: Final = {"succeeded", "failed", "cancelled"}
READY: Final = {"ready", "failed"}
HELD: Final = 30.0
"""Seconds that the server is asked to hold a request; proxies often cut at 60."""
AWAY: Final = 300.0
"""Seconds that a server may be away before waiting is given up."""

Awaited = Literal["change", "state", "end"]


class Absence:
    """How long a server has been away from somebody who waits; it is forgiven AWAY seconds of it."""

    def __init__(self) -> None:
        self.answered()

    def answered(self) -> None:
        """It is there."""
        self._since = time.monotonic()

    def forgive(self, error: NotReachable | ProblemError) -> None:
        """Raises the error again when it is a refusal, or when the server has been away for too long."""
        # A server that stops answers what it holds with a 5xx, or not at all; one that is busy, with a 429.
        refused = isinstance(error, ProblemError) and error.status < 500 and error.status != 429
        if refused or time.monotonic() - self._since > AWAY:
            raise error


async def wait_for(
    transport: Transport,
    path: str,
    ends: Collection[str],
    *,
    every: float,
    awaited: Awaited = "end",
    hold: bool = True,
    timeout: float | None = None,
    on_update: Callable[[Any], None] | None = None,
) -> Any:
    """The resource once its state is one of `ends`, or what is awaited of it has come before; on_update is called
    with it after every look.

    every: the least time between two looks. hold: whether the server can hold a request until there is news.
    Raises WaitTimeout, also of a server that is away.
    """
    deadline, absence = None if timeout is None else time.monotonic() + timeout, Absence()
    # Whoever wants news is told how it is at once, and after that when something has changed.
    news = on_update is not None or awaited != "end"
    first: Look | None = None
    last: Any = None
    etag: str | None = None
    while True:
        asked = time.monotonic()
        held = HELD if hold and (not news or etag is not None) else 0.0
        requested: float | None = None
        missed: Exception | None = None
        try:
            until = "state" if awaited == "state" and on_update is None else None
            known = etag if news else None
            found = await transport.look(path, held=held, etag=known, until=until, deadline=deadline)
        except (NotReachable, ProblemError) as error:
            absence.forgive(error)
            missed = error
        else:
            absence.answered()
            requested, etag, last, first = found.pause, found.etag, found.body or last, first or found
            if on_update is not None and last is not None:
                on_update(last)
            if last is not None and (last["state"] in ends or _is_news(awaited, first, etag, last)):
                return last
        # The rest of `every` after a long poll, else what the server asks for.
        rest = every if requested is None else requested
        if held > 0 or etag is not None:
            rest = max(0.0, every - (time.monotonic() - asked))
        if deadline is not None and time.monotonic() + rest > deadline:
            what = "is as it was" if awaited != "end" else "is not finished"
            if missed is not None:
                what = f"cannot be seen ({missed})"
            raise WaitTimeout(f"{path.rpartition('/')[2]} {what} after {timeout:g} s") from missed
        await transport.wire.sleep(rest)


def _is_news(awaited: Awaited, first: Look, etag: str | None, last: Any) -> bool:
    """Whether something that is waited for has changed since the first look."""
    if awaited == "state":
        return first.body is not None and last["state"] != first.body["state"]
    return awaited == "change" and etag != first.etag
