"""What a job would do, found out without doing it."""

from enum import StrEnum
from typing import Final

from pydantic import Field

from secateur.spec.records.history import JobWarning, Record


class PlannedMatrix(Record):
    """A matrix that will be pruned."""

    name: str = Field(description="Name in the checkpoint.")
    rows: int
    columns: int
    weights: int
    zeros: int
    target: float
    settled: bool = Field(description="False: the job's allocation decides this rate on the calibration data.")
    pattern: str
    comparison_group: str = Field(
        description="Its weights compete within a `row` or the whole `matrix`, whatever was asked."
    )
    solver: str
    statistics: list[str] = Field(
        default=[],
        description="What is summed over calibration tokens for it: `input_norms`, `gram`, `importance` "
        "(COPAL), `cross` (a target behind the dense prefix), `output_grams` (weighted outputs).",
    )
    overrides: list[str] = Field(description="Those that decide something here, as written.")


class SkippedTensor(Record):
    """A tensor that is not pruned. It stays as it is, unless its reason says otherwise."""

    name: str
    reason: str
    weights: int


class OverrideCount(Record):
    """What one override does."""

    index: int = Field(description="Its place in `sparsity.overrides`, from 0.")
    says: str = Field(description="Its `match` or `regex`.")
    matches: int = Field(description="Matrices.")
    decides: int = Field(description="Matrices for which no later override takes everything back.")


class Overlap(Record):
    """Matrices that several overrides match."""

    overrides: list[int]
    winners: dict[str, int] = Field(description="Field → the override that decides it.")
    matrices: list[str]


class Estimate(Record):
    """A rough figure."""

    total: float
    parts: dict[str, float]
    how: str = Field(description="How it was made, and what it leaves out.")


HOST_PARTS: Final = (
    "process",
    "hidden_states",
    "read_ahead",
    "state",
    "sensitivities",
    "being_written",
    "tuned_blocks",
    "gpu_runtime",
    "harness",
)
"""Parts of `memory_bytes` that a machine with a GPU has on the host."""


class Needs(Record):
    """Memory without which the job is not begun, at its peak, in bytes."""

    memory_bytes: float = Field(description="Of a machine without a GPU.")
    host_bytes: float = Field(description="Of one with a GPU, beside that.")
    device_bytes: float = Field(description="Of its GPU.")


class Lack(StrEnum):
    """What a kind of worker has too little of."""

    device_memory = "device_memory"
    memory = "memory"
    disk = "disk"
    harness = "harness"
    """lm-eval is not installed there, and the job has tasks."""


class WorkerFit(Record):
    """One kind of worker: whether the job fits there, and how long it takes."""

    kind: str
    device: str = Field(description="`cpu` or `cuda`.")
    workers: int | None = Field(
        default=None, description="How many of it are there; null for the machine that made the plan."
    )
    fits: bool
    lacks: list[Lack] = Field(description="What it has too little of for this job.")
    host_bytes: float = Field(description="It has, for the job's engine.")
    device_bytes: float = Field(description="Of a GPU's memory; 0 without one.")
    disk_bytes: float
    seconds: float
    parts: dict[str, float] = Field(
        description="Of the seconds: `start`, `forward`, `evaluate`, `solve`, `transfer` (over a GPU's bus), "
        "`disk`, `host` (what is done to weights beside products), `tasks`."
    )


class Estimates(Record):
    """What the job will need."""

    memory_bytes: Estimate
    disk_bytes: Estimate
    seconds: Estimate
    artifact_bytes: Estimate | None = Field(
        default=None, description="Of the files that it leaves, their models in the form of `output.form`."
    )
    host_bytes: float | None = Field(default=None, description="Of `memory_bytes`, what is the host's.")
    device_bytes: float | None = Field(default=None, description="And what is the GPU's; 0 without one.")
    device: str | None = Field(default=None, description="That `seconds` is for: `cpu`, `cuda`.")
    kind: str | None = Field(
        default=None,
        description="Of the worker that `seconds` is for: the quickest on which the job fits.",
    )
    operations: float | None = Field(
        default=None, description="Floating point operations in all: the same on every machine."
    )
    needs: Needs | None = Field(default=None, description="By which a worker is chosen.")
    workers: list[WorkerFit] = Field(
        default=[], description="Each kind of worker that is there; without any the machine that made the plan."
    )


class PlanResult(Record):
    """What the job would do."""

    architecture: str
    blocks: int
    parameters: int
    prefix: list[int] = Field(
        default=[], description="Tokens that the tokenizer puts before every text; each window begins with them."
    )
    pattern: str
    allocation: str
    weights: int = Field(description="In all matched matrices.")
    zeros: int = Field(description="To be made, exactly.")
    sparsity: float
    matched: list[PlannedMatrix]
    skipped: list[SkippedTensor]
    overrides: list[OverrideCount]
    overlaps: list[Overlap]
    estimates: Estimates
    warnings: list[JobWarning] = Field(
        default=[], description="What its job would say as soon as it is made, or has read the model."
    )
