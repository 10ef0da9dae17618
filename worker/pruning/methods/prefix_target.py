"""What a matrix is solved towards, where it is to make up for the blocks pruned before it: its outputs in the
dense model, as far as a damped linear map of the inputs that it gets can tell them (as GPTAQ, QEP and Qronos do
when they quantise; the damping and the choice of how far to go are ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.wanda import input_norms
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.waiting import settled
from worker.pruning.state.moments import Accumulated, Measured, quadratic_forms

SHARES: Final = (0.25, 0.5)
"""How much of the correction may be taken, α. More than a half closes more of a group's own gap, and the model as
a whole loses by it."""
DAMPING: Final = 1.0
"""λc: ridge of the map, in coordinates where every input has norm one."""


@dataclass(frozen=True)
class PrefixTarget:
    """What the matrices of one group are solved towards, W0 + Δ with Δ = α · W0 · map.

    share: α, 0 where it helps nowhere. map: (in, in). held_out: the windows that it was chosen by.
    """

    share: float
    map: Tensor
    held_out: Measured

    def of(self, dense: Tensor) -> Tensor:
        """W0 + Δ, (out, in), float32; W0 itself for the share 0. dense: W0, (out, in)."""
        return dense if not self.share else torch.addmm(dense.float(), dense.float(), self.map, alpha=self.share)

    def notes(self, dense: Tensor, weight: Tensor) -> dict[str, Any]:
        """For the record, on the windows held out: `share`; `gap`, ‖(Y − X)W0ᵀ‖² / ‖YW0ᵀ‖²; `closed`, how much of
        the gap is gone with the target; `error`, ‖XWᵀ − YW0ᵀ‖² / ‖YW0ᵀ‖² of the weight as written.

        dense, weight: W0 and W, (out, in), float32.
        """
        whole = _behind_dense(dense, self.held_out)
        target = _Fit.of(dense @ self.map, dense, self.held_out)
        written = _Fit.of(weight - dense, dense, self.held_out)
        figures = {"gap": written.gap / whole, "error": written.left(1.0) / whole} if whole > 0 else {}
        return {"share": self.share, "closed": target.closed(self.share), **figures}


def prefix_target(sums: Accumulated, held_out: Measured | None, weights: Sequence[Tensor]) -> PrefixTarget | None:
    """Of a group whose inputs were compared with those in the dense model; None of any other.

    The share is that which closes most of the gap on the windows held out, on average over the matrices.
    weights: W0 of those that are solved towards it, (out, in), float32. Raises IllConditioned.
    """
    if sums.cross is None or sums.gram is None or held_out is None or held_out.cross is None:
        return None
    found = find_map(sums.gram, sums.cross)
    fits = [_Fit.of(dense @ found, dense, held_out) for dense in weights]
    closed = {share: sum(fit.closed(share) for fit in fits) for share in (0.0, *SHARES)}
    return PrefixTarget(max(closed, key=lambda share: closed[share]), found, held_out)


def find_map(gram: Tensor, cross: Tensor) -> Tensor:
    """C D⁻¹ (D⁻¹HD⁻¹ + λc I)⁻¹ D⁻¹, (in, in): what a linear map of x can tell of y − x, damped.

    gram: H = Σ XᵀX, cross: C = Σ (Y − X)ᵀX, (in, in), float32, on one scale; D: the inputs' norms. Raises
    IllConditioned.
    """
    norms = input_norms(gram.diagonal())
    normal = gram / norms / norms.unsqueeze(1)

    def attempt(damping: float, dtype: torch.dtype) -> Tensor | None:
        damped = normal.to(dtype, copy=True)
        damped.diagonal().add_(damping)
        root = cholesky(damped)
        if root is None:
            return None
        found = torch.cholesky_solve((cross / norms).T.to(dtype), root).T.float() / norms
        return found if all_finite(found) else None

    found, _ = with_more_damping(gram, DAMPING, attempt)
    return found


@dataclass(frozen=True)
class _Fit:
    """How far W0 + αΔ is from the dense model's outputs: gap − 2α · gained + α² · moved, per token."""

    gap: float
    gained: float
    moved: float

    @classmethod
    def of(cls, change: Tensor, dense: Tensor, held_out: Measured) -> "_Fit":
        """change: Δ. dense: W0. Both (out, in), float32."""
        assert held_out.gap is not None  # noqa: S101 - for the type checker
        gap, moved = quadratic_forms(dense, [held_out.gap]), quadratic_forms(change, [held_out.gram])
        return cls(*settled(torch.cat([gap, _product(change, dense, held_out), moved])).tolist())

    def left(self, share: float) -> float:
        """‖X(W0 + αΔ)ᵀ − YW0ᵀ‖²."""
        return max(self.gap - 2 * share * self.gained + share**2 * self.moved, 0.0)

    def closed(self, share: float) -> float:
        """The part of the gap that is gone; 0 where there is none, or nothing is done about it."""
        if not share or not self.gap > 0:
            return 0.0
        return (2 * share * self.gained - share**2 * self.moved) / self.gap


def _product(change: Tensor, dense: Tensor, held_out: Measured) -> Tensor:
    """⟨XΔᵀ, (Y − X)W0ᵀ⟩ per token, (1,), float64. change: Δ, (out, in)."""
    assert held_out.cross is not None  # noqa: S101 - for the type checker
    return (change @ held_out.cross.T).mul_(dense).sum(dim=0).double().sum().view(1)


def _behind_dense(dense: Tensor, held_out: Measured) -> float:
    """‖YW0ᵀ‖² per token."""
    assert held_out.gap is not None  # noqa: S101 - for the type checker
    forms = [quadratic_forms(dense, [each]) for each in (held_out.gram, held_out.gap)]
    return float(forms[0] + forms[1] + 2 * _product(dense, dense, held_out))
