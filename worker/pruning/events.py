"""What a running job tells its caller. Everything here is plain data; times are the only thing that may differ
between two runs of the same job."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


@dataclass(frozen=True)
class Progress:
    phase: str  # evaluating | pruning | publishing
    stage: int | None  # None while the dense model is evaluated
    stages: int
    domain: str | None
    block: int
    blocks: int
    fraction: float  # of the whole job, 0 to 1, never falling
    eta_seconds: float | None


@dataclass(frozen=True)
class Evaluation:
    row: int  # 0 is the dense model, t + 1 the model after stage t
    domain: str
    perplexity: float
    loss: float  # mean over predicted tokens, natural logarithm
    windows: int
    tokens: int  # predicted tokens
    window_losses: list[float]
    protocol: dict[str, Any]


class Basis(StrEnum):
    """Which domains a matrix's scores are of."""

    domain = "domain"  # the stage's alone, at weight 1: of one unit in every stage
    accumulated = "accumulated"  # all so far, as the mask was chosen by: grows with stages, weights and recency


@dataclass(frozen=True)
class SensitivitySummary:
    """How a matrix's scores are distributed. Scores of zero are counted in the histogram's first bin."""

    matrix: str
    basis: Basis
    mean: float
    quantiles: dict[str, float]
    histogram: dict[str, Any]  # scale "log10", 21 edges, 20 counts
    total: float


@dataclass(frozen=True)
class MatrixRecord:
    matrix: str
    rows: int
    columns: int
    weights: int
    zeros: int  # counted in the written tensor
    sparsity: float
    target: float
    pattern: str
    relative_error: (
        float | None
    )  # ‖X(W−W0)ᵀ‖² / ‖XW0ᵀ‖² on the calibration inputs of this stage that are solved on
    held_out_error: float | None  # the same on the windows held out; None when there are none
    seconds: float
    solver: str
    mask_sha256: str
    weights_sha256: str
    notes: dict[str, Any] = field(default_factory=dict)
    # Against the stage before; None in a lineage's first stage. Shares are of all the matrix's weights.
    mask_changed: float | None = None  # revived + newly_pruned
    mask_overlap: float | None = None  # Jaccard index of the sets of kept weights
    revived: float | None = None  # zero before, kept now
    newly_pruned: float | None = None  # kept before, zero now
    domain_errors: dict[str, float | None] | None = None
    # relative error of the written weight under each domain's own Gram; None where those are not kept


@dataclass(frozen=True)
class BlockResult:
    stage: int
    block: int
    files: list[tuple[str, str]]
    # (role, path relative to the workspace). A resumed job needs the last stage's `weights` and `state`; what is
    # of the role `sensitivity` is for the artifact, under the same path, and the engine never looks at it again.
    records: list[MatrixRecord]
    sensitivity: list[SensitivitySummary]  # of every matrix one on each basis


@dataclass(frozen=True)
class StageResult:
    stage: int
    domain: str
    sparsity: float
    weights: int
    zeros: int
    calibration_tokens: int
    relative_error: float | None  # mean of the matrices' errors
    held_out_error: float | None
    masks_sha256: str  # of all matrices together
    weights_sha256: str
    seconds: float
    mask_overlap: float | None = None  # Jaccard index of all kept weights together, against the stage before


class Observer(Protocol):
    """Called from the job's own thread. Any call may raise Stopped; `block` may wait."""

    def progress(self, p: Progress) -> None: ...
    def evaluation(self, e: Evaluation) -> None: ...
    def block(self, b: BlockResult) -> None: ...
    def stage(self, s: StageResult) -> None: ...
    def note(self, level: str, message: str, data: dict[str, Any]) -> None: ...
    def check(self) -> None: ...


class Silent:
    """An observer that listens to nothing."""

    def progress(self, p: Progress) -> None: ...
    def evaluation(self, e: Evaluation) -> None: ...
    def block(self, b: BlockResult) -> None: ...
    def stage(self, s: StageResult) -> None: ...
    def note(self, level: str, message: str, data: dict[str, Any]) -> None: ...
    def check(self) -> None: ...
