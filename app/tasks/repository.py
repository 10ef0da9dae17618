"""The SQL of the CPU queue's tasks: claimed, leased and fenced like jobs."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.settings import get_settings
from app.shares import DECAYED, ELAPSED, half_life
from app.tables.tasks import INTAKES, PLANNING, Task, TaskKind, TaskState


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
    origin: dict[str, Any] | None = None
    """The call that it came of: see kit/origin.py."""


ADVANCE_SECONDS: Final = 60.0
"""What a running task counts at least."""

# The house's own work first, then the project with the least recent service by its share, then age.
_NEXT: Final = text(f"""
    WITH running AS (
        SELECT project_id, count(*) FILTER (WHERE kind = ANY(:bounded)) AS intakes,
               sum(greatest({ELAPSED.format(since="coalesce(started_at, updated_at)")}, :advance)) AS seconds
        FROM tasks WHERE state = 'running' AND project_id IS NOT NULL GROUP BY project_id
    ),
    queued AS (
        SELECT t.id, t.project_id, t.available_at, t.created_at,
               (coalesce(s.seconds * {DECAYED.format(since="s.at")}, 0) + coalesce(r.seconds, 0))
                   / coalesce(a.share, 1) AS served,
               CASE WHEN t.kind <> ALL(:bounded) THEN NULL
                    WHEN jsonb_exists(a.quotas, 'running_intakes')
                        THEN CAST(a.quotas ->> 'running_intakes' AS bigint)
                    ELSE CAST(:running_intakes AS bigint) END AS most,
               coalesce(r.intakes, 0) AS intakes
        FROM tasks t
        LEFT JOIN project_accounts a ON a.project_id = t.project_id
        LEFT JOIN project_service s ON s.project_id = t.project_id AND s.queue = 'cpu'
        LEFT JOIN running r ON r.project_id = t.project_id
        WHERE t.state = 'queued' AND t.available_at <= now() AND t.kind = ANY(:kinds)
    )
    SELECT t.id, q.project_id, q.most FROM queued q JOIN tasks t ON t.id = q.id
    WHERE t.state = 'queued' AND t.available_at <= now()
      AND (q.most IS NULL OR q.intakes < q.most) AND q.id <> ALL(:tried)
    ORDER BY q.project_id IS NOT NULL, q.served, q.available_at, q.created_at, q.id
    LIMIT 1 FOR UPDATE OF t SKIP LOCKED
""")  # noqa: S608 - constants only
_LOCK_PROJECT: Final = text("SELECT FROM projects WHERE id = :project FOR NO KEY UPDATE")
_RUNNING: Final = text(
    "SELECT count(*) FROM tasks WHERE project_id = :project AND state = 'running' AND kind = ANY(:bounded)"
)


def claim(
    session: Session, worker: str, lease_seconds: float, kinds: Sequence[TaskKind] = tuple(TaskKind)
) -> TaskClaim | None:
    """Take the next queued task of these kinds, fairly between projects; None when there is none."""
    id = _find(session, kinds)
    if id is None:
        return None
    task = session.get_one(Task, id, populate_existing=True)
    token = str(uuid.uuid4())
    task.state = TaskState.running
    task.attempts += 1
    task.fence += 1
    task.lease_token = token
    task.lease_expires_at = from_now(lease_seconds)
    task.started_at = func.now()
    task.worker = worker
    session.flush()
    return TaskClaim(task.id, token, task.kind, task.subject_id, task.project_id, task.attempts, task.origin)


def _find(session: Session, kinds: Sequence[TaskKind]) -> str | None:
    """The next task's id, its row locked."""
    given: dict[str, Any] = {
        "kinds": list(kinds),
        "bounded": list(INTAKES),
        "advance": ADVANCE_SECONDS,
        "half_life": half_life(),
        "running_intakes": get_settings().quota_running_intakes,
    }
    tried: list[str] = []
    while row := session.execute(_NEXT, given | {"tried": tried}).one_or_none():
        id, project, most = row
        if most is None or _may_run(session, project, most):
            return str(id)
        tried.append(id)
    return None


def _may_run(session: Session, project: str, most: int) -> bool:
    """Whether the project takes in fewer than it may, counted again now that nobody else can claim for it."""
    session.execute(_LOCK_PROJECT, {"project": project})
    return (session.scalar(_RUNNING, {"project": project, "bounded": list(INTAKES)}) or 0) < most


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
    SELECT q.queue, t.id, 0 FROM tasks t
    JOIN (VALUES ('cpu'), ('plan')) AS q (queue) ON q.queue = 'cpu' OR t.kind = ANY(:planning)
    WHERE t.state = 'queued' AND t.available_at + make_interval(secs => :wait) < now()
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.hint = t.id AND (
          o.published_at IS NULL OR o.published_at > now() - make_interval(secs => :wait)))
    ORDER BY t.available_at LIMIT 100
""")


def notify_again(session: Session, wait_seconds: float) -> int:
    """Notify of queued tasks whose last message is older than `wait_seconds` (0: for all of them)."""
    result: Any = session.execute(_NOTIFY_AGAIN, {"wait": wait_seconds, "planning": list(PLANNING)})
    return int(result.rowcount)


_RING_NEXT: Final = text("""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'cpu', t.id, 0 FROM tasks t
    WHERE t.project_id = :project AND t.state = 'queued' AND t.kind = ANY(:bounded)
    ORDER BY t.available_at, t.created_at, t.id LIMIT 1
""")


def ring_next(session: Session, project: str) -> None:
    """An intake of the project has ended: an idle worker may have passed by the next one."""
    session.execute(_RING_NEXT, {"project": project, "bounded": list(INTAKES)})


_RING_JOBS: Final = text("""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'gpu', j.id, 0 FROM jobs j
    WHERE j.state = 'queued' AND (j.model_id = :subject OR EXISTS (
        SELECT FROM job_datasets jd WHERE jd.job_id = j.id AND jd.dataset_id = :subject))
""")


def ring_for_jobs(session: Session, subject_id: str) -> None:
    """Notify of the queued jobs that waited for this model or dataset."""
    session.execute(_RING_JOBS, {"subject": subject_id})
