"""Jobs and their history as callers see them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.jobs.limits import limits_of, set_limits
from app.kit.refs import InputError
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.states import Cause, State
from secateur.spec.job import Labels, Priority
from secateur.spec.limits import Limits
from secateur.spec.metrics import Figures
from secateur.spec.records.history import JobWarning, MatrixRecord, Phase, Position, StageFigures
from secateur.spec.records.tasks import TaskScores
from secateur.spec.strict import Strict

OF_A_RECORD = ConfigDict(strict=False, from_attributes=True, json_schema_serialization_defaults_required=True)
"""Of an answer that has a record's fields, read off a table's row."""


class _Row(BaseModel):
    """An answer read off a table's row."""

    model_config = ConfigDict(from_attributes=True)


class ProgressRead(Position):
    """How far the engine says it is."""

    model_config = OF_A_RECORD

    eta_at: datetime | None
    updated_at: datetime


class FailureRead(InputError):
    """Why a job failed; `field` points into the spec."""

    cause: Cause = Field(description="Who has to act: `user` (change the request) or `system` (ours).")
    details: dict[str, Any] | None = Field(
        default=None,
        description="Figures of the machine, where they were what was wrong: the `phase`, and of its GPU "
        "`total_bytes`, `free_bytes`, what the engine had reserved (`reserved_bytes`) and used "
        "(`allocated_bytes`), and `others_bytes` of other processes.",
    )


class ResultRead(Figures):
    """What a job came to that has published its files: one that succeeded, or failed by its gate alone."""

    manifest_digest: str
    bytes: int
    files: int
    sparsity: float | None = None
    masks_sha256: str | None = Field(
        default=None, description="Of all masks: equal where a job with the same settings was run twice."
    )
    weights_sha256: str | None = Field(default=None, description="Of all pruned matrices.")
    warnings: list[JobWarning] = Field(default=[], description="What to look at before the result is used.")


class LossesRead(_Row):
    """Attempts that ended early without having finished a block; each kind has a budget of its own."""

    lost_attempts: int = Field(description="By the infrastructure: a worker or engine died, the store failed.")
    memory_attempts: int = Field(description="For want of memory.")
    preemptions: int = Field(description="Because the worker was asked to stop, or its GPU failed.")


class JobPatch(Strict):
    """What may be changed after submission; fields left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"labels": {"team": "search"}, "priority": 5}]})

    labels: Labels = Field(default={}, description="Replaces all labels.")
    priority: Priority = Field(default=0, description="Of the project's jobs, higher ones start first.")
    limits: Limits = Field(default=Limits(), description="Replaces both limits.")

    def apply(self, job: Job) -> list[str]:
        """Write what was given into the job's row; names of the fields that are different now."""
        changed = []
        for name in sorted(self.model_fields_set):
            value = getattr(self, name)
            old = limits_of(job) if name == "limits" else getattr(job, name)
            if old == value:
                continue
            changed.append(name)
            if isinstance(value, Limits):
                set_limits(job, value)
            else:
                setattr(job, name, value)
        return changed


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
    limits: Limits
    retry_of: str | None = Field(description="The job whose work, broken off, this one takes over.")
    continues: str | None = Field(description="The finished job from whose final state this one goes on.")
    lineage: str = Field(description="The first job of the lineage; the job itself when it continues none.")
    first_stage: int = Field(description="How many stages the lineage had before this job's own.")
    attempts: int
    losses: LossesRead
    runtime_seconds: float = Field(description="What the attempts that have ended took together.")
    progress: ProgressRead | None
    failure: FailureRead | None
    result: ResultRead | None
    cancel_requested: bool
    pause_requested: bool
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


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
    engine: dict[str, Any] | None = Field(
        description="What its engine said of itself: `engine_format`, `versions`, `device` and its `fingerprint`, "
        "`threads`, and as `isolation` whether the kernel ends it with its worker (`tied`) and whether it has "
        "kept the worker's `network`. Null until it has started."
    )


class StageRead(StageFigures):
    """One domain's turn."""

    model_config = OF_A_RECORD

    stage: int = Field(description="In this job.")
    lineage_stage: int = Field(description="In the lineage.")
    domain: str
    state: Literal["pending", "running", "done"]
    blocks_done: int
    blocks: int | None
    started_at: datetime | None
    finished_at: datetime | None


class PlaceRead(_Row):
    """Which block of which stage."""

    job: str = Field(description="Whose stage it is: this job's, or one's that it continues.")
    stage: int = Field(description="In that job.")
    lineage_stage: int = Field(description="Counted over the whole lineage.")
    domain: str
    block: int


class MatrixRead(MatrixRecord, PlaceRead):
    """What happened to one matrix in one stage."""

    model_config = OF_A_RECORD


class RowRead(BaseModel):
    """One row of R: the perplexities after a stage; row 0 is the dense model."""

    row: int
    stage: int | None = Field(description="This job's stage; null for the dense model and earlier jobs' stages.")
    lineage_stage: int | None = Field(description="The stage in the lineage; null for the dense model.")
    job: str | None = Field(description="Whose stage it is.")
    after: str | None = Field(description="The stage's domain; of a further target `at` and that.")
    further: float | str | None = Field(
        default=None,
        description="The further target of the model, which is solved from the statistics that the stages of all "
        "domains have left; null for a domain's stage.",
    )
    perplexity: dict[str, float | None] = Field(
        description="By domain; null where it was not measured: the domain came to the lineage later, or is not "
        "evaluated yet."
    )


class TaskRead(TaskScores):
    """What one model reached in one task of the lm-evaluation-harness."""

    model_config = OF_A_RECORD


class EvaluationRead(Figures):
    """The matrix R of the lineage up to this job, and what follows from it. A BWT is not to be read without R:
    0 can also mean that nothing changed."""

    model_config = ConfigDict(title="EvaluationMatrix", json_schema_serialization_defaults_required=True)

    object: Literal["evaluation"] = "evaluation"
    job: str
    domains: list[str] = Field(description="Columns: the domains that have an evaluation text, in stage order.")
    not_measured: list[str] = Field(
        description="Earlier domains whose evaluation text was deleted: the figures below leave them out."
    )
    rows: list[RowRead]
    protocols: dict[str, dict[str, Any]] = Field(description="By domain; different ones do not compare.")
    tasks: list[TaskRead] = Field(
        default=[], description="This job's own, in the order of its spec, each by the dense model first."
    )
