"""What tuning has changed in a domain's stage, carried over to where the next one's begins.

A later stage solves all weights anew, from sums that know nothing of tuning: what it gave an earlier domain would
be lost.
"""

from typing import Final

import torch
from torch import Tensor

from worker.pruning.model.checkpoint import read_file
from worker.pruning.model.graph import Block
from worker.pruning.refine.written import Tensors
from worker.pruning.state.context import StageContext

KEY: Final = "tuned"
"""In a state file, the end of a tensor's name: what tuning has added to a matrix's weights."""
DTYPE: Final = torch.bfloat16
"""Of these: they are small beside the weights, and as wide in range."""


def stored_changes(context: StageContext, block: Block, solved: Tensors, tuned: Tensors) -> dict[str, Tensor]:
    """Of the block's matrices, as tensors of its state file, each in the orientation of its tensor; nothing where
    that is the same, or of a further target, which nothing continues."""
    if tuned is solved or not (context.learns and context.accumulates):
        return {}
    return {
        f"{matrix.name}/{KEY}": (matrix.of(tuned).float() - matrix.of(solved).float()).to(DTYPE).contiguous()
        for matrix in context.pruned(block)
    }


def with_changes(context: StageContext, block: Block, solved: Tensors) -> Tensors:
    """The block as solved, with what the stages before have changed where a weight stays, in float32; as it is
    where they have changed nothing."""
    path = context.sums_before(block) if context.accumulates else None
    if path is None:
        return solved
    pruned = context.pruned(block)
    if not (changes := read_file(path, {f"{matrix.name}/{KEY}" for matrix in pruned})):
        return solved
    found = solved | {
        name: solved[name].to(torch.float32, copy=True) for name in {matrix.tensor for matrix in pruned}
    }
    for matrix in pruned:
        own = matrix.of(found)
        own.add_(torch.where(own != 0, changes[f"{matrix.name}/{KEY}"].float(), 0.0))
    return found
