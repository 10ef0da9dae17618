"""ADMM: the best weights for a mask, and the mask found on the way (Boža 2024, arXiv 2401.02938, alg. 1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.spec.method import AdmmSettings, Schedule
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.methods.wanda import input_norms
from worker.pruning.runtime.numerics import all_finite, search_products

Scores = Callable[[Tensor], Tensor]
"""Of weights, (out, in), to a new tensor of the same shape, not negative; −∞ where a weight must not stay."""

CONVERGED = 1e-5
"""Conjugate gradient stops when its preconditioned residual is this part of the error. What is left to gain is at
most (1 + λ)/λ times that residual: a part in ten thousand."""


@dataclass(frozen=True)
class AdmmFactor:
    """What the matrices of one group share, in coordinates where every input has norm one.

    norms: n, (in,). gram: D⁻¹HD⁻¹ + λI, (in, in). inverse: (gram + ρI)⁻¹, None when masks are given and nothing
    is iterated. dead: inputs that were always zero.
    """

    norms: Tensor
    gram: Tensor
    inverse: Tensor | None
    dead: Tensor
    notes: dict[str, Any] = field(default_factory=dict)


def factorise(gram: Tensor, config: AdmmSettings, *, invert: bool = True) -> AdmmFactor:
    """Normalise, damp and invert a Gram, once for all matrices of a group.

    gram: Σ_domains XᵀX / tokens, (in, in), float32. Raises IllConditioned.
    """
    diagonal = gram.diagonal()
    norms = input_norms(diagonal)
    normal = gram / norms / norms.unsqueeze(1)

    def attempt(damping: float, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        damped = normal.to(dtype, copy=True)
        damped.diagonal().add_(damping * normal.diagonal().mean())
        ridged = damped.clone()
        ridged.diagonal().add_(config.rho)
        root = cholesky(ridged)
        if root is None:
            return None
        inverse = torch.cholesky_inverse(root).float() if invert else root
        return (damped.float(), inverse) if all_finite(inverse) else None

    (damped, inverse), notes = with_more_damping(gram, config.damping, attempt)
    return AdmmFactor(norms, damped, inverse if invert else None, diagonal == 0, notes)


def solve_admm(
    dense: Tensor,
    factor: AdmmFactor,
    selection: Selection,
    config: AdmmSettings,
    mask: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
    scores: Scores | None = None,
) -> Solution:
    """Weights under `selection` that keep the layer's output: min ‖X(W − W0)ᵀ‖² + λ‖(W − W0)D‖².

    dense: W0, (out, in), any float dtype. mask: chosen elsewhere (True = stays); None lets ADMM find it. On a
    given mask the minimum is unique and ADMM's steps only approach it, so conjugate gradient goes there directly,
    in a third of the products. check: called at every step, may raise. scores: by which the search looks for a
    mask; None takes ADMM's own, |W D|. Raises IllConditioned when the result is not finite.
    """
    v0 = dense.float() * factor.norms
    if mask is None:
        v, mask = _iterate(v0, factor, selection, config, check, scores)
        v = polish(v, v0, factor.gram, mask, config.polish_steps, check)
    else:
        v = polish(v0 * mask, v0, factor.gram, mask, config.iterations, check)
    weight = torch.where(mask, v / factor.norms, 0.0)
    if not all_finite(weight):
        raise IllConditioned("the ADMM solution is not finite")
    return Solution(weight, mask, dict(factor.notes))


def _iterate(
    v0: Tensor,
    factor: AdmmFactor,
    selection: Selection,
    config: AdmmSettings,
    check: Callable[[], None],
    scores: Scores | None,
) -> tuple[Tensor, Tensor]:
    """ADMM proper: (V + U) ⊙ mask and the mask after all iterations."""
    if (inverse := factor.inverse) is None:
        raise ValueError("finding a mask needs the inverse")
    g = v0 @ factor.gram
    wanted, u, lost = v0.clone(), torch.zeros_like(v0), torch.zeros_like(v0)
    mask = torch.ones_like(v0, dtype=torch.bool)
    for step in range(1, config.iterations + 1):
        check()
        if step <= config.mask_steps:
            found = wanted.abs() if scores is None else scores(wanted / factor.norms)
            mask = selection.mask(_below_all(found, factor.dead), _zeros(selection, config, step))
            # As numbers: products with them take a tenth of the time of filling by a mask.
            lost = (~mask).float()
        # V + U is Z where the mask is and the new U elsewhere, so that Z − U is (V + U) − 2U.
        torch.mul(wanted, lost, out=u)
        wanted.sub_(u, alpha=2).mul_(config.rho).add_(g)
        # (G + λI + ρI)⁻¹ has no eigenvalue above 1/(λ + ρ): it does not magnify what bfloat16 rounds away.
        with search_products():
            v = wanted @ inverse
        wanted = v.add_(u)
    return wanted * mask, mask


def _below_all(scores: Tensor, dead: Tensor) -> Tensor:
    """The scores, changed in place: those of dead inputs below all but −∞."""
    return scores.masked_fill_(dead & (scores > -1), -1.0) if bool(dead.any()) else scores


def _zeros(selection: Selection, config: AdmmSettings, step: int) -> int:
    """s_t of the schedule, as a number of zeros; exact at the last step that chooses a mask."""
    if config.schedule is Schedule.immediate or step >= config.mask_steps:
        return selection.zeros
    return int(selection.zeros * (1 - (1 - step / config.mask_steps) ** 3))


def polish(
    v: Tensor,
    v0: Tensor,
    gram: Tensor,
    mask: Tensor,
    steps: int,
    check: Callable[[], None] = lambda: None,
    *,
    converged: float = CONVERGED,
) -> Tensor:
    """Lower ‖v − v0‖²_gram on a fixed support by conjugate gradient, preconditioned by the diagonal, row by row.

    v, v0, mask: (out, in); gram: (in, in), positive definite. No row gets worse than it came: in exact arithmetic
    each step lowers the error, and a row that rounding made worse is put back. Ends early when there is nothing
    left to gain.
    """
    diagonal = gram.diagonal()
    # An input without energy or damping has nothing to gain, and must not divide by zero for its whole row.
    precondition = diagonal.reciprocal().masked_fill(diagonal <= 0, 0.0)
    lost = v0 - v
    residual = lost @ gram
    before = _dots(lost, residual)
    support = mask.float()
    residual *= support
    direction = residual * precondition
    product = _dots(residual, direction)
    floor = product * 1e-12
    error = float(before.sum())
    moved = v.clone()
    for _ in range(steps):
        check()
        if float(product.sum()) <= converged * error:
            break
        image = (direction @ gram).mul_(support)
        curvature = _dots(direction, image)
        rate = torch.where((curvature > 0) & (product > floor), product / curvature, 0.0)
        moved.addcmul_(rate, direction)
        error -= float((rate * product).sum())
        residual.addcmul_(rate, image, value=-1)
        scaled = residual * precondition
        new = _dots(residual, scaled)
        direction = scaled.addcmul_(torch.where(product > 0, new / product, 0.0), direction)
        product = new
    lost = torch.sub(v0, moved, out=lost)
    after = _dots(lost, lost @ gram)
    worse = (after > before).flatten().nonzero().flatten()
    moved[worse] = v[worse]
    return moved


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """Row by row, (out, 1)."""
    return (one * other).sum(dim=1, keepdim=True)
