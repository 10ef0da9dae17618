"""What a job may cost in time. Limits are no part of the spec: they change nothing that is computed."""

from pydantic import Field

from app.jobs.durations import Duration, format_duration, parse_duration
from app.jobs.tables import Job
from app.kit.fields import Strict


class Limits(Strict):
    """Bounds after which the job fails, with the name of the limit as its code."""

    max_runtime: Duration | None = Field(
        default=None,
        description="Sum of all attempts' time with a worker; pauses and waiting do not count.",
    )
    max_pending: Duration | None = Field(
        default=None, description="Time the job may stand in the queue without a break."
    )

    @classmethod
    def of(cls, job: Job) -> "Limits":
        """As kept in the job's row."""
        return cls(max_runtime=_text(job.max_runtime_seconds), max_pending=_text(job.max_pending_seconds))

    def apply(self, job: Job) -> None:
        """Write them into the job's row."""
        job.max_runtime_seconds = _seconds(self.max_runtime)
        job.max_pending_seconds = _seconds(self.max_pending)


def _seconds(text: str | None) -> int | None:
    return None if text is None else parse_duration(text)


def _text(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(seconds)
