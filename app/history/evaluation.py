"""The matrix R and the figures that follow from it."""

from collections.abc import Sequence
from typing import Any, Final, get_args

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.schemas import EvaluationRead, RowRead, TaskRead
from app.lineage.stages import History, Stage, history_of
from app.tables.jobs import Job, JobEvaluation
from secateur.spec.metrics import Entries, figures
from secateur.spec.records.tasks import AskedModel
from secateur.spec.sparsity import further_name

NOT_DONE: Final = "it was not done: the worker that ran the job was of a release that knows no tasks"


def evaluation_of(session: Session, job: Job) -> EvaluationRead:
    """R of a job's lineage, and what was reached in the job's tasks, as far as it is known."""
    matrix = matrix_of(job.id, history_of(session, job), repository.evaluations(session, job.id))
    tasks = {(each["task"], each["model"]): each for each in repository.task_scores(session, job.id)}
    if job.result is not None:
        tasks = _left_out(job) | tasks
    return matrix.model_copy(update={"tasks": [TaskRead.model_validate(tasks[key]) for key in sorted(tasks)]})


def _left_out(job: Job) -> dict[tuple[int, str], dict[str, Any]]:
    """What would be said of each of a published job's tasks if nothing was."""
    return {
        (number, model): {"task": number, "name": task["name"], "model": model, "error": NOT_DONE}
        for number, task in enumerate(job.spec.get("tasks", ()))
        for model in get_args(AskedModel)
    }


def matrix_of(job: str, history: History, entries: Sequence[JobEvaluation]) -> EvaluationRead:
    """R of a job's lineage, from what has been evaluated so far.

    Earlier domains whose texts are gone have no last row; the figures are over the others.
    """
    values = {(entry.row, entry.domain): entry.perplexity for entry in entries}
    stages = history.domains
    columns = [domain for domain in stages if any(entry.domain == domain for entry in entries)]
    lost = [domain for domain in columns if domain in history.lost and (len(stages), domain) not in values]
    found = figures(stages, {key: value for key, value in values.items() if key[1] not in lost})
    protocols = {
        entry.domain: {**entry.protocol, "windows": entry.windows, "tokens": entry.tokens} for entry in entries
    }
    return EvaluationRead(
        job=job,
        domains=columns,
        not_measured=lost,
        rows=[_row(row, job, history, columns, values) for row in sorted({row for row, _ in values})],
        protocols=protocols,
        **found.model_dump(),
    )


def _row(row: int, job: str, history: History, columns: Sequence[str], values: Entries) -> RowRead:
    stages, further = history.stages, row - len(history.stages) - 1
    after = stages[row - 1] if 0 < row <= len(stages) else None
    if 0 <= further < len(history.further):
        last = stages[-1]
        numbers = (last.stage + 1 + further, last.lineage_stage + 1 + further)
        after = Stage(job, *numbers, further_name(history.further[further]), None)
    return RowRead(
        row=row,
        stage=after.stage if after is not None and after.job == job else None,
        lineage_stage=after.lineage_stage if after is not None else None,
        job=after.job if after is not None else None,
        after=after.domain if after is not None else None,
        further=history.further[further] if 0 <= further < len(history.further) else None,
        perplexity={domain: values.get((row, domain)) for domain in columns},
    )
