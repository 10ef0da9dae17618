"""A job's history: typed events, numbered without gaps."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.counts import PHASE_SECONDS, observe
from app.delivery.announcements import announce
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobEvent


def lock_job(session: Session, job: Job) -> None:
    """Lock the job's row until the end of the transaction and read it anew (pending changes are kept)."""
    session.flush()
    # NO KEY UPDATE: rows that refer to the job may still be written meanwhile.
    session.refresh(job, with_for_update={"key_share": True})


def announce_created(session: Session, job: Job, at: datetime) -> None:
    """Tell the webhooks of the first event of a job that was made in this transaction, at that time."""
    job.created_at = at
    announce(
        session, job, JobEvent(job_id=job.id, seq=1, type=EventType.created, data={"state": job.state}, at=at)
    )


def append_event(session: Session, job: Job, type: EventType, data: dict[str, Any]) -> JobEvent:
    """Add an event, tell the webhooks, and make the job's change visible (its ETag grows with `version`).

    The number is taken under the job row's lock, so that whoever has read up to n never misses an event.
    """
    lock_job(session, job)
    job.last_event += 1
    job.version += 1
    event = JobEvent(job_id=job.id, seq=job.last_event, type=type, data=data)
    session.add(event)
    announce(session, job, event)
    return event


def note_phase(session: Session, job: Job) -> None:
    """The job leaves its phase: count how long its attempt was in it, from the event that says when it began."""
    began = (
        select(JobEvent.at)
        .where(JobEvent.job_id == job.id, JobEvent.type.in_((EventType.phase, EventType.attempt_started)))
        .order_by(JobEvent.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    if job.phase is not None:
        seconds = func.coalesce(func.extract("epoch", func.clock_timestamp() - began), 0)
        observe(session, PHASE_SECONDS, seconds, method=job.method, phase=job.phase)
