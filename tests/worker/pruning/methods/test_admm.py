import itertools
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from secateur.spec.method import AdmmSettings, MethodName, Schedule, Scope, WeightUpdate
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from tests.worker.pruning.methods.oracles import admm_damped, output_error, solve_with
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.admm import _zeros, factorise, polish, solve_admm
from worker.pruning.methods.masks import Selection, follows


def gram_of(tokens: int, width: int, *, mixed: bool = True) -> Tensor:
    inputs = torch.randn(tokens, width)
    if mixed:
        inputs = inputs @ torch.randn(width, width) * torch.linspace(0.2, 3, width)
    return inputs.T @ inputs / tokens


def unstructured(zeros: int) -> Selection:
    return Selection(Pattern(), Scope.matrix, zeros)


def damped_error(weight: Tensor, dense: Tensor, gram: Tensor, damping: float) -> float:
    norms = gram.diagonal().sqrt()
    normal = gram / norms / norms[:, None] + damping * torch.eye(len(norms))
    difference = (weight - dense) * norms
    return float(((difference @ normal) * difference).sum())


def exact_least_squares(dense: Tensor, gram: Tensor, mask: Tensor, damping: float) -> Tensor:
    """Row by row in float64: the minimum of the damped error on a support."""
    norms = gram.double().diagonal().sqrt()
    normal = gram.double() / norms / norms[:, None] + damping * torch.eye(len(norms), dtype=torch.float64)
    result = torch.zeros_like(dense, dtype=torch.float64)
    for row in range(len(dense)):
        on = mask[row].nonzero().flatten()
        right = (normal[on] @ (dense[row].double() * norms)[:, None]).flatten()
        result[row, on] = torch.linalg.solve(normal[on][:, on], right) / norms[on]
    return result.float()


def test_identity_gram_is_magnitude_pruning() -> None:
    # Undamped: the ridge would let a dual grow past its weight, and those near the threshold change places.
    dense, config = torch.randn(8, 16), AdmmSettings(damping=0.0)
    solution = solve_admm(dense, factorise(torch.eye(16), config), unstructured(64), config)
    kept = unstructured(64).mask(dense.abs())
    assert torch.equal(solution.mask, kept)
    torch.testing.assert_close(solution.weight, dense * kept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_nothing_to_prune_gives_the_dense_weights(schedule: Schedule) -> None:
    dense, config = torch.randn(8, 16), AdmmSettings(schedule=schedule)
    solution = solve_admm(dense, factorise(gram_of(64, 16), config), unstructured(0), config)
    assert bool(solution.mask.all())
    torch.testing.assert_close(solution.weight, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_both_schedules_end_at_the_exact_count(schedule: Schedule) -> None:
    config = AdmmSettings(schedule=schedule)
    solution = solve_admm(torch.randn(8, 16), factorise(gram_of(64, 16), config), unstructured(77), config)
    assert int((solution.weight == 0).sum()) == 77


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("text", ["2:4", "3:7", "4:8"])
def test_n_of_m_holds_under_both_schedules(text: str, schedule: Schedule) -> None:
    pattern, config = Pattern.parse(text), AdmmSettings(schedule=schedule)
    assert pattern.group
    assert pattern.kept
    width = 4 * pattern.group
    zeros = 6 * 4 * (pattern.group - pattern.kept)
    selection = Selection(pattern, Scope.matrix, zeros)
    solution = solve_admm(torch.randn(6, width), factorise(gram_of(200, width), config), selection, config)
    assert follows(solution.weight, pattern)
    assert int((solution.weight == 0).sum()) == zeros


def test_update_on_a_given_mask_reaches_the_exact_least_squares() -> None:
    dense, gram = torch.randn(5, 12), gram_of(200, 12)
    mask = torch.rand(5, 12) > 0.5
    config = AdmmSettings(iterations=40)
    solution = solve_admm(dense, factorise(gram, config), unstructured(0), config, mask)
    assert torch.equal(solution.mask, mask)
    exact = exact_least_squares(dense, gram, mask, 0.1)
    found, best = (damped_error(weight, dense, gram, 0.1) for weight in (solution.weight, exact))
    assert found == pytest.approx(best, rel=1e-3)
    factor = factorise(gram, config)
    v0 = dense * factor.norms
    patient = polish(v0 * mask, v0, factor.gram, mask, 40, converged=0.0) / factor.norms
    torch.testing.assert_close(patient, exact, rtol=1e-3, atol=1e-3)


def test_polish_never_raises_the_error() -> None:
    gram = factorise(gram_of(100, 24), AdmmSettings()).gram
    v0 = torch.randn(7, 24)
    mask = torch.rand(7, 24) > 0.6
    errors = []
    for steps in range(12):
        difference = polish(v0 * mask, v0, gram, mask, steps) - v0
        errors.append(float(((difference @ gram) * difference).sum()))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_polish_keeps_the_support_and_an_empty_row() -> None:
    gram, v0 = torch.eye(6) + 0.2, torch.randn(3, 6)
    mask = torch.rand(3, 6) > 0.5
    mask[1] = False
    v = polish(v0 * mask, v0, gram, mask, 5)
    assert bool((v[~mask] == 0).all())
    assert bool(torch.isfinite(v).all())


def test_result_is_close_to_the_best_of_all_masks() -> None:
    """Brute force on 4 × 8, each row with its own half of the inputs."""
    config = AdmmSettings()
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        dense, gram = torch.randn(4, 8), gram_of(100, 8)
        best = 0.0
        for row in dense:
            found = []
            for chosen in itertools.combinations(range(8), 4):
                mask = torch.zeros(1, 8, dtype=torch.bool)
                mask[0, list(chosen)] = True
                weight = exact_least_squares(row[None], gram, mask, 0.1)
                found.append(damped_error(weight, row[None], gram, 0.1))
            best += min(found)
        selection = Selection(Pattern(), Scope.row, 16)
        solution = solve_admm(dense, factorise(gram, config), selection, config)
        error = damped_error(solution.weight, dense, gram, 0.1)
        assert error >= best * (1 - 1e-4)
        naive = dense * selection.mask(dense.abs() * gram.diagonal().sqrt())
        assert error < damped_error(naive, dense, gram, 0.1)
        ratios.append(error / best)
    assert sum(ratios) / len(ratios) < 1.25


def test_the_search_does_not_feel_that_its_products_are_rounded() -> None:
    dense, gram, config = torch.randn(64, 96), gram_of(400, 96), AdmmSettings(polish_steps=0)
    factor = factorise(gram, config)
    assert factor.inverse is not None
    rounded = replace(factor, inverse=factor.inverse.bfloat16().float())
    exact, close = (solve_admm(dense, each, unstructured(64 * 48), config) for each in (factor, rounded))
    errors = [damped_error(each.weight, dense, gram, config.damping) for each in (exact, close)]
    assert errors[0] > 0
    assert errors[1] == pytest.approx(errors[0], rel=2e-3)


def test_dead_inputs_are_pruned_first() -> None:
    gram = gram_of(100, 8)
    gram[2], gram[:, 2] = 0.0, 0.0
    dense = torch.randn(4, 8)
    dense[:, 2] = 100.0
    solution = solve_admm(dense, factorise(gram, AdmmSettings()), unstructured(4), AdmmSettings())
    assert not bool(solution.mask[:, 2].any())
    assert bool(solution.mask[:, [0, 1, 3, 4, 5, 6, 7]].all())


def test_a_gram_of_nothing_but_zeros_is_no_trouble() -> None:
    solution = solve_admm(
        torch.randn(4, 8), factorise(torch.zeros(8, 8), AdmmSettings()), unstructured(16), AdmmSettings()
    )
    assert bool(torch.isfinite(solution.weight).all())
    assert int((solution.weight == 0).sum()) == 16


def test_failed_cholesky_climbs_the_ladder_and_says_so() -> None:
    broken = torch.eye(4)
    broken[0, 1] = broken[1, 0] = 3.0  # eigenvalues 4 and −2
    factor = factorise(broken, AdmmSettings(damping=0.15, rho=1.0))
    assert factor.notes == {"damping": 1.5, "precision": "float32"}


def test_hopeless_gram_fails_instead_of_lying() -> None:
    broken = torch.eye(4)
    broken[0, 1] = broken[1, 0] = 30.0
    with pytest.raises(IllConditioned):
        factorise(broken, AdmmSettings())
    with pytest.raises(IllConditioned):
        factorise(torch.full((4, 4), torch.nan), AdmmSettings())


def test_stop_is_heard_inside_the_solver() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        solve_admm(
            torch.randn(4, 8),
            factorise(torch.eye(8), AdmmSettings()),
            unstructured(16),
            AdmmSettings(),
            check=stop,
        )


def test_admm_and_the_direct_update_agree_on_the_same_mask() -> None:
    dense, gram, config = torch.randn(16, 48), gram_of(400, 48), AdmmSettings(iterations=200)
    factor = factorise(gram, config)
    found = solve_admm(dense, factor, unstructured(384), config)
    direct = solve_admm(dense, factor, unstructured(384), config, found.mask)
    one, two = (damped_error(solution.weight, dense, gram, 0.1) for solution in (found, direct))
    assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_it_finds_a_better_mask_than_wanda(schedule: Schedule) -> None:
    """Both masks over the whole matrix, both with weights under the same ridge."""
    dense, gram, config = torch.randn(16, 48), gram_of(300, 48), AdmmSettings(schedule=schedule)
    selected = make_method(MethodName.wanda, WeightUpdate.admm, comparison_group=Scope.matrix, admm=config)
    methods = (make_method(MethodName.admm, admm=config), selected)
    found, wanda = (solve_with(method, dense, gram, unstructured(16 * 24)).weight for method in methods)
    damped = admm_damped(gram, config.damping)
    assert output_error(found, dense, damped) < 0.95 * output_error(wanda, dense, damped)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (Schedule.gradual, 1, 631),  # 3375 · (1 − (14/15)³)
        (Schedule.gradual, 7, 2863),
        (Schedule.gradual, 15, 3375),
        (Schedule.gradual, 16, 3375),
        (Schedule.immediate, 1, 3375),
        (Schedule.immediate, 7, 3375),
        (Schedule.immediate, 15, 3375),
    ],
)
def test_schedules_by_hand(schedule: Schedule, step: int, expected: int) -> None:
    config = AdmmSettings(schedule=schedule, mask_steps=15)
    assert _zeros(unstructured(3375), config, step) == pytest.approx(expected, abs=1)


@dataclass(frozen=True)
class Recording(Selection):
    """Keeps every mask that was chosen."""

    masks: list[Tensor] = field(default_factory=list)

    def mask(self, scores: Tensor, zeros: int | None = None) -> Tensor:
        self.masks.append(super().mask(scores, zeros))
        return self.masks[-1]


def textbook_admm(
    dense: Tensor, gram: Tensor, zeros: list[int], steps: int, damping: float, rho: float
) -> tuple[list[Tensor], Tensor]:
    """Boža's algorithm 1 in float64, as it is written: the mask of every step that chooses one, and Z at the end.

    zeros: of those steps.
    """
    eye = torch.eye(len(gram), dtype=torch.float64)
    norms = gram.double().diagonal().sqrt()
    normal = gram.double() / norms / norms[:, None] + damping * eye
    v0 = dense.double() * norms
    v, u, masks = v0, torch.zeros_like(v0), []
    for step in range(steps):
        if step < len(zeros):
            order = (v + u).abs().flatten().argsort()
            mask = torch.ones(v.numel(), dtype=torch.bool)
            mask[order[: zeros[step]]] = False
            masks.append(mask.view_as(v))
        z = (v + u) * masks[-1]
        u = u + v - z
        v = (v0 @ normal + rho * (z - u)) @ torch.linalg.inv(normal + rho * eye)
    return masks, (v + u) * masks[-1] / norms


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("mask_steps", [15, 20])
def test_every_step_s_mask_is_that_of_the_textbook(schedule: Schedule, mask_steps: int) -> None:
    config = AdmmSettings(iterations=20, mask_steps=mask_steps, schedule=schedule, polish_steps=0)
    dense, gram, zeros = torch.randn(12, 32), gram_of(300, 32), 12 * 16
    wanted = [zeros] * mask_steps
    if schedule is Schedule.gradual:
        wanted = [int(zeros * (1 - (1 - step / mask_steps) ** 3)) for step in range(1, mask_steps)] + [zeros]
    masks, weight = textbook_admm(dense, gram, wanted, 20, config.damping, config.rho)
    selection = Recording(Pattern(), Scope.matrix, zeros)
    solution = solve_admm(dense, factorise(gram, config), selection, config)
    assert len(selection.masks) == len(masks)
    for found, expected in zip(selection.masks, masks, strict=True):
        assert torch.equal(found, expected)
    assert len({mask.numpy().tobytes() for mask in masks}) > 5
    torch.testing.assert_close(solution.weight.double(), weight, rtol=1e-3, atol=1e-4)
