"""Bells for the right worker. A message of the queue reaches any worker, also one that does not hold the job.

Messages are hints here as everywhere: one too many does no harm, and of one too few the reaper makes another.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.delivery.queue_order import CLAIMABLE
from app.workers import holding

PAUSE_SECONDS: Final = 2.0
"""Before a bell that the wrong worker got is rung again."""

_UNHEARD: Final = "NOT EXISTS (SELECT FROM outbox o WHERE o.hint = j.id AND o.published_at IS NULL)"
# A worker that waits for a message is served before one that has just had one.
_HAND_ON: Final = text(f"""
    WITH idle AS (
        SELECT w.* FROM workers w WHERE w.seen_at > now() - make_interval(secs => :lease)
        AND NOT EXISTS (SELECT FROM job_leases l WHERE l.worker = w.name)
        AND NOT EXISTS (SELECT FROM worker_devices d WHERE d.name = w.name AND d.health <> 'ready')
    )
    INSERT INTO outbox (queue, hint, attempts, available_at)
    SELECT 'gpu', j.id, 0, now() + make_interval(secs => :pause) FROM jobs j
    WHERE {CLAIMABLE} AND NOT {holding.HOLDS} AND (SELECT bool_or({holding.HELD_BY}) FROM idle w) AND {_UNHEARD}
    LIMIT 1
""")  # noqa: S608 - constants only
_RING_FOR: Final = text(f"""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'gpu', j.id, 0 FROM jobs j WHERE {CLAIMABLE} AND {holding.HOLDS} AND {_UNHEARD} LIMIT 1
""")  # noqa: S608 - constants only


def hand_on(session: Session, room: Mapping[str, Any]) -> None:
    """A worker with that room has found nothing to do: ring for one that is idle and holds what it does not."""
    if room != holding.HOLDS_ALL:
        session.execute(_HAND_ON, {**room, **holding.parameters(), "pause": PAUSE_SECONDS})


def ring_for(session: Session, worker: str, *, harness: bool) -> None:
    """A worker has come that may hold what none held before. harness: whether lm-eval is installed there."""
    session.execute(_RING_FOR, holding.room_of(session, worker, harness=harness))
