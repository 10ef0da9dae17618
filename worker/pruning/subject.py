"""What is estimated: a job, and the shapes of its model."""

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.spec.method import Method
from worker.pruning.cost import task_tokens
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, ModelGraph, PrunableWeight
from worker.pruning.request import PruningJob
from worker.pruning.targets.budget import WeightTarget

FLOAT = 4
"""Bytes of a number, where nothing else is said."""


@dataclass(frozen=True)
class Subject:
    """What is estimated."""

    job: PruningJob
    graph: ModelGraph
    checkpoint: Checkpoint
    shares: dict[str, WeightTarget]
    task_tokens: Sequence[float] | None = None
    """That one model reads for each task; None as long as nobody has looked at them."""

    @property
    def tasks_tokens(self) -> Sequence[float]:
        """The same, roughly where nobody has."""
        return [task_tokens(task) for task in self.job.tasks] if self.task_tokens is None else self.task_tokens

    def method_of(self, matrix: PrunableWeight) -> Method:
        return self.job.method.named(self.shares[matrix.name].method)

    def pruned(self, block: Block) -> dict[PrunableWeight, Method]:
        """The block's matrices that no override skips, with the method of each."""
        kept = (matrix for matrix in block.matrices if self.shares[matrix.name].zeros is not None)
        return {matrix: self.method_of(matrix) for matrix in kept}


def width(graph: ModelGraph) -> int:
    """Numbers in one token's hidden state."""
    return int(graph.config.get_text_config().hidden_size)


def input_widths(matrices: list[PrunableWeight]) -> list[int]:
    """Widths of the different inputs of a block's matrices, one for each group.

    Which matrices read the same tensor is known only once the block runs. Taken here: of one module's (or
    expert's) matrices of equal width, two of the same shape read one input (gate and up), others two (query, key
    and value; output).
    """
    shapes: dict[tuple[int | None, str, int], list[int]] = {}
    for matrix in matrices:
        expert = matrix.expert.index if matrix.expert else None
        place = (expert, matrix.module.rpartition(".")[0], matrix.columns)
        shapes.setdefault(place, []).append(matrix.rows)
    widths: list[int] = []
    for (_, _, columns), rows in shapes.items():
        alone = len(rows) == 1 or (len(rows) == 2 and rows[0] == rows[1])
        widths += [columns] * (1 if alone else 2)
    return widths


def keeps_grams(subject: Subject, block: Block) -> bool:
    return any(method.updates_weights for method in subject.pruned(block).values())
