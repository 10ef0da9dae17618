"""Rules of jobs that many calls share: finding them, and whether what they need is there."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.datasets import repository as datasets
from app.jobs import repository
from app.jobs.repository import Found, Part
from app.kit.problems import FieldError, Invalid, NotFound, Problem, exists
from app.lineage import stages as lineages
from app.tables.datasets import Dataset, IntakeState
from secateur.spec.tasks import HarnessTask


class JobNotFound(NotFound):
    code, title = "job_not_found", "There is no such job"


class JobFinished(Problem):
    status, code, title = 409, "job_finished", "The job has already finished"


class JobUnfinished(Problem):
    status, code, title = 409, "job_unfinished", "The job has not finished"


class InputRefused(Invalid):
    code, title = "input_refused", "A model or dataset of the job cannot be used"


def read(session: Session, project: str, id: str) -> Found:
    """Raises JobNotFound, also for another project's."""
    return exists(repository.find(session, project, id), JobNotFound)


def read_locked(session: Session, project: str, id: str) -> Found:
    """The same, its row locked until the transaction ends. Raises JobNotFound, also if it was just deleted."""
    return exists(repository.lock(session, project, id), JobNotFound)


def parts_of(session: Session, project: str, id: str, *, lineage: bool) -> list[Part]:
    """The stages a history is made of: the job's own, or its whole lineage's up to them. Raises JobNotFound."""
    job, _ = read(session, project, id)
    path = lineages.path_of(session, job) if lineage else [job]
    return [Part(each.id, each.first_stage) for each in path]


def check_inputs(session: Session, project: str, model_id: str, wanted: dict[str, str]) -> None:
    """Every model and dataset is the project's and not failed (pending ones hold the job back until ready).

    They are locked against deletion, which the rows of the job then prevent. wanted: dataset id → JSON pointer.
    Raises InputRefused.
    """
    states = repository.input_states(session, project, model_id, list(wanted))
    asked = {("model", model_id): "/model", **{("dataset", id): pointer for id, pointer in wanted.items()}}
    errors = [
        FieldError(_reason(kind, (kind, id) not in states), pointer=pointer)
        for (kind, id), pointer in asked.items()
        if states.get((kind, id), IntakeState.failed) == IntakeState.failed
    ]
    if errors:
        raise InputRefused(errors=errors)


def check_questions(session: Session, project: str, tasks: Sequence[HarnessTask]) -> None:
    """Of every task's dataset the rows are kept as they were sent. Raises InputRefused."""
    asked = {f"/tasks/{n}/dataset": task.dataset for n, task in enumerate(tasks) if task.dataset is not None}
    found = datasets.find_for_use(session, project, list(asked.values())) if asked else {}
    message = "keeps its texts alone; a task's questions are rows of an uploaded jsonl"
    errors = [
        FieldError(message, pointer=pointer)
        for pointer, id in asked.items()
        if id in found and not _keeps_rows(found[id])
    ]
    if errors:
        raise InputRefused(errors=errors)


def _keeps_rows(dataset: Dataset) -> bool:
    """An upload of before its file was described is stored as it came."""
    sent = (dataset.upload or {}).get("format", dataset.format)
    return dataset.source == "upload" and sent == "jsonl"


def _reason(what: str, missing: bool) -> str:
    return f"there is no such {what}" if missing else f"the {what}'s intake has failed; see its `error`"
