"""Fewer cases than a full cross product, for parameters of which no more than two act on one another."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairs(*choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows with one of each parameter's choices, so that any two choices of two parameters meet in some row."""

    def met(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(row), 2))

    rows = [tuple(row) for row in product(*map(range, map(len, choices)))]
    missing = set().union(*map(met, rows))
    found = []
    while missing:
        best = max(rows, key=lambda row: len(met(row) & missing))
        missing -= met(best)
        found.append(tuple(values[index] for values, index in zip(choices, best, strict=True)))
    return found
