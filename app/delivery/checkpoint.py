"""What a new attempt can build on: committed blocks, finished stages, known perplexities."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import delete, null, select, update
from sqlalchemy.orm import Session

from app.db.base import Base
from app.delivery.commits import KEPT_ROLE, STAGE_FIGURES, WEIGHTS_ROLE, first_needed, keeps_stages
from app.delivery.events import append_event
from app.delivery.lease import Lease
from app.delivery.object_keys import StoredFile, is_state, stage_name
from app.jobs import repository
from app.lineage import stages as lineage
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobAttempt, JobBlock, JobEvaluation, JobMatrix, JobStage, JobTask, Outcome
from app.tables.sensitivity import JobDomainSensitivity, JobSensitivity
from app.tables.states import ENDINGS, Reason
from secateur.spec.records.tasks import BrokenTask

RECORDS: Final[tuple[type[Base], ...]] = (
    JobBlock,
    JobMatrix,
    JobEvaluation,
    JobTask,
    JobSensitivity,
    JobDomainSensitivity,
)
"""Tables with what was computed, all by `job_id`; with the stages they are the whole checkpoint."""

NOT_ITS_DOING: Final = frozenset({*Outcome, Reason.worker_stopped, Reason.device_shared, Reason.other_device})
"""Ends of attempts that no task brings about. A GPU that is gone may be: a job can be what makes it fail."""


@dataclass(frozen=True)
class Checkpoint:
    """Where the last attempt got to."""

    stages: int = 0
    """Finished stages."""
    blocks: int = 0
    """Committed blocks of the stage after them, without a gap."""
    files_of: dict[int, tuple[StoredFile, ...]] = field(default_factory=dict)
    """By stage: those of the last finished one, of those blocks, and of what further targets need; paths are the
    engine's."""
    evaluations: tuple[dict[str, Any], ...] = ()
    tasks: tuple[dict[str, Any], ...] = ()
    """What was reached in tasks; those that failed, too."""
    broken: tuple[BrokenTask, ...] = ()
    """Tasks in which attempts have ended, which are not asked again."""
    threads: int | None = None
    """Threads of the attempt that made it; another number could give other bits."""

    @property
    def files(self) -> tuple[StoredFile, ...]:
        return tuple(file for _, files in sorted(self.files_of.items()) for file in files)


def load(session: Session, job_id: str) -> Checkpoint:
    """The job's checkpoint; empty when there is none."""
    done = session.scalars(select(JobStage.stage).where(JobStage.job_id == job_id, JobStage.state == "done"))
    stages = _prefix(set(done))
    needed = first_needed(session.get_one(Job, job_id).spec, stages - 1)
    rows = session.scalars(
        select(JobBlock)
        .where(JobBlock.job_id == job_id, JobBlock.stage.between(needed, stages))
        .order_by(JobBlock.stage, JobBlock.block)
    ).all()
    blocks = _prefix({row.block for row in rows if row.stage == stages})
    files = {
        stage: tuple(
            StoredFile.of(file)
            for row in rows
            if row.stage == stage and (stage < stages or row.block < blocks)
            for file in row.files
            if file["role"] != KEPT_ROLE
        )
        for stage in {row.stage for row in rows}
    }
    tasks = tuple(repository.task_scores(session, job_id))
    return Checkpoint(
        stages=stages,
        blocks=blocks,
        files_of=files,
        evaluations=_evaluations(session, job_id),
        tasks=tasks,
        broken=_broken(session, job_id),
        threads=_threads(session, job_id),
    )


def kept_files(session: Session, job_id: str, model: Sequence[StoredFile]) -> list[StoredFile]:
    """What the artifact has beside the engine's output, by its names there.

    model: files of the last domain's. What is not in its blocks is the dense model's, so all stages share it.
    """
    query = select(JobBlock.stage, JobBlock.files).where(JobBlock.job_id == job_id)
    rows = session.execute(query.order_by(JobBlock.stage, JobBlock.block)).all()
    kept = [StoredFile.of(file) for row in rows for file in row.files if file["role"] == KEPT_ROLE]
    spec = session.get_one(Job, job_id).spec
    if not keeps_stages(spec):
        return kept
    shared = [file for file in model if not is_state(file.path)]
    for stage in range(len(spec["domains"]) - 1):
        own = [file for row in rows if row.stage == stage for file in row.files if file["role"] == WEIGHTS_ROLE]
        kept += map(StoredFile.of, own)
        kept += [replace(file, path=f"{stage_name(stage)}/{file.path}") for file in shared]
    return kept


def engine_formats(session: Session, job_id: str) -> set[int]:
    """Formats in which the job's blocks were written."""
    return set(session.scalars(select(JobBlock.engine_format).where(JobBlock.job_id == job_id).distinct()))


def discard(session: Session, lease: Lease, reason: str) -> None:
    """Forget everything computed so far, with an event. The transaction must be guarded."""
    for table in RECORDS:
        session.execute(delete(table).where(table.__table__.columns["job_id"] == lease.job_id))
    names = (*STAGE_FIGURES, "started_at", "finished_at")
    reset = {"state": "pending", **dict.fromkeys(names)}
    session.execute(update(JobStage).where(JobStage.job_id == lease.job_id).values(**reset))
    job = session.get_one(Job, lease.job_id)
    lineage.inherit_evaluations(session, job)
    job.basis = null()
    append_event(session, job, EventType.restarted, {"reason": reason})


def _prefix(numbers: set[int]) -> int:
    """How many of 0, 1, 2 … are there without a gap."""
    count = 0
    while count in numbers:
        count += 1
    return count


def _evaluations(session: Session, job_id: str) -> tuple[dict[str, Any], ...]:
    """R as far as it is known, without the losses of single windows: a lineage has a great many of them, and the
    engine asks for none."""
    columns = (JobEvaluation.row, JobEvaluation.domain, JobEvaluation.perplexity, JobEvaluation.protocol)
    rows = session.execute(select(*columns).where(JobEvaluation.job_id == job_id).order_by(*columns[:2]))
    return tuple(dict(row._mapping) for row in rows)


def _broken(session: Session, job_id: str) -> tuple[BrokenTask, ...]:
    """Tasks that were begun in an attempt that did not end as it was told to, and have no result."""
    same = (JobAttempt.job_id == JobTask.job_id) & (JobAttempt.number == JobTask.attempt)
    query = select(JobTask.task, JobTask.model, JobAttempt.outcome, JobAttempt.error).join(JobAttempt, same)
    open_ = (JobTask.job_id == job_id, JobTask.scores.is_(None), JobAttempt.outcome.is_not(None))
    rows = session.execute(query.where(*open_).order_by(JobTask.task, JobTask.model))
    return tuple(
        BrokenTask.model_validate({"task": task, "model": model, "why": _why(str(outcome), error)})
        for task, model, outcome, error in rows
        if outcome not in NOT_ITS_DOING
    )


def _why(outcome: str, error: dict[str, Any] | None) -> str:
    return str((error or {}).get("message") or ENDINGS[Reason(outcome)].message)


def _threads(session: Session, job_id: str) -> int | None:
    """Of the first attempt (of the whole chain of retries) that got as far as its engine."""
    basis = session.scalar(select(Job.basis).where(Job.id == job_id))
    return None if basis is None else basis.get("threads")
