"""The protocol of the pipe from an engine to its worker: one record a line, told apart by `type`."""

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from secateur.spec.metrics import Figures
from secateur.spec.records.device import Fingerprint
from secateur.spec.records.history import (
    Count,
    Data,
    Digest,
    DomainName,
    JobWarning,
    List,
    MatrixRecord,
    Number,
    Position,
    Record,
    SensitivitySummary,
    StageFigures,
    Words,
)
from secateur.spec.records.machine import Machine
from secateur.spec.records.plan import Estimates, PlanResult, SkippedTensor
from secateur.spec.records.tasks import AskedModel, TaskScores


class Engine(Record):
    """What an engine is: its format of checkpoints, and what its bits depend on."""

    engine_format: Number
    versions: dict[str, str]
    device: str
    fingerprint: Fingerprint | None = Field(default=None, description="All that decides the last bits on it.")
    threads: Number
    isolation: dict[str, bool] = Field(description="What it could be cut off from.")


class Hello(Record):
    """A job's engine has started. skipped: tensors that stay as they are."""

    type: Literal["hello"] = "hello"
    engine: Engine
    blocks: Number
    skipped: List[SkippedTensor]
    estimates: Estimates | None = Field(default=None, description="What it expects to need.")


class Progress(Position):
    """How far a job is."""

    type: Literal["progress"] = "progress"
    eta_seconds: float | None = None


class Evaluation(Record):
    """One entry of R."""

    type: Literal["evaluation"] = "evaluation"
    row: Number = Field(description="0 is the dense model, t + 1 the model after stage t of the lineage.")
    domain: DomainName
    perplexity: float
    loss: float = Field(description="Mean over predicted tokens, natural logarithm.")
    windows: Number
    tokens: Count = Field(description="Predicted ones.")
    window_losses: List[float]
    protocol: Data


class BlockResult(Record):
    """A block is solved and written.

    files: role and path, relative to the workspace. A resumed job needs the last stage's `weights` and `state`;
    what is of the role `sensitivity` is for the artifact, under the same path, and the engine never looks at it
    again. sensitivity: of every matrix one on each basis.
    """

    type: Literal["block"] = "block"
    stage: Number
    block: Number
    files: List[tuple[str, str]]
    records: List[MatrixRecord]
    sensitivity: List[SensitivitySummary]


class StageResult(StageFigures):
    """All of a stage's blocks are done, and its model is evaluated. Digests: of all matrices together."""

    type: Literal["stage"] = "stage"
    stage: Number
    domain: DomainName
    masks_sha256: Digest
    weights_sha256: Digest


class TaskBegun(Record):
    """A model is about to do a task. If it never ends, the task is what ended the engine."""

    type: Literal["task_begun"] = "task_begun"
    task: Number
    model: AskedModel


class TaskResult(TaskScores):
    """A model has done a task."""

    type: Literal["task"] = "task"


class Note(Record):
    """A line of the job's log; above `debug` also of its history."""

    type: Literal["note"] = "note"
    level: Literal["debug", "info", "warning"]
    message: Words
    data: Data = Field(default={})


class OutputFile(Record):
    """path: its name in the artifact. local: where it is, relative to the workspace."""

    path: str
    local: str


class Summary(Record, Figures):
    """What a job came to."""

    weights: Count
    zeros: Count
    sparsity: float
    masks_sha256: Digest
    weights_sha256: Digest
    warnings: List[JobWarning]


class Output(Record):
    """A finished job's files, without the sensitivities, which were taken with their blocks."""

    type: Literal["output"] = "output"
    files: List[OutputFile]
    summary: Summary


class DeviceMemory(Record):
    """Of a GPU, at one moment."""

    total_bytes: Count
    free_bytes: Count
    reserved_bytes: Count = Field(description="What this engine's allocator holds of it.")
    allocated_bytes: Count = Field(description="Of that, what its tensors hold.")


class Failed(Record):
    """Why there is no result. detail: for the operator's log only."""

    type: Literal["failed"] = "failed"
    code: str
    cause: Literal["user", "system"]
    message: Words
    field: Words | None = Field(default=None, description="JSON pointer into the request.")
    fingerprint: str | None = Field(default=None, description="The same for the same error at the same place.")
    memory: DeviceMemory | None = Field(default=None, description="Of its GPU, when it failed.")
    detail: Words | None = None


class Reading(Record):
    """A sign of life while a model is inspected."""

    type: Literal["reading"] = "reading"


class Inspection(Record):
    """A model can be pruned. unused: tensors that it does not need. warnings: what its jobs will say of it."""

    type: Literal["inspection"] = "inspection"
    unused: List[str]
    warnings: List[JobWarning]


class Measured(Record):
    """What the machine has, and how fast it is."""

    type: Literal["measured"] = "measured"
    machine: Machine


class Planned(Record):
    """What a job would do."""

    type: Literal["plan"] = "plan"
    plan: PlanResult


Message = Annotated[
    Hello
    | Progress
    | Evaluation
    | BlockResult
    | StageResult
    | TaskBegun
    | TaskResult
    | Note
    | Output
    | Failed
    | Reading
    | Inspection
    | Measured
    | Planned,
    Field(discriminator="type"),
]
_MESSAGE: Final[TypeAdapter[Message]] = TypeAdapter(Message)


class Ended(Record):
    """Said by the reader of the pipe, after the engine's last message."""


def read_message(line: bytes) -> Message:
    """A line of the pipe. Raises ValueError, whose text is short whatever the line has."""
    try:
        return _MESSAGE.validate_json(line)
    except ValidationError as error:
        told = str(error) if error.error_count() <= 8 else f"{error.error_count()} faults"
        raise ValueError(f"not a message: {told[:2000]}") from None
