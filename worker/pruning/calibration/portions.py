"""A block's experts portion by portion: so many that their Grams can be held at once."""

from collections.abc import Sequence
from typing import Final

from worker.pruning.model.graph import PrunableWeight

GRAMS: Final = 4 * 2**30
"""Bytes of one Gram for each group of experts in a portion, in float32: as much as the widest matrices of models
without experts need. A job holds up to four of a group at once."""
FLOAT: Final = 4
Group = list[PrunableWeight]
"""Matrices that read one input; it goes by the name of its first one."""


def portions(groups: Sequence[Group]) -> list[list[Group]]:
    """All of the groups, in their order but for those of no expert, which are in the first portion.

    An expert is in one portion with all its groups, because what it gives to one it has from another. By sizes
    alone: what is free on a machine must not decide what a job computes.
    """
    experts: dict[object, list[Group]] = {}
    for group in groups:
        if group[0].expert is not None:
            experts.setdefault((group[0].module, group[0].expert.index), []).append(group)
    others = [group for group in groups if group[0].expert is None]
    found, left = [others], GRAMS
    for number, own in enumerate(experts.values()):
        size = sum(FLOAT * group[0].columns ** 2 for group in own)
        if number and size > left:
            found.append([])
            left = GRAMS
        found[-1] += own
        left -= size
    if len(found) == 1:
        return [list(groups)] if groups else []
    return found
