"""From a group's statistics to masks and weights: the one place that knows which method does what."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.pruning.errors import IllConditioned
from worker.pruning.methods.admm import Factor, factorise, solve_admm
from worker.pruning.methods.copal import own_terms_scores, token_scores
from worker.pruning.methods.magnitude import magnitude_scores
from worker.pruning.methods.solution import Solution
from worker.pruning.methods.wanda import wanda_scores
from worker.pruning.patterns import Selection
from worker.pruning.spec import Method, MethodName, Reading
from worker.pruning.statistics import Accumulated


@dataclass(frozen=True)
class Group:
    """One group's sums, and their factorisation when the method updates weights."""

    sums: Accumulated
    factor: Factor | None


def prepare(method: Method, sums: Accumulated) -> Group:
    """Factorise once for all matrices of the group. Raises IllConditioned."""
    if not method.updates_weights:
        return Group(sums, None)
    if sums.gram is None:
        raise IllConditioned("the statistics carried over have no Gram matrix")
    return Group(sums, factorise(sums.gram, method.admm))


def scores(method: Method, matrix: str, dense: Tensor, sums: Accumulated) -> Tensor:
    """The sensitivities that choose the mask (ADMM: that it starts from), (out, in), not negative."""
    if method.name is MethodName.magnitude:
        return magnitude_scores(dense)
    if method.name is MethodName.copal:
        if method.reading is Reading.token:
            return token_scores(dense, sums.importance[matrix])
        return own_terms_scores(dense, sums)
    return wanda_scores(dense, sums.second)


def solve(
    method: Method,
    dense: Tensor,
    sensitivity: Tensor,
    group: Group,
    selection: Selection,
    check: Callable[[], None] = lambda: None,
) -> Solution:
    """Mask and weights of one matrix. dense, sensitivity: (out, in), float32."""
    if not bool(torch.isfinite(sensitivity).all()):
        raise IllConditioned("the sensitivities are not finite")
    if selection.zeros == 0:
        return Solution(dense, torch.ones_like(dense, dtype=torch.bool), {})
    if method.name is MethodName.admm and group.factor is not None:
        return solve_admm(dense, group.factor, selection, method.admm, check=check)
    mask = selection.mask(sensitivity.masked_fill(group.sums.dead, -1.0))
    if group.factor is not None:
        return solve_admm(dense, group.factor, selection, method.admm, mask, check)
    return Solution(torch.where(mask, dense, 0.0), mask)
