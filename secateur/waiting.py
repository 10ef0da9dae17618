"""Waiting for what the server is at work on, by its long poll where it has one."""

import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from secateur.errors import NotReachable, ProblemError, WaitTimeout
from secateur.transport import Json, Transport

FINISHED: Final = {"succeeded", "failed", "cancelled"}
READY: Final = {"ready", "failed"}
HELD: Final = 30.0
"""Seconds that the server is asked to hold a request; proxies often cut at 60."""
AWAY: Final = 300.0
"""Seconds that a server may be away before waiting is given up."""

OnUpdate = Callable[[Json], None]


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


def wait_for(
    transport: Transport,
    path: str,
    ends: Collection[str],
    *,
    every: float,
    hold: bool = True,
    timeout: float | None = None,
    on_update: OnUpdate | None = None,
) -> Json:
    """The resource once its state is one of `ends`; on_update is called with it after every look.

    every: the least time between two looks. hold: whether the server can hold a request until there is news.
    Raises WaitTimeout.
    """
    started, absence = time.monotonic(), Absence()
    last: Json | None = None
    etag: str | None = None
    while True:
        asked = time.monotonic()
        left = HELD if timeout is None else max(0.0, started + timeout - asked)
        # Whoever wants every update is told the first one at once, and after that when something has changed.
        held = min(HELD, left) if hold and (on_update is None or etag is not None) else 0.0
        requested: float | None = None
        try:
            found = transport.look(path, held=held, etag=etag if on_update is not None else None)
        except (NotReachable, ProblemError) as error:
            absence.forgive(error)
        else:
            absence.answered()
            requested, etag, last = found.pause, found.etag, found.body or last
            if on_update is not None and last is not None:
                on_update(last)
            if last is not None and last["state"] in ends:
                return last
        # The rest of `every` after a long poll, else what the server asks for.
        rest = every if requested is None else requested
        if held > 0 or etag is not None:
            rest = max(0.0, every - (time.monotonic() - asked))
        if timeout is not None and time.monotonic() + rest - started > timeout:
            raise WaitTimeout(f"{path.rpartition('/')[2]} is not finished after {timeout:g} s")
        time.sleep(rest)


def follow(transport: Transport, job: str, kind: str, after: int, every: float) -> Iterator[Json]:
    """A job's rows of that kind above `after` as they come, until it is finished.

    job: its path. every: the least time between two looks. The server holds each request until there is a row.
    """
    absence = Absence()
    while True:
        try:
            # Looked at before the rows: what a finished job has said is all there.
            finished = transport.call("GET", job)["state"] in FINISHED
            held = None if finished else f"{min(HELD, transport.timeout / 2):g}"
            for row in transport.pages(f"{job}/{kind}", {"after": after, "wait": held}):
                after = row["seq"]
                yield row
        except (NotReachable, ProblemError) as error:
            absence.forgive(error)
        else:
            absence.answered()
            if finished:
                return
        time.sleep(every)
