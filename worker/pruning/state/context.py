"""What all stages of a run have in common, and what all blocks of a stage have."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor, device

from secateur.spec.job import Domain
from secateur.spec.method import Method, Mode
from secateur.spec.records.history import JobWarning
from secateur.spec.records.pipe import Note
from secateur.spec.records.tasks import TaskScores
from secateur.spec.sparsity import Curvature
from worker.pruning.allocation.output_grams import OutputGrams
from worker.pruning.allocation.result import Survey
from worker.pruning.calibration.windows import CalibrationWindows
from worker.pruning.channels.moved import MovedChannels
from worker.pruning.evaluation.losses import TestSet, precision
from worker.pruning.model.block_runner import BlockRunner, batches
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.observer import Observer
from worker.pruning.request import PruningJob
from worker.pruning.runtime.behind import Behind
from worker.pruning.runtime.hidden_states import Batches, HiddenStates, Room
from worker.pruning.runtime.prefetch import read_ahead
from worker.pruning.runtime.progress import Tracker
from worker.pruning.state.stage_folder import StageFolder, stage_folder
from worker.pruning.targets.budget import WeightTarget
from worker.pruning.tasks.ready import ReadyTask

Tensors = dict[str, Tensor]
"""A block's, by the checkpoint's names."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """dtype: of the products in forward passes. room: for all hidden states together. behind: where blocks are
    written."""

    job: PruningJob
    source: Checkpoint
    runner: BlockRunner
    dtype: str
    tracker: Tracker
    behind: Behind
    room: Room

    @property
    def observer(self) -> Observer:
        return self.behind

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

    def read_ahead(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Tensors]]:
        """Each with its dense tensors, the next one's being read meanwhile."""
        return read_ahead(lambda block: self.source.read(block.tensors, pinned=self.runner.pinned), blocks)

    def hidden_states(self, stores: int = 1) -> HiddenStates:
        """An empty store, one of so many that share the room which hidden states have."""
        return HiddenStates(self.job.workspace, self.runner.devices, self.room.shared(stores))


@dataclass(frozen=True, kw_only=True)
class PreparedRun(RunContext):
    """All that is known before the first weight is pruned.

    targets: by matrix, of a uniform allocation. windows, digests: of each domain's calibration text. sets: of the
    lineage's test texts, a column of R each. warnings: what model and texts alone say. tasks: still to be done,
    until that reading of the monotonic clock. kept_scores: of those that are done. longest_input: tokens of a
    task's. task_tokens: that one model reads for each of the job's tasks, roughly.
    """

    targets: dict[str, WeightTarget]
    windows: list[CalibrationWindows]
    digests: list[str]
    sets: list[TestSet]
    warnings: list[JobWarning]
    tasks: tuple[ReadyTask, ...] = ()
    tasks_until: float = math.inf
    kept_scores: Sequence[TaskScores] = ()
    longest_input: int = 0
    task_tokens: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class StageContext(RunContext):
    """One domain's stage, or one of a further target. name: of either. job: as this stage has it. targets: by
    matrix. survey: what they follow from, empty where every rate is the same.

    hidden: inputs of the next block, one tensor a batch, replaced as blocks are passed; first those of the windows
    that are solved on, then those held out; behind pruned blocks, or `behind_dense` ones, which are as the stage
    begins with them. dense: the same in the dense model, where a matrix is solved towards it; else None.
    output_grams: of the stage's domain, how the loss's gradients by outputs that are weighed go together; None
    where none are. wanted: as `hidden`, the block's outputs that it is tuned towards; None where nothing is tuned.
    last: the dense model's last hidden states, as far as a survey has left them for the model to be tuned by.
    channels: by the matrix that reads them, those which are in another order in `source` than in the model as it
    was registered.
    """

    stage: int
    name: str
    windows: CalibrationWindows
    targets: dict[str, WeightTarget]
    hidden: HiddenStates
    last: HiddenStates
    dense: HiddenStates | None = None
    output_grams: OutputGrams | None = None
    wanted: HiddenStates | None = None
    behind_dense: bool = False
    survey: Survey = field(default_factory=Survey)
    channels: Mapping[str, MovedChannels] = field(default_factory=dict)

    def on(self, where: device) -> Self:
        """The same, for what is to be computed on that one of the job's devices."""
        runner = self.runner.on(where)
        return self if runner is self.runner else replace(self, runner=runner)

    @property
    def both(self) -> tuple[HiddenStates, ...]:
        """What is there of hidden states."""
        return (self.hidden,) if self.dense is None else (self.hidden, self.dense)

    @property
    def learns(self) -> bool:
        """Whether the stage is a domain's own; else it is of a further target, and nothing continues it."""
        return self.job.learns(self.stage)

    @property
    def measures(self) -> bool:
        """Whether its windows are solved on; else it has the sums of the stages before it, and they only judge."""
        return self.job.measures(self.stage)

    @property
    def domain(self) -> Domain:
        """Whose windows these are."""
        return self.job.domain_of(self.stage)

    @property
    def domain_stage(self) -> int:
        """The stage in which that domain is learned."""
        return min(self.stage, len(self.job.domains) - 1)

    @property
    def folder(self) -> StageFolder:
        return self.folder_of(self.stage)

    @property
    def previous(self) -> StageFolder | None:
        """What the stage continues; None for the first one of a lineage. All further targets continue the last
        domain's stage."""
        before = min(self.stage, len(self.job.domains)) - 1
        return self.folder_of(before) if self.job.first_stage + self.stage else None

    @property
    def accumulates(self) -> bool:
        return self.job.method.mode is Mode.accumulated

    @property
    def prunes_the_pruned(self) -> bool:
        """Whether blocks are pruned as the stage before left them, not as the dense model has them."""
        return self.job.method.mode is Mode.sequential and self.previous is not None

    @property
    def probe(self) -> Tensor:
        """Some of the next block's inputs, see `HiddenStates.probe`."""
        return self.hidden.probe()

    @property
    def solved_on(self) -> Batches:
        """The next block's inputs in the windows to solve on, (windows, length, width) a batch."""
        return self.hidden[: self._batches_solved_on]

    @property
    def held_out(self) -> Batches:
        """The same for the windows that only judge."""
        return self.hidden[self._batches_solved_on :]

    @property
    def _batches_solved_on(self) -> int:
        return len(batches(*self.windows.solved_on.shape))

    def state_before(self, block: Block) -> Path | None:
        """The block's state file of the stage before."""
        return None if self.previous is None else self.previous.path(self.previous.state(block.index))

    def sums_before(self, block: Block) -> Path | None:
        """The block's state file with the sums that this stage goes on from. A further target that measures the
        last domain's text anew has those of the stage before that domain's."""
        if self.learns or not self.measures:
            return self.state_before(block)
        if not self.job.first_stage + self.domain_stage:
            return None
        folder = self.folder_of(self.domain_stage - 1)
        return folder.path(folder.state(block.index))

    def shard_before(self, block: Block) -> Path | None:
        """The block as the stage before has written it."""
        return None if self.previous is None else self.previous.path(self.previous.shard(block.index))

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
            return self.runner.forward(block, state)
