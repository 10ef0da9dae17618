"""What the matrices of a block are solved towards where that is not their dense weights alone, and how their
outputs are weighed where they do not count alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worker.pruning.allocation.output_grams import summed
from worker.pruning.calibration.portions import Group
from worker.pruning.continuation import factors
from worker.pruning.errors import about
from worker.pruning.methods.output_weighting import OutputMetric, weighed_error
from worker.pruning.methods.prefix_target import PrefixTarget, prefix_target
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import read_document
from worker.pruning.state.moments import Inputs, Measured, relative_error

BlockGrams = Mapping[str, list[Tensor]]
"""By matrix, see `OutputMetric`."""


@dataclass(frozen=True)
class Objective:
    """Of one matrix. target: None for its dense weights. outputs: None where they count alike."""

    target: PrefixTarget | None = None
    outputs: OutputMetric | None = None

    @property
    def plain(self) -> bool:
        """Whether it is the outputs of W0, all counting alike."""
        return self.target is None and self.outputs is None

    def towards(self, dense: Tensor) -> Tensor | None:
        """What is solved towards, (out, in), float32; None: `dense`, W0, itself."""
        return None if self.target is None else self.target.of(dense)

    def held_out_error(self, aim: Tensor, weight: Tensor, held_out: Measured) -> float | None:
        """Of a weight as written, outputs weighed as it was solved for, on the windows held out.

        aim: what it should give the outputs of: its target, or W0 without one; both (out, in), float32.
        """
        if self.outputs is None:
            return relative_error(weight, aim, held_out.gram)
        return weighed_error(weight, aim, self.outputs)

    def notes(self, dense: Tensor, weight: Tensor) -> dict[str, Any]:
        """For the record. dense, weight: W0 and W as written, (out, in), float32."""
        return {} if self.target is None else {"target": self.target.notes(dense, weight)}


def objectives(
    context: StageContext, block: Block, group: Group, inputs: Inputs, grams: BlockGrams
) -> dict[str, Objective]:
    """Of a group's matrices, by name. grams: see `output_grams_of`. Raises IllConditioned."""
    asking = [matrix for matrix in group if context.method_of(matrix).follows_dense]
    with about(group[0].name):
        target = prefix_target(inputs.sums, inputs.held_out, [dense_weight(block, each) for each in asking])
    held_out = None if inputs.held_out is None else inputs.held_out.gram
    return {
        matrix.name: Objective(
            target if matrix in asking else None,
            OutputMetric(grams[matrix.name], held_out) if matrix.name in grams else None,
        )
        for matrix in group
    }


def weighing(context: StageContext, block: Block) -> list[PrunableWeight]:
    """The block's matrices whose outputs are weighed in this stage."""
    if context.output_grams is None:
        return []
    return [matrix for matrix in context.pruned(block) if context.method_of(matrix).weighs_outputs]


def output_grams_of(context: StageContext, block: Block) -> BlockGrams:
    """How the loss's gradients by the outputs of these go together, over all domains so far."""
    if context.output_grams is None:
        return {}
    path = context.state_before(block) if context.accumulates else None
    document = None if path is None else read_document(path)
    # A further target's are those of the last domain's stage, whichever statistics it has.
    keeps = factors(context.job, context.stage, document).keeps if context.learns else 1.0
    return summed(context.output_grams, weighing(context, block), path, keeps, context.device)
