"""What all stages of a run have in common, and what all blocks of a stage have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, device

from secateur.spec.job import Domain
from secateur.spec.method import Method, Mode
from secateur.spec.records.history import JobWarning
from secateur.spec.records.pipe import Note
from secateur.spec.sparsity import Curvature
from worker.pruning.allocation.output_grams import OutputGrams
from worker.pruning.allocation.result import Survey
from worker.pruning.calibration.windows import CalibrationWindows
from worker.pruning.evaluation.losses import TestSet, precision
from worker.pruning.model.block_runner import BlockRunner, batches
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.observer import Observer
from worker.pruning.request import PruningJob
from worker.pruning.runtime.activations import ActivationCache
from worker.pruning.runtime.progress import Tracker
from worker.pruning.state.stage_folder import StageFolder, stage_folder
from worker.pruning.targets.budget import WeightTarget


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """dtype: of the products in forward passes."""

    job: PruningJob
    source: Checkpoint
    runner: BlockRunner
    dtype: str
    tracker: Tracker
    observer: Observer

    @property
    def device(self) -> device:
        return self.runner.device

    @property
    def blocks(self) -> Sequence[Block]:
        return self.runner.graph.blocks

    def folder_of(self, stage: int) -> StageFolder:
        """−1: of the job that this one continues."""
        return stage_folder(self.job, stage, len(self.blocks))

    def warn(self, message: str, data: dict[str, Any]) -> None:
        self.observer.tell(Note(level="warning", message=message, data=data))

    def hidden_states(self, stores: int = 1) -> ActivationCache:
        """An empty store, one of so many that share the memory which hidden states may take."""
        return ActivationCache(self.job.workspace, self.job.hidden_bytes // stores)


@dataclass(frozen=True, kw_only=True)
class PreparedRun(RunContext):
    """All that is known before the first weight is pruned.

    targets: by matrix, of a uniform allocation. windows, digests: of each domain's calibration text. sets: of the
    lineage's test texts, a column of R each. warnings: what model and texts alone say.
    """

    targets: dict[str, WeightTarget]
    windows: list[CalibrationWindows]
    digests: list[str]
    sets: list[TestSet]
    warnings: list[JobWarning]


@dataclass(frozen=True, kw_only=True)
class StageContext(RunContext):
    """One domain's stage. targets: by matrix. survey: what they follow from, empty where every rate is the same.

    hidden: inputs of the next block, one tensor a batch, on the CPU, replaced as blocks are passed; first those of
    the windows that are solved on, then those held out. dense: the same in the dense model, where a matrix is
    solved towards it; else None. output_grams: of the stage's domain, how the loss's gradients by outputs that are
    weighed go together; None where none are.
    """

    stage: int
    windows: CalibrationWindows
    targets: dict[str, WeightTarget]
    hidden: ActivationCache
    dense: ActivationCache | None = None
    output_grams: OutputGrams | None = None
    survey: Survey = field(default_factory=Survey)

    @property
    def both(self) -> tuple[ActivationCache, ...]:
        """What is there of hidden states."""
        return (self.hidden,) if self.dense is None else (self.hidden, self.dense)

    @property
    def domain(self) -> Domain:
        return self.job.domains[self.stage]

    @property
    def folder(self) -> StageFolder:
        return self.folder_of(self.stage)

    @property
    def previous(self) -> StageFolder | None:
        """What the stage continues; None for the first one of a lineage."""
        return self.folder_of(self.stage - 1) if self.job.first_stage + self.stage else None

    @property
    def accumulates(self) -> bool:
        return self.job.method.mode is Mode.accumulated

    @property
    def prunes_the_pruned(self) -> bool:
        """Whether blocks are pruned as the stage before left them, not as the dense model has them."""
        return self.job.method.mode is Mode.sequential and self.previous is not None

    @property
    def solved_on(self) -> list[Tensor]:
        """The next block's inputs in the windows to solve on, (windows, length, width) a batch."""
        return self.hidden[: self._batches_solved_on]

    @property
    def held_out(self) -> list[Tensor]:
        """The same for the windows that only judge."""
        return self.hidden[self._batches_solved_on :]

    @property
    def _batches_solved_on(self) -> int:
        return len(batches(*self.windows.solved_on.shape))

    def state_before(self, block: Block) -> Path | None:
        """The block's state file of the stage before."""
        return None if self.previous is None else self.previous.path(self.previous.state(block.index))

    def pruned(self, block: Block) -> tuple[PrunableWeight, ...]:
        """The block's matrices that no override skips."""
        return tuple(matrix for matrix in block.matrices if self.targets[matrix.name].zeros is not None)

    def method_of(self, matrix: PrunableWeight) -> Method:
        """The job's, or the one that an override names."""
        return self.job.method.named(self.targets[matrix.name].method)

    def adapts(self, matrix: PrunableWeight) -> bool:
        """Whether a survey takes the weights of the matrix that stay to make up for what goes."""
        return self.method_of(matrix).updates_weights and self.job.sparsity.curvature is Curvature.adapting

    def forward(self, block: Block, state: Tensor) -> Tensor:
        """One batch through the loaded block."""
        with precision(self.device, self.dtype):
            return self.runner.forward(block, state.to(self.device))
