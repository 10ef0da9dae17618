"""ALPS: ADMM whose penalty grows as the support settles (Meng et al. 2024, arXiv 2406.07831, alg. 1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.spec.method import AlpsSettings
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.admm import polish
from worker.pruning.methods.damping import with_more_damping
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.methods.wanda import input_norms
from worker.pruning.runtime.numerics import all_finite

GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""ρ grows by the factor beside the first share of the kept weights that moved in or out since the last look."""
SETTLED = 0.005
"""Until at least this share moved at once, ρ is too large for the support to move at all."""
CALM = (30, 0.0003)
"""After so many steps, less movement than this share ends the search."""
RHO_RANGE = (1e-5, 1e6)
STRIPS = 4


@dataclass(frozen=True)
class AlpsFactor:
    """What the matrices of one group share, in coordinates where every input has norm one.

    norms: (in,). gram: D⁻¹(H + λI)D⁻¹ = Q diag(values) Qᵀ, (in, in). vectors: Q. dead: inputs always zero.
    """

    norms: Tensor
    gram: Tensor
    values: Tensor
    vectors: Tensor
    dead: Tensor
    notes: dict[str, Any] = field(default_factory=dict)

    def inverse(self, rho: float) -> Tensor:
        """(gram + ρI)⁻¹ from the eigendecomposition. It is symmetric: only its upper strips are multiplied."""
        scaled = self.vectors * (self.values + rho).rsqrt()
        width = len(scaled)
        found = torch.empty_like(scaled)
        strip = -(-width // STRIPS)
        for start in range(0, width, strip):
            rows, rest = slice(start, start + strip), slice(start + strip, None)
            found[rows, start:] = scaled[rows] @ scaled[start:].T
            found[rest, rows] = found[rows, rest].T
        return found


def factorise(gram: Tensor, config: AlpsSettings) -> AlpsFactor:
    """Damp, normalise and decompose a Gram, once for all matrices of a group and for every ρ.

    gram: Σ_domains XᵀX / tokens, (in, in), float32. Raises IllConditioned when no damping makes it definite.
    """
    dead = gram.diagonal() == 0
    mean = gram.diagonal().mean() if not bool(dead.all()) else gram.new_ones(())

    def attempt(damping: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        damped = gram.to(dtype) + damping * mean * torch.eye(len(gram), device=gram.device, dtype=dtype)
        norms = input_norms(damped.diagonal())
        normal = damped / norms / norms.unsqueeze(1)
        try:
            values, vectors = torch.linalg.eigh(normal)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # RuntimeError would hide a full memory
            return None
        found = tuple(part.float() for part in (norms, normal, values, vectors))
        fine = all(map(all_finite, found)) and bool((found[2] > 0).all())
        return found if fine else None  # type: ignore[return-value]

    found, notes = with_more_damping(gram, config.damping, attempt)
    return AlpsFactor(*found, dead, notes)


def solve_alps(
    dense: Tensor,
    factor: AlpsFactor,
    selection: Selection,
    config: AlpsSettings,
    check: Callable[[], None] = lambda: None,
) -> Solution:
    """Weights under `selection` that keep the layer's output: min ‖X(W − W0)ᵀ‖² + λ‖W − W0‖².

    dense: W0, (out, in), any float dtype. Never worse than Wanda's mask with the dense weights, from which the
    search starts. check: called at every step, may raise. Raises IllConditioned when the
    result is not finite.
    """
    v0 = dense.float() * factor.norms
    v, notes = _search(v0, factor, selection, config, check)
    mask = selection.mask(_scores(v, factor.dead))
    v = polish(v * mask, v0, factor.gram, mask, config.polish_steps, check)
    start = selection.mask(_scores(v0, factor.dead))
    # Where inputs hardly correlate the search can lead away from an optimum that it began with.
    if _error(v0 * start, v0, factor.gram) < _error(v, v0, factor.gram):
        mask, notes = start, notes | {"kept": "the mask the search started from"}
        v = polish(v0 * mask, v0, factor.gram, mask, config.polish_steps, check)
    weight = torch.where(mask, v / factor.norms, 0.0)
    if not all_finite(weight):
        raise IllConditioned("the ALPS solution is not finite")
    return Solution(weight, mask, {**factor.notes, **notes})


def _search(
    v0: Tensor, factor: AlpsFactor, selection: Selection, config: AlpsSettings, check: Callable[[], None]
) -> tuple[Tensor, dict[str, Any]]:
    """ADMM with growing ρ: the weights before the last projection, and the steps taken and ρ reached."""
    g, rho, moving = v0 @ factor.gram, config.rho, False
    before = start = selection.mask(_scores(v0, factor.dead))
    v, z, u, inverse = v0, v0 * start, torch.zeros_like(v0), factor.inverse(config.rho)
    step = 0
    for step in range(1, config.max_steps + 1):
        check()
        v = (g + rho * (z - u)) @ inverse
        wanted = v + u
        mask = selection.mask(_scores(wanted, factor.dead))
        z = wanted * mask
        u = wanted - z
        if step % config.update_every:
            continue
        moved = int((mask != before).sum()) / max(int(mask.sum()), 1)
        before, moving = mask, moving or moved >= SETTLED
        if _finished(step, moved, rho, moving):
            break
        if moving:
            rho, u = _grown(rho, u, moved)
        else:
            rho, z, u, before = rho / 5, v0 * start, torch.zeros_like(v0), start
        inverse = factor.inverse(rho)
    return v, {"steps": step, "rho": rho}


def _grown(rho: float, u: Tensor, moved: float) -> tuple[float, Tensor]:
    """ρ and the scaled dual once the share `moved` of the kept weights has changed."""
    factor_by = next(by for share, by in GROWTH if moved >= share)
    grown = min(rho * factor_by, RHO_RANGE[1])
    # The dual is ρu: it stays what it is, so its scaled form shrinks.
    return grown, u / (grown / rho)


def _finished(step: int, moved: float, rho: float, moving: bool) -> bool:
    """Nothing moves any more, or ρ has become as small as makes sense and nothing ever did."""
    if not moving:
        return rho / 5 < RHO_RANGE[0]
    return moved == 0 or (step > CALM[0] and moved < CALM[1])


def _error(v: Tensor, v0: Tensor, gram: Tensor) -> float:
    return float((((v - v0) @ gram) * (v - v0)).sum(dtype=torch.float64))


def _scores(values: Tensor, dead: Tensor) -> Tensor:
    """|v|, below everything for dead inputs."""
    return values.abs().masked_fill(dead, -1.0)
