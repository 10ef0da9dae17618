"""What a job may cost in time. Limits are no part of what is computed."""

from pydantic import Field

from secateur.spec.durations import Duration
from secateur.spec.strict import Strict


class Limits(Strict):
    """Bounds after which the job fails, with the name of the limit as its code."""

    max_runtime: Duration | None = Field(
        default=None,
        description="Sum of all attempts' time with a worker; pauses and waiting do not count.",
    )
    max_pending: Duration | None = Field(
        default=None, description="Time the job may stand in the queue without a break."
    )
