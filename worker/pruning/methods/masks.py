"""Which weights of a matrix may stay: unstructured or n:m, with exact counts and stable ties.

Everywhere: a higher score is more worth keeping; among equal scores the lowest flat index is pruned first.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

from secateur.spec.method import Scope
from secateur.spec.sparsity import Pattern

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
            return _without_lowest(scores.masked_fill(protected, torch.inf).flatten(), count).view_as(scores)
        if self.scope is Scope.row:
            return _without_lowest_per_row(scores, count)
        return _without_lowest(scores.flatten(), count).view_as(scores)


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


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest value (k ≥ 1) along the last dimension, of a 1-D or 2-D tensor.

    NumPy's vectorised partition is ten times as fast as torch.kthvalue on a CPU; both give the same value.
    """
    if values.device.type == "cpu":
        return torch.from_numpy(numpy.partition(values.numpy(), k - 1, axis=-1)[..., k - 1 : k]).squeeze(-1)
    return values.kthvalue(k, dim=-1).values


def _without_lowest(scores: Tensor, count: int) -> Tensor:
    """False for the `count` lowest of a flat tensor, equal ones from the front."""
    if count <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = kth_smallest(scores, count)
    keep = scores > threshold
    tied = scores.numel() - count - int(torch.count_nonzero(keep))
    if tied:
        equal = (scores == threshold).nonzero().flatten()
        keep[equal[len(equal) - tied :]] = True
    return keep


def _without_lowest_per_row(scores: Tensor, count: int) -> Tensor:
    """False for `count` weights in all, shared evenly by the rows; the first ones lose one more if need be."""
    rows, _ = scores.shape
    each, more = divmod(count, rows)
    keep = torch.ones_like(scores, dtype=torch.bool)
    for part, number in ((slice(0, more), each + 1), (slice(more, rows), each)):
        if number and scores[part].numel():
            keep[part] = _without_lowest_in_rows(scores[part], number)
    return keep


def _without_lowest_in_rows(scores: Tensor, count: int) -> Tensor:
    threshold = kth_smallest(scores, count).unsqueeze(1)
    keep = scores > threshold
    tied = scores.shape[1] - count - keep.sum(dim=1, keepdim=True)
    if len(rows := tied.flatten().nonzero().flatten()):
        equal = scores[rows] == threshold[rows]
        lost = equal.sum(dim=1, keepdim=True) - tied[rows]
        keep[rows] |= equal & (equal.cumsum(dim=1) > lost)
    return keep


@dataclass(frozen=True)
class Solution:
    """weight: (out, in), float32, exactly zero where mask is False. mask: (out, in). notes: for the record."""

    weight: Tensor
    mask: Tensor
    notes: dict[str, Any] = field(default_factory=dict)
