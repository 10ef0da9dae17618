"""Claiming: the one place where a job becomes a worker's."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, text
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.delivery.events import append_event
from app.delivery.lease import Lease
from app.delivery.object_keys import StoredFile, is_state
from app.delivery.transitions import transition
from app.lineage import stages
from app.tables.datasets import Dataset
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobAttempt, JobDataset, JobLease
from app.tables.models import Model
from app.tables.states import LOSSES, State
from secateur.spec.records.history import Phase

CLAIMABLE: Final = """
    j.state = 'queued' AND j.available_at <= now()
    AND EXISTS (SELECT FROM models m WHERE m.id = j.model_id AND m.state = 'ready')
    AND NOT EXISTS (SELECT FROM job_datasets jd JOIN datasets d ON d.id = jd.dataset_id
                    WHERE jd.job_id = j.id AND d.state <> 'ready')
"""
"""Condition on `jobs j`: a worker may start it now."""

LOST_LATELY_SECONDS: Final = 300.0
"""For so long a worker takes any other job before the one whose last attempt it lost."""

# After the row is locked PostgreSQL checks the condition again, so two workers never get the same job.
_BEST = text(f"""
    WITH busy AS (
        SELECT r.project_id, count(*) AS running FROM job_leases l JOIN jobs r ON r.id = l.job_id
        GROUP BY r.project_id
    )
    SELECT j.id FROM jobs j LEFT JOIN busy USING (project_id)
    WHERE {CLAIMABLE}
    ORDER BY EXISTS (SELECT FROM job_attempts a
                     WHERE a.job_id = j.id AND a.number = j.attempts AND a.worker = :worker
                       AND a.outcome = ANY(:losses) AND a.ended_at > now() - make_interval(secs => :lately)),
             j.priority DESC, coalesce(busy.running, 0), j.available_at, j.created_at, j.id
    LIMIT 1 FOR NO KEY UPDATE OF j SKIP LOCKED
""")  # noqa: S608 - constants only


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


def claim(session: Session, worker: str, lease_seconds: float) -> Claim | None:
    """Take the best queued job: priority, then the project with the fewest running jobs, then age.

    A job that this worker has just lost comes after all others: a sick worker must not fail it alone.
    The job is running, its attempt and lease exist when the caller commits. None when there is nothing to do.
    """
    own = {"worker": worker, "losses": [reason.value for reason in LOSSES], "lately": LOST_LATELY_SECONDS}
    job_id = session.scalar(_BEST, own)
    if job_id is None:
        return None
    job = session.get_one(Job, job_id)
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
    return _describe(session, job, lease)


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


def _describe(session: Session, job: Job, lease: Lease) -> Claim:
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
        model_files=tuple(map(StoredFile.of, model.files or [])),
        datasets={dataset.id: _text(dataset) for dataset in datasets},
        spec=job.spec,
        spec_digest=job.spec_digest,
        runtime_left=None if job.max_runtime_seconds is None else job.max_runtime_seconds - job.runtime_seconds,
        base=_base(session, job),
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
