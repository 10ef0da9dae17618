"""Rules of the CPU queue's tasks: how they are made, and how they end."""

import logging
from typing import Any, Final

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.counts import TASKS_FINISHED, count
from app.db.clock import from_now
from app.kit.ids import Prefix, new_id
from app.outbox import Queue, notify
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.shares import charge
from app.tables.datasets import Dataset, IntakeState
from app.tables.models import Model
from app.tables.plans import Plan
from app.tables.tasks import PLANNING, Task, TaskKind, TaskState
from app.tasks import repository
from app.tasks.repository import TaskClaim, TaskLost, claim, guard, renew
from secateur.backoff import Backoff

__all__ = [
    "TaskClaim",
    "TaskLost",
    "claim",
    "drop",
    "finish",
    "forget_sweeps",
    "give_back",
    "guard",
    "order_sweep",
    "order_sweep_of_all",
    "reap",
    "renew",
    "retry",
    "submit",
]

log = logging.getLogger(__name__)

BACKOFF: Final = Backoff(5.0, longest=300.0)
WHOLE_STORE: Final = "store"
"""Subject of a sweep of everything."""
_SUBJECTS: Final[dict[str, type[Model] | type[Dataset] | type[Plan]]] = {
    TaskKind.model_intake: Model,
    TaskKind.dataset_fetch: Dataset,
    TaskKind.dataset_intake: Dataset,
    TaskKind.plan: Plan,
}


def submit(session: Session, project_id: str, kind: TaskKind, subject_id: str) -> Task:
    """Queue work for a model, a dataset, a plan or a finished job, in the transaction that made it.

    Raises QuotaExceeded, StorageQuotaExceeded.
    """
    if kind not in (TaskKind.publication, TaskKind.estimate):  # part of a job that was let in
        stores = () if kind is TaskKind.plan else (Quota.stored_bytes,)
        reserve(session, project_id, Quota.pending_tasks, *stores)
    task = Task(id=new_id(Prefix.task), project_id=project_id, kind=kind, subject_id=subject_id)
    session.add(task)
    _ring(session, task)
    return task


def drop(session: Session, subject_id: str) -> None:
    """The subject is being deleted: nothing is done for it any more, and who does it hears so by its heartbeat.

    What is just being finished is let be: it will find its subject gone.
    """
    mine = select(Task).where(Task.subject_id == subject_id).with_for_update(skip_locked=True)
    for task in session.scalars(mine).all():
        _charge(session, task)
        session.delete(task)


def _ring(session: Session, task: Task, after_seconds: float = 0) -> None:
    for queue in (Queue.cpu, Queue.plan) if task.kind in PLANNING else (Queue.cpu,):
        notify(session, queue, task.id, after_seconds)


def _charge(session: Session, task: Task) -> None:
    """What a task has taken until now, to its project, whose next intake may begin."""
    if task.state == TaskState.running and task.project_id is not None and task.started_at is not None:
        charge(session, task.project_id, Queue.cpu, task.started_at)
        repository.ring_next(session, task.project_id)


def order_sweep(session: Session, subject: str, project: str | None = None) -> None:
    """Queue the sweep of a chain of jobs, or of `WHOLE_STORE`, unless it waits already.

    project: whose turn it takes; None for the house's own.
    """
    id = new_id(Prefix.task)
    row = insert(Task).values(id=id, kind=TaskKind.garbage, subject_id=subject, state=TaskState.queued)
    row = row.values(project_id=project)
    row = row.values(attempts=0, fence=0)
    if session.scalar(row.on_conflict_do_nothing().returning(Task.id)) is not None:
        notify(session, Queue.cpu, id)


def order_sweep_of_all(session: Session, every_seconds: float) -> bool:
    """Queue the sweep of the whole store when the last one was ordered so long ago; whether it was."""
    lately = exists().where(
        Task.kind == TaskKind.garbage,
        Task.subject_id == WHOLE_STORE,
        or_(Task.created_at > from_now(-every_seconds), Task.state.in_([TaskState.queued, TaskState.running])),
    )
    if session.scalar(select(lately)):
        return False
    order_sweep(session, WHOLE_STORE)
    return True


def forget_sweeps(session: Session, seconds: float) -> int:
    """Delete the rows of sweeps that ended so long ago; how many there were."""
    ended = Task.state.in_([TaskState.succeeded, TaskState.failed]), Task.updated_at < from_now(-seconds)
    statement = delete(Task).where(Task.kind == TaskKind.garbage, *ended).returning(Task.id)
    return len(session.scalars(statement).all())


def finish(session: Session, claim: TaskClaim) -> None:
    """The subject has its final state (or is gone); jobs that waited for it may start. Raises TaskLost."""
    task = guard(session, claim.id, claim.token)
    table: Any = _SUBJECTS.get(task.kind)
    subject = session.get(table, task.subject_id) if table is not None else None
    if subject is not None and subject.state == IntakeState.failed:
        _end(session, task, TaskState.failed, subject.error)
    else:
        _end(session, task, TaskState.succeeded, None)
    repository.ring_for_jobs(session, task.subject_id)


def retry(session: Session, claim: TaskClaim, budget: int) -> None:
    """Something of ours went wrong: try again later, at most `budget` attempts in all. Raises TaskLost."""
    task = guard(session, claim.id, claim.token)
    _retry(session, task, budget, BACKOFF.after(task.attempts))


def give_back(session: Session, claim: TaskClaim, after_seconds: float = 0) -> None:
    """The worker stops, or it is too early (then not before so many seconds); the attempt costs nothing.

    Raises TaskLost.
    """
    task = guard(session, claim.id, claim.token)
    task.attempts -= 1
    _queue_again(session, task, after_seconds)


def reap(session: Session, lease_seconds: float, budget: int) -> list[str]:
    """Take all tasks from lost workers; their ids. One that cannot be taken does not keep the others from it."""
    reaped = []
    for task in repository.lock_expired(session, lease_seconds):
        id = task.id
        try:
            with session.begin_nested():
                _retry(session, task, budget, 0)
        except SQLAlchemyError:
            log.exception("%s cannot be taken from its lost worker", id)
        else:
            reaped.append(id)
    return reaped


def _retry(session: Session, task: Task, budget: int, after_seconds: float) -> None:
    if task.attempts < budget:
        _queue_again(session, task, after_seconds)
    else:
        message = "The service could not do this; try again or ask its operator."
        _fail(session, task, {"code": "internal", "cause": "system", "message": message, "field": None})


def _fail(session: Session, task: Task, error: dict[str, Any]) -> None:
    """The task and its subject fail together; jobs that wait for the subject are ended by the reaper."""
    _end(session, task, TaskState.failed, error)
    subject = _SUBJECTS.get(task.kind)
    if subject is not None:
        session.execute(
            update(subject)
            .where(subject.id == task.subject_id, subject.state == IntakeState.pending)
            .values(state=IntakeState.failed, error=error)
        )


def _end(session: Session, task: Task, state: TaskState, error: dict[str, Any] | None) -> None:
    _charge(session, task)
    count(session, TASKS_FINISHED, kind=task.kind, outcome=state)
    task.state = state
    task.error = error
    task.lease_token = None
    task.lease_expires_at = None


def _queue_again(session: Session, task: Task, after_seconds: float) -> None:
    _charge(session, task)
    try:
        with session.begin_nested():
            task.state = TaskState.queued
            task.lease_token = None
            task.lease_expires_at = None
            task.available_at = func.now() if after_seconds == 0 else from_now(after_seconds)
    except IntegrityError:
        if task.kind != TaskKind.garbage:
            raise
        # Another sweep of the same waits by now (`ix_tasks_garbage`) and does this one's work, too.
        task.started_at = None  # charged already
        _end(session, task, TaskState.succeeded, None)
        return
    _ring(session, task, after_seconds)
