"""ADMM: the best weights for a mask, and the mask found on the way (Boža 2024, arXiv 2401.02938, alg. 1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.pruning.errors import IllConditioned
from worker.pruning.methods.solution import Solution
from worker.pruning.methods.wanda import input_norms
from worker.pruning.patterns import Selection
from worker.pruning.spec import AdmmConfig, Schedule


@dataclass(frozen=True)
class Factor:
    """What the matrices of one group share, in coordinates where every input has norm one.

    norms: n, (in,). gram: D⁻¹HD⁻¹ + λI, (in, in). inverse: (gram + ρI)⁻¹. dead: inputs that were always zero.
    """

    norms: Tensor
    gram: Tensor
    inverse: Tensor
    dead: Tensor
    notes: dict[str, Any] = field(default_factory=dict)


def factorise(gram: Tensor, config: AdmmConfig) -> Factor:
    """Normalise, damp and invert a Gram, once for all matrices of a group.

    gram: Σ_domains XᵀX / tokens, (in, in), float32. A Cholesky that fails is tried with ten times the damping,
    then in float64; each rung is in the notes. Raises IllConditioned when none succeeds.
    """
    if not bool(torch.isfinite(gram).all()):
        raise IllConditioned("the Gram matrix is not finite")
    diagonal = gram.diagonal()
    norms = input_norms(diagonal)
    normal = gram / norms / norms.unsqueeze(1)
    stronger = config.damping * 10 or 0.01
    for damping, dtype in ((config.damping, torch.float32), (stronger, torch.float32), (stronger, torch.float64)):
        eye = torch.eye(len(norms), device=gram.device, dtype=dtype)
        damped = normal.to(dtype) + damping * normal.diagonal().mean() * eye
        root, failed = torch.linalg.cholesky_ex(damped + config.rho * eye)
        if int(failed) == 0:
            inverse = torch.cholesky_inverse(root).float()
            if bool(torch.isfinite(inverse).all()):
                notes: dict[str, Any] = {}
                if damping != config.damping:
                    notes = {"damping": damping, "precision": str(dtype).removeprefix("torch.")}
                return Factor(norms, damped.float(), inverse, diagonal == 0, notes)
    raise IllConditioned(f"the Gram matrix is not positive definite, even with damping {stronger} in float64")


def solve_admm(
    dense: Tensor,
    factor: Factor,
    selection: Selection,
    config: AdmmConfig,
    mask: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> Solution:
    """Weights under `selection` that keep the layer's output: min ‖X(W − W0)ᵀ‖² + λ‖(W − W0)D‖².

    dense: W0, (out, in), any float dtype. mask: chosen elsewhere (True = stays); None lets ADMM find it.
    check: called at every step, may raise. Raises IllConditioned when the result is not finite.
    """
    v0 = dense.float() * factor.norms
    g = v0 @ factor.gram
    u, v = torch.zeros_like(v0), v0
    found = mask
    for step in range(1, config.iterations + 1):
        check()
        wanted = v + u
        if mask is None and step <= config.mask_steps:
            found = selection.mask(_scores(wanted, factor.dead), _zeros(selection, config, step))
        assert found is not None  # noqa: S101 - mask_steps ≥ 1
        z = wanted * found
        u = wanted - z
        v = (g + config.rho * (z - u)) @ factor.inverse
    assert found is not None  # noqa: S101 - iterations ≥ 1
    z = (v + u) * found
    polished = polish(z, v0, factor.gram, found, config.polish_steps, check)
    weight = torch.where(found, polished / factor.norms, 0.0)
    if not bool(torch.isfinite(weight).all()):
        raise IllConditioned("the ADMM solution is not finite")
    return Solution(weight, found, dict(factor.notes))


def _scores(wanted: Tensor, dead: Tensor) -> Tensor:
    """|V+U|, below everything for dead inputs."""
    return wanted.abs().masked_fill(dead, -1.0)


def _zeros(selection: Selection, config: AdmmConfig, step: int) -> int:
    """s_t of the schedule, as a number of zeros; exact at the last step that chooses a mask."""
    if config.schedule is Schedule.immediate or step >= config.mask_steps:
        return selection.zeros
    return int(selection.zeros * (1 - (1 - step / config.mask_steps) ** 3))


def polish(
    v: Tensor, v0: Tensor, gram: Tensor, mask: Tensor, steps: int, check: Callable[[], None] = lambda: None
) -> Tensor:
    """Lower ‖v − v0‖²_gram on a fixed support by conjugate gradient, preconditioned by the diagonal, row by row.

    v, v0, mask: (out, in); gram: (in, in), positive definite. No row gets worse than it came: in exact arithmetic
    each step lowers the error, and a row that rounding made worse is put back.
    """
    start, diagonal = v, gram.diagonal()
    residual = ((v0 - v) @ gram) * mask
    direction = residual / diagonal
    product = (residual * direction).sum(dim=1, keepdim=True)
    floor = product * 1e-12
    for _ in range(steps):
        check()
        moved = (direction @ gram) * mask
        curvature = (direction * moved).sum(dim=1, keepdim=True)
        rate = torch.where(curvature > 0, product / curvature, 0.0)
        rate = torch.where(product > floor, rate, 0.0)
        v = v + rate * direction
        residual = residual - rate * moved
        scaled = residual / diagonal
        new = (residual * scaled).sum(dim=1, keepdim=True)
        direction = scaled + torch.where(product > 0, new / product, 0.0) * direction
        product = new
    better = _energy(v - v0, gram) <= _energy(start - v0, gram)
    return torch.where(better, v, start)


def _energy(difference: Tensor, gram: Tensor) -> Tensor:
    return ((difference @ gram) * difference).sum(dim=1, keepdim=True)
