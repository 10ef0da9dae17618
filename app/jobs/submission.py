"""Submitting a job: everything in one transaction, or nothing."""

from sqlalchemy.orm import Session

from app.delivery.events import announce_created
from app.jobs import insertion, repository
from app.jobs.documents import Snapshot
from app.jobs.limits import set_limits
from app.jobs.publication import claim_place
from app.jobs.service import check_inputs, check_questions
from app.kit.ids import Prefix, new_id
from app.kit.tracing import span
from app.lineage import stages
from app.lineage.continuation import Completed, complete
from app.lineage.warnings import note_warnings
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.tables.jobs import Job
from app.tables.states import State
from secateur.spec.job import JobContinue, JobCreate, canonical_digest


def submit(session: Session, project: str, body: JobCreate | JobContinue) -> Snapshot:
    """Make a job with its stages, first event and notification, all in the caller's transaction.

    Raises InputRefused, and what `continuation.complete` raises.
    """
    completed = complete(session, project, body)
    check_inputs(session, project, completed.asked.model, completed.asked.datasets())
    check_questions(session, project, completed.asked.tasks)
    return make(session, project, completed)


def make(session: Session, project: str, completed: Completed) -> Snapshot:
    """The job's rows and its notification. Its inputs are checked, and its parent's row is locked.

    Raises QuotaExceeded, StorageQuotaExceeded.
    """
    id = new_id(Prefix.job)
    with span("submission", {"job_id": id}):
        return _make(session, project, completed, id)


def _make(session: Session, project: str, completed: Completed, id: str) -> Snapshot:
    asked, spec, parent = completed.asked, completed.spec, completed.parent
    claim_place(session, project, asked.output.publish_to)
    reserve(session, project, Quota.queued_jobs, Quota.stored_bytes)
    job = Job(
        id=id,
        project_id=project,
        model_id=asked.model,
        state=State.queued,
        method=asked.method.name,
        spec=spec,
        spec_digest=canonical_digest(spec),
        labels=dict(asked.labels),
        priority=asked.priority,
        continues=parent.id if parent is not None else None,
        lineage_id=parent.lineage if parent is not None else None,
        first_stage=len(completed.earlier),
        attempts=0,
    )
    set_limits(job, asked.limits)
    texts = sorted({*asked.datasets(), *completed.texts})
    made, heard = insertion.insert(session, job, texts, asked.stage_names)
    if heard:
        announce_created(session, job, made.job["created_at"])
    if parent is None:
        return made
    row = session.get_one(Job, job.id)
    stages.inherit_evaluations(session, row)
    note_warnings(session, row)
    return repository.snapshot(session, job.id)
