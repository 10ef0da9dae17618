"""Waiting for what the server is at work on, by its long poll where it has one."""

import time
from collections.abc import Callable, Collection
from typing import Final

from secateur.errors import NotReachable, ProblemError, WaitTimeout
from secateur.transport import Json, Look, Transport

FINISHED: Final = {"succeeded", "failed", "cancelled"}
READY: Final = {"ready", "failed"}
HELD: Final = 30.0
"""Seconds that the server is asked to hold a request; proxies often cut at 60."""
AWAY: Final = 300.0
"""Seconds that a server may be away before waiting is given up."""

OnUpdate = Callable[[Json], None]


class Waiting:
    """Looks at one resource until its state is one of `ends`.

    every: the least time between two looks. hold: whether the server can hold a request until there is news.
    """

    def __init__(
        self, transport: Transport, path: str, ends: Collection[str], *, every: float, hold: bool = True
    ) -> None:
        self.transport = transport
        self.path = path
        self.ends = ends
        self.every = every
        self.hold = hold
        self._etag: str | None = None
        self._last: Json | None = None

    def run(self, timeout: float | None, on_update: OnUpdate | None) -> Json:
        """The resource at its end; on_update is called with it after every look. Raises WaitTimeout."""
        started = answered = time.monotonic()
        while True:
            asked = time.monotonic()
            left = None if timeout is None else max(0.0, started + timeout - asked)
            held = self._held(left, on_update is not None)
            pause: float | None = None
            try:
                found = self._look(held, on_update)
            except (NotReachable, ProblemError) as error:
                # A server that stops answers what it holds with a 500, or not at all.
                refused = isinstance(error, ProblemError) and error.status < 500
                if refused or time.monotonic() - answered > AWAY:
                    raise
            else:
                answered = time.monotonic()
                pause = found.pause
                if self._last is not None and self._last["state"] in self.ends:
                    return self._last
            rest = self._rest(held, time.monotonic() - asked, pause)
            if timeout is not None and time.monotonic() + rest - started > timeout:
                raise WaitTimeout(f"{self.path.rpartition('/')[2]} is not finished after {timeout:g} s")
            time.sleep(rest)

    def _held(self, left: float | None, updates: bool) -> float:
        """Whoever wants every update is told the first one at once, and after that when something has changed."""
        if not self.hold or (updates and self._etag is None):
            return 0.0
        return HELD if left is None else min(HELD, left)

    def _look(self, held: float, on_update: OnUpdate | None) -> Look:
        found = self.transport.look(self.path, held=held, etag=self._etag if on_update is not None else None)
        self._etag = found.etag
        self._last = found.body or self._last
        if on_update is not None and self._last is not None:
            on_update(self._last)
        return found

    def _rest(self, held: float, took: float, requested: float | None) -> float:
        """Seconds until the next look: the rest of `every` after a long poll, else what the server asks for."""
        if held > 0 or self._etag is not None:
            return max(0.0, self.every - took)
        return self.every if requested is None else requested
