"""What a new attempt can build on: committed blocks, finished stages, known perplexities."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.jobs.delivery.claim import SourceFile
from app.jobs.delivery.commits import STAGE_FIGURES
from app.jobs.delivery.lease import Lease
from app.jobs.events import EventType, append_event
from app.jobs.tables import Job, JobAttempt, JobBlock, JobEvaluation, JobLayer, JobStage
from app.sensitivity.tables import JobSensitivity


@dataclass(frozen=True)
class Checkpoint:
    """Where the last attempt got to."""

    stages: int = 0
    """Finished stages."""
    blocks: int = 0
    """Committed blocks of the stage after them, without a gap."""
    files: tuple[SourceFile, ...] = ()
    """Of the last finished stage and of those blocks; paths are the engine's."""
    evaluations: tuple[dict[str, Any], ...] = ()
    threads: int | None = None
    """Threads of the attempt that made it; another number could give other bits."""


def load(session: Session, job_id: str) -> Checkpoint:
    """The job's checkpoint; empty when there is none."""
    done = session.scalars(select(JobStage.stage).where(JobStage.job_id == job_id, JobStage.state == "done"))
    stages = _prefix(set(done))
    rows = session.scalars(
        select(JobBlock)
        .where(JobBlock.job_id == job_id, JobBlock.stage.in_([stages - 1, stages]))
        .order_by(JobBlock.stage, JobBlock.block)
    ).all()
    blocks = _prefix({row.block for row in rows if row.stage == stages})
    files = [
        SourceFile(file["path"], file["sha256"], file["bytes"], file["key"])
        for row in rows
        if row.stage < stages or row.block < blocks
        for file in row.files
    ]
    return Checkpoint(stages, blocks, tuple(files), _evaluations(session, job_id), _threads(session, job_id))


def engine_formats(session: Session, job_id: str) -> set[int]:
    """Formats in which the job's blocks were written."""
    return set(session.scalars(select(JobBlock.engine_format).where(JobBlock.job_id == job_id).distinct()))


def discard(session: Session, lease: Lease, reason: str) -> None:
    """Forget everything computed so far, with an event. The transaction must be guarded."""
    for table in (JobBlock, JobLayer, JobSensitivity, JobEvaluation):
        session.execute(delete(table).where(table.job_id == lease.job_id))
    names = (*STAGE_FIGURES, "started_at", "finished_at")
    reset = {"state": "pending", **dict.fromkeys(names)}
    session.execute(update(JobStage).where(JobStage.job_id == lease.job_id).values(**reset))
    append_event(session, session.get_one(Job, lease.job_id), EventType.restarted, {"reason": reason})


def _prefix(numbers: set[int]) -> int:
    """How many of 0, 1, 2 … are there without a gap."""
    count = 0
    while count in numbers:
        count += 1
    return count


def _evaluations(session: Session, job_id: str) -> tuple[dict[str, Any], ...]:
    rows = session.scalars(
        select(JobEvaluation)
        .where(JobEvaluation.job_id == job_id)
        .order_by(JobEvaluation.row, JobEvaluation.domain)
    )
    names = ("row", "domain", "perplexity", "loss", "windows", "tokens", "window_losses", "protocol")
    return tuple({name: getattr(row, name) for name in names} for row in rows)


def _threads(session: Session, job_id: str) -> int | None:
    """Of the first attempt that got as far as its engine."""
    statement = select(JobAttempt.engine).where(JobAttempt.job_id == job_id, JobAttempt.engine.is_not(None))
    engine = session.scalar(statement.order_by(JobAttempt.number).limit(1))
    return None if engine is None else engine.get("threads")
