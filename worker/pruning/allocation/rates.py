"""Where the sparsity goes: rates of the matrices, and weights of their outputs, from calibration text alone.

uniform: every free matrix the same rate. owl: blocks with more outliers keep more. error: the rates at which the
loss should rise least, and outputs compared by what they mean for the loss.
"""

from collections.abc import Mapping

from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.curves import share_out
from worker.pruning.allocation.owl import block_rates
from worker.pruning.allocation.result import Survey
from worker.pruning.targets.budget import WeightTarget


def wanted_rates(
    allocation: Allocation, survey: Survey, shares: Mapping[str, WeightTarget], blocks: Mapping[str, int]
) -> dict[str, float] | None:
    """The sparsity each free matrix should have, by name; None when the survey could look into none of them.

    allocation: owl or error. shares: of a uniform allocation, some of them free, which says how much the free ones
    lose together. blocks: the block of each matrix.
    """
    free = [share for share in shares.values() if not share.fixed and share.zeros is not None]
    weights = {share.matrix.name: share.matrix.weights for share in free}
    zeros = sum(share.zeros or 0 for share in free)
    if allocation is Allocation.owl:
        rates = block_rates(survey.outliers, zeros / sum(weights.values()))
        return {name: rates[blocks[name]] for name in weights}
    known = {name: survey.curves[name] for name in weights if name in survey.curves}
    if not known:
        return None
    surveyed = {name: weights[name] for name in known}
    whole = sum(weights.values())
    found = share_out(known, surveyed, zeros * sum(surveyed.values()) / whole)
    return found | {name: zeros / whole for name in weights if name not in found}
