import torch
from torch import Tensor

from secateur.spec.method import METHODS, Method, MethodName, Perturbation, Scope, WeightUpdate
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.registry import SOLVERS, Group, prepare, scores, solve
from worker.pruning.state.moments import Accumulated, Accumulator, accumulate


def sums_of(*domains: Tensor) -> Accumulated:
    sums = None
    for inputs in domains:
        accumulator = Accumulator(inputs.shape[1], torch.device("cpu"))
        accumulator.add(inputs)
        sums = accumulate(sums, accumulator.measured(), keep_gram=True)
    assert sums is not None
    return sums


def mask_of(method: Method, dense: Tensor, sums: Accumulated, zeros: int) -> Tensor:
    group = prepare(method, sums)
    selection = Selection(Pattern(), method.comparison_group, zeros)
    return solve(method, "w", dense, scores(method, "w", dense, group), group, selection).mask


def test_every_method_has_its_row_and_both_say_the_same() -> None:
    assert SOLVERS.keys() == METHODS.keys() == set(MethodName)
    for name, row in SOLVERS.items():
        method = make_method(name)
        assert method.chooses is bool(row.candidates), name
        assert method.solves is (row.solve is not None or method.chooses), name
        assert (row.factorise is None) is (row.solve is None), name
        # A search for a mask begins with the scores that its formula names.
        assert row.scores is SOLVERS[method.formula[0]].scores, name


def test_scores_that_know_no_inputs_are_the_same_on_any_text() -> None:
    dense = torch.randn(4, 6)
    texts = [sums_of(torch.randn(50, 6) * scale) for scale in (1.0, 9.0)]
    for name in (each for each in MethodName if not METHODS[each].chooses):
        method = make_method(name)
        one, other = (scores(method, "w", dense, prepare(method, each)) for each in texts)
        assert torch.equal(one, other) is not method.scores_inputs, name


def test_magnitude_ignores_the_inputs() -> None:
    dense = torch.randn(4, 6)
    mask = mask_of(make_method(MethodName.magnitude), dense, sums_of(torch.rand(50, 6) * 9), 12)
    assert torch.equal(mask, Selection(Pattern(), Scope.matrix, 12).mask(dense.abs()))


def test_wanda_is_weight_times_input_norm_per_row() -> None:
    dense, inputs = torch.randn(4, 6), torch.randn(50, 6) * torch.linspace(0.1, 4, 6)
    expected = Selection(Pattern(), Scope.row, 12).mask(dense.abs() * inputs.square().mean(0).sqrt())
    assert torch.equal(mask_of(make_method(MethodName.wanda), dense, sums_of(inputs), 12), expected)


def test_copal_on_one_domain_is_wanda() -> None:
    dense, sums = torch.randn(4, 6), sums_of(torch.randn(50, 6) * torch.linspace(0.1, 4, 6))
    copal = mask_of(make_method(MethodName.copal), dense, sums, 12)
    assert torch.equal(copal, mask_of(make_method(MethodName.wanda), dense, sums, 12))


def test_relative_perturbation_is_accumulated_wanda_over_domains() -> None:
    dense = torch.randn(4, 6)
    domains = (torch.randn(50, 6) * torch.linspace(0.1, 4, 6), torch.randn(40, 6) + 2)
    sums = sums_of(*domains)
    method = make_method(MethodName.copal, perturbation=Perturbation.relative)
    assert torch.equal(mask_of(method, dense, sums, 12), mask_of(make_method(MethodName.wanda), dense, sums, 12))


def test_domain_shift_matches_its_definition() -> None:
    first, second, third = torch.randn(50, 3), torch.randn(40, 3) + 2, torch.randn(30, 3) - 1
    sums = sums_of(first, second, third)
    shift = first.square().mean(0)
    shift += (second - first.mean(0)).square().mean(0)
    shift += (third - (first.mean(0) + second.mean(0)) / 2).square().mean(0)
    torch.testing.assert_close(sums.shift, shift, rtol=1e-4, atol=1e-4)


def test_weight_update_keeps_the_selection_and_lowers_the_error() -> None:
    dense, inputs = torch.randn(8, 16), torch.randn(200, 16) @ torch.randn(16, 16)
    sums = sums_of(inputs)
    plain = make_method(MethodName.copal)
    updated = make_method(MethodName.copal, weight_update=WeightUpdate.admm)
    sensitivity = scores(plain, "w", dense, Group(sums))
    selection = Selection(Pattern(), Scope.row, 64)
    one = solve(plain, "w", dense, sensitivity, prepare(plain, sums), selection)
    two = solve(updated, "w", dense, sensitivity, prepare(updated, sums), selection)
    assert torch.equal(one.mask, two.mask)
    assert (inputs @ (two.weight - dense).T).square().sum() < (inputs @ (one.weight - dense).T).square().sum()


def test_selection_on_already_pruned_weights_is_a_fixed_point() -> None:
    """Masks stay: sequential magnitude and Wanda cannot change a mask at a fixed sparsity."""
    for name in (MethodName.magnitude, MethodName.wanda):
        method, dense = make_method(name), torch.randn(8, 16)
        first = mask_of(method, dense, sums_of(torch.randn(100, 16)), 64)
        second = mask_of(method, dense * first, sums_of(torch.randn(100, 16) * torch.linspace(0.1, 5, 16)), 64)
        assert torch.equal(first, second)


def test_dead_inputs_go_first_whatever_the_weight() -> None:
    inputs, dense = torch.randn(50, 4), torch.ones(2, 4)
    inputs[:, 1] = 0
    dense[:, 1] = 100
    for name in (MethodName.magnitude, MethodName.wanda, MethodName.copal):
        mask = mask_of(make_method(name), dense, sums_of(inputs), 2)
        assert mask.tolist() == [[True, False, True, True]] * 2
