"""A few numbers that stand for a matrix of sensitivities."""

import math

import numpy
from torch import Tensor

from worker.pruning.observer import SensitivitySummary

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20


def summarise(matrix: str, scores: Tensor) -> SensitivitySummary:
    """Mean, quantiles (the value at rank ⌈q·n⌉), total and a histogram over the scores' powers of ten.

    scores: (out, in), not negative. Scores of zero are counted in the first bin.
    """
    values = scores.detach().float().cpu().numpy().ravel()
    ranks = [max(math.ceil(quantile * values.size) - 1, 0) for quantile in QUANTILES]
    ordered = numpy.partition(values, sorted(set(ranks)))
    total = float(values.sum(dtype=numpy.float64))
    return SensitivitySummary(
        matrix=matrix,
        mean=total / values.size,
        quantiles={str(q): float(ordered[rank]) for q, rank in zip(QUANTILES, ranks, strict=True)},
        histogram=_histogram(values),
        total=total,
    )


def _histogram(values: numpy.ndarray) -> dict[str, object]:
    positive = values[values > 0]
    low, high = -1.0, 0.0
    if positive.size:
        low, high = math.log10(float(positive.min())), math.log10(float(positive.max()))
    if high - low < 1e-6:
        low, high = low - 0.5, low + 0.5
    counts, edges = numpy.histogram(numpy.log10(positive), bins=BINS, range=(low, high))
    # float32 rounding may put the very ends just outside; they belong to the end bins.
    counts[0] += values.size - int(counts.sum())
    return {"scale": "log10", "edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}
