"""The matrix R and the figures that follow from it."""

import math
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.schemas import EvaluationRead, RowRead
from app.jobs.tables import Job, JobEvaluation

Matrix = Mapping[tuple[int, str], float]
"""(row, domain) → perplexity; row 0 is the dense model, row t + 1 comes after stage t."""


def evaluation_of(session: Session, job: Job) -> EvaluationRead:
    """R of a job as far as it is known."""
    stages = [domain["name"] for domain in job.spec["domains"]]
    return matrix_of(job.id, stages, repository.evaluations(session, job.id))


def matrix_of(job: str, stages: Sequence[str], entries: Sequence[JobEvaluation]) -> EvaluationRead:
    """R of a job whose stages have these domains, from what has been evaluated so far."""
    values = {(entry.row, entry.domain): entry.perplexity for entry in entries}
    columns = [domain for domain in stages if any(entry.domain == domain for entry in entries)]
    protocols = {
        entry.domain: {**entry.protocol, "windows": entry.windows, "tokens": entry.tokens} for entry in entries
    }
    return EvaluationRead(
        job=job,
        domains=columns,
        rows=[_row(row, stages, columns, values) for row in sorted({row for row, _ in values})],
        bwt=backward_transfer(stages, columns, values),
        log_bwt=backward_transfer(stages, columns, {key: math.log(value) for key, value in values.items()}),
        mean_final_perplexity=_final_mean(stages, columns, values),
        protocols=protocols,
    )


def backward_transfer(stages: Sequence[str], columns: Sequence[str], values: Matrix) -> float | None:
    """mean over i < T of R[T, i] − R[i, i]; None for one stage or while an entry is missing."""
    last = len(stages)
    earlier = [(row, domain) for row, domain in enumerate(stages[:-1], start=1) if domain in columns]
    wanted = [(last, domain) for _, domain in earlier] + earlier
    if not earlier or any(key not in values for key in wanted):
        return None
    return math.fsum(values[last, domain] - values[row, domain] for row, domain in earlier) / len(earlier)


def _final_mean(stages: Sequence[str], columns: Sequence[str], values: Matrix) -> float | None:
    last = [values.get((len(stages), domain)) for domain in columns]
    found = [value for value in last if value is not None]
    return math.fsum(found) / len(found) if found and len(found) == len(last) else None


def _row(row: int, stages: Sequence[str], columns: Sequence[str], values: Matrix) -> RowRead:
    return RowRead(
        row=row,
        stage=row - 1 if row > 0 else None,
        after=stages[row - 1] if 0 < row <= len(stages) else None,
        perplexity={domain: values[row, domain] for domain in columns if (row, domain) in values},
    )
