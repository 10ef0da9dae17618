"""How long a job takes here, by what finished jobs of the same method took."""

from collections.abc import Sequence
from statistics import median
from typing import Final

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.tables.jobs import Job
from app.tables.states import State
from secateur.spec.records.plan import Estimates

MOST_JOBS: Final = 20
"""So many of the newest are asked; older ones ran on a service that was another."""


class CalibratedRead(BaseModel):
    """The time that a job will take on this deployment's own workers of one kind: what is estimated for them, by
    how much longer or shorter than estimated finished jobs of the same method took there."""

    seconds: float = Field(description="By the median of the jobs it rests on.")
    low: float = Field(description="By the fastest of them.")
    high: float = Field(description="By the slowest of them.")
    jobs: int = Field(description="How many it rests on: the newest that finished in one attempt.")
    method: str
    device: str = Field(description="What they ran on.")
    kind: str = Field(description="Of the workers that they ran on: the quickest on which any has finished.")


def calibrated(session: Session, method: str, estimates: Estimates | None) -> CalibratedRead | None:
    """None where nothing has finished yet on any of the plan's kinds of workers."""
    fitting = [] if estimates is None else [each for each in estimates.workers if each.fits]
    for fit in sorted(fitting, key=lambda each: each.seconds):
        if ratios := _ratios(session, method, fit.kind):
            return CalibratedRead(
                seconds=fit.seconds * median(ratios),
                low=fit.seconds * min(ratios),
                high=fit.seconds * max(ratios),
                jobs=len(ratios),
                method=method,
                device=fit.device,
                kind=fit.kind,
            )
    return None


def _ratios(session: Session, method: str, kind: str) -> Sequence[float]:
    """What the newest such jobs took, by what was expected. A job that had several attempts, or took over another
    one's work, did not do just the work that was counted."""
    expected = Job.estimates["seconds"].as_float()
    query = (
        select(Job.runtime_seconds / expected)
        .where(Job.method == method, Job.state == State.succeeded, Job.estimates.is_not(None))
        .where(Job.attempts == 1, Job.retry_of.is_(None), Job.runtime_seconds > 0)
        .where(Job.estimates["kind"].as_string() == kind, expected > 0)
        .order_by(Job.finished_at.desc())
        .limit(MOST_JOBS)
    )
    return session.scalars(query).all()
