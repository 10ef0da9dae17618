"""Loss curves and the cheapest rates, against closed forms and brute force."""

from itertools import product

import pytest
import torch

from worker.pruning.allocation import curves
from worker.pruning.allocation.curves import (
    FLOOR,
    HIGHEST,
    POINTS,
    loss_curve,
    loss_scores,
    output_weights,
    share_out,
)


def test_a_score_is_half_the_second_derivative_times_the_square() -> None:
    dense = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    scores = loss_scores(dense, torch.tensor([5.0, 10.0]), torch.tensor([2.0, 4.0]))
    assert scores.tolist() == [[5.0, 40.0], [90.0, 0.0]]


def test_an_output_without_gradient_is_not_free_to_go() -> None:
    """A saturated head has no gradient, and the model depends on it."""
    outputs = torch.tensor([0.0, 3.0, 1.0, 4.0])
    scores = loss_scores(torch.ones(4, 1), outputs, torch.tensor([2.0]))
    assert scores.flatten().tolist() == pytest.approx([FLOOR * 2.0, 3.0, 1.0, 4.0])
    assert output_weights(outputs, squared=True).tolist() == pytest.approx([FLOOR, 1.5, 0.5, 2.0])
    assert output_weights(outputs, squared=False).tolist() == pytest.approx(
        [FLOOR**0.5, 1.5**0.5, 0.5**0.5, 2**0.5]
    )


def test_rows_count_the_same_where_no_output_has_a_gradient() -> None:
    for squared in (True, False):
        assert output_weights(torch.zeros(3), squared=squared).tolist() == [1.0, 1.0, 1.0]


def test_a_curve_sums_the_lowest_scores() -> None:
    scores = torch.arange(1, 201, dtype=torch.float32)[torch.randperm(200)].reshape(10, 20)
    curve = loss_curve(scores)
    assert curve.shape == (POINTS + 1,)
    assert curve[0] == 0
    assert curve[50] == sum(range(1, 101))
    assert curve[POINTS] == sum(range(1, 201))


@pytest.mark.parametrize("piece", [1, 1000, 1 << 25])
@pytest.mark.parametrize("size", [1, 7, 99, 100, 101, 5000])
def test_a_curve_made_on_a_gpu_is_the_same(size: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "PIECE", piece)
    scores = torch.rand(size, 3) ** 4
    expected = loss_curve(scores)
    monkeypatch.setattr(curves, "shows_at_once", lambda value: False)
    torch.testing.assert_close(loss_curve(scores), expected)


def test_equal_curves_get_equal_rates() -> None:
    curve = loss_curve(torch.rand(30, 40))
    rates = share_out({"a": curve, "b": curve.clone()}, {"a": 1200, "b": 1200}, 0.7 * 2400)
    assert rates["a"] == pytest.approx(0.7, abs=1 / POINTS)
    assert rates["a"] + rates["b"] == pytest.approx(1.4, abs=1e-9)


def test_the_budget_is_met_and_nothing_is_emptied_before_its_time() -> None:
    found = {name: loss_curve(torch.rand(20, 20) * scale) for name, scale in (("a", 1e-6), ("b", 1.0))}
    weights = {"a": 400, "b": 800}
    for share in (0.1, 0.5, 0.9, 0.999, 1.0):
        rates = share_out(found, weights, share * 1200)
        assert sum(rates[name] * weights[name] for name in rates) == pytest.approx(share * 1200, abs=1e-6)
    assert share_out(found, weights, 0.5 * 1200)["a"] == pytest.approx(HIGHEST / POINTS)


def test_no_other_rates_lose_less() -> None:
    scores = {name: torch.rand(10, 10) ** power for name, power in (("a", 1), ("b", 2), ("c", 4))}
    curves_of = {name: loss_curve(each) for name, each in scores.items()}
    weights = dict.fromkeys(scores, 100)
    rates = share_out(curves_of, weights, 150)
    steps = {name: round(rate * POINTS) for name, rate in rates.items()}
    found = sum(float(curves_of[name][step]) for name, step in steps.items())
    allowed = range(HIGHEST + 1)
    best = min(
        float(curves_of["a"][a] + curves_of["b"][b] + curves_of["c"][150 - a - b])
        for a, b in product(allowed, allowed)
        if 0 <= 150 - a - b <= HIGHEST
    )
    assert found == pytest.approx(best, rel=1e-5)
