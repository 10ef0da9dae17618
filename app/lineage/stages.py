"""Lineages: a job, and the jobs from whose final states it goes on, one from the other.

A stage is counted twice: by its number in its job, and by its number in the lineage. The matrix R is the whole
lineage's: its row is 0 for the dense model, and the number in the lineage plus one after a stage. A job begins
with its parent's rows, so that R, BWT and gate need nobody else's rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, aliased, defer

from app.jobs.copies import copy_rows
from app.tables.jobs import Job, JobDataset, JobEvaluation

SHOWN: Final = 1000
"""Jobs of a lineage that one answer has at the most."""


@dataclass(frozen=True)
class Stage:
    """One domain's turn in a lineage."""

    job: str
    stage: int
    """In its job."""
    lineage_stage: int
    domain: str
    evaluation: str | None
    """Id of the test text's dataset."""


@dataclass(frozen=True)
class History:
    """The stages of a job's lineage up to its own last one."""

    stages: tuple[Stage, ...]
    lost: frozenset[str]
    """Earlier domains that this job does not measure any more, because their test texts were deleted."""
    further: tuple[float | str, ...] = ()
    """The job's further targets, each of a stage behind those of domains."""

    @property
    def domains(self) -> list[str]:
        return [stage.domain for stage in self.stages]


def path_of(session: Session, job: Job) -> list[Job]:
    """The job and those before it, oldest first; none can be deleted while the next is there."""
    if job.continues is None:
        return [job]
    start = select(Job.id, Job.continues).where(Job.id == job.id).cte("path", recursive=True)
    older = aliased(Job)
    walk = start.union_all(select(older.id, older.continues).join(start, older.id == start.c.continues))
    query = select(Job).join(walk, walk.c.id == Job.id).order_by(Job.first_stage)
    return list(session.scalars(query.options(defer(Job.manifest))))


def stages_of(path: Iterable[Job]) -> list[Stage]:
    """All stages of a path."""
    found: list[Stage] = []
    for job in path:
        for number, domain in enumerate(job.spec["domains"]):
            found.append(Stage(job.id, number, len(found), domain["name"], domain.get("evaluation")))
    return found


def history_of(session: Session, job: Job) -> History:
    """The lineage's stages, and what of it can still be measured."""
    stages = stages_of(path_of(session, job))
    earlier = stages[: job.first_stage]
    kept = (
        set(session.scalars(select(JobDataset.dataset_id).where(JobDataset.job_id == job.id))) if earlier else ()
    )
    lost = {stage.domain for stage in earlier if stage.evaluation is not None and stage.evaluation not in kept}
    return History(tuple(stages), frozenset(lost), tuple(job.spec["sparsity"].get("further", ())))


def calibration_digests(session: Session, path: Sequence[Job]) -> list[tuple[str, str | None]]:
    """Every domain of a path, with the sha256 of the text that it was calibrated on."""
    texts = Job.manifest["provenance"]["datasets"]
    query = select(Job.id, texts).where(Job.id.in_([each.id for each in path]))
    found: dict[str, Any] = dict(session.execute(query).all())
    return [
        (domain["name"], (found[each.id] or {}).get(domain["dataset"]))
        for each in path
        for domain in each.spec["domains"]
    ]


def is_of(first: str) -> ColumnElement[bool]:
    """Whether a job is the first one of that lineage, or goes back to it."""
    return or_(Job.id == first, Job.lineage_id == first)


def members(session: Session, project: str, first: str, limit: int) -> Sequence[Job]:
    """Jobs of a lineage with all its branches, oldest first, without their manifests."""
    query = select(Job).where(Job.project_id == project, is_of(first))
    return session.scalars(query.order_by(Job.created_at, Job.id).limit(limit).options(defer(Job.manifest))).all()


def continuations(session: Session, job: str) -> Sequence[str]:
    """Jobs that continue this one."""
    return session.scalars(select(Job.id).where(Job.continues == job).order_by(Job.created_at, Job.id)).all()


def parent_digest(session: Session, job: Job) -> str | None:
    """Digest of the manifest that the job continues; None for the first of a lineage."""
    if job.continues is None:
        return None
    return session.scalar(select(Job.manifest["digest"].astext).where(Job.id == job.continues))


def inherit_evaluations(session: Session, job: Job) -> None:
    """Begin R with the parent's rows, but for those of its further targets."""
    if job.continues is not None:
        copy_rows(session, JobEvaluation, job.continues, job.id, where=JobEvaluation.row <= job.first_stage)


def count_of(session: Session, first: str) -> int:
    """How many jobs a lineage has."""
    return session.scalar(select(func.count()).select_from(Job).where(is_of(first))) or 0


def manifest_digest(job: Job) -> str | None:
    """What the job's files are named by, once it has some."""
    result: dict[str, Any] = job.result or {}
    digest = result.get("manifest_digest")
    return None if digest is None else str(digest)
