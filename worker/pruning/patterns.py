"""Which weights of a matrix may stay: unstructured or n:m, with exact counts and stable ties.

Everywhere: a higher score is more worth keeping; among equal scores the lowest flat index is pruned first.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy
import torch
from torch import Tensor


class Scope(StrEnum):
    """Among which weights scores are compared."""

    layer = "layer"
    row = "row"


@dataclass(frozen=True)
class Pattern:
    """Unstructured (both None), or at most `kept` non-zeros in every `group` consecutive inputs."""

    kept: int | None = None
    group: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """From `unstructured` or `n:m`. Raises ValueError with the fix."""
        if text == "unstructured":
            return cls()
        kept, colon, group = text.partition(":")
        if not colon or not kept.isdecimal() or not group.isdecimal():
            raise ValueError("must be `unstructured` or `n:m`, such as `2:4`")
        if not 0 < int(kept) < int(group):
            raise ValueError(f"{text}: n must be at least 1 and less than m")
        return cls(int(kept), int(group))

    @property
    def sparsity(self) -> float | None:
        """The share of zeros an n:m pattern means; None when unstructured."""
        return None if self.kept is None or self.group is None else 1 - self.kept / self.group

    def __str__(self) -> str:
        return "unstructured" if self.group is None else f"{self.kept}:{self.group}"


@dataclass(frozen=True)
class Selection:
    """How the mask of one matrix is chosen: pattern, comparison scope and the exact number of zeros.

    rows: what the scores of each output are multiplied by before they are compared, (out,), not negative (None:
    ones). It makes a difference only where weights of different rows are compared.
    """

    pattern: Pattern
    scope: Scope
    zeros: int
    rows: Tensor | None = None

    def mask(self, scores: Tensor, zeros: int | None = None) -> Tensor:
        """True where a weight stays. scores: (out, in), finite or −∞; zeros: fewer than in the end, on the way.

        For n:m the n best of every group are protected and the others go by a matrix-wide threshold, so that the
        full count is exactly n:m.
        """
        count = self.zeros if zeros is None else zeros
        if self.rows is not None:
            scores = scores * self.rows.unsqueeze(1)
        if self.pattern.group is not None and self.pattern.kept is not None:
            protected = best_of_groups(scores, self.pattern.kept, self.pattern.group)
            if count >= self.zeros:
                return protected
            return ~_lowest(scores.masked_fill(protected, torch.inf).flatten(), count).view_as(scores)
        if self.scope is Scope.row:
            return ~_lowest_per_row(scores, count)
        return ~_lowest(scores.flatten(), count).view_as(scores)


def best_of_groups(scores: Tensor, kept: int, group: int) -> Tensor:
    """True for the `kept` largest of every `group` consecutive inputs. scores: (out, in), group divides in."""
    out, width = scores.shape
    grouped = scores.reshape(out, width // group, group)
    order = grouped.sort(dim=2, stable=True).indices
    mask = torch.ones_like(grouped, dtype=torch.bool)
    return mask.scatter_(2, order[:, :, : group - kept], False).reshape(out, width)


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


def _lowest(scores: Tensor, count: int) -> Tensor:
    """True for the `count` lowest of a flat tensor, equal ones from the front."""
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = kth_smallest(scores, count)
    chosen = scores < threshold
    equal = (scores == threshold).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen


def _lowest_per_row(scores: Tensor, count: int) -> Tensor:
    """True for `count` weights in all, shared evenly by the rows; the first rows take one more each if need be."""
    rows, _ = scores.shape
    each, more = divmod(count, rows)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for part, number in ((slice(0, more), each + 1), (slice(more, rows), each)):
        if number and scores[part].numel():
            chosen[part] = _lowest_in_rows(scores[part], number)
    return chosen


def _lowest_in_rows(scores: Tensor, count: int) -> Tensor:
    threshold = kth_smallest(scores, count).unsqueeze(1)
    below = scores < threshold
    equal = scores == threshold
    wanted = count - below.sum(dim=1, keepdim=True)
    return below | (equal & (equal.cumsum(dim=1) <= wanted))
