"""Where a queued job stands, and what it waits for."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.delivery.queue_order import place_of
from app.delivery.sizing import needs_of
from app.jobs.service import JobNotFound, read
from app.kit.problems import exists
from app.settings import Settings
from app.tables.datasets import Dataset, IntakeState
from app.tables.jobs import Job, JobDataset
from app.tables.models import Model
from app.tables.states import State
from app.workers.registry import has_harness
from secateur.spec.records.plan import Needs


class WaitsFor(StrEnum):
    """What holds a queued job back."""

    model = "model"
    """Its model is being taken in; `id` names it."""
    dataset = "dataset"
    """A dataset is being taken in; `id` names it."""
    backoff = "backoff"
    """The attempt before failed, and the next one begins not before `until`."""
    estimate = "estimate"
    """What it needs is being estimated, because it may be too large for some worker."""
    memory = "memory"
    """No worker that is there has the memory that it `needs`."""
    harness = "harness"
    """It has tasks, and no worker that is there has the lm-evaluation-harness."""
    quota = "quota"
    """Its project runs as many jobs as it may."""
    jobs = "jobs"
    """Others come first: `ahead` of them."""
    worker = "worker"
    """It is next, and goes to the first worker that is free."""


class WaitRead(BaseModel):
    """One thing that a queued job waits for."""

    code: WaitsFor
    id: str | None = Field(default=None, description="Of the model or dataset that is meant.")
    until: datetime | None = Field(
        default=None, description="With `backoff` when that is over, with `estimate` at the latest."
    )
    needs: Needs | None = Field(default=None, description="With `memory`: what a worker must have.")


class QueuePlace(BaseModel):
    """Where a job stands in the queue now."""

    model_config = ConfigDict(title="QueuePlace")

    object: Literal["queue_place"] = "queue_place"
    job: str
    state: State
    position: int | None = Field(
        description="1 for the job that the next free worker takes, if nothing else happens. Null when the job is "
        "not queued."
    )
    ahead: int | None = Field(description="Jobs that could start now and come first; null when it is not queued.")
    waits_for: list[WaitRead]


def queue_place(session: Session, project: str, id: str, settings: Settings) -> QueuePlace:
    """In the very order of the workers' claims. Raises JobNotFound."""
    job, _ = read(session, project, id)
    place = place_of(session, job.id, settings)
    if place is None:
        # A worker may just have taken it.
        state = exists(session.scalar(select(Job.state).where(Job.id == job.id)), JobNotFound)
        return QueuePlace(job=job.id, state=State(state), position=None, ahead=None, waits_for=[])
    waits = [*_intakes(session, job), *_later(session, job)]
    if not place.held:
        lacks = bool(job.spec.get("tasks")) and not has_harness(session)
        waits.append(WaitRead(code=WaitsFor.harness) if lacks else _too_large(job))
    if place.at_limit:
        waits.append(WaitRead(code=WaitsFor.quota))
    if place.ahead:
        waits.append(WaitRead(code=WaitsFor.jobs))
    return QueuePlace(
        job=job.id,
        state=State.queued,
        position=place.ahead + 1,
        ahead=place.ahead,
        waits_for=waits or [WaitRead(code=WaitsFor.worker)],
    )


def _too_large(job: Job) -> WaitRead:
    return WaitRead(code=WaitsFor.memory, needs=needs_of(job))


def _intakes(session: Session, job: Job) -> list[WaitRead]:
    models = select(Model.id).where(Model.id == job.model_id, Model.state != IntakeState.ready)
    datasets = select(Dataset.id).join(JobDataset, JobDataset.dataset_id == Dataset.id)
    datasets = datasets.where(JobDataset.job_id == job.id, Dataset.state != IntakeState.ready).order_by(Dataset.id)
    return [
        *(WaitRead(code=WaitsFor.model, id=id) for id in session.scalars(models)),
        *(WaitRead(code=WaitsFor.dataset, id=id) for id in session.scalars(datasets)),
    ]


def _later(session: Session, job: Job) -> list[WaitRead]:
    """What is over at a known time, at the latest."""
    moments = {WaitsFor.backoff: Job.available_at, WaitsFor.estimate: Job.estimate_due_at}
    row = session.execute(
        select(*(case((moment > func.now(), moment)) for moment in moments.values())).where(Job.id == job.id)
    ).one()
    return [
        WaitRead(code=code, until=until) for code, until in zip(moments, row, strict=True) if until is not None
    ]
