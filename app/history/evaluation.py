"""The matrix R and the figures that follow from it."""

import math
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.schemas import EvaluationRead, RowRead
from app.lineage.stages import History, Stage, history_of
from app.tables.jobs import Job, JobEvaluation

PrunableWeight = Mapping[tuple[int, str], float]
"""(row, domain) → perplexity; row 0 is the dense model, row t + 1 comes after stage t."""


def evaluation_of(session: Session, job: Job) -> EvaluationRead:
    """R of a job's lineage as far as it is known."""
    return matrix_of(job.id, history_of(session, job), repository.evaluations(session, job.id))


def matrix_of(job: str, history: History, entries: Sequence[JobEvaluation]) -> EvaluationRead:
    """R of a job's lineage, from what has been evaluated so far.

    Earlier domains whose texts are gone have no last row; the figures are over the others.
    """
    values = {(entry.row, entry.domain): entry.perplexity for entry in entries}
    stages = history.domains
    columns = [domain for domain in stages if any(entry.domain == domain for entry in entries)]
    lost = [domain for domain in columns if domain in history.lost and (len(stages), domain) not in values]
    measured = [domain for domain in columns if domain not in lost]
    protocols = {
        entry.domain: {**entry.protocol, "windows": entry.windows, "tokens": entry.tokens} for entry in entries
    }
    return EvaluationRead(
        job=job,
        domains=columns,
        not_measured=lost,
        rows=[_row(row, job, history.stages, columns, values) for row in sorted({row for row, _ in values})],
        bwt=backward_transfer(stages, measured, values),
        log_bwt=backward_transfer(stages, measured, {key: math.log(value) for key, value in values.items()}),
        mean_final_perplexity=_final_mean(stages, measured, values),
        protocols=protocols,
    )


def backward_transfer(stages: Sequence[str], columns: Sequence[str], values: PrunableWeight) -> float | None:
    """mean over i < T of R[T, i] − R[i, i]; None for one stage or while an entry is missing."""
    last = len(stages)
    earlier = [(row, domain) for row, domain in enumerate(stages[:-1], start=1) if domain in columns]
    wanted = [(last, domain) for _, domain in earlier] + earlier
    if not earlier or any(key not in values for key in wanted):
        return None
    return math.fsum(values[last, domain] - values[row, domain] for row, domain in earlier) / len(earlier)


def _final_mean(stages: Sequence[str], columns: Sequence[str], values: PrunableWeight) -> float | None:
    last = [values.get((len(stages), domain)) for domain in columns]
    found = [value for value in last if value is not None]
    return math.fsum(found) / len(found) if found and len(found) == len(last) else None


def _row(row: int, job: str, stages: Sequence[Stage], columns: Sequence[str], values: PrunableWeight) -> RowRead:
    after = stages[row - 1] if 0 < row <= len(stages) else None
    return RowRead(
        row=row,
        stage=after.stage if after is not None and after.job == job else None,
        lineage_stage=after.lineage_stage if after is not None else None,
        job=after.job if after is not None else None,
        after=after.domain if after is not None else None,
        perplexity={domain: values.get((row, domain)) for domain in columns},
    )
