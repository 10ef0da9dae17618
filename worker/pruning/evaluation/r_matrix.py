"""The matrix R of a lineage: one row a model (the dense one first), one column an evaluated domain."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from worker.pruning.cost import head_work, token_work
from worker.pruning.evaluation.losses import TestSet, window_losses
from worker.pruning.evaluation.perplexity import evaluation
from worker.pruning.events import Observer
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.runtime.activations import ActivationCache
from worker.pruning.runtime.progress import Kind, Tracker


@dataclass
class RMatrix:
    """Fills rows, leaving out what is known. store: makes an empty one for hidden states."""

    runner: BlockRunner
    sets: list[TestSet]
    dtype: str
    tracker: Tracker
    observer: Observer
    store: Callable[[], ActivationCache]
    known: dict[tuple[int, str], float] = field(default_factory=dict)
    """(row, domain) → perplexity."""

    def row(self, row: int) -> list[float | None]:
        """Perplexities by column. A lineage's earlier models were not run on the text of a later domain."""
        return [self.known.get((row, item.domain)) for item in self.sets]

    def missing(self, row: int) -> list[TestSet]:
        """What is still to be evaluated in a row; the rest counts as done."""
        for item in self.sets:
            if (row, item.domain) in self.known:
                self.tracker.skip(Kind.evaluate, self._work(item))
        return [item for item in self.sets if (row, item.domain) not in self.known]

    def fill(self, row: int, checkpoint: Checkpoint, missing: list[TestSet]) -> None:
        """Evaluate a model and report every perplexity."""
        self.tracker.restart_clock()
        for item, own in zip(missing, self._losses(checkpoint, missing), strict=True):
            result = evaluation(row, item, own)
            self.known[row, item.domain] = result.perplexity
            self.observer.evaluation(result)

    def _losses(self, checkpoint: Checkpoint, sets: list[TestSet]) -> list[list[float]]:
        """Of every set's windows; sets with the same windows are computed once."""
        distinct: list[TestSet] = []
        places = []
        for item in sets:
            same = [n for n, other in enumerate(distinct) if torch.equal(other.windows, item.windows)]
            places += same or [len(distinct)]
            distinct += [] if same else [item]
            self.tracker.skip(Kind.evaluate, self._work(item) if same else 0.0)
        with self.store() as hidden:
            losses = window_losses(self.runner, checkpoint, distinct, self.dtype, hidden, self._advance)
        return [losses[place] for place in places]

    def _advance(self, block: int, tokens: int) -> None:
        self.tracker.where.block = block
        graph = self.runner.graph
        head = block == len(graph.blocks)
        work = head_work(graph, self.runner.vocabulary) if head else token_work(graph.blocks[block])
        self.tracker.advance(Kind.evaluate, work * tokens)

    def _work(self, item: TestSet) -> float:
        graph = self.runner.graph
        each = sum(map(token_work, graph.blocks)) + head_work(graph, self.runner.vocabulary)
        return item.windows.numel() * each
