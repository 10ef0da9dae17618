"""The matrix R of a lineage: one row a model (the dense one first), one column an evaluated domain."""

from collections.abc import Mapping, Sequence

import torch

from worker.pruning.cost import head_work, token_work
from worker.pruning.evaluation.losses import TestSet, window_losses
from worker.pruning.evaluation.perplexity import evaluation
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import RunContext

Entries = Mapping[tuple[int, str], float]
"""(row, domain) → perplexity."""


def missing(context: RunContext, row: int, sets: Sequence[TestSet], known: Entries) -> list[TestSet]:
    """What is still to be evaluated in a row; the rest counts as done."""
    for item in sets:
        if (row, item.domain) in known:
            context.tracker.skip(Kind.evaluate, _work(context, item))
    return [item for item in sets if (row, item.domain) not in known]


def evaluate_row(context: RunContext, row: int, checkpoint: Checkpoint, sets: Sequence[TestSet]) -> Entries:
    """The entries of one model, each reported as well. Sets with the same windows are computed once."""
    context.tracker.restart_clock()
    distinct: list[TestSet] = []
    places = []
    for item in sets:
        same = [n for n, other in enumerate(distinct) if torch.equal(other.windows, item.windows)]
        places += same or [len(distinct)]
        distinct += [] if same else [item]
        context.tracker.skip(Kind.evaluate, _work(context, item) if same else 0.0)

    def advance(block: int, tokens: int) -> None:
        context.tracker.at_block(block)
        head = block == len(context.blocks)
        work = _head_work(context) if head else token_work(context.blocks[block])
        context.tracker.advance(Kind.evaluate, work * tokens)

    with context.hidden_states() as hidden:
        losses = window_losses(context.runner, checkpoint, distinct, context.dtype, hidden, advance)
    found = {}
    for item, place in zip(sets, places, strict=True):
        result = evaluation(row, item, losses[place])
        found[row, item.domain] = result.perplexity
        context.observer.tell(result)
    return found


def _work(context: RunContext, item: TestSet) -> float:
    return item.windows.numel() * (sum(map(token_work, context.blocks)) + _head_work(context))


def _head_work(context: RunContext) -> float:
    return head_work(context.runner.graph, context.runner.vocabulary)
