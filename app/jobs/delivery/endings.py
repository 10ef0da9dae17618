"""How attempts end, and what becomes of the job then. The policy is `decide`; the rest writes it down."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.dispatch.outbox import Queue, ring
from app.jobs.delivery.lease import Lease, guard
from app.jobs.events import EventType, append_event, lock_job
from app.jobs.states import ENDINGS, Reason, Retry, State
from app.jobs.tables import Job, JobAttempt, JobBlock, JobLease, Outcome
from app.jobs.transitions import transition

LOST_BOUND: Final = 10
"""However much progress each makes, no more than so many times the budget of attempts may be lost."""
BACKOFF_SECONDS: Final = 5.0
BACKOFF_LIMIT: Final = 300.0
RETRY_AT_ONCE: Final = frozenset({Reason.worker_lost, Reason.worker_stopped})
"""Nothing was wrong with the job, and the lease's time has passed already."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt did not succeed, as its owner may read it: no path, no host, no credential."""

    reason: Reason
    message: str = ""
    code: str = ""
    """Finer than the reason, for errors of the user's input."""
    field: str | None = None

    def as_json(self) -> dict[str, Any]:
        ending = ENDINGS[self.reason]
        return {
            "code": self.code or self.reason,
            "cause": ending.cause,
            "message": self.message or ending.message,
            "field": self.field,
        }


@dataclass(frozen=True)
class History:
    """What the policy needs to know about a job's attempts; `lost` counts this one already."""

    progressed: bool
    """Whether this attempt committed at least one block."""
    counted: int
    """Lost attempts that made no progress, before this one."""
    lost: int
    budget: int


def decide(state: State, reason: Reason, history: History) -> tuple[State, bool]:
    """The job's next state, and whether the attempt costs one of its budget."""
    retry = ENDINGS[reason].retry
    if state is State.cancelling:
        return State.cancelled, False
    if retry is Retry.never:
        return State.failed, False
    costs = retry is Retry.counted and not history.progressed
    exhausted = history.counted + costs >= history.budget or history.lost >= LOST_BOUND * history.budget
    if retry is Retry.counted and exhausted:
        return State.failed, costs
    return (State.paused if state is State.pausing else State.queued), costs


def fail(session: Session, lease: Lease, failure: Failure, budget: int) -> State:
    """End the holder's attempt; the job is queued again, failed, cancelled or paused. Raises LeaseLost."""
    return close(session, guard(session, lease), failure, budget)


def stop(session: Session, lease: Lease, outcome: Outcome) -> State:
    """End the holder's attempt as its owner asked (cancelled or paused). Raises LeaseLost."""
    row = guard(session, lease)
    job = _locked(session, row)
    end_attempt(session, row, job, outcome, None)
    if outcome is Outcome.cancelled:
        transition(session, job, State.cancelled)
    elif State(job.state) is State.pausing:
        transition(session, job, State.paused)
    else:
        # Meanwhile the pause was withdrawn, or became a cancel.
        resumed = State.cancelled if State(job.state) is State.cancelling else State.queued
        transition(session, job, resumed)
        _queue_again(session, job, 0)
    return State(job.state)


def close(session: Session, row: JobLease, failure: Failure, budget: int) -> State:
    """End the attempt of a locked lease row as failed, and decide what becomes of the job."""
    job = _locked(session, row)
    old = State(job.state)
    new, costs = decide(old, failure.reason, _history(session, job, row, failure.reason, budget))
    job.lost_attempts += costs
    outcome = Outcome.cancelled if new is State.cancelled else failure.reason
    end_attempt(session, row, job, outcome, failure.as_json())
    if new is State.failed:
        job.failure = failure.as_json()
    transition(session, job, new, reason=failure.reason, message=failure.as_json()["message"])
    _queue_again(session, job, _pause(failure.reason, job))
    return new


def end_attempt(
    session: Session, row: JobLease, job: Job, outcome: Outcome | Reason, error: dict[str, Any] | None
) -> None:
    """Remove the lease and close its attempt, with an event."""
    attempt = session.get_one(JobAttempt, (row.job_id, row.attempt))
    attempt.ended_at = func.now()
    attempt.outcome = outcome
    attempt.error = error
    session.delete(row)
    message = error["message"] if error else None
    data = {"attempt": attempt.number, "outcome": outcome, "message": message}
    append_event(session, job, EventType.attempt_ended, data)


def _locked(session: Session, row: JobLease) -> Job:
    job = session.get_one(Job, row.job_id)
    lock_job(session, job)
    return job


def _history(session: Session, job: Job, row: JobLease, reason: Reason, budget: int) -> History:
    blocks = select(func.count()).where(JobBlock.job_id == job.id, JobBlock.attempt == row.attempt)
    counted = [reason for reason, ending in ENDINGS.items() if ending.retry is Retry.counted]
    lost = select(func.count()).where(JobAttempt.job_id == job.id, JobAttempt.outcome.in_(counted))
    return History(
        progressed=bool(session.scalar(blocks)),
        counted=job.lost_attempts,
        lost=(session.scalar(lost) or 0) + (reason in counted),
        budget=budget,
    )


def _pause(reason: Reason, job: Job) -> float:
    """Seconds before the next attempt: none after a lost worker, else doubling with each lost attempt."""
    if reason in RETRY_AT_ONCE:
        return 0.0
    return float(min(BACKOFF_LIMIT, BACKOFF_SECONDS * 2 ** max(0, job.lost_attempts - 1)))


def _queue_again(session: Session, job: Job, after_seconds: float) -> None:
    if State(job.state) is State.queued:
        job.rings = 0
        if after_seconds > 0:  # else it keeps its place in the queue
            job.available_at = from_now(after_seconds)
        ring(session, Queue.gpu, job.id, after_seconds)
