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
    """The time that a job will take on this deployment's own workers, by how fast they did its kind of work. The
    estimate beside it rests on shapes and one measured product, and leaves out reading, writing and attention."""

    seconds: float = Field(description="By the median speed of the jobs it rests on.")
    low: float = Field(description="By the fastest of them.")
    high: float = Field(description="By the slowest of them.")
    jobs: int = Field(description="How many it rests on: the newest that finished in one attempt.")
    method: str
    device: str = Field(description="What they ran on.")


def calibrated(session: Session, method: str, estimates: Estimates | None) -> CalibratedRead | None:
    """None where nothing has finished yet, or the plan is of before work was counted."""
    if estimates is None or not estimates.operations:
        return None
    device, speeds = _speeds(session, method)
    if not speeds:
        return None
    return CalibratedRead(
        seconds=estimates.operations / median(speeds),
        low=estimates.operations / max(speeds),
        high=estimates.operations / min(speeds),
        jobs=len(speeds),
        method=method,
        device=device,
    )


def _speeds(session: Session, method: str) -> tuple[str, Sequence[float]]:
    """The device of the newest such job, and operations a second of those that ran on one like it. A job that had
    several attempts, or took over another's work, did not do just the work that was counted."""
    query = (
        select(Job.estimates, Job.runtime_seconds)
        .where(Job.method == method, Job.state == State.succeeded, Job.estimates.is_not(None))
        .where(Job.attempts == 1, Job.retry_of.is_(None), Job.runtime_seconds > 0)
        .order_by(Job.finished_at.desc())
        .limit(MOST_JOBS)
    )
    measured = [(found, seconds) for found, seconds in session.execute(query) if found and found["operations"]]
    if not measured:
        return "", []
    device = str(measured[0][0]["device"])
    return device, [found["operations"] / seconds for found, seconds in measured if found["device"] == device]
