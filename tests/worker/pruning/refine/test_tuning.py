"""Adam over part of a module's parameters."""

import pytest
import torch
from torch import nn

from secateur.spec.method import Refinement
from worker.pruning.refine.tuning import Tunable, cosine, own_copies, shuffled, tune, windows_of_a_step

INPUTS, WANTED = torch.randn(64, 6), torch.randn(64, 3)


def layer() -> nn.Linear:
    found = nn.Linear(6, 3, bias=False)
    found.requires_grad_(False)
    return found


def run(module: nn.Linear, free: torch.Tensor | None, epochs: int = 1, rate: float = 0.05) -> Tunable:
    (tunable,) = own_copies(module, {"weight": free}).values()
    settings = Refinement(epochs=epochs, learning_rate=rate)
    order = [shuffled(64, 8, f"{epoch}") for epoch in range(epochs)]

    def add_gradients(windows: list[int]) -> None:
        with torch.enable_grad():
            (module(INPUTS[windows]) - WANTED[windows]).square().mean().backward()

    done = list(tune([tunable], order, sum(map(len, order)), settings, add_gradients))
    assert sorted(number for windows in done for number in windows) == sorted([*range(64)] * epochs)
    return tunable


def test_what_may_change_goes_to_the_least_squares_on_its_inputs() -> None:
    torch.manual_seed(1)
    module = layer()
    free = torch.tensor([True, True, False, True, False, False]).expand(3, 6)
    with torch.no_grad():
        module.weight *= free
    tuned = run(module, free, epochs=100).parameter.detach()
    best = torch.linalg.lstsq(INPUTS[:, free[0]], WANTED).solution.T
    torch.testing.assert_close(tuned[:, free[0]], best, atol=0.02, rtol=0.02)


def test_what_may_not_change_keeps_its_bits_whatever_the_gradients_are() -> None:
    module = layer()
    before, free = module.weight.detach().clone(), torch.rand(3, 6) < 0.5
    before[~free] = torch.tensor([-0.0, 1e-30, 3.0])[torch.arange(int((~free).sum())) % 3]
    module.weight = nn.Parameter(before.clone(), requires_grad=False)
    tuned = run(module, free).parameter.detach()
    assert torch.equal(tuned[~free].view(torch.int32), before[~free].view(torch.int32))
    assert bool((tuned[free] != before[free]).all())
    torch.manual_seed(2)
    module.weight = nn.Parameter(torch.where(free, before, torch.tensor(1e38)), requires_grad=False)
    tuned = run(module, free).parameter.detach()
    assert bool((tuned[~free] == 1e38).all())


def test_a_relative_rate_is_of_the_size_of_what_may_change() -> None:
    """Adam's first step is the rate itself, whatever the gradients are."""
    modules = [layer() for _ in range(4)]
    free = torch.rand(3, 6) < 0.5
    with torch.no_grad():
        modules[1].weight *= 100
        modules[2].weight.copy_(torch.where(free, modules[2].weight, torch.tensor(1e6)))
        modules[3].weight.zero_()
    tunables = [
        tunable
        for number, module in enumerate(modules)
        for tunable in own_copies(module, {"weight": free if number == 2 else None}).values()
    ]
    before = [each.parameter.detach().clone() for each in tunables]

    def add_gradients(_: list[int]) -> None:
        for each in tunables:
            each.parameter.grad = torch.randn(3, 6).sign() * 1e3

    list(tune(tunables, [[[0]]], 1, Refinement(relative_rate=0.01), add_gradients))
    sizes = [each.square().mean().sqrt() for each in (before[0], before[1], before[2][free])] + [
        torch.tensor(1e-3)
    ]
    for number, (each, then, size) in enumerate(zip(tunables, before, sizes, strict=True)):
        moved = (each.parameter.detach() - then).abs()
        moved = moved[free] if number == 2 else moved
        torch.testing.assert_close(moved, (0.01 * size).expand_as(moved), rtol=1e-3, atol=1e-6)
    assert torch.equal(tunables[2].parameter.detach()[~free], before[2][~free])


@pytest.mark.parametrize("rate", ["relative_rate", "learning_rate"])
def test_every_number_of_a_norm_moves_by_its_own_size(rate: str) -> None:
    """Unless one rate for all is given. A matrix beside it has one rate by all of its numbers."""
    sizes = torch.tensor([1600.0, -30.0, 0.3, 0.0, -1e-7])
    norm, matrix = nn.Parameter(sizes.clone()), nn.Parameter(torch.diag(sizes))
    tunables = [Tunable(norm, None), Tunable(matrix, None)]

    def add_gradients(_: list[int]) -> None:
        norm.grad = -torch.tensor([1e-4, 1.0, 1e3, 1.0, 1.0])
        matrix.grad = -torch.ones_like(matrix)

    list(tune(tunables, [[[0]]], 1, Refinement(**{rate: 0.01}), add_gradients))
    own = sizes.abs().clamp_min(1e-3) if rate == "relative_rate" else torch.ones(5)
    all_of_it = torch.diag(sizes).square().mean().sqrt() if rate == "relative_rate" else torch.tensor(1.0)
    torch.testing.assert_close(norm.detach() - sizes, 0.01 * own, rtol=2e-3, atol=1e-8)
    moved = matrix.detach() - torch.diag(sizes)
    torch.testing.assert_close(moved, (0.01 * all_of_it).expand(5, 5), rtol=2e-3, atol=1e-6)


def test_copies_leave_what_was_loaded_alone() -> None:
    module = layer()
    loaded = module.weight.detach()
    before = loaded.clone()
    run(module, None)
    assert torch.equal(loaded, before)
    assert not torch.equal(module.weight, before)


def test_the_order_is_by_the_seed_and_has_every_window_once() -> None:
    one, two, other = (shuffled(7, 2, seed) for seed in ("0/1/2/3", "0/1/2/3", "0/1/2/4"))
    assert one == two != other
    assert sorted(number for windows in one for number in windows) == [*range(7)]
    assert [len(windows) for windows in one] == [2, 2, 2, 1]


def test_the_rate_falls_along_a_cosine() -> None:
    rates = [cosine(0.1, step, 4) for step in range(5)]
    assert rates == pytest.approx([0.1, 0.05 * (1 + 0.5**0.5), 0.05, 0.05 * (1 - 0.5**0.5), 0.0])


@pytest.mark.parametrize(("length", "windows"), [(32, 2), (2048, 2), (2049, 1), (131_072, 1)])
def test_a_step_has_few_windows(length: int, windows: int) -> None:
    assert windows_of_a_step(length) == windows
