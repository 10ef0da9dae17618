"""A few numbers that stand for a matrix of sensitivities."""

import math
from typing import Final

import numpy
import torch
from torch import Tensor

from secateur.spec.method import Method
from secateur.spec.records.history import QUANTILES, Basis, SensitivitySummary
from worker.pruning.methods import registry as methods
from worker.pruning.methods.lowest import SORTED, kth_lowest
from worker.pruning.runtime.waiting import settled, shows_at_once

BINS = 20


def summaries_of(
    method: Method, matrix: str, dense: Tensor, scores: Tensor, alone: methods.Group | None
) -> list[SensitivitySummary]:
    """Of the scores that a matrix's mask was chosen by, and of those that the stage's own domain alone gives it.

    dense, scores: (out, in). alone: of that domain, as `methods.prepare_alone` makes it; None where it is what the
    sums are. Raises IllConditioned.
    """
    accumulated = summarise(matrix, scores)
    if alone is None or not method.scores_inputs:  # the very same scores
        return [accumulated, accumulated.model_copy(update={"basis": Basis.domain})]
    own = methods.scores_alone(method, matrix, dense, alone)
    return [accumulated, summarise(matrix, own, Basis.domain)]


def summarise(matrix: str, scores: Tensor, basis: Basis = Basis.accumulated) -> SensitivitySummary:
    """Mean, quantiles (the value at rank ⌈q·n⌉), total and a histogram over the scores' powers of ten.

    scores: (out, in), not negative. Scores of zero are counted in the first bin.
    """
    values = scores.detach().float().flatten()
    order = _Sorted(values) if shows_at_once(values) else _OnDevice(values)
    edges = numpy.linspace(*_range(order.positive), BINS + 1)
    # A bin has its lower edge; the ends belong to the end bins, whatever rounding says.
    inner = order.below((10.0 ** edges[1:-1]).astype(numpy.float32))
    counts = numpy.diff([0, *inner, values.numel()])
    return SensitivitySummary(
        matrix=matrix,
        basis=basis,
        mean=order.total / values.numel(),
        quantiles={str(quantile): value for quantile, value in zip(QUANTILES, order.quantiles, strict=True)},
        histogram={"scale": "log10", "edges": edges.tolist(), "counts": counts.tolist()},
        total=order.total,
    )


def _range(positive: tuple[float, float] | None) -> tuple[float, float]:
    """Powers of ten from the lowest to the highest score that is not zero."""
    low, high = (-1.0, 0.0) if positive is None else (math.log10(positive[0]), math.log10(positive[1]))
    return (low - 0.5, high + 0.5) if high - low < 1e-6 else (low, high)


def _rank(quantile: float, size: int) -> int:
    """From one."""
    return max(math.ceil(quantile * size), 1)


class _Sorted:
    """What a summary asks of scores, on a CPU: sorted once, nothing need be counted, which takes a fifth
    of the time of a histogram. positive: the lowest and highest that are not zero."""

    def __init__(self, values: Tensor) -> None:
        own = values.numpy()
        self._ordered = numpy.sort(own)
        self.total = float(own.sum(dtype=numpy.float64))
        self.quantiles = [float(self._ordered[_rank(quantile, own.size) - 1]) for quantile in QUANTILES]
        first = int(numpy.searchsorted(self._ordered, numpy.float32(0), side="right"))
        found = self._ordered[first:]
        self.positive = (float(found[0]), float(found[-1])) if found.size else None

    def below(self, edges: numpy.ndarray) -> list[int]:
        """How many are lower than each edge."""
        found: list[int] = numpy.searchsorted(self._ordered, edges).tolist()
        return found


class _OnDevice:
    """The same where scores are on a GPU: two small answers come to the host."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        ranks = [_rank(quantile, values.numel()) for quantile in QUANTILES]
        ends = torch.stack([torch.where(values > 0, values, torch.inf).amin(), values.amax()])
        total = values.sum(dtype=torch.float64).view(1)
        self.total, low, high, *self.quantiles = settled(
            torch.cat([total, ends, kth_lowest(values, *ranks)])
        ).tolist()
        self.positive = (low, high) if high > 0 else None

    def below(self, edges: numpy.ndarray) -> list[int]:
        if self._values.numel() <= SORTED:
            counts = torch.searchsorted(
                self._values.sort().values, torch.from_numpy(edges).to(self._values.device)
            )
        else:
            counts = torch.stack([(self._values < float(edge)).sum() for edge in edges])
        found: list[int] = settled(counts).tolist()
        return found


PRECISE: Final = 0.99
"""Share of a matrix's scores that float16 must hold with its full eleven bits to be taken."""


def keepable(scores: Tensor, *, transposed: bool) -> Tensor:
    """A matrix's scores as they are kept: in the checkpoint's orientation, on the CPU, in float16 where that fits.

    scores: (out, in), finite, not negative. float16 fits where no score is too large for it and at most one in
    a hundred is too small for its normal numbers (6.1e-5; such scores keep an error of 3e-8); float32 elsewhere.
    """
    kept = (scores.T if transposed else scores).float()
    half = torch.finfo(torch.float16)
    small, most = settled(
        torch.stack([((kept > 0) & (kept < half.tiny)).sum().double(), kept.max().double()])
    ).tolist()
    if most <= half.max and small <= (1 - PRECISE) * kept.numel():
        kept = kept.half()
    return kept.contiguous().cpu()
