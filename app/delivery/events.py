"""A job's history: typed events, numbered without gaps."""

from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from app.tables.jobs import Job, JobEvent


class EventType(StrEnum):
    """What an event tells; its `data` has the fields named here."""

    created = "created"
    """`state`"""
    transition = "transition"
    """`from`, `to`, `reason` (a code), `message`"""
    cancel_requested = "cancel_requested"
    """nothing"""
    changed = "changed"
    """`fields`: which of labels, priority and limits its owner has changed"""
    retried = "retried"
    """`job`: the job that continues this one"""
    taken_over = "taken_over"
    """`job`: the one whose checkpoint this one begins with; `blocks`: how many were finished"""
    phase = "phase"
    """`phase`, `attempt`"""
    attempt_started = "attempt_started"
    """`attempt`, `worker`"""
    attempt_ended = "attempt_ended"
    """`attempt`, `outcome`, `message`"""
    stage_started = "stage_started"
    """`stage`, `domain`"""
    stage_finished = "stage_finished"
    """`stage`, `domain`, `sparsity`, `seconds`"""
    evaluated = "evaluated"
    """`row`, `domain`, `perplexity`"""
    checkpoint_dropped = "checkpoint_dropped"
    """nothing: its time to be retried from there is over"""
    restarted = "restarted"
    """The checkpoints could not be used: `reason`"""
    published = "published"
    """`manifest_digest`, `bytes`, `files`"""
    note = "note"
    """`level`, `message`, and what belongs to it: a damping, a warning, `skipped` (what stays, by reason)"""


def lock_job(session: Session, job: Job) -> None:
    """Lock the job's row until the end of the transaction and read it anew (pending changes are kept)."""
    session.flush()
    # NO KEY UPDATE: rows that refer to the job may still be written meanwhile.
    session.refresh(job, with_for_update={"key_share": True})


def append_event(session: Session, job: Job, type: EventType, data: dict[str, Any]) -> JobEvent:
    """Add an event and make the job's change visible (its ETag grows with `version`).

    The number is taken under the job row's lock, so that whoever has read up to n never misses an event.
    """
    lock_job(session, job)
    job.last_event += 1
    job.version += 1
    event = JobEvent(job_id=job.id, seq=job.last_event, type=type, data=data)
    session.add(event)
    return event
