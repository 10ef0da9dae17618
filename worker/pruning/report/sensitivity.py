"""A few numbers that stand for a matrix of sensitivities."""

import math
from typing import Final

import numpy
import torch
from torch import Tensor

from secateur.spec.method import Method
from secateur.spec.records.history import QUANTILES, Basis, SensitivitySummary
from worker.pruning.methods import registry as methods

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
    values = scores.detach().float().cpu().numpy().ravel()
    # Sorted once, quantiles and bins are found and nothing is counted: a fifth of the time of a histogram.
    ordered = numpy.sort(values)
    ranks = {str(quantile): max(math.ceil(quantile * values.size) - 1, 0) for quantile in QUANTILES}
    total = float(values.sum(dtype=numpy.float64))
    return SensitivitySummary(
        matrix=matrix,
        basis=basis,
        mean=total / values.size,
        quantiles={quantile: float(ordered[rank]) for quantile, rank in ranks.items()},
        histogram=_histogram(ordered),
        total=total,
    )


def _histogram(ordered: numpy.ndarray) -> dict[str, object]:
    positive = ordered[numpy.searchsorted(ordered, numpy.float32(0), side="right") :]
    low, high = -1.0, 0.0
    if positive.size:
        low, high = math.log10(float(positive[0])), math.log10(float(positive[-1]))
    if high - low < 1e-6:
        low, high = low - 0.5, low + 0.5
    edges = numpy.linspace(low, high, BINS + 1)
    # A bin has its lower edge; the ends belong to the end bins, whatever rounding says.
    inner = numpy.searchsorted(ordered, (10.0 ** edges[1:-1]).astype(numpy.float32))
    counts = numpy.diff([0, *inner.tolist(), ordered.size])
    return {"scale": "log10", "edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


PRECISE: Final = 0.99
"""Share of a matrix's scores that float16 must hold with its full eleven bits to be taken."""


def keepable(scores: Tensor, *, transposed: bool) -> Tensor:
    """A matrix's scores as they are kept: in the checkpoint's orientation, on the CPU, in float16 where that fits.

    scores: (out, in), finite, not negative. float16 fits where no score is too large for it and at most one in
    a hundred is too small for its normal numbers (6.1e-5; such scores keep an error of 3e-8); float32 elsewhere.
    """
    kept = (scores.T if transposed else scores).float()
    half = torch.finfo(torch.float16)
    small = int(((kept > 0) & (kept < half.tiny)).sum())
    if float(kept.max()) <= half.max and small <= (1 - PRECISE) * kept.numel():
        kept = kept.half()
    return kept.contiguous().cpu()
