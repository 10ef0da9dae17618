"""What is tuned beside the matrices, where a job asks for it: one number an output or a channel."""

from worker.pruning.model.checkpoint import DTYPES, Checkpoint
from worker.pruning.model.graph import Block, ModelGraph


def norms(graph: ModelGraph, checkpoint: Checkpoint, block: Block) -> list[str]:
    """The block's norms and biases, by the checkpoint's names; those that are only renamed on loading."""
    parameters = dict(block.module.named_parameters())
    found = []
    for name in block.tensors:
        info, target = checkpoint.tensors[name], graph.names.target(name) or ""
        plain = graph.names.is_renamed(name) and target.removeprefix(f"{block.prefix}.") in parameters
        if plain and len(info.shape) == 1 and info.dtype in DTYPES:
            found.append(name)
    return found
