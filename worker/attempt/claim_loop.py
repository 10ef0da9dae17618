"""The claim loop: a notification that a worker has received must not be lost because the database is away."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.lease import LeaseLost
from app.tasks.repository import TaskLost
from worker.attempt.interrupts import DATABASE_BACKOFF, DATABASE_DOWN

log = logging.getLogger(__name__)
Claimed = TypeVar("Claimed")


def claim_when_possible(
    stopping: threading.Event,
    claim: Callable[[Session], Claimed | None],
    renew: Callable[[Session, Claimed], object],
) -> tuple[Claimed, float] | None:
    """The next job or task, and `time.monotonic()` before its lease began; None if there is none or we must stop.

    A claim whose commit failed may have been made all the same: if its lease can be renewed, it is ours.
    """
    doubtful: Claimed | None = None
    for pause in DATABASE_BACKOFF.pauses():
        if stopping.is_set():
            break
        since = time.monotonic()
        try:
            with transaction() as session:
                if doubtful is not None and _is_ours(session, doubtful, renew):
                    return doubtful, since
                doubtful = claim(session)
            return None if doubtful is None else (doubtful, since)
        except DATABASE_DOWN as error:
            log.warning("the database did not take a claim (%s); trying again", type(error).__name__)
        stopping.wait(pause)
    return None


def _is_ours(session: Session, claimed: Claimed, renew: Callable[[Session, Claimed], object]) -> bool:
    try:
        renew(session, claimed)
    except (LeaseLost, TaskLost):
        return False
    return True
