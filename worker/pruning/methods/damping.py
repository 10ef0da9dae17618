"""What is tried when a matrix cannot be factored: more damping, then more digits, then an error; never silence."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from worker.pruning.errors import IllConditioned
from worker.pruning.runtime.numerics import all_finite, threads_of
from worker.pruning.runtime.waiting import settled

T = TypeVar("T")


def with_more_damping(
    gram: Tensor, damping: float, attempt: Callable[[float, torch.dtype], T | None]
) -> tuple[T, dict[str, Any]]:
    """The first success of `attempt` at: damping in float32, ten times as much, that in float64.

    Also returns what goes into the record: nothing for the first damping, else the damping and precision reached.
    Raises IllConditioned when the Gram, (in, in), is not finite or no damping succeeds.
    """
    if not all_finite(gram):
        raise IllConditioned("the Gram matrix is not finite")
    stronger = damping * 10 or 0.01
    for used, dtype in ((damping, torch.float32), (stronger, torch.float32), (stronger, torch.float64)):
        with threads_of(1):  # between its many small steps threads mostly wait for each other
            found = attempt(used, dtype)
        if found is not None:
            reached = {"damping": used, "precision": str(dtype).removeprefix("torch.")}
            return found, reached if used != damping else {}
    raise IllConditioned(f"the Gram matrix is not positive definite, even with damping {stronger} in float64")


def cholesky(matrix: Tensor) -> Tensor | None:
    """The lower factor; None where the matrix is not positive definite or the factor is not finite."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    return root if int(settled(failed)) == 0 and all_finite(root) else None
