"""Solvers as a GPU has them, on the CPU: no number of a loop is looked at, and the result is the same."""

import pytest
import torch
from torch import Tensor

from secateur.spec.method import AdmmSettings, AlpsSettings, MethodName, Scope
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from tests.worker.pruning.methods.oracles import gram_of, solve_with
from worker.pruning.methods import admm, alps, output_weighting
from worker.pruning.methods.admm import polish
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.output_weighting import descend, metric
from worker.pruning.runtime import waiting

HALF = Selection(Pattern(), Scope.matrix, 16 * 24)


@pytest.fixture
def dense() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(16, 48)


@pytest.fixture
def gram() -> Tensor:
    return gram_of(300, 48)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """To be undone for what happens on a CPU."""
    for module in (waiting, admm, alps, output_weighting):
        monkeypatch.setattr(module, "shows_at_once", lambda value: False)
    return monkeypatch


@pytest.mark.parametrize("steps", [1, 5, 60])
@pytest.mark.parametrize("converged", [0.0, 1e-5, 1e-2, 10.0])
def test_what_is_polished_stays_as_it_was_when_nothing_was_left(
    dense: Tensor, gram: Tensor, on_a_gpu: pytest.MonkeyPatch, steps: int, converged: float
) -> None:
    gram, mask = gram + torch.eye(48), torch.rand(16, 48) < 0.5
    found = polish(dense * mask, dense, gram, mask, steps, converged=converged)
    on_a_gpu.undo()
    assert torch.equal(found, polish(dense * mask, dense, gram, mask, steps, converged=converged))


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_steps": 4}, {"max_steps": 13, "update_every": 2}, {"rho": 1e6}, {"rho": 1e-5}, {"update_every": 1}],
)
def test_alps_ends_where_it_would_have(
    dense: Tensor, gram: Tensor, on_a_gpu: pytest.MonkeyPatch, settings: dict[str, float]
) -> None:
    method = make_method(MethodName.alps, alps=AlpsSettings(**settings))
    for own in (gram, torch.eye(48)):  # without correlations nothing ever moves
        solved = solve_with(method, dense, own, HALF)
        with pytest.MonkeyPatch.context() as patch:
            for module in (waiting, admm, alps):
                patch.setattr(module, "shows_at_once", lambda value: True)
            expected = solve_with(method, dense, own, HALF)
        assert torch.equal(solved.weight, expected.weight)
        assert solved.notes == expected.notes


def test_admm_finds_the_same(dense: Tensor, gram: Tensor, on_a_gpu: pytest.MonkeyPatch) -> None:
    gram[3], gram[:, 3] = 0.0, 0.0
    method = make_method(MethodName.admm, admm=AdmmSettings())
    found = solve_with(method, dense, gram, HALF)
    on_a_gpu.undo()
    assert torch.equal(found.weight, solve_with(method, dense, gram, HALF).weight)


@pytest.mark.parametrize("steps", [1, 8, 300])
def test_weighed_outputs_end_where_they_would_have(
    dense: Tensor, gram: Tensor, on_a_gpu: pytest.MonkeyPatch, steps: int
) -> None:
    """Its steps are made of other calls, whose last bits differ."""
    gram, mask = gram + torch.eye(48), torch.rand(16, 48) < 0.5
    weighed = metric(gram_of(40, 16))
    found = descend(dense * mask, dense, gram, mask, weighed, steps=steps)
    on_a_gpu.undo()
    expected = descend(dense * mask, dense, gram, mask, weighed, steps=steps)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-4, atol=1e-5)


def test_a_metric_of_no_gradients_counts_outputs_alike(on_a_gpu: pytest.MonkeyPatch) -> None:
    assert torch.equal(metric(torch.zeros(3, 3)), torch.eye(3))
