import pytest
import torch

from tests.worker.pruning.methods.oracles import gram_of, mean_damped, output_error, solve_with
from worker.pruning.method_spec import AlpsConfig, Method, MethodName, WeightUpdate
from worker.pruning.methods.alps import factorise
from worker.pruning.patterns import Pattern, Scope, Selection

HALF = Selection(Pattern(), Scope.layer, 16 * 24)


@pytest.mark.parametrize("rho", [1e-3, 0.1, 10.0])
def test_the_decomposition_gives_the_inverse_for_every_rho(rho: float) -> None:
    gram = gram_of(200, 30)
    factor = factorise(gram, AlpsConfig())
    damped = mean_damped(gram, 0.01)
    norms = damped.diagonal().sqrt()
    expected = torch.linalg.inv(damped / norms / norms[:, None] + rho * torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(factor.inverse(rho).double(), expected, rtol=1e-3, atol=1e-4)


def test_it_finds_a_better_mask_than_wanda() -> None:
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    damped = mean_damped(gram, 0.01)
    found = solve_with(Method(MethodName.alps), dense, gram, HALF).weight
    wanda = solve_with(Method(MethodName.wanda, WeightUpdate.admm), dense, gram, HALF).weight
    assert output_error(found, dense, damped) < 0.9 * output_error(wanda, dense, damped)


def test_the_penalty_grows_until_the_support_settles() -> None:
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    notes = solve_with(Method(MethodName.alps), dense, gram, HALF).notes
    assert notes["rho"] > 0.1
    assert 10 < notes["steps"] < 300


def test_a_penalty_too_large_to_move_anything_is_lowered() -> None:
    """ρ = 10⁶ holds the support where it starts; ρ/5 and a new start until it moves."""
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    stuck = solve_with(Method(MethodName.alps, alps=AlpsConfig(rho=1e6)), dense, gram, HALF)
    usual = solve_with(Method(MethodName.alps), dense, gram, HALF)
    damped = mean_damped(gram, 0.01)
    assert stuck.notes["rho"] < 1e3
    assert output_error(stuck.weight, dense, damped) < 1.2 * output_error(usual.weight, dense, damped)


def test_steps_are_bounded() -> None:
    config = AlpsConfig(max_steps=4, update_every=3)
    dense, gram = torch.randn(16, 48), gram_of(300, 48)
    assert solve_with(Method(MethodName.alps, alps=config), dense, gram, HALF).notes["steps"] == 4


def test_it_is_never_worse_than_the_mask_it_starts_from() -> None:
    """Without correlations that mask is optimal, and the search alone leaves it."""
    dense = torch.randn(16, 48)
    solution = solve_with(Method(MethodName.alps), dense, torch.eye(48), HALF)
    assert torch.equal(solution.mask, HALF.mask(dense.abs()))
    assert solution.notes["kept"] == "the mask the search started from"
