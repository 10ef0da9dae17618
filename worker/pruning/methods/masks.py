"""Which weights of a matrix may stay: unstructured or n:m, with exact counts and stable ties.

Everywhere: a higher score is more worth keeping; among equal scores the lowest flat index is pruned first.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.spec.method import Scope
from secateur.spec.sparsity import Pattern
from worker.pruning.methods.lowest import without_lowest

SMALL_GROUP = 8
"""Inputs of an n:m group up to which comparing all pairs beats sorting."""


@dataclass(frozen=True)
class Selection:
    """How the mask of one matrix is chosen: pattern, comparison scope and the exact number of zeros.

    rows: what the scores of each output are multiplied by before they are compared, (out,), not negative (None:
    ones). It makes a difference only where weights of different rows are compared. allowed: where a weight may
    stay at all, (out, in), bool; None: everywhere. What may not stay is among the zeros, which are more where it
    exceeds them, or a row's or an n:m group's part of them.
    """

    pattern: Pattern
    scope: Scope
    zeros: int
    rows: Tensor | None = None
    allowed: Tensor | None = None

    def mask(self, scores: Tensor, zeros: int | None = None) -> Tensor:
        """True where a weight stays. scores: (out, in), finite or −∞; zeros: fewer than in the end, on the way.

        For n:m the n best of every group are protected and the others go by a matrix-wide threshold, so that the
        full count is exactly n:m.
        """
        count = self.zeros if zeros is None else zeros
        if self.rows is not None:
            scores = scores * self.rows.unsqueeze(1)
        if self.allowed is None:
            return self._best(scores, count)
        return self._best(scores.masked_fill(~self.allowed, -torch.inf), count) & self.allowed

    def _best(self, scores: Tensor, count: int) -> Tensor:
        if self.pattern.group is not None and self.pattern.kept is not None:
            protected = best_of_groups(scores, self.pattern.kept, self.pattern.group)
            if count >= self.zeros:
                return protected
            return _without_lowest(scores.masked_fill(protected, torch.inf), count)
        if self.scope is Scope.row:
            return _without_lowest_per_row(scores, count)
        return _without_lowest(scores, count)


def as_numbers(mask: Tensor) -> Tensor:
    """1 where True, 0 elsewhere, float32: read as bytes, in a sixth of the time of reading booleans."""
    return mask.view(torch.uint8).float()


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """The weights where the mask is True, +0 elsewhere. weight: finite.

    A product takes a tenth of the time of torch.where on a CPU; it leaves zeros with a sign, to be rid of.
    """
    return (weight * as_numbers(mask)).add_(0.0)


def best_of_groups(scores: Tensor, kept: int, group: int) -> Tensor:
    """True for the `kept` largest of every `group` consecutive inputs. scores: (out, in), group divides in."""
    grouped = scores.reshape(-1, group)
    if group > SMALL_GROUP:
        order = grouped.sort(dim=1, stable=True).indices
        mask = torch.ones_like(grouped, dtype=torch.bool)
        return mask.scatter_(1, order[:, : group - kept], False).view_as(scores)
    # Every pair compared once, all groups together: an eighth of the time of as many small sorts.
    places = grouped.unbind(1)
    ranks = [torch.full_like(each, group - 1 - index, dtype=torch.uint8) for index, each in enumerate(places)]
    for right in range(1, group):
        for left in range(right):
            before = (places[left] <= places[right]).view(torch.uint8)
            ranks[left].sub_(before)
            ranks[right].add_(before)
    return (torch.stack(ranks, dim=1) >= group - kept).view_as(scores)


def follows(weight: Tensor, pattern: Pattern) -> bool:
    """Whether every group of an n:m pattern has at most n non-zeros. weight: (out, in)."""
    if pattern.group is None or pattern.kept is None:
        return True
    out, width = weight.shape
    if width % pattern.group:
        return False
    filled = (weight.reshape(out, width // pattern.group, pattern.group) != 0).sum(dim=2)
    return bool((filled <= pattern.kept).all())


def _without_lowest(scores: Tensor, count: int) -> Tensor:
    """False for the `count` lowest of a matrix, in the order of the flat index where they are equal."""
    return without_lowest(scores.reshape(1, -1), count).view_as(scores)


def _without_lowest_per_row(scores: Tensor, count: int) -> Tensor:
    """False for `count` weights in all, shared evenly by the rows; the first ones lose one more if need be."""
    rows, _ = scores.shape
    each, more = divmod(count, rows)
    keep = torch.ones_like(scores, dtype=torch.bool)
    for part, number in ((slice(0, more), each + 1), (slice(more, rows), each)):
        if number and scores[part].numel():
            keep[part] = without_lowest(scores[part], number)
    return keep


@dataclass(frozen=True)
class Solution:
    """weight: (out, in), float32, exactly zero where mask is False. mask: (out, in). notes: for the record."""

    weight: Tensor
    mask: Tensor
    notes: dict[str, Any] = field(default_factory=dict)
