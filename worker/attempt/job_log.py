"""A job's log: lines of the engine's output and its notes, numbered, redacted, bounded."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from app.delivery.commits import LogLine

WAITING_LINES: Final = 2_000
"""Lines kept between two writes; a flood loses its oldest."""


class JobLog:
    """Any thread adds lines; the runner takes them away in batches."""

    def __init__(self, next_seq: int, limit: int, redact: Callable[[str], str]) -> None:
        """limit: lines that one job may have in all its attempts."""
        self._next = next_seq
        self._limit = limit
        self._redact = redact
        self._waiting: deque[tuple[str, str]] = deque(maxlen=WAITING_LINES)
        self._lock = threading.Lock()

    def add(self, level: str, message: str) -> None:
        """One line."""
        with self._lock:
            self._waiting.append((level, self._redact(message)))

    def take(self) -> list[LogLine]:
        """What is to be written now; the last line before the limit says that it was reached."""
        with self._lock:
            waiting, room = list(self._waiting), self._limit - self._next + 1
            self._waiting.clear()
        if room <= 0 or not waiting:
            return []
        if len(waiting) >= room:
            waiting = [*waiting[: room - 1], ("warning", f"The log is full at {self._limit} lines.")]
        lines = [LogLine(self._next + index, *line) for index, line in enumerate(waiting)]
        self._next += len(lines)
        return lines
