"""Jobs and all that happens to them. PostgreSQL holds the truth; see states.py for the transitions."""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    FetchedValue,
    ForeignKey,
    Index,
    String,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Digest, Id, Json, JsonList, LongText, Moment, columns_of
from app.kit.origin import current_origin
from app.tables.states import State
from secateur.spec.records.history import MatrixRecord, Position, StageFigures

_STATES = ", ".join(f"'{state}'" for state in State)
_JOB = "jobs.id"


class Job(Base):
    """One pruning job. `version` is in its ETag."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        Index("ix_jobs_list", "project_id", "created_at", "id"),
        Index("ix_jobs_state", "project_id", "state", "created_at", "id"),
        Index("ix_jobs_method", "project_id", "method", "created_at", "id"),
        Index("ix_jobs_model", "project_id", "model_id", "created_at", "id"),
        Index(
            "ix_jobs_queue",
            "project_id",
            text("priority DESC"),
            "available_at",
            "created_at",
            "id",
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_jobs_stored",
            "project_id",
            postgresql_include=["stored_bytes"],
            postgresql_where=text("stored_bytes > 0"),
        ),
        Index("ix_jobs_labels", "labels", postgresql_using="gin"),
        Index("ix_jobs_spec", "project_id", "spec_digest"),
        Index(
            "ix_jobs_measured",
            "method",
            "finished_at",
            postgresql_where=text("state = 'succeeded' AND estimates IS NOT NULL"),
        ),
        Index("ix_jobs_root_id", "root_id"),
        Index("ix_jobs_retry_of", "retry_of", unique=True),
        Index("ix_jobs_continues", "continues"),
        Index("ix_jobs_lineage_id", "lineage_id"),
        Index(
            "ix_jobs_live",
            "state",
            "method",
            postgresql_where=text("state NOT IN ('succeeded', 'failed', 'cancelled')"),
        ),
        Index("ix_jobs_pending", "queued_at", postgresql_where=text("state = 'queued'")),
    )

    id: Mapped[Id]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    state: Mapped[str] = mapped_column(String(20), default=State.queued)
    phase: Mapped[str | None] = mapped_column(String(20))
    method: Mapped[str] = mapped_column(String(40))
    spec: Mapped[Json]
    """As accepted, with every default written out."""
    spec_digest: Mapped[Digest]
    labels: Mapped[Json] = mapped_column(default=dict)
    priority: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1, server_onupdate=FetchedValue())
    """Rises with every change of what the owner is shown: a trigger of the table sees to it."""
    last_event: Mapped[int] = mapped_column(default=0)
    """Number of the newest event; taken under this row's lock."""

    root_id: Mapped[str | None] = mapped_column(String(40))
    """Of a retry: the first job of the chain, which may be deleted meanwhile; see `root`."""
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    continues: Mapped[str | None] = mapped_column(ForeignKey(_JOB))
    """The job from whose final state this one goes on; it cannot be deleted before this one."""
    lineage_id: Mapped[str | None] = mapped_column(String(40))
    """Of a continuation: the first job of the lineage; see `lineage`. Not of a retry, which begins nothing new."""
    first_stage: Mapped[int] = mapped_column(default=0, server_default="0")
    """What this job's stage 0 is in its lineage: the number of stages before it."""
    basis: Mapped[Json | None]
    """Digests of what the checkpoint was computed from (see delivery/basis.py), and its `threads`."""
    checkpoint_dropped_at: Mapped[Moment | None]
    """When the files of the checkpoint were given up to the sweep."""

    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts started."""
    lost_attempts: Mapped[int] = mapped_column(default=0)
    """Attempts lost by the infrastructure, without progress."""
    memory_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    """Attempts that ran out of memory, without progress."""
    preemptions: Mapped[int] = mapped_column(default=0, server_default="0")
    """Attempts given back by workers that had to stop, without progress."""
    max_runtime_seconds: Mapped[int | None]
    max_pending_seconds: Mapped[int | None]
    runtime_seconds: Mapped[float] = mapped_column(Double, default=0.0, server_default="0")
    """What the attempts that have ended took together."""
    queued_at: Mapped[Created]
    """When it last came into the queue."""
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    available_at: Mapped[Created]
    """Not to be claimed before."""
    notified_at: Mapped[Moment | None]
    """When a notification was last published for it."""
    notifications: Mapped[int] = mapped_column(default=0)

    cancel_requested_at: Mapped[Moment | None]
    pause_requested_at: Mapped[Moment | None]
    failure: Mapped[Json | None]
    """`code`, `cause`, `message`, `field` of a failed job, and perhaps `details`."""
    result: Mapped[Json | None]
    """`manifest_digest`, `bytes`, `files`, `sparsity`, `masks_sha256`, `weights_sha256`, the figures of R,
    `warnings`."""
    manifest: Mapped[Json | None]
    """`digest`, `bytes`, `files`, `provenance`; set once, by the publishing worker."""
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Of its artifact, or before that of its checkpoint; what a retry has taken over counts with the first job."""
    origin: Mapped[Json | None] = mapped_column(default=current_origin)
    """The call that it came of: see kit/origin.py."""
    created_at: Mapped[Created]
    updated_at: Mapped[Created] = mapped_column(server_onupdate=FetchedValue())
    """When the version last rose."""
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]
    estimates: Mapped[Json | None]
    """What its first engine expected: `seconds`, `memory_bytes`, `disk_bytes`, `operations`, its `device`,
    and the worker's `kind`."""
    needs_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Memory that it takes of a worker without a GPU; this and the next two are null until it was estimated."""
    needs_host_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Host memory that it takes of a worker with a GPU."""
    needs_device_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """And memory of the GPU."""
    estimate_due_at: Mapped[Moment | None]
    """Until then no worker takes it, because what it needs is being estimated; null when it is not."""

    @property
    def root(self) -> str:
        """The job below whose name in the store a whole chain of retries keeps its objects."""
        return self.root_id or self.id

    @property
    def lineage(self) -> str:
        """The first job of the lineage, of which every other one continues another."""
        return self.lineage_id or self.id


class JobDataset(Base):
    """Which datasets a job reads, so that none of them can be deleted under it."""

    __tablename__ = "job_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True, index=True)


class JobLease(Base):
    """The right to write to a job, in a narrow row of its own that heartbeats touch.

    A row exists while a worker holds the job. Every write of a worker first locks the row with its token;
    no such row means that the lease is lost and nothing may be written.
    """

    __tablename__ = "job_leases"
    __table_args__ = (
        Index("ix_job_leases_expires_at", "expires_at"),
        {"postgresql_with": {"fillfactor": "50"}},
    )

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    token: Mapped[str] = mapped_column(String(36))
    fence: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    claimed_at: Mapped[Created]
    heartbeat_at: Mapped[Created]
    expires_at: Mapped[Moment]


class JobProgress(Base):
    """How far a job is, as the engine last said: a column for each field of the record; kept after the end."""

    __tablename__ = "job_progress"
    __table_args__ = columns_of(Position, but={"phase"})

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(String(20))
    eta_at: Mapped[Moment | None]
    updated_at: Mapped[Created]
    version: Mapped[int] = mapped_column(BigInteger, server_default="0", server_onupdate=FetchedValue())
    """Another one after every write: a trigger of the table sees to it."""


class Outcome(StrEnum):
    """How an attempt ended, beside the `Reason`s of states.py."""

    succeeded = "succeeded"
    cancelled = "cancelled"
    paused = "paused"


class JobAttempt(Base):
    """One worker's try."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fence: Mapped[int] = mapped_column(BigInteger)
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[Created]
    ended_at: Mapped[Moment | None]
    outcome: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[Json | None]
    engine: Mapped[Json | None]
    """The engine's format, versions, device, threads and isolation: what it could be cut off from."""


class JobEvent(Base):
    """One line of a job's history, numbered without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(40))
    at: Mapped[Created]
    data: Mapped[Json]


class JobLog(Base):
    """One line that the engine printed or noted."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    at: Mapped[Created]
    level: Mapped[str] = mapped_column(String(10))
    message: Mapped[LongText]


class JobStage(Base):
    """One domain's turn, with a column for each of the record's figures."""

    __tablename__ = "job_stages"
    __table_args__ = columns_of(StageFigures)

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    domain: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20))
    """pending, running or done."""
    blocks: Mapped[int | None]
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]


class JobBlock(Base):
    """A checkpoint: one block of one stage, committed with its records in one guarded transaction."""

    __tablename__ = "job_blocks"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    block: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fence: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int]
    engine_format: Mapped[int]
    files: Mapped[JsonList]
    """`role`, `path` in the engine's workspace, `sha256`, `bytes`, `key` of each file."""
    committed_at: Mapped[Created]


class JobMatrix(Base):
    """What happened to one matrix in one stage: a column for each field of the record. Those named here are asked
    for in queries."""

    __tablename__ = "job_matrices"
    __table_args__ = columns_of(MatrixRecord, but={"matrix", "columns", "weights", "notes"})

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    matrix: Mapped[str] = mapped_column(String(300), primary_key=True)
    block: Mapped[int]
    columns: Mapped[int]
    weights: Mapped[int] = mapped_column(BigInteger)
    notes: Mapped[Json]


class JobEvaluation(Base):
    """One entry of the matrix R: a domain's perplexity after a stage (row 0 is the dense model)."""

    __tablename__ = "job_evaluations"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    domain: Mapped[str] = mapped_column(String(200), primary_key=True)
    perplexity: Mapped[float] = mapped_column(Double)
    loss: Mapped[float] = mapped_column(Double)
    windows: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    window_losses: Mapped[list[float]] = mapped_column(ARRAY(Double))
    protocol: Mapped[Json]
    at: Mapped[Created]


class JobTask(Base):
    """What one model reached in one of the spec's tasks for the lm-evaluation-harness, or that it has begun it."""

    __tablename__ = "job_tasks"

    job_id: Mapped[str] = mapped_column(ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True)
    task: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    model: Mapped[str] = mapped_column(String(10), primary_key=True)
    """dense or pruned."""
    scores: Mapped[Json | None]
    """All of `secateur.spec.records.tasks.TaskScores`; null from its beginning to its end."""
    attempt: Mapped[int]
    """Of the job; 0 for what a retry has taken over."""
    at: Mapped[Created]
