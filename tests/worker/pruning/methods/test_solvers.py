"""What holds for every solver alike: exact counts, patterns, the optimum as a lower bound, float64 oracles."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.spec.method import (
    AdmmSettings,
    AlpsSettings,
    Mask,
    Method,
    MethodName,
    Mode,
    Scope,
    SparseGptSettings,
    WeightUpdate,
)
from secateur.spec.sparsity import Pattern
from tests.specs import changed, make_method
from tests.worker.pruning.methods.oracles import (
    EveryMask,
    admm_damped,
    gram_of,
    least_squares,
    mean_damped,
    output_error,
    solve_with,
    sums_of_gram,
)
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.masks import Selection, follows
from worker.pruning.methods.registry import prepare, scores, solve

SELECTING = (MethodName.magnitude, MethodName.wanda, MethodName.copal)
SOLVING = (MethodName.sparsegpt, MethodName.admm, MethodName.alps)
ALL = [
    *(make_method(name) for name in (*SELECTING, *SOLVING)),
    *(make_method(name, WeightUpdate.admm) for name in (*SELECTING, *SOLVING) if name is not MethodName.admm),
    *(make_method(name, WeightUpdate.admm, Mask.searched) for name in SELECTING),
]
ARRANGEMENTS = {
    "matrix": Selection(Pattern(), Scope.matrix, 16),
    "row": Selection(Pattern(), Scope.row, 16),
    "2:4": Selection(Pattern(2, 4), Scope.matrix, 16),
}
EXACT: dict[str, Any] = {
    "admm": AdmmSettings(iterations=400, damping=0.1, polish_steps=400),
    "alps": AlpsSettings(polish_steps=400),
}
BOUNDS = {
    "magnitude": 12.0,
    "wanda": 4.0,
    "copal": 4.0,
    "sparsegpt": 3.0,
    "admm": 2.0,
    "alps": 1.7,
    "magnitude+admm": 6.0,
    "wanda+admm": 2.5,
    "copal+admm": 2.5,
    "sparsegpt+admm": 2.5,
    "alps+admm": 1.7,
}
each = pytest.mark.parametrize("method", ALL, ids=lambda method: method.solver)
solving = pytest.mark.parametrize("name", SOLVING)


@cache
def small_problem(seed: int) -> tuple[Tensor, Tensor, EveryMask]:
    generator = torch.Generator().manual_seed(seed)
    dense, inputs = torch.randn(4, 8, generator=generator), torch.randn(100, 8, generator=generator)
    mixed = inputs @ (torch.eye(8) + 0.3 * torch.randn(8, 8, generator=generator)) * torch.linspace(0.5, 2, 8)
    gram = mixed.T @ mixed / 100
    return dense, gram, EveryMask(dense, gram)


@each
@pytest.mark.parametrize("selection", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_no_solver_beats_the_best_of_all_masks_or_is_far_behind(method: Method, selection: Selection) -> None:
    """4 × 8, every mask tried in float64. Mean over six problems, without the solvers' own ridge."""
    ratios = []
    for seed in range(6):
        dense, gram, every = small_problem(seed)
        error = output_error(solve_with(method, dense, gram, selection).weight, dense, gram)
        ratios.append(error / every.best(selection))
    assert min(ratios) >= 1 - 1e-4
    assert sum(ratios) / len(ratios) < BOUNDS[method.solver.removesuffix(":searched")]


@each
@pytest.mark.parametrize("width", [8, 200])
def test_identity_gram_is_magnitude_pruning(method: Method, width: int) -> None:
    dense = torch.randn(8, width)
    # ADMM undamped: with the ridge a dual may outgrow its weight, and neighbours of the threshold change places.
    method = changed(method, comparison_group=Scope.row, admm=AdmmSettings(damping=0.0))
    for pattern, zeros in ((Pattern(), 4 * width), (Pattern(2, 4), 4 * width), (Pattern(1, 8), 7 * width)):
        # SparseGPT takes as many from every block of inputs: it is one only where one block is the whole width.
        selection = Selection(pattern, Scope.row, zeros)
        solution = solve_with(method, dense, torch.eye(width), selection)
        expected = selection.mask(dense.abs())
        if method.name is not MethodName.sparsegpt or pattern.group or width == 8:
            assert torch.equal(solution.mask, expected)
        torch.testing.assert_close(solution.weight, dense * solution.mask, rtol=1e-3, atol=2e-3)


@each
def test_one_gram_at_any_scale_gives_one_mask(method: Method) -> None:
    dense, gram = torch.randn(12, 32), gram_of(200, 32)
    selection = Selection(Pattern(), method.comparison_group, 192)
    masks = [solve_with(method, dense, gram * scale, selection).mask for scale in (1.0, 2.0**-30, 2.0**30)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("name", [*SELECTING, MethodName.sparsegpt, MethodName.alps])
def test_the_weight_update_is_the_exact_least_squares_on_the_mask(name: MethodName) -> None:
    dense, gram = torch.randn(6, 16), gram_of(200, 16)
    method = make_method(name, WeightUpdate.admm, admm=EXACT["admm"])
    solution = solve_with(method, dense, gram, Selection(Pattern(), method.comparison_group, 48))
    assert_optimal(solution.weight, dense, admm_damped(gram, 0.1), solution.mask)


def test_a_mask_searched_by_wandas_scores_is_that_of_admm() -> None:
    """Its scores |W|√(E x²) are ADMM's own |W D|; and COPAL's are as theirs while no domain has shifted."""
    dense, gram = torch.randn(6, 16), gram_of(200, 16)
    selection = Selection(Pattern(), Scope.matrix, 48)
    admm = solve_with(make_method(MethodName.admm), dense, gram, selection)
    for name in (MethodName.wanda, MethodName.copal):
        searched = solve_with(make_method(name, WeightUpdate.admm, Mask.searched), dense, gram, selection)
        assert torch.equal(searched.mask, admm.mask)
        torch.testing.assert_close(searched.weight, admm.weight)


def test_a_searched_mask_follows_copals_shift() -> None:
    """An input whose mean has moved counts for more than its energy alone."""
    dense, gram = torch.randn(6, 16), gram_of(200, 16)
    still = sums_of_gram(gram)
    shifted = replace(still, shift=still.shift * torch.linspace(1, 30, 16))
    method = make_method(MethodName.copal, WeightUpdate.admm, Mask.searched)
    stays = []
    for sums in (still, shifted):
        group = prepare(method, sums)
        found = scores(method, "w", dense, group)
        solution = solve(method, "w", dense, found, group, Selection(Pattern(), Scope.matrix, 48))
        assert_optimal(solution.weight, dense, admm_damped(gram, 0.1), solution.mask)
        stays.append(solution.mask[:, 8:].sum())
    assert stays[1] > stays[0]


def test_a_searched_mask_keeps_more_of_the_output_than_the_methods_own() -> None:
    dense, gram = torch.randn(12, 32), gram_of(200, 32)
    selection = Selection(Pattern(), Scope.matrix, 192)
    for name in SELECTING:
        updated = [make_method(name, WeightUpdate.admm, mask) for mask in (Mask.searched, Mask.selected)]
        errors = [output_error(solve_with(each, dense, gram, selection).weight, dense, gram) for each in updated]
        assert errors[0] < errors[1]


def test_a_searched_mask_leaves_what_an_earlier_stage_has_removed() -> None:
    """Also where more inputs never fire than weights are to go: the count stays exact."""
    dense, gram = torch.randn(8, 32), gram_of(200, 32)
    silent = torch.arange(32) < 24
    gram[silent] = 0
    gram[:, silent] = 0
    dense[:, 24:28] = 0
    dense[4:, 28:] = 0
    selection = Selection(Pattern(), Scope.matrix, 128)
    for name in SELECTING:
        method = make_method(name, WeightUpdate.admm, Mask.searched, mode=Mode.sequential)
        solution = solve_with(method, dense, gram, selection)
        assert int((~solution.mask).sum()) == int((solution.weight == 0).sum()) == 128
        assert not bool(solution.mask[dense == 0].any())


def test_admm_and_alps_end_at_the_exact_least_squares_on_their_masks() -> None:
    dense, gram = torch.randn(6, 16), gram_of(200, 16)
    for name, damped in ((MethodName.admm, admm_damped(gram, 0.1)), (MethodName.alps, mean_damped(gram, 0.01))):
        method = make_method(name, **EXACT)
        solution = solve_with(method, dense, gram, Selection(Pattern(), Scope.matrix, 48))
        assert_optimal(solution.weight, dense, damped, solution.mask)


def assert_optimal(weight: Tensor, dense: Tensor, damped: Tensor, mask: Tensor) -> None:
    best = output_error(least_squares(dense, damped, mask), dense, damped)
    assert best * (1 - 1e-6) <= output_error(weight, dense, damped) <= best * (1 + 1e-3)


@settings(max_examples=60)
@given(st.data())
def test_counts_patterns_and_numbers_are_exact_whatever_the_problem(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(ALL), label="method")
    kept, group = data.draw(st.sampled_from([(0, 0), (1, 2), (2, 4), (3, 7), (5, 8)]), label="pattern")
    rows, groups = data.draw(st.integers(1, 9), label="rows"), data.draw(st.integers(1, 6), label="groups")
    width = groups * (group or 5)
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    dead = torch.rand(width) < data.draw(st.sampled_from([0.0, 0.4, 1.0]), label="dead")
    inputs = torch.randn(data.draw(st.integers(1, 40), label="tokens"), width) * ~dead
    gram = inputs.T @ inputs / len(inputs) * 10.0 ** data.draw(st.integers(-6, 6), label="scale")
    dense = torch.randn(rows, width).masked_fill(torch.rand(rows, width) < 0.1, 0.0)
    if group:
        selection = Selection(Pattern(kept, group), method.comparison_group, rows * groups * (group - kept))
    else:
        scope = data.draw(st.sampled_from(Scope), label="scope")
        selection = Selection(Pattern(), scope, data.draw(st.integers(0, rows * width), label="zeros"))
    block = data.draw(st.sampled_from([1, 3, 8, 128]), label="block")
    method = changed(method, sparsegpt=SparseGptSettings(block=block))

    solution = solve_with(method, dense, gram, selection)

    assert solution.weight.dtype == torch.float32
    assert bool(torch.isfinite(solution.weight).all())
    assert int((~solution.mask).sum()) == selection.zeros
    assert bool((solution.weight[~solution.mask] == 0).all())
    assert follows(solution.mask, selection.pattern)
    if selection.zeros:
        assert_dead_first(solution.mask, dead, selection)
    if not group and selection.scope is Scope.row:
        zeros = (~solution.mask).sum(dim=1)
        assert int(zeros.max() - zeros.min()) <= 1


@settings(max_examples=60)
@given(st.data())
def test_zeros_that_are_kept_stay_and_count(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(ALL), label="method")
    kept, group = data.draw(st.sampled_from([(0, 0), (1, 2), (2, 4), (3, 7)]), label="pattern")
    rows, groups = data.draw(st.integers(1, 9), label="rows"), data.draw(st.integers(1, 6), label="groups")
    width = groups * (group or 5)
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    dead = torch.rand(width) < data.draw(st.sampled_from([0.0, 0.4]), label="dead")
    inputs = torch.randn(40, width) * ~dead
    dense = torch.randn(rows, width)
    dense[torch.rand(rows, width) < data.draw(st.sampled_from([0.1, 0.5, 0.9]), label="zeros")] = 0.0
    zeros = rows * groups * (group - kept) if group else data.draw(st.integers(0, rows * width), label="target")
    scope = data.draw(st.sampled_from(Scope), label="scope")
    selection = Selection(Pattern(kept, group) if group else Pattern(), scope, zeros, allowed=dense != 0)
    method = changed(
        method, sparsegpt=SparseGptSettings(block=data.draw(st.sampled_from([1, 3, 128]), label="block"))
    )

    weight = solve_with(method, dense, inputs.T @ inputs / 40, selection).weight

    assert bool(torch.isfinite(weight).all())
    assert bool((weight[dense == 0] == 0).all())
    assert follows(weight, selection.pattern) or zeros == 0
    own, found = (int((each == 0).sum()) for each in (dense, weight))
    if selection.pattern.group is None and (scope is Scope.matrix or own >= zeros):
        assert found == max(own, zeros)
    elif selection.pattern.group is None:
        quota = torch.tensor([zeros // rows + (row < zeros % rows) for row in range(rows)])
        assert torch.equal((weight == 0).sum(dim=1), torch.maximum((dense == 0).sum(dim=1), quota))


@pytest.mark.parametrize("method", ALL, ids=str)
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_a_model_of_two_in_four_stays_what_it_is(method: Method, pattern: str) -> None:
    torch.manual_seed(0)
    inputs, dense = torch.randn(64, 16), torch.randn(8, 16)
    dense *= Selection(Pattern(2, 4), Scope.matrix, 64).mask(dense.abs())
    selection = Selection(Pattern.parse(pattern), Scope.matrix, 64, allowed=dense != 0)
    assert torch.equal(solve_with(method, dense, inputs.T @ inputs / 64, selection).weight, dense)
    # More than its own zeros in another pattern: still 2:4, and the weights that stay are solved for.
    more = Selection(Pattern(), Scope.matrix, 80, allowed=dense != 0)
    solved = solve_with(method, dense, inputs.T @ inputs / 64, more).weight
    assert follows(solved, Pattern(2, 4))
    assert int((solved == 0).sum()) == 80


def assert_dead_first(mask: Tensor, dead: Tensor, selection: Selection) -> None:
    """No live weight goes where a dead one it competes with stays."""
    parts = mask.reshape(len(mask), -1, selection.pattern.group) if selection.pattern.group else mask[:, None]
    gone = dead.expand_as(mask).reshape(parts.shape)
    over = (0, 1, 2) if selection.pattern.group is None and selection.scope is Scope.matrix else (2,)
    dead_stays = (parts & gone).sum(dim=over) > 0
    live_goes = (~parts & ~gone).sum(dim=over) > 0
    assert not bool((dead_stays & live_goes).any())


@solving
def test_a_gram_that_cannot_be_factored_fails_by_name(name: MethodName) -> None:
    broken = torch.eye(4)
    broken[0, 1] = broken[1, 0] = 300.0
    for gram in (broken, torch.full((4, 4), torch.nan)):
        with pytest.raises(IllConditioned, match="Gram"):
            prepare(make_method(name), sums_of_gram(gram))


@solving
def test_a_raised_damping_is_in_the_notes(name: MethodName) -> None:
    broken = torch.eye(4)
    broken[0, 1] = broken[1, 0] = 1.05  # eigenvalues 2.05 and −0.05
    method = make_method(name, admm=AdmmSettings(damping=0.01, rho=1e-3))
    selection = Selection(Pattern(), Scope.matrix, 8)
    solution = solve_with(method, torch.randn(4, 4), broken, selection)
    assert solution.notes["damping"] == pytest.approx(0.1)
    assert solution.notes["precision"] == "float32"
    assert "damping" not in solve_with(method, torch.randn(4, 4), torch.eye(4), selection).notes


@solving
def test_the_last_rung_is_float64(name: MethodName) -> None:
    """In float32 1 + 1e-9 is 1 and the matrix of ones stays singular; in float64 it does not."""
    method = make_method(
        name,
        admm=AdmmSettings(damping=1e-10, rho=1e-12),
        alps=AlpsSettings(damping=1e-10),
        sparsegpt=SparseGptSettings(damping=1e-10),
    )
    notes = prepare(method, sums_of_gram(torch.ones(16, 16))).notes
    assert notes == {"damping": pytest.approx(1e-9), "precision": "float64"}


@each
def test_stop_is_heard_inside(method: Method) -> None:
    def stop() -> None:
        raise InterruptedError

    dense, group = torch.randn(4, 8), prepare(method, sums_of_gram(gram_of(50, 8)))
    found = scores(method, "w", dense, group)
    arguments = (method, "w", dense, found, group, Selection(Pattern(), Scope.matrix, 16))
    if method.updates_weights:
        with pytest.raises(InterruptedError):
            solve(*arguments, stop)
    else:
        assert solve(*arguments, stop).notes == {}
