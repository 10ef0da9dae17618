"""Whether a tensor has only finite numbers, asked of every large one on its way."""

import torch
from torch import Tensor

from worker.pruning.errors import UserError


def all_finite(values: Tensor) -> bool:
    """A sum is finite only where all its terms are; one that is not may have overflowed, so that each is asked.

    A thirtieth of the time of asking each. values: any shape, a floating dtype.
    """
    values = values.detach()
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def check_outputs(values: Tensor, whose: str) -> Tensor:
    """The values. Raises UserError `not_finite`: of a model that was read and whose weights are finite, whatever
    comes out of it is the model's own. whose: the part of it that gave them."""
    if not all_finite(values):
        message = f"{whose} gives values that are not finite, with finite weights: the model itself is broken"
        raise UserError("not_finite", message, "/model")
    return values
