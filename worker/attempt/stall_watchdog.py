"""How long an engine may be silent: a watchdog on progress. The heartbeat only says that we live."""

import time
from collections.abc import Callable
from typing import Final

from secateur.spec.records.pipe import Message, Note

SCALE: Final = 10
"""An engine may be silent for so many times its longest pause so far: large blocks on slow hardware take long."""


class StallWatchdog:
    """Measures only the time in which the engine could speak, not what we take to store what it said."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since = clock()
        self._longest = 0.0

    def hear(self, message: Message) -> None:
        """A message has come."""
        if not isinstance(message, Note):  # which is no sign of progress
            self._longest = max(self._longest, self.silence())

    def listen(self, message: Message) -> None:
        """The message is dealt with; from now on the next one is waited for."""
        if not isinstance(message, Note):  # which is no sign of progress
            self._since = self._clock()

    def silence(self) -> float:
        """Seconds that the next sign of progress has been waited for."""
        return self._clock() - self._since

    def is_over(self) -> bool:
        return self.silence() > max(self._seconds, SCALE * self._longest)
