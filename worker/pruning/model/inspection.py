"""One pass over a checkpoint's numbers before anything is computed: whether they are finite, how many are zero."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from secateur.spec.sparsity import Pattern
from worker.pruning.errors import UserError
from worker.pruning.methods.masks import follows
from worker.pruning.model.checkpoint import STORED, Checkpoint
from worker.pruning.model.graph import ModelGraph, PrunableWeight
from worker.pruning.runtime.numerics import all_finite

SPARSE: Final = 0.05
"""Share of zeros from which a matrix, or all of them together, counts as sparse."""
PATTERNS: Final = sorted(
    (Pattern(kept, group) for group in (2, 4, 8, 16) for kept in range(1, group // 2 + 1)),
    key=lambda pattern: (-(pattern.sparsity or 0), pattern.group),
)
"""What is looked for: the sparsest first, of equal ones the shortest group."""
SLACK: Final = 0.9
"""An n:m pattern whose places are emptier than that is followed by chance."""

COMPUTED: Final = {torch.float32, torch.float16, torch.bfloat16}
"""Dtypes whose numbers are finite in the computation if they are so in the file."""


@dataclass(frozen=True)
class Sparsity:
    """Zeros of the prunable matrices. pattern: the n:m that every sparse one follows, None where there is none.
    matrices: how many are sparse, out of `of`."""

    zeros: int
    weights: int
    pattern: Pattern | None
    matrices: int
    of: int

    @property
    def share(self) -> float:
        return self.zeros / self.weights if self.weights else 0.0


def inspect(checkpoint: Checkpoint, graph: ModelGraph, check: Callable[[], None] = lambda: None) -> Sparsity:
    """Read every tensor that the model takes, once. check: called before each, may raise.

    Raises UserError `invalid_checkpoint`, naming the tensor, for numbers that are not finite. A buffer may hold
    infinities, which mask, but nothing that is no number.
    """
    matrices: dict[str, list[PrunableWeight]] = defaultdict(list)
    for matrix in graph.matrices:
        matrices[matrix.tensor].append(matrix)
    zeros = 0
    followed: Counter[Pattern] = Counter()
    sparse = 0
    parameters = {name for name, _ in graph.model.named_parameters(remove_duplicate=False)}
    for name in _taken(checkpoint, graph):
        check()
        tensor = checkpoint.read([name])[name]
        if tensor.dtype not in COMPUTED:
            tensor = tensor.float()  # as it will be computed with
        finite = all_finite(tensor)
        if not finite and graph.names.target(name) not in parameters:
            finite = not bool(torch.isnan(tensor).any())
        if not finite:
            message = f"{name} has values that are not finite, the first of them {_first(tensor)}"
            raise UserError("invalid_checkpoint", message, "/model")
        for matrix in matrices[name]:
            stored = matrix.of({name: tensor})
            empty = stored.numel() - int(torch.count_nonzero(stored))
            zeros += empty
            if empty >= SPARSE * matrix.weights:
                sparse += 1
                followed.update(_patterns(matrix, stored))
    common = next((pattern for pattern in PATTERNS if sparse and followed[pattern] == sparse), None)
    weights = sum(matrix.weights for matrix in graph.matrices)
    return Sparsity(zeros, weights, common, sparse, len(graph.matrices))


def _taken(checkpoint: Checkpoint, graph: ModelGraph) -> Iterator[str]:
    """Stored tensors of floating dtypes that become parameters or buffers, in the order of the files."""
    for name, info in sorted(checkpoint.tensors.items(), key=lambda item: (item[1].file, item[1].start)):
        if STORED[info.dtype].is_floating_point and graph.names.target(name) is not None:
            yield name


def _patterns(matrix: PrunableWeight, stored: Tensor) -> Iterator[Pattern]:
    weight = stored.T if matrix.transposed else stored
    filled = int(torch.count_nonzero(weight)) / max(weight.numel(), 1)
    for pattern in PATTERNS:
        places = 1 - (pattern.sparsity or 0.0)
        if SLACK * places <= filled <= places and follows(weight, pattern):
            yield pattern


def _first(tensor: Tensor) -> str:
    """The first number that is not finite, and where."""
    place = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    return f"{float(tensor[tuple(place)])} at {place}"
