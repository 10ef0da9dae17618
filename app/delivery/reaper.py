"""What nobody else will do: take jobs from lost workers, notify again, end jobs that can never start.

Leaderless: any number of processes may run this at any time. Each lease is a transaction of its own.
"""

from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.counts import LEASES_EXPIRED, REQUEUED, count
from app.db.clock import from_now
from app.delivery.endings import Budgets, Failure, close
from app.delivery.queue_order import CLAIMABLE
from app.delivery.transitions import transition
from app.tables.jobs import Job, JobLease
from app.tables.states import Reason, State


def reap_one(session: Session, lease_seconds: float, budgets: Budgets) -> tuple[str, State] | None:
    """Take one job whose lease has expired; its id and what became of it. None when there is none.

    After a restart of the database no lease is taken for one lease time, because its holders had no way to renew.
    """
    up_since = func.pg_postmaster_start_time()
    row = session.scalar(
        select(JobLease)
        .where(JobLease.expires_at < func.clock_timestamp(), up_since < from_now(-lease_seconds))
        .order_by(JobLease.expires_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if row is None:
        return None
    state = close(session, row, Failure(Reason.worker_lost), budgets)
    count(session, LEASES_EXPIRED)
    if state is State.queued:
        count(session, REQUEUED)
    return row.job_id, state


def fail_unusable(session: Session, limit: int = 100) -> int:
    """End queued jobs whose model or dataset could not be read; how many there were."""
    statement = text("""
        SELECT j.id, m.state = 'failed' AS model FROM jobs j JOIN models m ON m.id = j.model_id
        WHERE j.state = 'queued' AND (m.state = 'failed' OR EXISTS (
            SELECT FROM job_datasets jd JOIN datasets d ON d.id = jd.dataset_id
            WHERE jd.job_id = j.id AND d.state = 'failed'))
        LIMIT :limit FOR NO KEY UPDATE OF j SKIP LOCKED
    """)
    rows = session.execute(statement, {"limit": limit}).all()
    for job_id, by_model in rows:
        job = session.get_one(Job, job_id)
        job.failure = _unusable(by_model)
        transition(session, job, State.failed, reason=Reason.invalid_input, message=job.failure["message"])
    return len(rows)


def fail_overdue(session: Session, limit: int = 100) -> int:
    """End jobs that stand in the queue for longer than they may; how many there were."""
    waited = func.extract("epoch", func.clock_timestamp() - Job.queued_at)
    overdue = (
        select(Job)
        .where(Job.state == State.queued, waited > Job.max_pending_seconds)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    jobs = session.scalars(overdue).all()
    for job in jobs:
        job.failure = Failure(Reason.max_pending).as_json()
        transition(session, job, State.failed, reason=Reason.max_pending, message=job.failure["message"])
    return len(jobs)


def _unusable(by_model: bool) -> dict[str, Any]:
    what, field = ("model", "/model") if by_model else ("dataset", "/domains")
    message = f"The {what} could not be taken in; its own `error` says why."
    return Failure(Reason.invalid_input, message, f"{what}_failed", field).as_json()


_NOTIFY_AGAIN = text(f"""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'gpu', j.id, 0 FROM jobs j
    WHERE {CLAIMABLE}
      AND greatest(j.notified_at, j.available_at)
          + make_interval(secs => :wait * 2 ^ least(greatest(j.notifications - 1, 0), 5)) < now()
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.hint = j.id AND o.published_at IS NULL)
    ORDER BY j.priority DESC, j.available_at LIMIT 100
""")  # noqa: S608 - constants only

_RING_ALL = text("""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'gpu', j.id, 0 FROM jobs j
    WHERE j.state = 'queued'
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.hint = j.id AND o.published_at IS NULL)
""")


def notify_again(session: Session, wait_seconds: float) -> int:
    """Notify of jobs that nobody claimed: the message may be lost. Waits twice as long each time."""
    return _count(session, _NOTIFY_AGAIN, {"wait": wait_seconds})


def notify_all(session: Session) -> int:
    """Notify of every queued job: the broker has lost its data."""
    return _count(session, _RING_ALL, {})


def _count(session: Session, statement: Any, parameters: dict[str, Any]) -> int:
    result: Any = session.execute(statement, parameters)
    return int(result.rowcount)
