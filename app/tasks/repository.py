"""The SQL of the CPU queue's tasks: claimed, leased and fenced like jobs."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.tables.tasks import Task, TaskState


class TaskLost(Exception):
    """Somebody else may hold the task now: write nothing."""


@dataclass(frozen=True)
class TaskClaim:
    """A task with the right to write for it."""

    id: str
    token: str
    kind: str
    subject_id: str
    project_id: str | None
    attempt: int


def claim(session: Session, worker: str, lease_seconds: float) -> TaskClaim | None:
    """Take the oldest queued task, or None."""
    task = session.scalar(
        select(Task)
        .where(Task.state == TaskState.queued, Task.available_at <= func.now())
        .order_by(Task.available_at, Task.created_at, Task.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if task is None:
        return None
    token = str(uuid.uuid4())
    task.state = TaskState.running
    task.attempts += 1
    task.fence += 1
    task.lease_token = token
    task.lease_expires_at = from_now(lease_seconds)
    task.worker = worker
    session.flush()
    return TaskClaim(task.id, token, task.kind, task.subject_id, task.project_id, task.attempts)


def guard(session: Session, task_id: str, token: str) -> Task:
    """Lock the task's row until the end of the transaction if the token still holds it, or raise TaskLost."""
    task = session.scalar(
        select(Task)
        .where(Task.id == task_id, Task.lease_token == token, Task.state == TaskState.running)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if task is None:
        raise TaskLost
    return task


def renew(session: Session, task_id: str, token: str, seconds: float) -> None:
    """Move the end of the lease to `seconds` from now. Raises TaskLost."""
    statement = (
        update(Task)
        .where(Task.id == task_id, Task.lease_token == token, Task.state == TaskState.running)
        .values(lease_expires_at=from_now(seconds))
        .returning(Task.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        raise TaskLost


def lock_expired(session: Session, lease_seconds: float) -> Sequence[Task]:
    """Running tasks whose lease has expired, locked; none shortly after a restart of the database."""
    up_since = func.pg_postmaster_start_time()
    return session.scalars(
        select(Task)
        .where(
            Task.state == TaskState.running,
            Task.lease_expires_at < func.clock_timestamp(),
            up_since < from_now(-lease_seconds),
        )
        .order_by(Task.lease_expires_at)
        .with_for_update(skip_locked=True)
    ).all()


_NOTIFY_AGAIN: Final = text("""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'cpu', t.id, 0 FROM tasks t
    WHERE t.state = 'queued' AND t.available_at + make_interval(secs => :wait) < now()
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.hint = t.id AND (
          o.published_at IS NULL OR o.published_at > now() - make_interval(secs => :wait)))
    ORDER BY t.available_at LIMIT 100
""")


def notify_again(session: Session, wait_seconds: float) -> int:
    """Notify of queued tasks whose last message is older than `wait_seconds` (0: for all of them)."""
    result: Any = session.execute(_NOTIFY_AGAIN, {"wait": wait_seconds})
    return int(result.rowcount)


_RING_JOBS: Final = text("""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'gpu', j.id, 0 FROM jobs j
    WHERE j.state = 'queued' AND (j.model_id = :subject OR EXISTS (
        SELECT FROM job_datasets jd WHERE jd.job_id = j.id AND jd.dataset_id = :subject))
""")


def ring_for_jobs(session: Session, subject_id: str) -> None:
    """Notify of the queued jobs that waited for this model or dataset."""
    session.execute(_RING_JOBS, {"subject": subject_id})
