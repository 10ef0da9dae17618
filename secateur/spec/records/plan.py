"""What a job would do, found out without doing it."""

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
    """A tensor that stays as it is."""

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


class Estimates(Record):
    """What the job will need."""

    memory_bytes: Estimate
    disk_bytes: Estimate
    seconds: Estimate
    host_bytes: float | None = Field(default=None, description="Of `memory_bytes`, what is the host's.")
    device_bytes: float | None = Field(default=None, description="And what is the GPU's; 0 without one.")
    device: str | None = Field(default=None, description="Where `seconds` was measured: `cpu`, `cuda`.")
    operations: float | None = Field(
        default=None, description="Floating point operations in all: the same on every machine."
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
