"""What keeps tuning on a new domain's text from undoing what earlier domains' sums have solved for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from worker.pruning.continuation import KEY, MEMBERS, stages_before
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight, parameter_of, view_of
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import read_document, read_state
from worker.pruning.state.moments import quadratic_forms

DAMPING: Final = 1.0
"""λ: how much an earlier domain's outputs count beside those of the new one."""


@dataclass(frozen=True)
class _Anchor:
    """One matrix where it should stay: at `solved`, W, (out, in), float32.

    sums: H, (in, in), or its diagonal where no Gram was kept, (in,), over the domains before. factor: of
    tr((W' − W)H(W' − W)ᵀ) in the loss.
    """

    matrix: PrunableWeight
    solved: Tensor
    sums: Tensor
    factor: float

    def spread(self, change: Tensor) -> Tensor:
        """(W' − W)H."""
        return change * self.sums if self.sums.ndim == 1 else change @ self.sums


@dataclass(frozen=True)
class Earlier:
    """Σ over matrices of λ · r · ‖X(W' − W)ᵀ‖² / ‖XWᵀ‖², X being inputs in the domains before, which count r times
    as much as the new one. Without any, nothing."""

    block: Block
    anchors: Sequence[_Anchor] = ()

    def pull(self) -> None:
        """Add its gradients to those of the loaded block's parameters."""
        for anchor in self.anchors:
            parameter = self.block.module.get_parameter(parameter_of(anchor.matrix))
            if parameter.grad is not None:
                change = view_of(self.block, anchor.matrix, parameter.detach()) - anchor.solved
                own = view_of(self.block, anchor.matrix, parameter.grad)
                own.add_(anchor.spread(change), alpha=2 * anchor.factor)

    def loss(self) -> float:
        """Of the loaded block."""
        total = 0.0
        for anchor in self.anchors:
            change = dense_weight(self.block, anchor.matrix) - anchor.solved
            total += anchor.factor * float((anchor.spread(change) * change).sum(dim=0).double().sum())
        return max(total, 0.0)

    @property
    def lost(self) -> float | None:
        """The same; None where there is nothing before."""
        return self.loss() if self.anchors else None


def earlier(context: StageContext, block: Block, *, diagonal: bool = False) -> Earlier:
    """Around the loaded block, which is as it was solved. Nothing in a first stage, or where sums are not kept.

    diagonal: of Grams, the diagonals alone.
    """
    path = context.sums_before(block) if context.accumulates else None
    if path is None:
        return Earlier(block)
    document, sums = read_document(path), read_state(path, context.device)
    ratio = _ratio(context, document.get(KEY, {}))
    groups = {name: document.get(MEMBERS, {}).get(name, [name]) for name in sums}
    group_of = {matrix: name for name, members in groups.items() for matrix in members}
    found = []
    for matrix in context.pruned(block):
        if (name := group_of.get(matrix.name)) is None:
            continue
        gram = sums[name].gram
        held = sums[name].second if gram is None or diagonal else gram
        solved = dense_weight(block, matrix).clone()
        energy = _energy(solved, held)
        if energy > 0:
            found.append(_Anchor(matrix, solved, held, DAMPING * ratio / energy))
    return Earlier(block, found)


def _ratio(context: StageContext, said: Mapping[str, Any]) -> float:
    """r: how much the domains before count in the sums beside the new one, Σ_i (Π_{j>i} γ_j) w_i over its weight.

    said: what the state of the stage before holds.
    """
    held = 0.0
    for stage in stages_before(context.job, context.domain_stage, said):
        held = stage.get("recency", 1.0) * held + stage.get("weight", 1.0)
    return float(context.job.method.keeps * held / context.domain.weight)


def _energy(weight: Tensor, sums: Tensor) -> float:
    """‖XWᵀ‖²."""
    if sums.ndim == 1:
        return float((weight.square() * sums).sum(dim=0).double().sum())
    (found,) = quadratic_forms(weight, [sums])
    return float(found)
