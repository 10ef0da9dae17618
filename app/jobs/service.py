"""Rules of jobs on the caller's side: submit and read; what may be asked of a job is in control.py."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.datasets import repository as datasets
from app.datasets.tables import IntakeState
from app.dispatch.outbox import Queue, ring
from app.jobs import idempotency, repository
from app.jobs.events import EventType, append_event
from app.jobs.repository import Found
from app.jobs.schemas import JobRead
from app.jobs.spec import JobCreate, canonical_digest
from app.jobs.states import State
from app.jobs.tables import Job, JobDataset, JobStage
from app.kit.ids import Prefix, new_id
from app.kit.problems import FieldError, Invalid, NotFound, Problem
from app.models import repository as models


class JobNotFound(NotFound):
    code, title = "job_not_found", "There is no such job"


class JobFinished(Problem):
    status, code, title = 409, "job_finished", "The job has already finished"


class JobUnfinished(Problem):
    status, code, title = 409, "job_unfinished", "The job has not finished"


class InputRefused(Invalid):
    code, title = "input_refused", "A model or dataset of the job cannot be used"


@dataclass(frozen=True)
class Submission:
    """A request for a job, with what makes it repeatable."""

    project: str
    body: JobCreate
    key: str | None
    fingerprint: str
    keep_hours: float


@dataclass(frozen=True)
class Submitted:
    """The answer to a submission, new or replayed."""

    body: dict[str, Any]
    replayed: bool


def submit(session: Session, submission: Submission) -> Submitted:
    """Make a job with its stages, first event and ring, all in the caller's transaction.

    Raises InputRefused, KeyInFlight, KeyReused.
    """
    project, key = submission.project, submission.key
    if key is not None:
        replay = idempotency.find_replay(session, project, key, submission.fingerprint)
        if replay is not None:
            return Submitted(replay, replayed=True)
    body = submission.body
    check_inputs(session, project, body.model, body.datasets())
    job = _insert(session, project, body)
    response = JobRead.of(job, None).model_dump(mode="json")
    if key is not None:
        idempotency.remember(
            session, project, key, submission.fingerprint, job.id, response, submission.keep_hours
        )
    return Submitted(response, replayed=False)


def read(session: Session, project: str, id: str) -> Found:
    """Raises JobNotFound, also for another project's."""
    found = repository.find(session, project, id)
    if found is None:
        raise JobNotFound
    return found


def check_inputs(session: Session, project: str, model_id: str, wanted: dict[str, str]) -> None:
    """Every model and dataset is the project's and not failed (pending ones hold the job back until ready).

    They are locked against deletion, which the rows of the job then prevent. wanted: dataset id → JSON pointer.
    Raises InputRefused.
    """
    errors: list[FieldError] = []
    model = models.find_for_use(session, project, model_id)
    if model is None or model.state == IntakeState.failed:
        errors.append(FieldError(_reason("model", model is None), pointer="/model"))
    found = datasets.find_for_use(session, project, list(wanted))
    for id, pointer in wanted.items():
        if id not in found or found[id].state == IntakeState.failed:
            errors.append(FieldError(_reason("dataset", id not in found), pointer=pointer))
    if errors:
        detail = "; ".join(f"{error.pointer}: {error.detail}" for error in errors[:3])
        raise InputRefused(detail, errors=errors)


def _reason(what: str, missing: bool) -> str:
    return f"there is no such {what}" if missing else f"the {what}'s intake has failed; see its `error`"


def _insert(session: Session, project: str, body: JobCreate) -> Job:
    spec = body.resolved()
    job = Job(
        id=new_id(Prefix.job),
        project_id=project,
        model_id=body.model,
        state=State.queued,
        method=body.method.name,
        spec=spec,
        spec_digest=canonical_digest(spec),
        labels=dict(body.labels),
        priority=body.priority,
    )
    body.limits.apply(job)
    session.add(job)
    session.flush()
    session.add_all(JobDataset(job_id=job.id, dataset_id=id) for id in body.datasets())
    session.add_all(
        JobStage(job_id=job.id, stage=index, domain=domain.name, state="pending")
        for index, domain in enumerate(body.domains)
    )
    append_event(session, job, EventType.created, {"state": job.state})
    ring(session, Queue.gpu, job.id)
    session.flush()
    session.refresh(job)
    return job
