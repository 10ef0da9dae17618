import pytest
import torch

from secateur.spec.method import AlpsSettings, MethodName, Scope, WeightUpdate
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from tests.worker.pruning.methods.oracles import gram_of, mean_damped, output_error, solve_with
from worker.pruning.methods.alps import RHO_RANGE, _grown, factorise
from worker.pruning.methods.masks import Selection

HALF = Selection(Pattern(), Scope.matrix, 16 * 24)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("rho", [1e-3, 0.1, 10.0])
def test_the_decomposition_gives_the_inverse_for_every_rho(rho: float) -> None:
    gram = gram_of(200, 30)
    factor = factorise(gram, AlpsSettings())
    damped = mean_damped(gram, 0.01)
    norms = damped.diagonal().sqrt()
    expected = torch.linalg.inv(damped / norms / norms[:, None] + rho * torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(factor.inverse(rho).double(), expected, rtol=1e-3, atol=1e-4)


def test_it_finds_a_better_mask_than_wanda() -> None:
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    damped = mean_damped(gram, 0.01)
    found = solve_with(make_method(MethodName.alps), dense, gram, HALF).weight
    wanda = solve_with(make_method(MethodName.wanda, WeightUpdate.admm), dense, gram, HALF).weight
    assert output_error(found, dense, damped) < 0.9 * output_error(wanda, dense, damped)


def test_the_penalty_grows_until_the_support_settles() -> None:
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    notes = solve_with(make_method(MethodName.alps), dense, gram, HALF).notes
    assert notes["rho"] > 0.1
    assert 10 < notes["steps"] < 300


def test_a_penalty_too_large_to_move_anything_is_lowered() -> None:
    """ρ = 10⁶ holds the support where it starts; ρ/5 and a new start until it moves."""
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    stuck = solve_with(make_method(MethodName.alps, alps=AlpsSettings(rho=1e6)), dense, gram, HALF)
    usual = solve_with(make_method(MethodName.alps), dense, gram, HALF)
    damped = mean_damped(gram, 0.01)
    assert stuck.notes["rho"] < 1e3
    assert output_error(stuck.weight, dense, damped) < 1.2 * output_error(usual.weight, dense, damped)


def test_steps_are_bounded() -> None:
    config = AlpsSettings(max_steps=4, update_every=3)
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    assert solve_with(make_method(MethodName.alps, alps=config), dense, gram, HALF).notes["steps"] == 4


def test_it_is_never_worse_than_the_mask_it_starts_from() -> None:
    """Without correlations that mask is optimal, and the search alone leaves it."""
    dense = torch.randn(16, 48)
    solution = solve_with(make_method(MethodName.alps), dense, torch.eye(48), HALF)
    assert torch.equal(solution.mask, HALF.mask(dense.abs()))
    assert solution.notes["kept"] == "the mask the search started from"


@pytest.mark.parametrize(
    ("moved", "growth"), [(0.5, 1.3), (0.1, 1.3), (0.099, 1.2), (0.005, 1.2), (0.0049, 1.1), (0.0001, 1.1)]
)
def test_the_penalty_grows_by_how_much_moved_and_the_dual_stays(moved: float, growth: float) -> None:
    u = torch.randn(3, 4)
    rho, scaled = _grown(number(0.7), u, number(moved))
    assert float(rho) == pytest.approx(0.7 * growth)
    torch.testing.assert_close(rho * scaled, 0.7 * u)


def test_at_the_largest_penalty_the_dual_is_left_alone() -> None:
    u = torch.randn(4, 5)
    rho, scaled = _grown(number(RHO_RANGE[1]), u, number(1.0))
    assert float(rho) == RHO_RANGE[1]
    assert torch.equal(scaled, u)


def test_the_search_grows_the_penalty_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found after four looks is where ρ and u are what `_grown` made of them at the ones before."""
    calls: list[tuple[float, float]] = []

    def grown(rho: torch.Tensor, u: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = _grown(rho, u, moved)
        calls.append((float(rho), float(found[0])))
        return found

    monkeypatch.setattr("worker.pruning.methods.alps._grown", grown)
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    config = AlpsSettings(max_steps=12, update_every=3)
    notes = solve_with(make_method(MethodName.alps, alps=config), dense, gram, HALF).notes
    assert calls[0][0] == config.rho
    assert [after for _, after in calls] == [before for before, _ in calls[1:]] + [notes["rho"]]
    assert len(calls) == 4
