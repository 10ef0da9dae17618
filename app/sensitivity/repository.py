"""SQL of the sensitivities' history. Callers have authorised the job."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from app.sensitivity.tables import JobSensitivity


@dataclass(frozen=True)
class Filter:
    """What the history is narrowed to."""

    stage: int | None = None
    domain: str | None = None
    block: int | None = None
    matrix: str | None = None


def list_page(
    session: Session, job: str, filter: Filter, after: list[object] | None, limit: int
) -> Sequence[JobSensitivity]:
    """By (stage, block, matrix); `after` is that of the last row of the page before."""
    query = select(JobSensitivity).where(JobSensitivity.job_id == job)
    for name, value in vars(filter).items():
        if value is not None:
            query = query.where(getattr(JobSensitivity, name) == value)
    key = (JobSensitivity.stage, JobSensitivity.block, JobSensitivity.matrix)
    if after is not None:
        query = query.where(tuple_(*key) > tuple_(*after))
    return session.scalars(query.order_by(*key).limit(limit)).all()
