"""Outlier-weighed rates of blocks (Yin 2023, arXiv 2310.05175): what holds more outliers is pruned less."""

from collections.abc import Mapping

import torch
from torch import Tensor

OUTLIER = 5.0
"""A score is an outlier when it exceeds so many times the mean of its matrix (the paper's M)."""
SPREAD = 0.08
"""Half the range over which the blocks' rates are spread (the paper's λ)."""


def outliers(scores: Tensor) -> int:
    """How many of a matrix's Wanda scores are outliers. scores: (out, in)."""
    return int((scores > OUTLIER * scores.mean()).sum())


def block_rates(shares: Mapping[int, Tensor | float], target: float) -> dict[int, float]:
    """Sparsity by block: falls linearly with the share of outliers, over a range of 2 · SPREAD.

    shares: outliers per weight, by block (any common factor is fine). Their mean rate is the target; where that
    is close to 0 or 1 the spread shrinks so that every rate stays between them.
    """
    values = torch.tensor([float(shares[block]) for block in sorted(shares)], dtype=torch.float64)
    width = float(values.max() - values.min())
    spread = min(SPREAD, target / 2, (1 - target) / 2)
    scaled = (values - values.min()) / width if width > 0 else torch.zeros_like(values)
    rates = target - 2 * spread * (scaled - scaled.mean())
    return {block: float(rate) for block, rate in zip(sorted(shares), rates, strict=True)}
