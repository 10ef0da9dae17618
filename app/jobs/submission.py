"""Submitting a job: everything in one transaction, or nothing."""

from sqlalchemy.orm import Session

from app.delivery.events import append_event
from app.jobs.limits import set_limits
from app.jobs.service import check_inputs
from app.kit.ids import Prefix, new_id
from app.lineage import stages
from app.lineage.continuation import Completed, complete
from app.lineage.warnings import note_warnings
from app.outbox import Queue, notify
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobDataset, JobStage
from app.tables.states import State
from secateur.spec.job import JobContinue, JobCreate, canonical_digest


def submit(session: Session, project: str, body: JobCreate | JobContinue) -> Job:
    """Make a job with its stages, first event and notification, all in the caller's transaction.

    Raises InputRefused, and what `continuation.complete` raises.
    """
    completed = complete(session, project, body)
    check_inputs(session, project, completed.asked.model, completed.asked.datasets())
    return make(session, project, completed)


def make(session: Session, project: str, completed: Completed) -> Job:
    """The job's rows and its notification. Its inputs are checked, and its parent's row is locked.

    Raises QuotaExceeded, StorageQuotaExceeded.
    """
    asked, spec = completed.asked, completed.spec
    reserve(session, project, Quota.queued_jobs, Quota.stored_bytes)
    job = Job(
        id=new_id(Prefix.job),
        project_id=project,
        model_id=asked.model,
        state=State.queued,
        method=asked.method.name,
        spec=spec,
        spec_digest=canonical_digest(spec),
        labels=dict(asked.labels),
        priority=asked.priority,
        continues=completed.parent.id if completed.parent is not None else None,
        lineage_id=completed.parent.lineage if completed.parent is not None else None,
        first_stage=len(completed.earlier),
    )
    set_limits(job, asked.limits)
    session.add(job)
    session.flush()
    texts = {*asked.datasets(), *completed.texts}
    session.add_all(JobDataset(job_id=job.id, dataset_id=id) for id in sorted(texts))
    session.add_all(
        JobStage(job_id=job.id, stage=index, domain=domain.name, state="pending")
        for index, domain in enumerate(asked.domains)
    )
    stages.inherit_evaluations(session, job)
    append_event(session, job, EventType.created, {"state": job.state})
    note_warnings(session, job)
    notify(session, Queue.gpu, job.id)
    session.flush()
    session.refresh(job)
    return job
