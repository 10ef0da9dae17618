"""Claiming: the one place where a job becomes a worker's."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.delivery import device_change
from app.delivery.device_change import SAME_DEVICE
from app.delivery.events import append_event
from app.delivery.handing_on import hand_on
from app.delivery.lease import Lease
from app.delivery.object_keys import StoredFile, is_state
from app.delivery.queue_order import CLAIMABLE, STANDINGS, WITHIN_PROJECT, parameters
from app.delivery.sizing import is_sized
from app.delivery.transitions import transition
from app.lineage import stages
from app.tables.datasets import Dataset
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobAttempt, JobDataset, JobLease
from app.tables.models import Model
from app.tables.states import LOSSES, State
from app.tables.workers import Worker
from app.workers.holding import HOLDS, room_of
from secateur.spec.records.history import Phase

MOST_ASKED: Final = 8
"""Jobs whose needs one claim asks for at the most: its transaction must stay short. Each estimate rings again."""
LOST_LATELY_SECONDS: Final = 300.0
"""For so long a worker takes any other job before the one whose last attempt it lost."""

_NOT_LOST_LATELY: Final = """
    (:again OR NOT EXISTS (
        SELECT FROM job_attempts a WHERE a.job_id = j.id AND a.number = j.attempts AND a.worker = :worker
        AND a.outcome = ANY(:losses) AND a.ended_at > now() - make_interval(secs => :lately)))
"""
_NEXT_PROJECT: Final = text(f"""
    WITH RECURSIVE {STANDINGS}
    SELECT s.project_id, s.most FROM standings s CROSS JOIN LATERAL (
        SELECT j.priority, j.available_at, j.created_at, j.id FROM jobs j
        WHERE j.project_id = s.project_id AND {CLAIMABLE} AND {HOLDS} AND {SAME_DEVICE} AND {_NOT_LOST_LATELY}
        ORDER BY {WITHIN_PROJECT} LIMIT 1
    ) j
    WHERE coalesce(s.room, 1) > 0 AND s.project_id <> ALL(:tried)
    ORDER BY CASE WHEN :across THEN -j.priority ELSE 0 END, s.used / s.share, j.available_at, j.created_at, j.id
    LIMIT 1
""")  # noqa: S608 - constants only
# After the row is locked PostgreSQL checks the condition again, so two workers never get the same job.
_BEST_OF_PROJECT: Final = text(f"""
    SELECT j.id FROM jobs j
    WHERE j.project_id = :project AND {CLAIMABLE} AND {HOLDS} AND {SAME_DEVICE} AND {_NOT_LOST_LATELY}
    ORDER BY {WITHIN_PROJECT} LIMIT 1 FOR NO KEY UPDATE OF j SKIP LOCKED
""")  # noqa: S608 - constants only
_LOCK_PROJECT: Final = text("SELECT FROM projects WHERE id = :project FOR NO KEY UPDATE")
_RUNNING: Final = text(
    "SELECT count(*) FROM job_leases l JOIN jobs r ON r.id = l.job_id WHERE r.project_id = :project"
)


@dataclass(frozen=True)
class SourceText:
    """One dataset that an attempt reads."""

    file: StoredFile
    format: str
    text_field: str | None


@dataclass(frozen=True)
class Base:
    """The job that an attempt's job continues."""

    manifest_digest: str
    files: tuple[StoredFile, ...]
    """Of its final state: what the blocks' weights became, and their statistics; paths are the artifact's."""
    domains: tuple[str, ...]
    """Of all stages before, in their order."""
    evaluations: tuple[tuple[str, str], ...]
    """Those of them that are still measured, with the ids of their test texts."""


@dataclass(frozen=True)
class Claim:
    """A job together with the right to write to it and what the attempt needs to know."""

    lease: Lease
    root: str
    """The first job of its chain of retries."""
    project_id: str
    model_id: str
    model_digest: str
    model_files: tuple[StoredFile, ...]
    datasets: dict[str, SourceText]
    """By dataset id."""
    spec: dict[str, Any]
    spec_digest: str
    runtime_left: float | None
    """Seconds that the attempt may take; None without a limit."""
    base: Base | None = None
    """None for the first job of a lineage."""
    machine: dict[str, Any] | None = None
    """The worker's, as it has described it; None for one that has not."""
    model_source: dict[str, Any] = field(default_factory=dict)
    """Where the model came from, as its row has it."""
    model_license: dict[str, Any] | None = None
    """What its card names, as its row has it."""
    origin: dict[str, Any] | None = None
    """The call that the job came of: see kit/origin.py."""


def claim(session: Session, worker: str, lease_seconds: float, *, harness: bool = False) -> Claim | None:
    """Take the next job of `queue_order` that the worker's memory holds.

    harness: whether lm-eval is installed there, without which it gets no job with tasks.
    A job that this worker has just lost comes after all others: a sick worker must not fail it alone.
    The job is running, its attempt and lease exist when the caller commits. None when there is nothing to do.
    """
    room = room_of(session, worker, harness=harness)
    job = _next(session, worker, room)
    if job is None:
        hand_on(session, room)
        return None
    transition(session, job, State.running, reason="claimed")
    job.attempts += 1
    job.fence += 1
    job.phase = Phase.staging
    job.notifications = 0
    if job.started_at is None:
        job.started_at = func.now()
    lease = Lease(job.id, str(uuid.uuid4()), job.fence, job.attempts)
    _write_lease(session, lease, worker, lease_seconds)
    append_event(session, job, EventType.attempt_started, {"attempt": lease.attempt, "worker": worker})
    session.flush()
    return _describe(session, job, lease, worker)


def _next(session: Session, worker: str, room: Mapping[str, Any]) -> Job | None:
    """The next job, its row locked. What is passed over, because its needs are asked for, is found no more."""
    for _ in range(MOST_ASKED):
        job_id = _find(session, worker, room, again=False) or _find(session, worker, room, again=True)
        if job_id is None:
            return None
        job = session.get_one(Job, job_id)
        if is_sized(session, job, room):
            return job
    return None


def _find(session: Session, worker: str, room: Mapping[str, Any], *, again: bool) -> str | None:
    """The next job's id, its row locked. room: the worker's memory. again: also of those that this worker has just
    lost."""
    losses = [reason.value for reason in LOSSES]
    own = {"worker": worker, "losses": losses, "lately": LOST_LATELY_SECONDS, "again": again}
    own |= {**room, **device_change.parameters(session, worker)}
    given, tried = parameters() | own, list[str]()
    while row := session.execute(_NEXT_PROJECT, given | {"tried": tried}).one_or_none():
        project, most = row
        if most is None or _may_run(session, project, most):
            job_id: str | None = session.scalar(_BEST_OF_PROJECT, own | {"project": project})
            if job_id is not None:
                return job_id
        tried.append(project)  # other workers are about to take all that it has
    return None


def _may_run(session: Session, project: str, most: int) -> bool:
    """Whether the project runs fewer than it may, counted again now that nobody else can claim for it."""
    session.execute(_LOCK_PROJECT, {"project": project})
    return (session.scalar(_RUNNING, {"project": project}) or 0) < most


def _write_lease(session: Session, lease: Lease, worker: str, seconds: float) -> None:
    session.add(
        JobLease(
            job_id=lease.job_id,
            token=lease.token,
            fence=lease.fence,
            attempt=lease.attempt,
            worker=worker,
            expires_at=from_now(seconds),
        )
    )
    session.add(JobAttempt(job_id=lease.job_id, number=lease.attempt, fence=lease.fence, worker=worker))


def _describe(session: Session, job: Job, lease: Lease, worker: str) -> Claim:
    model = session.get_one(Model, job.model_id)
    datasets = (
        session.query(Dataset).join(JobDataset, JobDataset.dataset_id == Dataset.id).filter_by(job_id=job.id).all()
    )
    return Claim(
        lease=lease,
        root=job.root,
        project_id=job.project_id,
        model_id=model.id,
        model_digest=model.digest or "",
        model_source=model.source,
        model_license=model.license,
        model_files=tuple(map(StoredFile.of, model.files or [])),
        datasets={dataset.id: _text(dataset) for dataset in datasets},
        spec=job.spec,
        spec_digest=job.spec_digest,
        runtime_left=None if job.max_runtime_seconds is None else job.max_runtime_seconds - job.runtime_seconds,
        base=_base(session, job),
        machine=session.scalar(select(Worker.machine).where(Worker.name == worker)),
        origin=job.origin,
    )


def _base(session: Session, job: Job) -> Base | None:
    if job.continues is None:
        return None
    # Without a manifest, which nothing but a hand in the database can bring about, the engine misses the files.
    manifest = session.get_one(Job, job.continues).manifest or {"digest": "", "files": []}
    history = stages.history_of(session, job)
    earlier = history.stages[: job.first_stage]
    return Base(
        manifest_digest=manifest["digest"],
        files=tuple(StoredFile.of(file) for file in manifest["files"] if is_state(file["path"])),
        domains=tuple(stage.domain for stage in earlier),
        evaluations=tuple(
            (stage.domain, stage.evaluation)
            for stage in earlier
            if stage.evaluation is not None and stage.domain not in history.lost
        ),
    )


def _text(dataset: Dataset) -> SourceText:
    """A ready dataset has its object; its constraints are those of intake."""
    file = StoredFile(
        f"{dataset.id}.{dataset.format}", dataset.sha256 or "", dataset.bytes or 0, dataset.object_key or ""
    )
    return SourceText(file, dataset.format, dataset.text_field)
