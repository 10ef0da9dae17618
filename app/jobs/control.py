"""What a job's owner may ask of it: cancel, pause, resume, change, delete. Each call may be repeated.

The job's row is locked before its state is looked at, so a call and the worker's end of the job are decided one
after the other: whoever comes second finds the other's state, and is told of it.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete as sql_delete
from sqlalchemy import func
from sqlalchemy.orm import Session

from app.delivery.events import append_event
from app.delivery.transitions import transition
from app.jobs.repository import Found
from app.jobs.schemas import JobPatch
from app.jobs.service import JobFinished, JobUnfinished, read_locked
from app.kit.conditions import matches
from app.kit.problems import FieldError, PreconditionFailed, Problem
from app.lineage import stages
from app.outbox import Queue, notify
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.states import TERMINAL, State
from app.tasks.service import order_sweep


class JobCancelling(Problem):
    status, code, title = 409, "job_cancelling", "The job is being cancelled"


class LineageAlive(Problem):
    status, code, title = 409, "lineage_alive", "Other jobs continue this one"


NAMED: Final = 10
"""So many of the jobs that are in the way are named."""
IDLE: Final = frozenset({State.queued, State.paused})
"""Unfinished, and no worker has to be asked."""


def cancel(session: Session, project: str, id: str) -> tuple[Found, bool]:
    """Ask for a job's end: at once when no worker has it, else as soon as its worker hears of it.

    Also whether anything was (still) to be done. Raises JobNotFound; JobFinished when it ended otherwise.
    """
    job, progress = read_locked(session, project, id)
    state = State(job.state)
    if state is State.cancelled:
        return (job, progress), False
    _refuse_finished(state, "cancelled")
    if state is not State.cancelling:
        job.cancel_requested_at = func.now()
        append_event(session, job, EventType.cancel_requested, {})
        _move(session, job, State.cancelled if state in IDLE else State.cancelling, "cancel_requested")
    return (job, progress), True


def pause(session: Session, project: str, id: str) -> tuple[Found, bool]:
    """Take a job from the queue, or from its worker once the block it works on is finished.

    Also whether anything was (still) to be done. Raises JobNotFound, JobFinished, JobCancelling.
    """
    job, progress = read_locked(session, project, id)
    state = _going(job, "paused")
    if state is State.paused:
        return (job, progress), False
    if state is not State.pausing:
        job.pause_requested_at = func.now()
        _move(session, job, State.paused if state in IDLE else State.pausing, "pause_requested")
    return (job, progress), True


def resume(session: Session, project: str, id: str) -> tuple[Found, bool]:
    """Put a paused job back into the queue, at its old place; withdraw a pause that is not complete.

    Also whether anything was to be done. Raises JobNotFound, JobFinished, JobCancelling.
    """
    job, progress = read_locked(session, project, id)
    state = _going(job, "resumed")
    if state not in (State.paused, State.pausing):
        return (job, progress), False
    job.pause_requested_at = None
    if state is State.paused:
        job.notifications = 0
        notify(session, Queue.gpu, job.id)
    _move(session, job, State.queued if state is State.paused else State.running, "resume_requested")
    return (job, progress), True


def change(session: Session, project: str, id: str, patch: JobPatch, if_match: str | None) -> Found:
    """Change what may still change. Raises JobNotFound, PreconditionFailed, JobFinished."""
    job, progress = read_locked(session, project, id)
    if not matches(if_match, str(job.version)):
        raise PreconditionFailed("The job has changed since; read it again.")
    state = State(job.state)
    late = sorted(patch.model_fields_set & {"priority", "limits"})
    if late and state in TERMINAL:
        errors = [FieldError("cannot be changed any more", pointer=f"/{name}") for name in late]
        raise JobFinished(f"The job has {state}.", errors=errors, extensions={"state": state})
    changed = patch.apply(job)
    if changed:
        append_event(session, job, EventType.changed, {"fields": changed})
        _refresh(session, job)
    return job, progress


def delete(session: Session, project: str, id: str) -> None:
    """Remove a finished job with all that is known of it; the CPU queue removes its objects soon after.

    What a retry of it has taken over stays for as long as that needs it. Raises JobNotFound, JobUnfinished,
    LineageAlive: whoever makes a continuation locks this job's row first, so none can come in between.
    """
    job, _ = read_locked(session, project, id)
    state = State(job.state)
    if state not in TERMINAL:
        raise JobUnfinished(f"The job is {state}; cancel it first, or let it end.", extensions={"state": state})
    _refuse_alive(stages.continuations(session, job.id))
    root = job.root
    session.execute(sql_delete(Job).where(Job.id == job.id))
    order_sweep(session, root, project)


def _refuse_alive(children: Sequence[str]) -> None:
    if children:
        more = f" and {len(children) - NAMED} more" if len(children) > NAMED else ""
        raise LineageAlive(f"Delete first what continues it: {', '.join(children[:NAMED])}{more}.")


def _going(job: Job, verb: str) -> State:
    """The state of a job that is neither finished nor about to be."""
    state = State(job.state)
    _refuse_finished(state, verb)
    if state is State.cancelling:
        raise JobCancelling("Its end has been asked for already.", extensions={"state": state})
    return state


def _refuse_finished(state: State, verb: str) -> None:
    if state in TERMINAL:
        detail = f"The job has {state}; only an unfinished job can be {verb}."
        raise JobFinished(detail, extensions={"state": state})


def _move(session: Session, job: Job, new: State, reason: str) -> None:
    transition(session, job, new, reason=reason)
    _refresh(session, job)


def _refresh(session: Session, job: Job) -> None:
    session.flush()
    session.refresh(job)
