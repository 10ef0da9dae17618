"""What a block's inputs look like on one domain's text: groups, statistics, sums, and who got too few tokens."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from secateur.spec.job import Domain
from secateur.spec.method import Method, Mode
from worker.pruning.calibration.copal_sums import CopalSums, complete, find_sensing
from worker.pruning.calibration.domain_grams import OwnGrams, with_own_grams
from worker.pruning.calibration.expert_fallback import ExpertTokens, feed
from worker.pruning.calibration.hooks import AllHeard, dense_weight, find_groups, measure
from worker.pruning.continuation import check_moments, factors
from worker.pruning.cost import gram_work, importance_work, pass_work
from worker.pruning.errors import IllConditioned
from worker.pruning.events import Observer
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.request import PruningJob
from worker.pruning.runtime import memory
from worker.pruning.runtime.progress import Kind, Tracker
from worker.pruning.state.file import read_document, read_state
from worker.pruning.state.moments import Accumulated, Factors, Inputs, Measured, accumulate, alone
from worker.pruning.state.stage_folder import StageFolder
from worker.pruning.targets.budget import WeightTarget

ERROR_TOKENS = 4096
"""Errors of weights that are not solved for are measured on so many tokens at least, if there are as many: the
Gram of all of them would take longer than all the rest of such a method."""


@dataclass
class Gatherer:
    """Gathers the statistics of one stage's blocks.

    previous: the stage before, None in a lineage's first. method: of a matrix. forward: sends a batch through the
    loaded block.
    """

    job: PruningJob
    domain: Domain
    runner: BlockRunner
    shares: dict[str, WeightTarget]
    previous: StageFolder | None
    method: Callable[[PrunableWeight], Method]
    forward: Callable[[Block, Tensor], Tensor]
    tracker: Tracker
    observer: Observer
    groups: list[list[PrunableWeight]] = field(default_factory=list)
    """Of the block that was gathered last: its matrices by the input that they read."""
    experts: dict[str, ExpertTokens] = field(default_factory=dict)
    """By matrix, for those of experts."""
    own_grams: OwnGrams = field(default_factory=dict)
    """Of that block, where the job keeps them."""

    def gather(self, block: Block, solved_on: list[Tensor], held: list[Tensor]) -> dict[str, Inputs]:
        """What is known of the inputs of every group of the loaded block.

        solved_on, held: the block's inputs in the windows to solve on and in those held out, a tensor a batch,
        (windows, length, width). Raises IllConditioned for inputs that are not finite, UserError for a state to go
        on from that lacks a group.
        """
        before = self._carried(block)
        self.groups, self.own_grams = [], {}
        matrices = tuple(matrix for matrix in block.matrices if self.shares[matrix.name].zeros is not None)
        if not matrices:
            return {}
        self.groups = find_groups(block, matrices, lambda: self.forward(block, solved_on[0][:1]))
        if self.previous is not None and self.job.method.mode is Mode.accumulated:
            check_moments(self.groups, before)
        device = self.runner.device
        copal_sums = find_sensing(self.groups, self.method, before, solved_on[0].shape[1], device)
        measured = self._measure(block, solved_on, copal_sums)
        measured, self.experts = feed(block, self.groups, measured, copal_sums, before)
        measured = complete(self.groups, measured, copal_sums, lambda matrix: dense_weight(block, matrix))
        self.own_grams = self._own(block, measured)
        apart = self._measure(block, held) if held else {}
        found, by = {}, self._factors(block)
        for name, statistics in measured.items():
            self._check(name, statistics)
            keep, carried = self._solves(name), before.get(name)
            sums = accumulate(carried, statistics, keep_gram=keep, weight=by.weight, keeps=by.keeps)
            only = carried is None and self.domain.weight == 1
            own = None if only else alone(carried, statistics)
            found[name] = Inputs(sums, statistics, self._held_out(name, apart.get(name)), own)
        return found

    def _measure(
        self, block: Block, batches: list[Tensor], copal_sums: Mapping[str, CopalSums] | None = None
    ) -> dict[str, Measured]:
        pruned = [matrix for group in self.groups for matrix in group]
        importance = sum(importance_work(self.method(matrix), matrix) for matrix in pruned)

        def run() -> None:
            for state in batches:
                with suppress(AllHeard), memory.reusing():
                    self.forward(block, state)
                measuring = gram_work(block, state) + importance * math.prod(state.shape[:2])
                self.tracker.advance(Kind.forward, pass_work(block, state) + measuring)

        limits = {group[0].name: ERROR_TOKENS for group in self.groups if not self._needs_gram(group)}
        return measure(
            block, self.groups, run, self.runner.device, copal_sums, stop_early=True, gram_tokens=limits
        )

    def _needs_gram(self, group: list[PrunableWeight]) -> bool:
        """Whether a Gram of all tokens is for more than measuring errors. An expert's may have to stand in for
        others'."""
        if self.job.output.keep_domain_statistics or any(matrix.expert is not None for matrix in group):
            return True
        return any(method.statistics for method in map(self.method, group))

    def _solves(self, name: str) -> bool:
        """Whether any matrix of the group with that name is solved with the Gram, which is then to be kept."""
        group = next(group for group in self.groups if group[0].name == name)
        return any(method.updates_weights for method in map(self.method, group))

    def _held_out(self, name: str, measured: Measured | None) -> Measured | None:
        if measured is None or measured.tokens == 0:
            return None
        if not measured.finite:
            raise IllConditioned(f"{name}: its inputs are not finite")
        return measured

    def _carried(self, block: Block) -> dict[str, Accumulated]:
        if self.previous is None or self.job.method.mode is not Mode.accumulated:
            return {}
        return read_state(self.previous.path(self.previous.state(block.index)), self.runner.device)

    def _factors(self, block: Block) -> Factors:
        document = None
        if self.previous is not None:
            document = read_document(self.previous.path(self.previous.state(block.index)))
        return factors(self.job, self.job.domains.index(self.domain), document)

    def _own(self, block: Block, measured: dict[str, Measured]) -> OwnGrams:
        """Every domain's own Grams, where the job keeps them."""
        if not self.job.output.keep_domain_statistics:
            return {}
        earlier = None if self.previous is None else self.previous.path(self.previous.state(block.index))
        return with_own_grams(earlier, self.domain.name, {name: each.gram for name, each in measured.items()})

    def _check(self, name: str, statistics: Measured) -> None:
        if statistics.tokens == 0:
            self.observer.note("warning", "no calibration token reached this input", {"matrix": name})
        if not statistics.finite:
            raise IllConditioned(f"{name}: its inputs are not finite")
