"""What a checkpoint was computed from. Another basis could give other bits, so nothing is built on it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from app.delivery.lease import Lease
from app.lineage import stages
from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobBlock, JobDataset, JobEvaluation
from app.tables.models import Model
from secateur.spec.job import canonical_digest


@dataclass(frozen=True)
class Difference:
    """One input that is not what it was."""

    what: str
    pointer: str


def make(
    spec: dict[str, Any], model_digest: str, datasets: dict[str, str], parent: str | None = None
) -> dict[str, Any]:
    """The basis of a job with this spec, on a model of this digest; datasets: id → sha256; parent: digest of the
    manifest that it continues.

    The spec is digested anew, so that one that was changed in its row is found.
    """
    found = {"spec": canonical_digest(spec), "model": model_digest, "datasets": dict(sorted(datasets.items()))}
    return found if parent is None else {**found, "parent": parent}


def current(session: Session, job: Job) -> dict[str, Any]:
    """The basis of a job as its inputs are now."""
    rows = session.execute(
        select(Dataset.id, Dataset.sha256)
        .join(JobDataset, JobDataset.dataset_id == Dataset.id)
        .where(JobDataset.job_id == job.id)
    )
    model_digest = session.scalar(select(Model.digest).where(Model.id == job.model_id))
    texts = {id: sha256 or "" for id, sha256 in rows}
    return make(job.spec, model_digest or "", texts, stages.parent_digest(session, job))


def settle(session: Session, lease: Lease, now: dict[str, Any]) -> list[Difference]:
    """Note what the job's checkpoint is computed from, or say how that differs from before.

    Without anything computed there is nothing that could differ. The transaction must be guarded.
    """
    job = session.get_one(Job, lease.job_id, populate_existing=True)
    changed = differences(job.basis, now) if job.basis is not None else []
    computed = (exists().where(table.job_id == job.id) for table in (JobBlock, JobEvaluation))
    if changed and session.scalar(select(or_(*computed))):
        return changed
    job.basis = {**(job.basis or {}), **now}
    return []


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Which inputs differ; empty when the checkpoint may be used."""
    found = []
    parts = (("spec", ""), ("model", "/model"), ("datasets", "/domains"), ("parent", "/continues"))
    for name, pointer in parts:
        if recorded.get(name) != now.get(name):
            found.append(Difference(name.removesuffix("s") if name == "datasets" else name, pointer))
    return found
