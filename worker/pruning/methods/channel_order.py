"""In which order a matrix's inputs should stand, so that an n:m pattern removes little of its scores.

Only who shares a group of m counts. Permuting channels for n:m is Pool & Yu's (NeurIPS 2021); the search is ours:
the heaviest inputs are dealt out over the groups, then groups are paired off, each with another one in every
round, and a pair exchanges the two inputs that gain most.
"""

from typing import Final

import torch
from torch import Tensor

ROUNDS: Final = 32
"""Other groups that each one meets, if there are as many. More gain little."""
ROWS: Final = 1024
"""Outputs that the search looks at, evenly spaced, where there are more."""
LEAST: Final = 1e-6
"""Of what a pair loses, the least that an exchange must gain: less is rounding."""


def lost(scores: Tensor, kept: int, group: int) -> Tensor:
    """The sum of what the pattern removes in this order, float64, (). scores: (out, in), not negative."""
    removed = scores.view(len(scores), -1, group).sort(dim=2).values[..., : group - kept]
    return removed.sum(dtype=torch.float64)


def channel_order(scores: Tensor, kept: int, group: int) -> Tensor:
    """The inputs' numbers in their new order, (in,). The same scores give the same order.

    scores: (out, in), not negative, float32, each of them lost with its weight. kept, group: n and m, which
    divides the number of inputs.
    """
    inputs = scores[:: -(-len(scores) // ROWS)].T.contiguous()
    groups = dealt(inputs.sum(dim=1), group)
    for number in range(min(ROUNDS, len(groups) - 1)):
        groups = _exchanged(inputs, groups, *pairs(len(groups), number, groups.device), group - kept)
    return groups.flatten()


def dealt(weights: Tensor, group: int) -> Tensor:
    """(groups, m): the heaviest inputs one to a group, then the next ones in the opposite order, and so on."""
    rounds = weights.argsort(descending=True, stable=True).view(group, -1).clone()
    rounds[1::2] = rounds[1::2].flip(1)
    return rounds.T.contiguous()


def pairs(count: int, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The groups that meet in a round, (count // 2,) each: as in a tournament where all meet all others once."""
    turning = count - 1 + count % 2
    steps = torch.arange(1, (turning + 1) // 2, device=device)
    one, other = (number + steps) % turning, (number - steps) % turning
    if count % 2 == 0:
        one, other = (
            torch.cat([own, torch.full((1,), last, device=device)])
            for own, last in ((one, number), (other, turning))
        )
    return one, other


def _exchanged(inputs: Tensor, groups: Tensor, one: Tensor, other: Tensor, removes: int) -> Tensor:
    """The groups after each pair's best exchange, if it gains anything.

    What a group loses with x in the place of one of its inputs is what it removes of the rest without the last of
    these, and the lesser of that last one and x. inputs: scores, (in, out).
    """
    held = inputs[groups[torch.stack([one, other])]]  # (2, pairs, m, out)
    ordered = held.sort(dim=2).values
    last, beyond = ordered[:, :, removes - 1, None], ordered[:, :, removes, None]
    gone = held <= last
    now = ordered[:, :, :removes].sum(dim=2, keepdim=True)
    rest = (now - torch.where(gone, held, last)).sum(dim=3)
    bound = torch.where(gone, beyond, last)
    first = rest[0][:, :, None] + torch.minimum(bound[0][:, :, None], held[1][:, None]).sum(dim=3)
    second = rest[1][:, None] + torch.minimum(bound[1][:, None], held[0][:, :, None]).sum(dim=3)
    before = now.sum(dim=(0, 2, 3))
    best = (first + second).flatten(1).min(dim=1)
    gains = best.values < before * (1 - LEAST)
    mine, theirs = best.indices // groups.shape[1], best.indices % groups.shape[1]
    own, given = groups[one, mine], groups[other, theirs]
    found = groups.clone()
    found[one, mine], found[other, theirs] = torch.where(gains, given, own), torch.where(gains, own, given)
    return found
