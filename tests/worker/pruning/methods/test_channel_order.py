"""Which inputs share a group of an n:m pattern."""

from itertools import permutations

import pytest
import torch

from worker.pruning.methods.channel_order import channel_order, dealt, lost, pairs


@pytest.mark.parametrize("seed", range(6))
def test_two_groups_of_two_lose_as_little_as_any_order_does(seed: int) -> None:
    scores = torch.rand((5, 4), generator=torch.Generator().manual_seed(seed)) ** 4
    least = min(float(lost(scores[:, list(order)], 1, 2)) for order in permutations(range(4)))
    assert float(lost(scores[:, channel_order(scores, 1, 2)], 1, 2)) == pytest.approx(least)


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (4, 8), (1, 4), (3, 4), (1, 2)])
@pytest.mark.parametrize("count", [5, 16])
def test_exchanges_take_less_than_dealing_and_that_than_heavy_neighbours(
    kept: int, group: int, count: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand((40, group * count), generator=generator) * torch.logspace(2, -2, group * count)
    order = channel_order(scores, kept, group)
    assert order.sort().values.tolist() == list(range(group * count))
    losses = [
        float(lost(scores[:, each], kept, group))
        for each in (order, dealt(scores.sum(dim=0), group).flatten(), torch.arange(group * count))
    ]
    assert losses[0] <= losses[1] < losses[2]
    assert losses[0] < losses[1] or group == 2
    assert torch.equal(channel_order(scores, kept, group), order)


def test_what_is_lost_by_hand() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4], [9, 8, 0, 1]])
    assert float(lost(scores, 2, 4)) == 3 + 1
    assert float(lost(scores, 1, 2)) == 1 + 3 + 8 + 0


@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_every_group_meets_every_other_one_once(count: int) -> None:
    met = []
    for number in range(count - 1 + count % 2):
        one, other = pairs(count, number, torch.device("cpu"))
        both = [*one.tolist(), *other.tolist()]
        assert len(set(both)) == len(both) == count - count % 2
        met += [frozenset(pair) for pair in zip(one.tolist(), other.tolist(), strict=True)]
    assert len(met) == len(set(met)) == count * (count - 1) // 2
