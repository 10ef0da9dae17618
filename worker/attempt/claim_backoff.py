"""A worker that only loses attempts claims less and less: a sick host must not use up every job's budget."""

import logging
import threading
import time
from typing import Final

from secateur.backoff import Backoff

log = logging.getLogger(__name__)

LONGEST_SECONDS: Final = 600.0


class ClaimBackoff:
    """How long to wait before the next claim. It outlives the calls of `run_jobs`, not the process."""

    def __init__(self) -> None:
        self._losses = 0
        self._until = 0.0

    def heed(self, sound: bool | None, first_seconds: float) -> None:
        """Learn from `Attempt.sound`. first_seconds: the wait after one loss; each more in a row doubles it."""
        if sound is None:
            return
        self._losses = 0 if sound else self._losses + 1
        wait = Backoff(first_seconds, LONGEST_SECONDS).after(self._losses)
        self._until = time.monotonic() + wait
        if wait:
            log.warning("attempts in a row that came to nothing: %d; the next claim in %g s", self._losses, wait)

    def wait(self, stopping: threading.Event) -> None:
        """Until a claim may be made, or the worker must stop."""
        stopping.wait(max(0.0, self._until - time.monotonic()))


PROCESS_BACKOFF: Final = ClaimBackoff()
"""The process's own, from one message of the queue to the next."""
