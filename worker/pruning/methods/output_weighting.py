"""Outputs of a matrix weighed by what they mean for the loss, together: what one output loses another may make up
for, if the loss's gradients by both go together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from worker.pruning.allocation.curves import floored
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.admm import AdmmFactor
from worker.pruning.methods.masks import as_numbers, masked
from worker.pruning.runtime.numerics import all_finite, search_products
from worker.pruning.runtime.waiting import add_scaled, either, settled, shows_at_once

WIDEST: Final = 512
"""Outputs that are weighed together at the most; a wider matrix has as many equal parts as it takes."""
TOGETHER: Final = 0.7
"""How much of the metric is that of the gradients; the rest counts every output by itself, none below a floor."""
STEPS: Final = 8
"""Of conjugate gradients; thirty were no better."""


@dataclass(frozen=True)
class OutputMetric:
    """How the outputs of one matrix are weighed.

    grams: E g gᵀ of the loss's gradients g by the outputs of each part (see `parts`), on any scale. held_out: the
    Gram of the inputs in the windows held out, (in, in), None without any.
    """

    grams: Sequence[Tensor]
    held_out: Tensor | None = None


def parts(rows: int) -> list[slice]:
    """The outputs that are weighed together."""
    count = -(-rows // WIDEST)
    edges = [rows * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]


def metric(gram: Tensor) -> Tensor:
    """G' = 0.7 · G / mean diag G + 0.3 · diag(floored diag G) / mean diag G, (out, out); the identity without
    gradients."""
    outputs = gram.diagonal()
    mean = outputs.mean().double()
    found = gram * (TOGETHER / mean)
    found.diagonal().add_(floored(outputs) * ((1 - TOGETHER) / mean))
    return either(mean > 0, found, torch.eye(len(gram), device=gram.device))


def weigh_outputs(
    weight: Tensor,
    towards: Tensor,
    factor: AdmmFactor,
    mask: Tensor,
    outputs: OutputMetric,
    check: Callable[[], None] = lambda: None,
) -> tuple[Tensor, dict[str, Any]]:
    """The weights on `mask` after some steps from `weight` down tr(G'(W − W0)H(W − W0)ᵀ), never up, and the notes.

    weight, towards: W and W0, (out, in), float32. Notes: the part of that error which is gone (`gained`) on the
    windows solved on, with the factor's ridge, and on those `held_out`; a damping that was raised. Raises
    IllConditioned.
    """
    moved = torch.empty_like(weight)
    errors = torch.zeros((2, 2), dtype=torch.float64, device=weight.device)  # before and after, of either Gram
    for rows, gram in zip(parts(len(weight)), outputs.grams, strict=True):
        own, target = weight[rows], towards[rows].float()
        weighed = metric(gram)
        v, change = descend(own * factor.norms, target * factor.norms, factor.gram, mask[rows], weighed, check)
        moved[rows] = masked(v / factor.norms, mask[rows])
        errors[:, 0] += change
        if outputs.held_out is not None:
            errors[0, 1] += _error(own - target, outputs.held_out, weighed)
            errors[1, 1] += _error(moved[rows] - target, outputs.held_out, weighed)
    if not all_finite(moved):
        raise IllConditioned("the solution with weighed outputs is not finite")
    gained = [1 - end / start if start > 0 else 0.0 for start, end in settled(errors).T.tolist()]
    notes = {"gained": gained[0], "held_out": None if outputs.held_out is None else gained[1]}
    return moved, notes | factor.notes


def weighed_error(weight: Tensor, towards: Tensor, outputs: OutputMetric) -> float | None:
    """tr(G'(W − W0)H(W − W0)ᵀ) / tr(G'W0 H W0ᵀ) on the windows held out; None where that is divided by zero.

    weight, towards: W and W0, (out, in), float32.
    """
    assert outputs.held_out is not None  # noqa: S101 - for the type checker
    sums = torch.zeros(2, dtype=torch.float64, device=weight.device)
    for rows, gram in zip(parts(len(weight)), outputs.grams, strict=True):
        weighed = metric(gram)
        sums[0] += _error(weight[rows] - towards[rows], outputs.held_out, weighed)
        sums[1] += _error(towards[rows], outputs.held_out, weighed)
    lost, whole = settled(sums).tolist()
    return lost / whole if whole > 0 else None


def descend(
    v: Tensor,
    v0: Tensor,
    gram: Tensor,
    mask: Tensor,
    weighed: Tensor,
    check: Callable[[], None] = lambda: None,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Lower tr(G'(V − V0)H(V − V0)ᵀ) on a fixed support by conjugate gradients, preconditioned by both diagonals.

    v, v0, mask: (out, in); gram: H, (in, in), and weighed: G', (out, out), positive definite. Steps may be
    rounded, errors are not: what rounding made worse is given back as it came. Returns V, and that error before
    and after, (2,), float64.
    """
    support = as_numbers(mask)
    diagonal = torch.outer(weighed.diagonal(), gram.diagonal())
    precondition = diagonal.reciprocal().masked_fill_(diagonal <= 0, 0.0).mul_(support)
    missing = v0 - v
    residual = weighed @ (missing @ gram)
    before = _dot(missing, residual).clamp_min(0.0)
    residual.mul_(support)
    direction = residual * precondition
    product = _dot(residual, direction)
    found = v.clone()
    going = torch.ones_like(product, dtype=torch.bool)
    for _ in range(steps):
        check()
        with search_products():
            image = (weighed @ (direction @ gram)).mul_(support)
        bend = _dot(direction, image)
        going = going & (product > 0) & (bend > 0)
        if shows_at_once(going) and not bool(going):
            break
        rate = torch.where(going, product / bend, 0.0)
        add_scaled(found, direction, rate)
        add_scaled(residual, image, -rate)
        scaled = residual * precondition
        new = _dot(residual, scaled)
        add_scaled(scaled, direction, torch.where(going, new / product, 0.0))
        direction, product = scaled, new
    after = _error(found - v0, gram, weighed)
    better = after < before
    return either(better, found, v), torch.stack([before, torch.where(better, after, before)])


def _error(lost: Tensor, gram: Tensor, weighed: Tensor) -> Tensor:
    """tr(G' L H Lᵀ). lost: L, (out, in)."""
    return _dot(weighed @ lost, lost @ gram).clamp_min(0.0)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Of no dimension, float64."""
    return (one * other).sum(dim=0).double().sum()
