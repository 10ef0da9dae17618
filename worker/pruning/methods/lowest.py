"""Which scores are the lowest: an exact number of them, equal ones from the front, the same on every device.

On a CPU NumPy's vectorised partition finds the threshold, in a tenth of the time of torch.kthvalue. On a GPU that
call gives a whole matrix to one of many multiprocessors, and every number that comes back to the host stops the
queue. There the threshold comes of counting the digits of an order-preserving key, all on the device: counts are
integers, so that no order of adding them changes the result.
"""

import math
from typing import Final

import numpy
import torch
from torch import Tensor

from worker.pruning.runtime.numerics import in_any_order

DIGIT: Final = 16
"""Bits of a key that are counted at once; a float32 has two digits."""
SIDE: Final = 1 << DIGIT
PIECE: Final = 1 << 25
"""Scores that are counted at once: their places are 64-bit numbers, which are not to take more than the scores."""
SORTED: Final = 1 << 22
"""So many scores, of a small matrix such as an expert's, are sorted sooner than counted: one launch for dozens."""
LANES: Final = 16
"""Counters of one digit of many scores: equal ones side by side go to different counters, and wait less for each
other."""


def without_lowest(scores: Tensor, count: int) -> Tensor:
    """False for the `count` lowest of every row, equal ones from the front. scores: (rows, columns), float32, not
    NaN; 0 ≤ count ≤ columns."""
    if count <= 0 or not scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    if scores.device.type != "cpu":
        with in_any_order():
            return by_counting(scores, count)
    return by_partition(scores, count)


def without_lowest_of_each(scores: Tensor, counts: Tensor) -> Tensor:
    """The same with a number for every row. counts: (rows,)."""
    order = scores.sort(dim=1, stable=True).indices
    places = torch.arange(scores.shape[1], device=scores.device)
    with in_any_order():
        return torch.empty_like(scores, dtype=torch.bool).scatter_(1, order, places >= counts.unsqueeze(1))


def by_partition(scores: Tensor, count: int) -> Tensor:
    """See `without_lowest`; looks at numbers on the way, to leave out what ties alone would need."""
    values, columns = scores.numpy(), scores.shape[1]
    threshold = numpy.partition(values, count - 1, axis=1)[:, count - 1 : count].copy()
    # NumPy compares and counts in a fifth of torch's time.
    keep = values > threshold
    tied = columns - count - numpy.add.reduce(keep, axis=1, dtype=numpy.int32)
    (uneven,) = tied.nonzero()
    if len(uneven):
        equal = values[uneven] == threshold[uneven]
        place = equal.cumsum(axis=1, dtype=numpy.int32)
        keep[uneven] |= equal & (place > place[:, -1:] - tied[uneven, None])
    return torch.from_numpy(keep)


def by_counting(scores: Tensor, count: int) -> Tensor:
    """See `without_lowest`; no number of it comes to the host, and there are no more launches for more columns."""
    rows, columns = scores.shape
    # One thread block a row is enough where there are many rows.
    threshold = kth_lowest(scores.flatten(), count).view(1, 1) if rows == 1 else scores.kthvalue(count, 1, True)[0]
    keep, equal = scores > threshold, scores == threshold
    tied = columns - count - keep.sum(dim=1, keepdim=True)
    place = equal.cumsum(dim=1, dtype=torch.int32)
    return keep.logical_or_(equal.logical_and_(place > place[:, -1:] - tied))


def kth_lowest(values: Tensor, *ranks: int) -> Tensor:
    """The k-th lowest for each rank k ≥ 1, (ranks,), of a flat float32 tensor without NaN, on its device.

    Of many, digit by digit from the highest: the first bucket with whose count the lower ones reach k.
    """
    if values.numel() <= SORTED:
        ordered = values.sort().values
        return torch.stack([ordered[rank - 1] for rank in ranks])
    found = []
    with in_any_order():
        counts = _counts(values)
        for k in ranks:
            high, rest = _bucket(counts, torch.full((1,), k, device=values.device))
            high -= SIDE // 2
            low, _ = _bucket(_counts(values, high), rest)
            found.append((high * SIDE + low).int())
    key = torch.cat(found)
    return torch.where(key < 0, key ^ 0x7FFFFFFF, key).view(torch.float32)


def _counts(values: Tensor, high: Tensor | None = None) -> Tensor:
    """How many keys have each high digit, or each low one of those that have the digit `high`, (SIDE,), int64."""
    lanes = math.gcd(values.numel(), LANES if values.numel() > LANES * SIDE else 1)
    counters = torch.zeros((SIDE, lanes), dtype=torch.int32, device=values.device)
    one = counters.new_ones(())
    for piece in torch.split(values, PIECE):
        bits = piece.view(torch.int32)
        # A negative float's bits fall as it rises.
        key = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(-1, lanes)
        digit = key >> DIGIT
        if high is None:
            counters.scatter_add_(0, (digit + SIDE // 2).long(), one.expand(key.shape))
        else:
            counters.scatter_add_(0, (key & SIDE - 1).long(), (digit == high).int())
    return counters.sum(dim=1)


def _bucket(counts: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """The bucket of the `rest`-th in order, and its place there from one; all (1,)."""
    through = counts.cumsum(0)
    bucket = (through < rest).sum(dim=0, keepdim=True)
    return bucket, rest - (through - counts).index_select(0, bucket)
