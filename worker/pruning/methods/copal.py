"""COPAL: sensitivity of a layer's output to perturbed inputs and weights, summed over domains.

Our reading of arXiv 2405.02347: dz = W0 dx + dW x, L = ‖dz‖², importance |W0| ⊙ |∂L/∂(dW)|, accumulated.
"""

from torch import Tensor

from worker.pruning.statistics import Accumulated


def own_terms_scores(dense: Tensor, sums: Accumulated) -> Tensor:
    """W0² · Σ_domains (E x² + E dx²): the squared own terms of a weight in dW x and in W0 dx (dW ∝ W0).

    dense: (out, in). The cross terms are dropped and x and dx are taken as independent: a heuristic.
    """
    return dense.square() * (sums.second + sums.shift)


def token_scores(dense: Tensor, importance: Tensor) -> Tensor:
    """|W0| ⊙ Σ_domains E |dz||x|ᵀ, the absolute value taken per token. importance: (out, in)."""
    return dense.abs() * importance


def response(dense: Tensor, inputs: Tensor, earlier_mean: Tensor | None) -> Tensor:
    """dz = W0 dx + dW x for dW = W0, (tokens, out). inputs: x, (tokens, in).

    earlier_mean None: dx = x, so dz = 2 W0 x, and the factor drops out of the ranking; otherwise dx = x − mean.
    """
    moved = inputs if earlier_mean is None else 2 * inputs - earlier_mean
    return moved @ dense.T
