"""A job's limits as its row has them."""

from app.tables.jobs import Job
from secateur.spec.durations import format_duration, parse_duration
from secateur.spec.limits import Limits


def limits_of(job: Job) -> Limits:
    """As kept in the job's row."""
    return Limits(max_runtime=_text(job.max_runtime_seconds), max_pending=_text(job.max_pending_seconds))


def set_limits(job: Job, limits: Limits) -> None:
    """Write them into the job's row."""
    job.max_runtime_seconds = _seconds(limits.max_runtime)
    job.max_pending_seconds = _seconds(limits.max_pending)


def _seconds(text: str | None) -> int | None:
    return None if text is None else parse_duration(text)


def _text(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(seconds)
