"""Jobs and their history as callers see them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.jobs.events import EventType
from app.jobs.states import LEASED, TERMINAL, Cause, Phase, State
from app.jobs.tables import Job, JobProgress


class _Row(BaseModel):
    """An answer read off a table's row."""

    model_config = ConfigDict(from_attributes=True)


class ProgressRead(_Row):
    """How far the engine says it is."""

    phase: Phase
    stage: int | None
    stages: int | None
    domain: str | None
    block: int | None
    blocks: int | None
    fraction: float = Field(description="Of the whole job, 0 to 1.")
    eta_at: datetime | None
    updated_at: datetime


class FailureRead(BaseModel):
    """Why a job failed."""

    code: str
    cause: Cause = Field(description="Who has to act: `user` (change the request) or `system` (ours).")
    message: str
    field: str | None = Field(default=None, description="JSON pointer into the spec.")


class ResultRead(BaseModel):
    """What a succeeded job came to."""

    manifest_digest: str
    bytes: int
    files: int
    sparsity: float | None = None
    mean_perplexity: float | None = Field(default=None, description="Mean of the last row of R.")
    dense_mean_perplexity: float | None = Field(default=None, description="Mean of row 0 of R.")
    bwt: float | None = Field(default=None, description="Positive means forgetting; null for one stage.")
    masks_sha256: str | None = Field(
        default=None, description="Of all masks: equal where a job with the same settings was run twice."
    )
    weights_sha256: str | None = Field(default=None, description="Of all pruned matrices.")


class JobRead(BaseModel):
    """A pruning job."""

    model_config = ConfigDict(title="Job")

    id: str
    object: Literal["job"] = "job"
    state: State
    phase: Phase | None
    method: str
    model: str
    spec: dict[str, Any] = Field(description="As accepted, with every default written out.")
    spec_digest: str
    labels: dict[str, str]
    priority: int
    attempts: int
    progress: ProgressRead | None
    failure: FailureRead | None
    result: ResultRead | None
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job, progress: JobProgress | None) -> "JobRead":
        """From its rows."""
        return cls(
            id=job.id,
            state=State(job.state),
            phase=Phase(job.phase) if job.phase is not None else None,
            method=job.method,
            model=job.model_id,
            spec=job.spec,
            spec_digest=job.spec_digest,
            labels=job.labels,
            priority=job.priority,
            attempts=job.attempts,
            progress=ProgressRead.model_validate(progress) if progress is not None else None,
            failure=FailureRead.model_validate(job.failure) if job.failure is not None else None,
            result=ResultRead.model_validate(job.result) if job.result is not None else None,
            cancel_requested=job.cancel_requested_at is not None,
            created_at=job.created_at,
            updated_at=job.updated_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


def etag(job: Job, progress: JobProgress | None) -> str:
    """Strong: equal exactly when the answer is. The version grows with every event, progress has its own time."""
    moment = int(progress.updated_at.timestamp() * 1_000_000) if progress is not None else 0
    return f'"{job.version}-{moment:x}"'


def retry_after(job: Job) -> int | None:
    """Seconds after which it is worth asking again; None when nothing will change any more."""
    state = State(job.state)
    if state in TERMINAL:
        return None
    if state in LEASED and state is not State.running:
        return 2
    return {Phase.pruning.value: 5, Phase.evaluating.value: 5}.get(job.phase or "", 2)


class EventRead(_Row):
    """One line of a job's history."""

    seq: int
    type: EventType
    at: datetime
    data: dict[str, Any]


class LogRead(_Row):
    """One line that the engine printed or noted."""

    seq: int
    at: datetime
    attempt: int
    level: str
    message: str


class AttemptRead(_Row):
    """One worker's try; the fence grows with every claim."""

    number: int
    worker: str
    fence: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    error: dict[str, Any] | None


class StageRead(_Row):
    """One domain's turn."""

    stage: int
    domain: str
    state: Literal["pending", "running", "done"]
    blocks_done: int
    blocks: int | None
    sparsity: float | None
    weights: int | None
    zeros: int | None
    calibration_tokens: int | None
    relative_error: float | None = Field(description="Mean over the matrices, on the windows solved on.")
    held_out_error: float | None = Field(description="Mean over the matrices, on the windows held out.")
    seconds: float | None
    started_at: datetime | None
    finished_at: datetime | None


class LayerRead(_Row):
    """What happened to one matrix in one stage."""

    stage: int
    domain: str
    block: int
    matrix: str = Field(description="Name in the checkpoint.")
    rows: int
    columns: int
    weights: int
    zeros: int
    sparsity: float = Field(description="Counted.")
    target: float
    pattern: str
    relative_error: float | None = Field(
        description="‖X(W−W0)ᵀ‖² / ‖XW0ᵀ‖² on this stage's calibration inputs that were solved on."
    )
    held_out_error: float | None = Field(
        description="The same on the calibration windows held out; null when there were none."
    )
    seconds: float
    solver: str
    notes: dict[str, Any]
    mask_changed: float | None = Field(description="Share of the mask that differs from the stage before.")


class RowRead(BaseModel):
    """One row of R: the perplexities after a stage; row 0 is the dense model."""

    row: int
    stage: int | None
    after: str | None = Field(description="The stage's domain.")
    perplexity: dict[str, float] = Field(description="By domain.")


class EvaluationRead(BaseModel):
    """The matrix R and what follows from it. A BWT is not to be read without R: 0 can also mean stasis."""

    model_config = ConfigDict(title="EvaluationMatrix")

    object: Literal["evaluation"] = "evaluation"
    job: str
    domains: list[str] = Field(description="Columns: the domains that have an evaluation text, in stage order.")
    rows: list[RowRead]
    bwt: float | None = Field(
        description="Mean over i < T of R[T,i] − R[i,i]; null until the end, and for one stage."
    )
    log_bwt: float | None = Field(description="The same of log-perplexities.")
    mean_final_perplexity: float | None
    protocols: dict[str, dict[str, Any]] = Field(description="By domain; different ones do not compare.")
