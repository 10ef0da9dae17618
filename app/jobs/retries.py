"""Retrying: a new job that goes on where one that failed or was cancelled stopped.

The new job takes over copies of the old one's rows. The objects they name stay where they are: a chain of retries
keeps its objects below the name of its first job, and the sweep looks at the rows of the whole chain.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.datasets import repository as datasets
from app.db.base import Base
from app.delivery import input_digests
from app.delivery.checkpoint import RECORDS
from app.delivery.events import append_event
from app.jobs.copies import copy_rows
from app.jobs.publication import claim_place
from app.jobs.repository import Found
from app.jobs.service import JobUnfinished, check_inputs, read_locked
from app.kit.ids import Prefix, new_id
from app.kit.problems import FieldError, Problem
from app.lineage import stages
from app.lineage.warnings import note_warnings
from app.outbox import Queue, notify
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobBlock, JobDataset, JobStage, JobTask
from app.tables.states import TERMINAL, Reason, State
from secateur.spec.job import dataset_pointers, stage_names


class JobSucceeded(Problem):
    status, code, title = 409, "job_succeeded", "The job has succeeded; there is nothing to retry"


class GateMissed(Problem):
    status, code, title = (
        409,
        "gate_failed",
        "The job was computed to its end and missed its gate: continue it, or submit it with another gate",
    )


class InputsChanged(Problem):
    status, code, title = 409, "inputs_changed", "The job's checkpoint was made from other inputs"


TAKEN_OVER: Final[dict[type[Base], dict[str, Any]]] = {
    JobBlock: {"attempt": 0, "fence": 0},
    JobTask: {"attempt": 0},
}
"""Whose blocks and tasks they are: none of the new job's attempts."""
KEPT: Final[dict[type[Base], ColumnElement[bool]]] = {JobTask: JobTask.scores.is_not(None)}
"""Which rows are worth it: a task that the old job was ended in is asked again."""


def retry(session: Session, project: str, id: str) -> tuple[Found, bool]:
    """The job that goes on where this one stopped, and whether it was made just now.

    A job has one retry: asked again, this answers with the same one; to try once more, retry that.
    Raises JobNotFound, JobUnfinished, JobSucceeded, GateMissed, InputRefused, InputsChanged,
    QuotaExceeded, StorageQuotaExceeded.
    """
    old, _ = read_locked(session, project, id)
    _refuse(old)
    known = session.scalar(select(Job.id).where(Job.retry_of == old.id))
    if known is not None:
        return read_locked(session, project, known), False
    read_by_old = session.scalars(select(JobDataset.dataset_id).where(JobDataset.job_id == old.id)).all()
    texts = datasets.find_for_use(session, project, read_by_old)
    _check_unchanged(session, project, old)
    claim_place(session, project, old.spec.get("output", {}).get("publish_to"))
    reserve(session, project, Quota.queued_jobs, Quota.stored_bytes)
    new = _insert(session, old, sorted(texts))
    _take_over(session, old, new)
    note_warnings(session, new)
    append_event(session, old, EventType.retried, {"job": new.id})
    notify(session, Queue.gpu, new.id)
    session.flush()
    session.refresh(new)
    return (new, None), True


def _refuse(old: Job) -> None:
    state = State(old.state)
    if state is State.succeeded:
        raise JobSucceeded(extensions={"state": state})
    if state is State.failed and (old.failure or {}).get("code") == Reason.gate_failed:
        raise GateMissed(extensions={"state": state})
    if state not in TERMINAL:
        raise JobUnfinished(f"The job is {state}; cancel it first, or let it end.", extensions={"state": state})


def _check_unchanged(session: Session, project: str, old: Job) -> None:
    """The model and the texts are there, and what the checkpoint was computed from."""
    check_inputs(session, project, old.model_id, dataset_pointers(old.spec))
    if old.basis is None:
        return
    changed = input_digests.differences(old.basis, input_digests.current(session, old))
    if changed:
        errors = [FieldError(f"the {each.what} is not what it was", pointer=each.pointer) for each in changed]
        names = ", ".join(each.what for each in changed)
        raise InputsChanged(f"Not as they were: {names}. Submit a new job instead.", errors=errors)


def _insert(session: Session, old: Job, texts: Sequence[str]) -> Job:
    new = Job(
        id=new_id(Prefix.job),
        project_id=old.project_id,
        model_id=old.model_id,
        state=State.queued,
        method=old.method,
        spec=old.spec,
        spec_digest=old.spec_digest,
        labels=dict(old.labels),
        priority=old.priority,
        max_runtime_seconds=old.max_runtime_seconds,
        max_pending_seconds=old.max_pending_seconds,
        root_id=old.root,
        retry_of=old.id,
        continues=old.continues,
        lineage_id=old.lineage_id,
        first_stage=old.first_stage,
        needs_memory_bytes=old.needs_memory_bytes,
        needs_host_bytes=old.needs_host_bytes,
        needs_device_bytes=old.needs_device_bytes,
    )
    session.add(new)
    session.flush()
    session.add_all(JobDataset(job_id=new.id, dataset_id=text) for text in texts)
    return new


def _take_over(session: Session, old: Job, new: Job) -> None:
    """Copy what was computed, unless its files are gone already."""
    append_event(session, new, EventType.created, {"state": new.state})
    if old.checkpoint_dropped_at is not None or old.basis is None:
        names = enumerate(stage_names(old.spec))
        rows = [JobStage(job_id=new.id, stage=i, domain=name, state="pending") for i, name in names]
        session.add_all(rows)
        stages.inherit_evaluations(session, new)
        return
    new.basis = old.basis
    tables: tuple[type[Base], ...] = (JobStage, *RECORDS)
    for table in tables:
        copy_rows(session, table, old.id, new.id, TAKEN_OVER.get(table), KEPT.get(table))
    session.flush()
    blocks = session.query(JobBlock).filter_by(job_id=new.id).count()
    append_event(session, new, EventType.taken_over, {"job": old.id, "blocks": blocks})
