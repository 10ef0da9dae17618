"""Magnitude pruning: the smallest weights go (Han 2015, arXiv 1506.02626)."""

from torch import Tensor


def magnitude_scores(dense: Tensor) -> Tensor:
    """|W0|. dense: (out, in)."""
    return dense.abs()
