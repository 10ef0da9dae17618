"""ALPS: ADMM whose penalty grows as the support settles (Meng et al. 2024, arXiv 2406.07831, alg. 1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from secateur.spec.method import AlpsSettings
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.admm import polish
from worker.pruning.methods.damping import with_more_damping
from worker.pruning.methods.masks import Selection, Solution, as_numbers, masked
from worker.pruning.methods.wanda import dead_inputs, input_norms
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.waiting import either, settled, shows_at_once

GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""ρ grows by the factor beside the first share of the kept weights that moved in or out since the last look."""
SETTLED = 0.005
"""Until at least this share moved at once, ρ is too large for the support to move at all."""
CALM = (30, 0.0003)
"""After so many steps, less movement than this share ends the search."""
LOOKS: Final = 4
"""On a GPU the host asks at every fourth look whether the search is at its end: to ask is to wait for all that is
queued, and what has come to its end stays as it is."""
RHO_RANGE = (1e-5, 1e6)
STRIPS = 4


@dataclass(frozen=True)
class AlpsFactor:
    """What the matrices of one group share, in coordinates where every input has norm one.

    norms: (in,). gram: D⁻¹(H + λI)D⁻¹ = Q diag(values) Qᵀ, (in, in). vectors: Q. dead: inputs always
    zero, None where none is.
    """

    norms: Tensor
    gram: Tensor
    values: Tensor
    vectors: Tensor
    dead: Tensor | None
    notes: dict[str, Any] = field(default_factory=dict)

    def inverse(self, rho: Tensor | float) -> Tensor:
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
    dead = dead_inputs(gram.diagonal())
    mean = gram.diagonal().mean()
    mean = torch.where(mean > 0, mean, 1.0)

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
    v = polish(v * as_numbers(mask), v0, factor.gram, mask, config.polish_steps, check)
    start = selection.mask(_scores(v0, factor.dead))
    # Where inputs hardly correlate the search can lead away from an optimum that it began with.
    if bool(settled(_error(v0 * start, v0, factor.gram) < _error(v, v0, factor.gram))):
        mask, notes = start, notes | {"kept": "the mask the search started from"}
        v = polish(v0 * mask, v0, factor.gram, mask, config.polish_steps, check)
    weight = masked(v / factor.norms, mask)
    if not all_finite(weight):
        raise IllConditioned("the ALPS solution is not finite")
    return Solution(weight, mask, {**factor.notes, **notes})


def _search(
    v0: Tensor, factor: AlpsFactor, selection: Selection, config: AlpsSettings, check: Callable[[], None]
) -> tuple[Tensor, dict[str, Any]]:
    """ADMM with growing ρ: the weights before the last projection, and the steps taken and ρ reached."""
    g, start = v0 @ factor.gram, selection.mask(_scores(v0, factor.dead))
    anew, before = v0 * start, start
    rho = torch.full((), config.rho, dtype=torch.float64, device=v0.device)
    found, v, z, u, inverse = v0, v0, anew, torch.zeros_like(v0), factor.inverse(rho)
    moving, ended = torch.zeros_like(rho, dtype=torch.bool), torch.zeros_like(rho, dtype=torch.bool)
    steps = torch.full_like(rho, config.max_steps)
    for step in range(1, config.max_steps + 1):
        check()
        v = (g + rho * (z - u)) @ inverse
        wanted = v + u
        mask = selection.mask(_scores(wanted, factor.dead))
        z = wanted * as_numbers(mask)
        u = wanted.sub_(z)
        if step % config.update_every:
            continue
        moved = torch.count_nonzero(mask != before).double() / torch.count_nonzero(mask).clamp_min(1)
        moving = moving | (moved >= SETTLED)
        ending = _finished(step, moved, rho, moving)
        found, steps = either(ended, found, v), torch.where(ending & ~ended, float(step), steps)
        ended = ended | ending
        if (shows_at_once(ended) or step % (LOOKS * config.update_every) == 0) and bool(settled(ended)):
            break
        larger, less = _grown(rho, u, moved)
        rho = torch.where(ended, rho, torch.where(moving, larger, rho / 5))
        z, before = either(moving, z, anew), either(moving, mask, start)
        u = either(moving, less, u.new_zeros(()))
        del less
        inverse = factor.inverse(rho)
    taken, reached = settled(torch.stack([steps, rho])).tolist()
    return either(ended, found, v), {"steps": int(taken), "rho": reached}


def _grown(rho: Tensor, u: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """ρ and the scaled dual once the share `moved` of the kept weights has changed. rho, moved: float64, no
    dimension."""
    growth = torch.full_like(rho, GROWTH[-1][1])
    for share, by in reversed(GROWTH[:-1]):
        growth = torch.where(moved >= share, by, growth)
    grown = (rho * growth).clamp_max(RHO_RANGE[1])
    # The dual is ρu: it stays what it is, so its scaled form shrinks.
    return grown, u / (grown / rho)


def _finished(step: int, moved: Tensor, rho: Tensor, moving: Tensor) -> Tensor:
    """Nothing moves any more, or ρ has become as small as makes sense and nothing ever did."""
    calm = moved < CALM[1] if step > CALM[0] else moved == 0
    return torch.where(moving, calm, rho / 5 < RHO_RANGE[0])


def _error(v: Tensor, v0: Tensor, gram: Tensor) -> Tensor:
    return (((v - v0) @ gram) * (v - v0)).sum(dtype=torch.float64)


def _scores(values: Tensor, dead: Tensor | None) -> Tensor:
    """|v|, below everything for dead inputs."""
    found = values.abs()
    return found if dead is None else found.masked_fill_(dead, -1.0)
