"""That a block with moved channels is the function it was: shown on some tokens, in float32."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from worker.pruning.channels.moved import MovedChannels, moved
from worker.pruning.model.graph import Block
from worker.pruning.model.loading import load_block
from worker.pruning.state.context import StageContext, Tensors

ROUNDING: Final = 1e-3
"""Of what a block adds to its inputs, the part that another order of sums may make."""


def same_function(
    context: StageContext, block: Block, tensors: Tensors, channels: Mapping[str, MovedChannels], state: Tensor
) -> bool:
    """Whether the block gives the same. tensors: as stored, dense. state: hidden states in front of the block,
    (1, tokens, width). What is loaded afterwards has moved channels."""
    with torch.autocast(context.device.type, enabled=False):
        before = _outputs(context, block, tensors, state)
        after = _outputs(context, block, moved(tensors, channels.values()), state)
        added = torch.linalg.vector_norm(before - state.float())
        return bool(torch.linalg.vector_norm(after - before) <= ROUNDING * added)


def _outputs(context: StageContext, block: Block, tensors: Tensors, state: Tensor) -> Tensor:
    load_block(block, tensors, context.runner.graph.names.state, context.device)
    return context.runner.run(block, state.float()).float()
