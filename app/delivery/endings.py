"""How attempts end, and what becomes of the job then. The policy is `decide`; the rest writes it down."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from app.counts import ATTEMPTS, count
from app.db.clock import from_now
from app.delivery.events import append_event, lock_job, note_phase
from app.delivery.lease import Lease, guard
from app.delivery.queue_order import ring_next
from app.delivery.transitions import transition
from app.outbox import Queue, notify
from app.settings import Settings
from app.shares import charge
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobAttempt, JobBlock, JobLease, JobTask, Outcome
from app.tables.states import ENDINGS, Reason, Retry, State
from secateur.backoff import Backoff

TOTAL_BOUND: Final = 10
"""However much progress each makes, no more attempts than so many times the budget may end early."""
REPEATED: Final = "It did so twice at the same place, and was not tried a third time."
BACKOFF: Final = Backoff(5.0, longest=300.0)

Budgets = Mapping[str, int]
"""By the name of the setting; see `budgets`."""


def budgets(settings: Settings) -> Budgets:
    """How many attempts of each class may be lost before a job fails."""
    names = [retry.value.setting for retry in Retry if retry.value is not None]
    return {name: getattr(settings, name) for name in names}


@dataclass(frozen=True)
class Failure:
    """Why an attempt did not succeed, as its owner may read it: no path, no host, no credential."""

    reason: Reason
    message: str = ""
    code: str = ""
    """Finer than the reason, for errors of the user's input."""
    field: str | None = None
    fingerprint: str | None = None
    """The same for the same error at the same place; None where it cannot be told."""
    details: dict[str, Any] | None = None
    """Figures of the machine, where they were what was wrong."""

    def as_json(self) -> dict[str, Any]:
        ending = ENDINGS[self.reason]
        return {
            "code": self.code or self.reason,
            "cause": ending.cause,
            "message": self.message or ending.message,
            "field": ending.field if self.field is None else self.field,
            **({"fingerprint": self.fingerprint} if self.fingerprint else {}),
            **({"details": self.details} if self.details else {}),
        }


@dataclass(frozen=True)
class History:
    """What the policy needs to know about a job's attempts that ended in the same class as this one."""

    progressed: bool
    """Whether this attempt committed at least one block or task."""
    counted: int
    """Those that made no progress, before this one."""
    total: int
    """All of them, with this one."""
    budget: int
    repeated: bool = False
    """This attempt ended by the very error of the one before, and nothing was committed between them."""


def decide(state: State, reason: Reason, history: History) -> tuple[State, bool]:
    """The job's next state, and whether the attempt costs one of its budget."""
    if state is State.cancelling:
        return State.cancelled, False
    if ENDINGS[reason].retry is Retry.never:
        return State.failed, False
    if history.repeated:
        return State.failed, True
    costs = not history.progressed
    if history.counted + costs >= history.budget or history.total >= TOTAL_BOUND * history.budget:
        return State.failed, costs
    return (State.paused if state is State.pausing else State.queued), costs


def fail(session: Session, lease: Lease, failure: Failure, budgets: Budgets) -> State:
    """End the holder's attempt; the job is queued again, failed, cancelled or paused. Raises LeaseLost."""
    return close(session, guard(session, lease), failure, budgets)


def stop(session: Session, lease: Lease, outcome: Outcome) -> State:
    """End the holder's attempt as its owner asked (cancelled or paused). Raises LeaseLost."""
    row = guard(session, lease)
    job = _locked(session, row)
    end_attempt(session, row, job, outcome, None)
    if outcome is Outcome.cancelled:
        transition(session, job, State.cancelled, reason="cancel_requested")
    elif State(job.state) is State.pausing:
        transition(session, job, State.paused, reason="pause_requested")
    else:
        # Meanwhile the pause was withdrawn, or became a cancel.
        cancelling = State(job.state) is State.cancelling
        new, reason = (State.cancelled, "cancel_requested") if cancelling else (State.queued, "pause_withdrawn")
        transition(session, job, new, reason=reason)
        _queue_again(session, job, 0)
    return State(job.state)


def close(session: Session, row: JobLease, failure: Failure, budgets: Budgets) -> State:
    """End the attempt of a locked lease row as failed, and decide what becomes of the job."""
    job = _locked(session, row)
    reason = failure.reason
    if failure.details:
        failure = replace(failure, details={"phase": job.phase, **failure.details})
    history = _history(session, job, row, failure, budgets)
    if history.repeated:
        failure = replace(failure, message=f"{failure.message} {REPEATED}")
    new, costs = decide(State(job.state), reason, history)
    if costs:
        setattr(job, _counter(reason), history.counted + 1)
    outcome = Outcome.cancelled if new is State.cancelled else reason
    end_attempt(session, row, job, outcome, failure.as_json())
    if new is State.failed:
        job.failure = failure.as_json()
    transition(session, job, new, reason=reason, message=failure.as_json()["message"])
    pause = 0.0 if ENDINGS[reason].at_once else BACKOFF.after(max(1, history.counted + costs))
    _queue_again(session, job, pause)
    return new


def has_progressed(session: Session, job_id: str, attempt: int) -> bool:
    """Whether the attempt committed at least one block, or what a model reached in a task."""
    blocks = exists().where(JobBlock.job_id == job_id, JobBlock.attempt == attempt)
    done = (JobTask.job_id == job_id, JobTask.attempt == attempt, JobTask.scores.is_not(None))
    return bool(session.scalar(select(blocks | exists().where(*done))))


def end_attempt(
    session: Session, row: JobLease, job: Job, outcome: Outcome | Reason, error: dict[str, Any] | None
) -> None:
    """Remove the lease and close its attempt, charged to its project, with an event."""
    attempt = session.get_one(JobAttempt, (row.job_id, row.attempt))
    # Of a lost worker nothing is known after its last heartbeat.
    last_seen = JobLease.heartbeat_at if outcome is Reason.worker_lost else func.now()
    spent = (
        select(func.extract("epoch", last_seen - JobAttempt.started_at))
        .select_from(JobAttempt)
        .join(JobLease, JobLease.job_id == JobAttempt.job_id)
        .where(JobAttempt.job_id == row.job_id, JobAttempt.number == row.attempt)
        .scalar_subquery()
    )
    job.runtime_seconds = Job.runtime_seconds + func.greatest(spent, 0.0)
    lost_at = row.heartbeat_at if outcome is Reason.worker_lost else None
    charge(session, job.project_id, Queue.gpu, attempt.started_at, lost_at)
    count(session, ATTEMPTS, outcome=outcome)
    note_phase(session, job)
    attempt.ended_at = func.now()
    attempt.outcome = outcome
    attempt.error = error
    session.flush()  # while the lease's row is there to be read
    session.delete(row)
    ring_next(session, job.project_id)
    message = error["message"] if error else None
    data = {"attempt": attempt.number, "outcome": outcome, "message": message}
    append_event(session, job, EventType.attempt_ended, data)


def _locked(session: Session, row: JobLease) -> Job:
    job = session.get_one(Job, row.job_id)
    lock_job(session, job)
    return job


def _history(session: Session, job: Job, row: JobLease, failure: Failure, budgets: Budgets) -> History:
    retry = ENDINGS[failure.reason].retry
    if retry.value is None:
        return History(progressed=False, counted=0, total=1, budget=1)
    same = [reason for reason, ending in ENDINGS.items() if ending.retry is retry]
    before = select(func.count()).where(JobAttempt.job_id == job.id, JobAttempt.outcome.in_(same))
    progressed = has_progressed(session, job.id, row.attempt)
    return History(
        progressed=progressed,
        repeated=not progressed and _is_repeated(session, row, failure),
        counted=getattr(job, retry.value.counter),
        total=(session.scalar(before) or 0) + 1,
        budget=budgets[retry.value.setting],
    )


def _is_repeated(session: Session, row: JobLease, failure: Failure) -> bool:
    """Whether the job's attempt before ended by the same error. Others may have failed otherwise in between, by a
    stop or a lost worker: then it is tried again."""
    before = session.get(JobAttempt, (row.job_id, row.attempt - 1))
    known = (before.error or {}).get("fingerprint") if before is not None else None
    return known is not None and known == failure.fingerprint


def _counter(reason: Reason) -> str:
    budget = ENDINGS[reason].retry.value
    assert budget is not None  # noqa: S101 - only what has a budget costs
    return str(budget.counter)


def _queue_again(session: Session, job: Job, after_seconds: float) -> None:
    if State(job.state) is State.queued:
        job.notifications = 0
        if after_seconds > 0:  # else it keeps its place in the queue
            job.available_at = from_now(after_seconds)
        notify(session, Queue.gpu, job.id, after_seconds)
