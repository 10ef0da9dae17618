"""From stored tensors to what may be tuned in a loaded block, and back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.spec.method import Refine
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.refine.norms import norms
from worker.pruning.refine.tuning import Tunable
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.state.context import StageContext

Tensors = dict[str, Tensor]
"""A block's, by the checkpoint's names, as stored, on the CPU."""


def free_parameters(context: StageContext, block: Block, tensors: Tensors) -> dict[str, Tensor | None]:
    """The parameters with something to tune, by their names in the block's module, and what that is.

    The masks go the way that the weights go, through transformers' conversions.
    """
    names = context.runner.graph.names
    free = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}
    for matrix in _matrices(context, block):
        matrix.of(free).copy_(matrix.of(tensors) != 0)
    for name in _norms(context, block):
        free[name].fill_(True)
    parameters = dict(block.module.named_parameters())
    found: dict[str, Tensor | None] = {}
    for target, allowed in names.state(free).items():
        name = target.removeprefix(f"{block.prefix}.")
        if name in parameters and bool(allowed.any()):
            found[name] = None if bool(allowed.all()) else allowed.to(context.device)
    return found


def tuned_tensors(context: StageContext, block: Block) -> list[str]:
    """Names of the block's tensors in which something may be tuned."""
    return [*dict.fromkeys(matrix.tensor for matrix in _matrices(context, block)), *_norms(context, block)]


def _matrices(context: StageContext, block: Block) -> Sequence[PrunableWeight]:
    return [] if context.job.method.refine is Refine.norms else context.pruned(block)


def _norms(context: StageContext, block: Block) -> list[str]:
    refinement = context.job.method.refinement
    asked = refinement is not None and refinement.norms and context.pruned(block)
    return norms(context.runner.graph, context.source, block) if asked else []


def as_written(
    context: StageContext, block: Block, tensors: Tensors, tunables: dict[str, Tunable]
) -> Tensors | None:
    """Those of the block's tensors that were tuned, in their own dtypes; None where a number does not fit.

    A weight that the dtype would round to zero stays as it was solved, so that the mask is what it was.
    """
    matrices = _matrices(context, block)
    found = {matrix.tensor: tensors[matrix.tensor].clone() for matrix in matrices if matrix.slice is not None}
    for matrix in matrices:
        solved, tuned = matrix.of(tensors), dense_weight(block, matrix)
        written = _cast(tuned.T if matrix.transposed else tuned, solved)
        if written is None:
            return None
        if matrix.slice is None:
            found[matrix.name] = written
        else:
            matrix.of(found).copy_(written)
    for name in _norms(context, block):
        target = context.runner.graph.names.target(name) or ""
        tunable = tunables.get(target.removeprefix(f"{block.prefix}."))
        if tunable is not None:
            written = _cast(tunable.parameter.detach(), tensors[name])
            if written is None:
                return None
            found[name] = written
    return found


def _cast(tuned: Tensor, solved: Tensor) -> Tensor | None:
    cast = tuned.to(solved.dtype).cpu()
    if not all_finite(cast):
        return None
    return torch.where((cast == 0) & (solved != 0), solved, cast).contiguous()
