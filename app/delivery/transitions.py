"""The one way to change a job's state."""

from typing import Any

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.orm import Session

from app.counts import QUEUE_WAIT, count_end_of_job, observe
from app.delivery.events import append_event, lock_job
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.states import LEASED, TERMINAL, Reason, State, may_become


class TransitionRefused(Exception):
    """The table of transitions does not have it; the job has meanwhile become something else."""

    def __init__(self, old: State, new: State) -> None:
        super().__init__(f"a job that is {old} cannot become {new}")
        self.old = old
        self.new = new


def transition(
    session: Session, job: Job, new: State, *, reason: Reason | str | None = None, message: str | None = None
) -> None:
    """Move a job to `new` under its row's lock, with an event that says why.

    A terminal state sets `finished_at`; one without a worker clears the phase. Raises TransitionRefused.
    """
    lock_job(session, job)
    old = State(job.state)
    if not may_become(old, new):
        raise TransitionRefused(old, new)
    job.state = new
    if old is State.queued and new is State.running:
        observe(session, QUEUE_WAIT, _waited(job))
    if new in TERMINAL:
        job.finished_at = func.now()
        count_end_of_job(session, job.method, new, reason, job.runtime_seconds)
    if new is State.queued:
        job.queued_at = func.now()
    if new not in LEASED:
        job.phase = None
    data = {"from": old, "to": new, "reason": reason, "message": message}
    append_event(session, job, EventType.transition, data)


def _waited(job: Job) -> ScalarSelect[Any]:
    """Seconds since it came into the queue, by the database's clock."""
    waited = func.extract("epoch", func.clock_timestamp() - Job.queued_at)
    return select(waited).where(Job.id == job.id).scalar_subquery()
