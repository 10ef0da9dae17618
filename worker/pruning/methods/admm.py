"""ADMM: the best weights for a mask, and the mask found on the way (Boža 2024, arXiv 2401.02938, alg. 1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.spec.method import AdmmSettings, Schedule
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.masks import Selection, Solution, as_numbers, masked
from worker.pruning.methods.wanda import dead_inputs, input_norms
from worker.pruning.runtime.numerics import all_finite, search_products
from worker.pruning.runtime.waiting import shows_at_once

Scores = Callable[[Tensor], Tensor]
"""Of weights, (out, in), to a new tensor of the same shape, not negative; −∞ where a weight must not stay."""

CONVERGED = 1e-5
"""Conjugate gradient stops when its preconditioned residual is this part of the error. What is left to gain is at
most (1 + λ)/λ times that residual: a part in ten thousand."""


@dataclass(frozen=True)
class AdmmFactor:
    """What the matrices of one group share, in coordinates where every input has norm one.

    norms: n, (in,). gram: D⁻¹HD⁻¹ + λI, (in, in). inverse: (gram + ρI)⁻¹, None when masks are given and nothing
    is iterated. dead: inputs that were always zero, None where none was.
    """

    norms: Tensor
    gram: Tensor
    inverse: Tensor | None
    dead: Tensor | None
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
    return AdmmFactor(norms, damped, inverse if invert else None, dead_inputs(diagonal), notes)


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
        v = polish(v0 * as_numbers(mask), v0, factor.gram, mask, config.iterations, check)
    weight = masked(v / factor.norms, mask)
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
    """ADMM proper: (V + U) ⊙ mask and the mask after all iterations.

    A step's V = (V0 H + ρ(Z − U)) P, with P = (H + ρI)⁻¹, is V0 − ρ(V0 − Z + U) P, because H P = I − ρP. So V0 H
    is not needed, and what is multiplied, and rounded where products are, is only how far Z − U is from V0.
    """
    if (inverse := factor.inverse) is None:
        raise ValueError("finding a mask needs the inverse")
    wanted, u, lost = v0.clone(), torch.zeros_like(v0), torch.zeros_like(v0)
    mask = torch.ones_like(v0, dtype=torch.bool)
    for step in range(1, config.iterations + 1):
        check()
        if step <= config.mask_steps:
            found = wanted.abs() if scores is None else scores(wanted / factor.norms)
            mask = selection.mask(_below_all(found, factor.dead), _zeros(selection, config, step))
            # As numbers: products with them take a tenth of the time of filling by a mask.
            lost = as_numbers(~mask)
        # V + U is Z where the mask is and the new U elsewhere, so that Z − U is (V + U) − 2U.
        torch.mul(wanted, lost, out=u)
        away = torch.sub(v0, wanted.sub_(u, alpha=2), out=wanted)
        # (H + ρI)⁻¹ has no eigenvalue above 1/(λ + ρ): it does not magnify what bfloat16 rounds away.
        with search_products():
            u.addmm_(away, inverse, alpha=-config.rho)
        wanted, u = u.add_(v0), away
    return wanted * as_numbers(mask), mask


def _below_all(scores: Tensor, dead: Tensor | None) -> Tensor:
    """The scores, changed in place: those of dead inputs below all but −∞."""
    return scores if dead is None else scores.masked_fill_(dead & (scores > -1), -1.0)


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
    each step lowers the error, and a row that rounding made worse is put back. When there is nothing left to gain
    nothing moves any more, and on a CPU, where looking costs nothing, the steps end.
    """
    diagonal = gram.diagonal()
    # An input without energy or damping has nothing to gain, and must not divide by zero for its whole row.
    precondition = diagonal.reciprocal().masked_fill(diagonal <= 0, 0.0)
    lost = v0 - v
    residual = lost @ gram
    before = _dots(lost, residual)
    del lost
    support = as_numbers(mask)
    residual *= support
    direction = residual * precondition
    product = _dots(residual, direction)
    floor = product * 1e-12
    error = before.sum().double()
    settled = torch.zeros_like(error, dtype=torch.bool)
    moved = v.clone()
    for _ in range(steps):
        check()
        settled |= product.sum().double() <= converged * error
        if shows_at_once(settled) and bool(settled):
            break
        image = (direction @ gram).mul_(support)
        curvature = _dots(direction, image)
        rate = torch.where((curvature > 0) & (product > floor) & ~settled, product / curvature, 0.0)
        moved.addcmul_(rate, direction)
        error -= (rate * product).sum().double()
        residual.addcmul_(rate, image, value=-1)
        del image
        scaled = residual * precondition
        new = _dots(residual, scaled)
        direction = scaled.addcmul_(torch.where(product > 0, new / product, 0.0), direction)
        product = new
    lost = torch.sub(v0, moved, out=residual)
    after = _dots(lost, lost @ gram)
    worse = after > before
    if shows_at_once(worse):  # as a rule there are none
        rows = worse.flatten().nonzero().flatten()
        moved[rows] = v[rows]
        return moved
    return torch.where(worse, v, moved)


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """Row by row, (out, 1)."""
    return (one * other).sum(dim=1, keepdim=True)
