"""All connections of one process, and which of them makes way."""

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from app.connections.limits import RESERVE, SPARE_FILES, Patience

if TYPE_CHECKING:
    from app.connections.protocol import Connection

log = structlog.get_logger("app.connections")


class Gate:
    """All connections of one process.

    A newcomer above a limit takes the place of the connection that has waited longest for a request to begin, or
    of one whose request is answered and whose body has not ended; when every one has a request under way, only
    `/livez` is answered.
    """

    def __init__(self, most: int, most_per_address: int, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = min(most, max(1, files - SPARE_FILES - RESERVE))
        self._most_per_address = most_per_address
        self._open: dict[Connection, None] = {}
        self._of: Counter[str] = Counter()
        self._waiting: dict[Connection, None] = {}
        """Those without a request, the longest first."""
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> "Iterator[Connection]":
        return iter(self._open)

    def enter(self, newcomer: "Connection") -> None:
        """Count it, and make room for it or mark it as one too many."""
        address = newcomer.address
        full, crowd = len(self._open) >= self._most, self._of[address] >= self._most_per_address
        self._open[newcomer] = None
        self._of[address] += 1
        if full or crowd:
            self._make_room(newcomer, address if crowd else None)
        self.waits(newcomer)
        if not self._sweeping:
            self._sweeping = True
            newcomer.loop.call_later(self.patience.sweep, self._sweep, newcomer.loop)

    def leave(self, connection: "Connection") -> None:
        """It is closed."""
        if connection in self._open:
            del self._open[connection]
            self._waiting.pop(connection, None)
            self._of[connection.address] -= 1
            if not self._of[connection.address]:
                del self._of[connection.address]

    def waits(self, connection: "Connection") -> None:
        """It has no request under way from now on."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def works(self, connection: "Connection") -> None:
        """It has a request under way."""
        self._waiting.pop(connection, None)

    def _make_room(self, newcomer: "Connection", address: str | None) -> None:
        lingering = (each for each in self._open if each.is_lingering())
        ready = (each for each in chain(self._waiting, lingering) if address in (None, each.address))
        longest = next(ready, None)
        if longest is not None:
            log.warning("connection_gave_way")
            longest.abort()
        elif (
            len(self._open) > self._most + RESERVE or self._of[newcomer.address] > self._most_per_address + RESERVE
        ):
            log.warning("connection_refused")
            newcomer.abort()
        else:
            newcomer.crowd()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            connection.look(now)
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(self.patience.sweep, self._sweep, loop)
