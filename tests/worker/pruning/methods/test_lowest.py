"""Both ways to the lowest scores, on the CPU: what a GPU would do is made of the same calls."""

from unittest.mock import patch

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from worker.pruning.methods import lowest
from worker.pruning.methods.lowest import (
    by_counting,
    by_partition,
    kth_lowest,
    without_lowest,
    without_lowest_of_each,
)

FEW = (-numpy.inf, -1.0, -0.0, 0.0, 1e-45, 1.0, 1.0000001, 3.4028235e38, numpy.inf)
"""Ties, both zeros, both infinities, the smallest number and neighbours."""
shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)
floats = st.floats(width=32, allow_nan=False)
matrices = st.one_of(
    arrays.arrays(numpy.float32, shapes, elements=floats),
    arrays.arrays(numpy.float32, shapes, elements=st.sampled_from(FEW)),
    arrays.arrays(numpy.float32, st.tuples(st.just(1), st.integers(1, 600)), elements=floats),
)


def by_sorting(scores: Tensor, count: int) -> Tensor:
    keep = torch.ones_like(scores, dtype=torch.bool)
    for row, chosen in zip(scores, keep, strict=True):
        chosen[row.sort(stable=True).indices[:count]] = False
    return keep


@given(matrices, st.data())
def test_every_way_is_a_stable_sort(values: numpy.ndarray, data: st.DataObject) -> None:
    scores = torch.from_numpy(values)
    count = data.draw(st.integers(1, scores.shape[1]))
    expected = by_sorting(scores, count)
    assert torch.equal(by_partition(scores, count), expected)
    assert torch.equal(by_counting(scores, count), expected)
    counts = torch.full((len(scores),), count)
    counts[0] -= 1
    rows = torch.cat([by_sorting(scores[:1], count - 1), expected[1:]])
    assert torch.equal(without_lowest_of_each(scores, counts), rows)
    flat, number = scores.reshape(1, -1), count * scores.shape[0]
    assert torch.equal(by_counting(flat, number), by_partition(flat, number))
    lowest_one = flat[0].sort().values[number - 1]
    assert kth_lowest(flat[0], number) == lowest_one
    with patch.object(lowest, "SORTED", 0):
        assert torch.equal(by_counting(flat, number), by_partition(flat, number))
        assert kth_lowest(flat[0], number) == lowest_one


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_counted_piece_by_piece_and_in_lanes(ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowest, "SORTED", 0)
    monkeypatch.setattr(lowest, "PIECE", 1 << 20)
    monkeypatch.setattr(lowest, "LANES", 8)
    scores = torch.randn(1, (1 << 21) + 8 * 1001)
    scores = scores.mul(10).round() if ties else scores
    for count in (1, 1_000_003, scores.shape[1]):
        assert torch.equal(by_counting(scores, count), by_partition(scores, count))


def test_nothing_goes_where_nothing_is_to_go() -> None:
    assert bool(without_lowest(torch.rand(2, 3), 0).all())
    assert without_lowest(torch.rand(0, 3), 0).shape == (0, 3)
