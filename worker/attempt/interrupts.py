"""What has happened to an attempt from outside, and the two ways to do something under those conditions."""

import errno
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.endings import Failure
from app.delivery.lease import LeaseLost
from app.storage import ObjectMissing, StoreError
from secateur.backoff import Backoff

log = logging.getLogger(__name__)
Result = TypeVar("Result")

DATABASE_DOWN: Final = (OperationalError, InterfaceError, PoolTimeout)
"""Errors that pass: a restart, a lock that was not granted, no free connection."""
DATABASE_BACKOFF: Final = Backoff(0.1, longest=5.0)
STORE_BACKOFF: Final = Backoff(0.5, longest=10.0)
STORE_RETRY_SECONDS: Final = 600.0


class Interrupted(Exception):
    """The attempt must stop: ordered by its owner, by the worker's shutdown, or because the lease is lost."""


class AttemptFailed(Exception):
    """The attempt cannot go on, for a reason that is written down."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message or failure.reason)
        self.failure = failure


class Interrupts:
    """Flags that any thread may raise; only a pause may be withdrawn."""

    def __init__(
        self, store_retry_seconds: float = STORE_RETRY_SECONDS, stopping: threading.Event | None = None
    ) -> None:
        """store_retry_seconds: for so long a store that cannot be used is tried again. stopping: see below."""
        self.store_retry_seconds = store_retry_seconds
        self.lost = threading.Event()
        """The lease may be somebody else's: write nothing."""
        self.stopping = stopping or threading.Event()
        """The worker shuts down."""
        self.cancelled = threading.Event()
        self.stalled = threading.Event()
        """The engine makes no progress."""
        self.paused = threading.Event()
        self.in_block = False
        """The engine is at work on something that would be lost, so a pause waits for a while."""
        self.kill: Callable[[], None] = lambda: None
        """Ends the attempt's engine, once there is one."""
        self._runtime_ends = math.inf
        self._pause_ends = math.inf

    def lose(self) -> None:
        """The lease may be somebody else's, whose engine must not run beside ours."""
        self.lost.set()
        self.kill()

    def limit_runtime(self, since: float, left: float | None) -> None:
        """left: seconds from `since`, a `time.monotonic()`, that the job's owner allows; None: without end."""
        self._runtime_ends = math.inf if left is None else since + left

    def order_pause(self, wanted: bool, seconds: float) -> None:
        """The owner wants the job paused, or no longer does. seconds: how long a block may still take."""
        if not wanted:
            self.paused.clear()
        elif not self.paused.is_set():
            self._pause_ends = time.monotonic() + seconds
            self.paused.set()

    def runtime_left(self) -> float | None:
        """Seconds; None without end."""
        return None if math.isinf(self._runtime_ends) else self._runtime_ends - time.monotonic()

    def is_overtime(self) -> bool:
        return time.monotonic() >= self._runtime_ends

    def is_interrupted(self) -> bool:
        """Whether the attempt must stop now."""
        if any(flag.is_set() for flag in (self.lost, self.stopping, self.cancelled, self.stalled)):
            return True
        pause_due = not self.in_block or time.monotonic() >= self._pause_ends
        return self.is_overtime() or (self.paused.is_set() and pause_due)

    def check(self) -> None:
        """Raise Interrupted if the attempt must stop now."""
        if self.is_interrupted():
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Wait, but notice a flag at once. Raises Interrupted."""
        waited = 0.0
        while waited < seconds:
            self.check()
            step = min(0.2, seconds - waited)
            self.lost.wait(step)
            waited += step


def transact(
    interrupts: Interrupts, guard: Callable[[Session], object], write: Callable[[Session], Result]
) -> Result:
    """A guarded transaction, tried again while the database is away and the lease may still be ours.

    `write` may therefore run again after a commit of unknown outcome. Raises LeaseLost.
    """
    for pause in DATABASE_BACKOFF.pauses():
        if interrupts.lost.is_set():
            break
        try:
            with transaction() as session:
                guard(session)
                return write(session)
        except DATABASE_DOWN as error:
            log.warning("the database did not take a write (%s); trying again", type(error).__name__)
        interrupts.lost.wait(pause)
    raise LeaseLost


def persist(interrupts: Interrupts, action: Callable[[], Result]) -> Result:
    """Do something with the store, again and again if need be. Raises StoreError when it stays unusable."""
    deadline = time.monotonic() + interrupts.store_retry_seconds
    for pause in STORE_BACKOFF.pauses():
        interrupts.check()
        if time.monotonic() >= deadline:
            break
        try:
            return action()
        except ObjectMissing:
            raise
        except StoreError as error:
            log.warning("%s; trying again", error)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ESTALE):
                raise
            log.warning("input/output error; trying again")
        interrupts.pause(pause)
    return action()
