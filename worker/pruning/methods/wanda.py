"""Wanda: weights times the norm of their input (Sun 2023, arXiv 2306.11695)."""

from torch import Tensor

FLOOR = 1e-8
"""Keeps the norm of an input that was always zero away from zero, so that it can be divided by."""


def input_norms(second: Tensor) -> Tensor:
    """n = sqrt(E x²) + 1e-8. second: the Gram's diagonal, (in,)."""
    return second.sqrt() + FLOOR


def dead_inputs(second: Tensor) -> Tensor | None:
    """Those that were always zero, (in,); None where none was. second: the Gram's diagonal, (in,)."""
    dead = second == 0
    return dead if bool(dead.any()) else None


def wanda_scores(dense: Tensor, second: Tensor) -> Tensor:
    """|W0| · n. dense: (out, in); second: Σ_domains E x², (in,)."""
    return dense.abs() * input_norms(second)
