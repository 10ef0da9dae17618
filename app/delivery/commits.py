"""What a running attempt writes down: progress, evaluations, log lines, blocks, stages.

Each function expects a transaction whose first statement was `lease.guard`, and may be run again after a commit of
unknown outcome: it writes the same rows and no second event (a note may appear twice).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, ScalarSelect, cast, exists, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH, Insert, insert
from sqlalchemy.orm import Session

from app.db.base import Base
from app.db.clock import from_now
from app.delivery.events import append_event, note_phase
from app.delivery.lease import Lease, LeaseLost
from app.tables.event_types import EventType
from app.tables.jobs import (
    Job,
    JobAttempt,
    JobBlock,
    JobEvaluation,
    JobLog,
    JobMatrix,
    JobProgress,
    JobStage,
    JobTask,
)
from app.tables.sensitivity import TABLES
from secateur.spec.records.history import Phase, StageFigures
from secateur.spec.records.pipe import (
    BlockResult,
    Evaluation,
    Hello,
    Note,
    Progress,
    StageResult,
    TaskBegun,
    TaskResult,
)
from secateur.spec.records.plan import Estimates
from secateur.spec.sparsity import FurtherStatistics

OF_A_STAGE: Final = {Phase.surveying, Phase.pruning, Phase.tuning}
"""Phases in which a stage is at work."""
STAGE_FIGURES: Final = set(StageFigures.model_fields)
"""Columns of a finished stage that the engine reports."""
KEPT_ROLE: Final = "sensitivity"
"""Of a block's files that no resume needs, but that are kept from every stage for the artifact."""
WEIGHTS_ROLE: Final = "weights"
"""Of a block's pruned weights; kept from every stage where the job's output asks for its model."""
TUNED_FROM_ROLE: Final = "solved"
"""Of a block as it was before the whole model was tuned; nobody needs it once that stage is finished."""
_KEPT: Final = f'$[*] ? (@.role == "{KEPT_ROLE}")'
_KEPT_WITH_WEIGHTS: Final = f'$[*] ? (@.role == "{KEPT_ROLE}" || @.role == "{WEIGHTS_ROLE}")'
_OF_A_FINISHED_STAGE: Final = f'$[*] ? (!(@.role == "{TUNED_FROM_ROLE}"))'


@dataclass(frozen=True)
class LogLine:
    """One line of a job's log, already free of paths."""

    seq: int
    level: str
    message: str


@dataclass(frozen=True)
class Block:
    """A finished block, and where its files are stored."""

    result: BlockResult
    domain: str
    engine_format: int
    files: list[dict[str, Any]]
    """`role`, `path`, `sha256`, `bytes`, `key`."""


class CommitsLost(LeaseLost):
    """The database has lost what it had confirmed, as after a failover to a replica that lagged behind.

    The attempt is over, so that the next one begins where the record ends and no gap stays in it.
    """


def write_hello(
    session: Session,
    lease: Lease,
    hello: Hello,
    stages: Sequence[str],
    note: Note | None = None,
) -> None:
    """The engine has started: what it is, and how many blocks each stage has.

    stages: their names. note: what its plan leaves out, for the job's history; written when the first of its
    engines says so.
    """
    said = exists().where(JobAttempt.job_id == lease.job_id, JobAttempt.engine.is_not(None))
    if note is not None and not session.scalar(select(said)):
        write_note(session, lease, note)
    session.get_one(JobAttempt, (lease.job_id, lease.attempt)).engine = hello.engine.model_dump()
    job = session.get_one(Job, lease.job_id)
    # Attempts after this one compute with as many threads, for the same bits.
    job.basis = {"threads": hello.engine.threads, **(job.basis or {})}
    if job.estimates is None and hello.estimates is not None:
        job.estimates = _expected(hello.estimates)
    rows = [
        {"job_id": lease.job_id, "stage": stage, "domain": domain, "state": "pending", "blocks": hello.blocks}
        for stage, domain in enumerate(stages)
    ]
    session.execute(
        insert(JobStage)
        .values(rows)
        .on_conflict_do_update(index_elements=["job_id", "stage"], set_={"blocks": hello.blocks})
    )


def _expected(estimates: Estimates) -> dict[str, Any]:
    """What is kept of an engine's expectations, to be held against what the job took."""
    totals = {name: getattr(estimates, name).total for name in ("seconds", "memory_bytes", "disk_bytes")}
    return totals | {"operations": estimates.operations, "device": estimates.device, "kind": estimates.kind}


def write_phase(session: Session, lease: Lease, phase: Phase) -> None:
    """The attempt does something else now."""
    job = session.get_one(Job, lease.job_id)
    if job.phase != phase:
        note_phase(session, job)
        job.phase = phase
        append_event(session, job, EventType.phase, {"phase": phase, "attempt": lease.attempt})


def write_progress(session: Session, lease: Lease, progress: Progress) -> None:
    """How far the job is; overwrites what was known."""
    write_phase(session, lease, progress.phase)
    if progress.phase in OF_A_STAGE and progress.stage is not None:
        _open_stage(session, lease, progress.stage)
    eta = progress.eta_seconds
    values = progress.model_dump(exclude={"type", "eta_seconds"})
    values |= {"eta_at": None if eta is None else from_now(eta), "updated_at": func.now()}
    session.execute(_upsert(JobProgress, {"job_id": lease.job_id}, values))


def write_evaluation(session: Session, lease: Lease, evaluation: Evaluation) -> None:
    """One entry of the matrix R."""
    entry = {"row": evaluation.row, "domain": evaluation.domain}
    values = evaluation.model_dump(exclude={"type", *entry})
    statement = _upsert(JobEvaluation, {"job_id": lease.job_id, **entry}, values)
    if session.scalar(statement.returning(literal_column("xmax = 0"))):
        data = {**entry, "perplexity": evaluation.perplexity}
        append_event(session, session.get_one(Job, lease.job_id), EventType.evaluated, data)


def write_task_begun(session: Session, lease: Lease, begun: TaskBegun) -> None:
    """A model is about to do a task: an attempt that ends before its result has ended in it."""
    key = {"job_id": lease.job_id, "task": begun.task, "model": begun.model}
    session.execute(_upsert(JobTask, key, {"scores": None, "attempt": lease.attempt}))


def write_task(session: Session, lease: Lease, result: TaskResult) -> None:
    """What a model reached in a task."""
    key = {"job_id": lease.job_id, "task": result.task, "model": result.model}
    values = {"scores": result.model_dump(exclude={"type"}), "attempt": lease.attempt, "at": func.now()}
    session.execute(_upsert(JobTask, key, values))


def next_log_seq(session: Session, job_id: str) -> int:
    """Number of the next log line; only the lease's holder adds lines."""
    return (session.scalar(select(func.max(JobLog.seq)).where(JobLog.job_id == job_id)) or 0) + 1


def write_log(session: Session, lease: Lease, lines: Iterable[LogLine]) -> None:
    """Lines that the engine printed or noted."""
    rows = [{"job_id": lease.job_id, "attempt": lease.attempt, **asdict(line)} for line in lines]
    if rows:
        session.execute(insert(JobLog).values(rows).on_conflict_do_nothing())


def write_note(session: Session, lease: Lease, note: Note) -> None:
    """Something that must not stay silent."""
    data = {**note.data, "level": note.level, "message": note.message}
    append_event(session, session.get_one(Job, lease.job_id), EventType.note, data)


def write_block(session: Session, lease: Lease, block: Block) -> None:
    """The checkpoint of one block: files and records together, or nothing. Raises CommitsLost."""
    result = block.result
    _check_before(session, lease, result)
    _open_stage(session, lease, result.stage)
    values = {
        "fence": lease.fence,
        "attempt": lease.attempt,
        "engine_format": block.engine_format,
        "files": [*block.files, *_kept_before(session, lease, block)],
        "committed_at": func.now(),
    }
    stage = {"job_id": lease.job_id, "stage": result.stage}
    session.execute(_upsert(JobBlock, stage | {"block": result.block}, values))
    for record in result.records:
        values = record.model_dump(exclude={"matrix"}) | {"block": result.block}
        session.execute(_upsert(JobMatrix, stage | {"matrix": record.matrix}, values))
    for summary in result.sensitivity:
        values = summary.model_dump(exclude={"matrix", "basis"}) | {"block": result.block, "domain": block.domain}
        session.execute(_upsert(TABLES[summary.basis], stage | {"matrix": summary.matrix}, values))
    # The job's visible state has changed, so its ETag must.
    values = {"version": Job.version + 1, "stored_bytes": _stored_bytes(lease.job_id)}
    session.execute(update(Job).where(Job.id == lease.job_id).values(values))


def _kept_before(session: Session, lease: Lease, block: Block) -> list[dict[str, Any]]:
    """What the artifact is to have of a block that is committed once more, and does not bring it again."""
    row = session.get(JobBlock, (lease.job_id, block.result.stage, block.result.block))
    brought = {file["path"] for file in block.files}
    return [file for file in row.files if file["role"] == KEPT_ROLE and file["path"] not in brought] if row else []


def _stored_bytes(job_id: str) -> ScalarSelect[int]:
    """Of the files that a job's blocks refer to now, without those that a retry has taken over."""
    files = func.jsonb_array_elements(JobBlock.files).table_valued("value", name="file")
    size = cast(cast(files.c.value, JSONB)["bytes"].astext, BigInteger)
    own = select(func.coalesce(func.sum(size), 0)).select_from(JobBlock).join(files, literal(True))
    return own.where(JobBlock.job_id == job_id, JobBlock.attempt > 0).scalar_subquery()


def _check_before(session: Session, lease: Lease, block: BlockResult) -> None:
    """Blocks are committed in order, so the one before is there, unless its commit was lost."""
    if block.block:
        there = session.get(JobBlock, (lease.job_id, block.stage, block.block - 1)) is not None
    else:
        there = not block.stage or session.get_one(JobStage, (lease.job_id, block.stage - 1)).state == "done"
    if not there:
        raise CommitsLost(f"what came before block {block.block} of stage {block.stage}")


def write_stage(session: Session, lease: Lease, stage: StageResult) -> None:
    """All blocks of a stage are committed. Raises CommitsLost."""
    row = session.get_one(JobStage, (lease.job_id, stage.stage))
    if row.state == "done":
        return
    mine = (JobBlock.job_id == lease.job_id, JobBlock.stage == row.stage)
    count = session.scalar(select(func.count()).select_from(JobBlock).where(*mine))
    if row.blocks is not None and count != row.blocks:
        raise CommitsLost(f"blocks of stage {row.stage}")
    _open_stage(session, lease, stage.stage)
    row.state = "done"
    row.finished_at = func.now()
    figures = stage.model_dump(include=STAGE_FIGURES)
    for name, value in figures.items():
        setattr(row, name, value)
    # The sweep takes what no resume needs, but not what the artifact will have.
    job = session.get_one(Job, lease.job_id)
    earlier = (JobBlock.job_id == lease.job_id, JobBlock.stage < first_needed(job.spec, row.stage))
    path = _KEPT_WITH_WEIGHTS if keeps_stages(job.spec) else _KEPT
    for blocks, rule in ((earlier, path), (mine, _OF_A_FINISHED_STAGE)):
        kept = func.jsonb_path_query_array(JobBlock.files, cast(rule, JSONPATH))
        session.execute(update(JobBlock).where(*blocks).values(files=kept))
    session.execute(update(Job).where(Job.id == job.id).values(stored_bytes=_stored_bytes(job.id)))
    data = {"stage": row.stage, "domain": row.domain, "sparsity": stage.sparsity, "seconds": stage.seconds}
    append_event(session, job, EventType.stage_finished, data)


def first_needed(spec: dict[str, Any], stage: int) -> int:
    """The first stage whose files a job still needs once `stage` is finished: that one, or the last domain's,
    which all further targets are solved from and the artifact is made of; where they measure that domain's text
    themselves, the one before it."""
    sparsity, last = spec["sparsity"], len(spec["domains"]) - 1
    own = sparsity.get("further") and sparsity.get("further_statistics") == FurtherStatistics.own
    return max(0, min(stage, last - 1 if own else last))


def keeps_stages(spec: dict[str, Any]) -> bool:
    """Whether the artifact is to have the model of every stage."""
    return bool(spec.get("output", {}).get("keep_stages", False))


def _open_stage(session: Session, lease: Lease, stage: int) -> None:
    statement = (
        update(JobStage)
        .where(JobStage.job_id == lease.job_id, JobStage.stage == stage, JobStage.state == "pending")
        .values(state="running", started_at=func.now())
        .returning(JobStage.domain)
    )
    domain = session.scalar(statement)
    if domain is not None:
        job = session.get_one(Job, lease.job_id)
        append_event(session, job, EventType.stage_started, {"stage": stage, "domain": domain})


def _upsert(table: type[Base], key: dict[str, Any], values: dict[str, Any]) -> Insert:
    """One row of that key with these values, whether it was there or not."""
    statement = insert(table).values(**key, **values)
    return statement.on_conflict_do_update(index_elements=list(key), set_=values)
