"""The right to write to a job: a random token with a time limit, kept by the database's clock."""

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.tables.jobs import Job, JobLease


class LeaseLost(Exception):
    """Somebody else may hold the job now: kill the engine, write nothing."""


@dataclass(frozen=True)
class Lease:
    """What a worker got when it claimed a job."""

    job_id: str
    token: str
    fence: int
    attempt: int


@dataclass(frozen=True)
class OwnerRequests:
    """What the job's owner wants meanwhile; comes with every heartbeat."""

    cancel: bool
    pause: bool
    runtime_left: float | None = None
    """Seconds that the attempt may take, counted from its start; None without a limit."""


def guard(session: Session, lease: Lease) -> JobLease:
    """Lock the lease row until the end of the transaction, or raise LeaseLost.

    An expired lease that nobody took still counts: while the row is locked here, nobody can take it.
    """
    row = session.scalar(
        select(JobLease)
        .where(JobLease.job_id == lease.job_id, JobLease.token == lease.token)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise LeaseLost
    return row


def renew(session: Session, lease: Lease, seconds: float) -> OwnerRequests:
    """Move the end of the lease to `seconds` from now; one statement, one round trip. Raises LeaseLost."""
    statement = (
        update(JobLease)
        .where(JobLease.job_id == lease.job_id, JobLease.token == lease.token, Job.id == JobLease.job_id)
        .values(heartbeat_at=func.clock_timestamp(), expires_at=from_now(seconds))
        .returning(
            Job.cancel_requested_at.is_not(None),
            Job.pause_requested_at.is_not(None),
            Job.max_runtime_seconds - Job.runtime_seconds,
        )
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).one_or_none()
    if row is None:
        raise LeaseLost
    return OwnerRequests(*row)
