"""How the loss rises with each matrix's sparsity, and the rates at which it rises least in all.

When the weight w of row i and column j goes, the loss rises by about ½ · F_i · w² · d_j. F_i = E (∂loss/∂z_i)²
stands for the second derivative by output i (Fisher), d_j for the curvature along input j, the other weights of
the row being free to adapt (1/[H⁻¹]_jj, as in Optimal Brain Surgeon) or not (H_jj). Rows and columns are taken as
independent, and the weights' losses as additive: good for sharing out, not for predicting.
"""

import numpy
import torch
from torch import Tensor

from worker.pruning.methods.lowest import PIECE
from worker.pruning.runtime.waiting import either, shows_at_once

POINTS = 100
"""A curve has a value at every hundredth of sparsity."""
HIGHEST = 98
"""No matrix is emptied: the part of it, in hundredths, that can be taken while there is another way."""

FLOOR = 0.3
"""No output counts less than this part of its matrix's mean.

A head that rests on the first token for every other one has a saturated softmax, hence no gradient, yet the model
depends on its staying there: by its gradient alone it would be emptied, and the model with it.
"""


def loss_scores(dense: Tensor, outputs: Tensor, curvature: Tensor) -> Tensor:
    """½ F_i w² d_j, (out, in). dense: W0, (out, in); outputs: F, (out,), see `floored`; curvature: d, (in,)."""
    return 0.5 * floored(outputs).unsqueeze(1) * dense.square() * curvature


def output_weights(outputs: Tensor, *, squared: bool) -> Tensor:
    """What makes scores of different rows comparable, (out,): √F, or F where scores are squares; F relative to its
    mean, see `floored`. outputs: F, (out,)."""
    relative = floored(outputs / outputs.mean().clamp_min(torch.finfo(outputs.dtype).tiny))
    # Without any gradient in the whole matrix every row counts the same.
    relative = either(relative.any(), relative, torch.ones_like(relative))
    return relative if squared else relative.sqrt()


def floored(outputs: Tensor) -> Tensor:
    """F with nothing below FLOOR times its mean. outputs: F, (out,)."""
    return outputs.clamp_min(FLOOR * outputs.mean())


def loss_curve(scores: Tensor) -> Tensor:
    """Sum of the lowest 0, 1, … 100 hundredths of the scores, (POINTS + 1,), float32, on the CPU. scores: not
    negative."""
    flat = scores.detach().float().flatten()
    places = numpy.rint(numpy.linspace(0, flat.numel(), POINTS + 1)).astype(numpy.int64)
    parts = _sums(flat, places) if shows_at_once(flat) else _sums_on_device(flat, places)
    return torch.from_numpy(numpy.concatenate([[0.0], parts.cumsum()]).astype(numpy.float32))


def _sums(flat: Tensor, places: numpy.ndarray) -> numpy.ndarray:
    """Of the scores in order, between each place and the next."""
    values = numpy.sort(flat.numpy())
    # Part by part: the running sum of all scores would take four times their memory.
    parts = numpy.add.reduceat(values, numpy.minimum(places[:-1], values.size - 1), dtype=numpy.float64)
    parts[places[1:] == places[:-1]] = 0.0  # where reduceat gives the next score instead
    return parts


def _sums_on_device(flat: Tensor, places: numpy.ndarray) -> numpy.ndarray:
    """The same on a GPU. A running sum would add up in another order every time."""
    values = flat.sort().values
    starts, ends = torch.from_numpy(numpy.stack([places[:-1], places[1:]])).to(flat.device).unsqueeze(2)
    most = int(numpy.diff(places).max())
    parts = []
    step = max(PIECE // most, 1)
    for first in range(0, POINTS, step):
        rows = slice(first, first + step)
        place = starts[rows] + torch.arange(most, device=flat.device)
        there = place < ends[rows]
        parts.append(values[place.clamp_max_(len(values) - 1)].mul_(there).sum(dim=1, dtype=torch.float64))
    return torch.cat(parts).cpu().numpy()


def share_out(curves: dict[str, Tensor], weights: dict[str, int], zeros: float) -> dict[str, float]:
    """Rates by matrix with Σ rate · weights = zeros and the least sum of losses.

    The curves are convex, so the steps are taken in the order of their slopes. zeros: at most Σ weights.
    """
    names = sorted(curves)
    counts = numpy.array([weights[name] for name in names], dtype=numpy.float64) / POINTS
    heights = torch.stack([curves[name] for name in names]).double().numpy()
    slopes = numpy.diff(heights, axis=1) / counts[:, None]
    slopes[:, HIGHEST:] += slopes.max() + 1.0  # the last steps of every matrix come after all others
    order = numpy.argsort(slopes, axis=None, kind="stable")
    steps = numpy.repeat(counts, POINTS)[order]
    before = numpy.cumsum(steps) - steps
    taken = numpy.zeros_like(steps)
    taken[order] = numpy.clip(zeros - before, 0.0, steps)
    rates = taken.reshape(len(names), POINTS).sum(axis=1) / (counts * POINTS)
    return {name: float(rate) for name, rate in zip(names, rates, strict=True)}
