"""OWL's rates."""

import pytest
import torch

from worker.pruning.allocation.owl import SPREAD, block_rates, outliers


def test_outliers_exceed_five_times_the_mean() -> None:
    scores = torch.ones(10, 10)
    scores[0, 0] = 1000.0  # the mean is about 11
    scores[0, 1] = 50.0
    assert outliers(scores) == 1


def test_blocks_with_more_outliers_keep_more() -> None:
    rates = block_rates({0: 0.03, 1: 0.01, 2: 0.02}, 0.6)
    assert rates[0] == pytest.approx(0.6 - SPREAD)
    assert rates[1] == pytest.approx(0.6 + SPREAD)
    assert rates[2] == pytest.approx(0.6)


def test_equal_blocks_get_equal_rates() -> None:
    assert block_rates({0: 0.02, 1: 0.02}, 0.6) == {0: 0.6, 1: 0.6}


@pytest.mark.parametrize("target", [0.02, 0.5, 0.97])
def test_rates_stay_between_nothing_and_all(target: float) -> None:
    rates = block_rates({0: 9.0, 1: 0.0, 2: 0.0, 3: 0.0}, target)
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert sum(rates.values()) / 4 == pytest.approx(target)
