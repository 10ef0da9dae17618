"""COPAL: sensitivity of a layer's output to perturbed inputs and weights, summed over domains.

Our reading of arXiv 2405.02347, with dz = W0 dx + dW x, L = ‖dz‖² and ∂L/∂(dW) = 2 dz xᵀ. What is left open is
where the absolute value of that gradient is taken, and what dx is. With E over one domain's tokens t:

    token      S = |W0| ⊙ Σ_domains E_t |dz_t||x_t|ᵀ
    sample     S = |W0| ⊙ Σ_domains Σ_samples |Σ_{t in sample} dz_t x_tᵀ| / tokens
    dataset    S = |W0| ⊙ Σ_domains |E_t dz_t x_tᵀ|
    fisher     S = |W0| ⊙ √( Σ_domains E_t dz_t² x_t²ᵀ )
    own_terms  S = W0² ⊙ 1 (Σ_domains E_t x_t² + E_t dx_t²)ᵀ

A sample is one calibration window. Σ_domains is what the state keeps. Under the root of `fisher` it keeps squares:
their sum over domains is the empirical Fisher information of the mixture of all domains, which a sum of roots is
not. dW ∝ W0 in all of them; dx ∝ x under the relative perturbation, dx = x − the unweighted mean of the earlier
domains' mean inputs under domain_shift (dx = x in the first domain).
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from secateur.spec.method import Copal, Perturbation, Reading
from worker.pruning.state.moments import Accumulated


def copal_scores(method: Copal, matrix: str, dense: Tensor, sums: Accumulated) -> Tensor:
    """S of one matrix by the method's reading, (out, in), not negative. dense: W0, (out, in)."""
    if method.reading is Reading.own_terms:
        return own_terms_scores(dense, sums, method.perturbation)
    kept = sums.importance[matrix]
    return dense.abs() * (kept.sqrt() if method.reading is Reading.fisher else kept)


def own_terms_scores(dense: Tensor, sums: Accumulated, perturbation: Perturbation) -> Tensor:
    """W0² · Σ_domains (E x² + E dx²): the squared own terms of a weight in dW x and in W0 dx.

    dense: (out, in). The cross terms are dropped and x and dx are taken as independent: a heuristic. Under the
    relative perturbation dx = x, which leaves accumulated Wanda's order.
    """
    shift = sums.shift if perturbation is Perturbation.domain_shift else sums.second
    return dense.square() * (sums.second + shift)


def response(dense: Tensor, inputs: Tensor, earlier_mean: Tensor | None) -> Tensor:
    """dz = W0 dx + dW x for dW = W0, (…, out). inputs: x, (…, in).

    earlier_mean: dx = x − mean, with a mean of zeros in the first domain. None: the relative perturbation,
    dx = x, where the common factor of dz = 2 W0 x is left out because it changes no order.
    """
    moved = inputs if earlier_mean is None else 2 * inputs - earlier_mean
    return moved @ dense.T


def _by_token(responses: Tensor, inputs: Tensor) -> Tensor:
    return responses.flatten(0, 1).abs().T @ inputs.flatten(0, 1).abs()


def _by_sample(responses: Tensor, inputs: Tensor) -> Tensor:
    total = responses.new_zeros((responses.shape[2], inputs.shape[2]))
    for moved, read in zip(responses, inputs, strict=True):
        total += (moved.T @ read).abs_()
    return total


def _by_fisher(responses: Tensor, inputs: Tensor) -> Tensor:
    return responses.flatten(0, 1).square().T @ inputs.flatten(0, 1).square()


GRADIENT_SUMS: Final[dict[Reading, Callable[[Tensor, Tensor], Tensor]]] = {
    Reading.token: _by_token,  # |a b| = |a||b|: one product
    Reading.sample: _by_sample,
    Reading.fisher: _by_fisher,
}
"""The readings that look at every token, and what a batch adds to each: one product of the size of W0 a batch.

responses: dz, (windows, tokens, out); inputs: x, (windows, tokens, in); result: (out, in)."""


def dataset_importance(dense: Tensor, gram: Tensor, mean: Tensor, earlier_mean: Tensor | None) -> Tensor:
    """|E dz xᵀ|, (out, in), of a whole domain. No token is looked at again, because the sum inside is linear:
    E dz xᵀ = W0 E(2x − m)xᵀ = W0 (2H − m μᵀ).

    dense: W0, (out, in); gram: H = E x xᵀ, (in, in); mean: μ = E x, (in,); earlier_mean: m, as in `response`.
    """
    moved = gram if earlier_mean is None else 2 * gram - torch.outer(earlier_mean, mean)
    return (dense @ moved).abs_()


def response_power(dense: Tensor, gram: Tensor, mean: Tensor, earlier_mean: Tensor | None) -> Tensor:
    """E dz², (out,), from the moments of x; arguments as in `dataset_importance`."""
    moved = gram
    if earlier_mean is not None:
        cross = torch.outer(earlier_mean, mean)
        moved = 4 * gram - 2 * (cross + cross.T) + torch.outer(earlier_mean, earlier_mean)
    return ((dense @ moved) * dense).sum(dim=1).clamp_min(0)
