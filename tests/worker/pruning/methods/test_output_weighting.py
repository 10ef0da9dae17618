"""Weighed outputs, against the one solution that the problem has on a given mask."""

import pytest
import torch
from torch import Tensor

from secateur.spec.method import AdmmSettings
from worker.pruning.methods import output_weighting
from worker.pruning.methods.admm import AdmmFactor, factorise, polish
from worker.pruning.methods.output_weighting import OutputMetric, descend, metric, parts, weigh_outputs

ROWS, WIDTH = 6, 8


def gram_of(tokens: int, width: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    inputs = torch.randn(tokens, width) @ torch.randn(width, width)
    return inputs.T @ inputs / tokens


def error(weight: Tensor, towards: Tensor, gram: Tensor, weighed: Tensor) -> float:
    lost = (weight - towards).double()
    return float(torch.trace(weighed.double() @ lost @ gram.double() @ lost.T))


@pytest.fixture
def factor() -> AdmmFactor:
    return factorise(gram_of(60, WIDTH, 1), AdmmSettings(), invert=False)


@pytest.fixture
def dense() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(ROWS, WIDTH)


@pytest.fixture
def mask() -> Tensor:
    torch.manual_seed(3)
    return torch.rand(ROWS, WIDTH) < 0.5


def row_by_row(dense: Tensor, factor: AdmmFactor, mask: Tensor) -> Tensor:
    """The best weights where every output counts alike."""
    v0 = dense * factor.norms
    return torch.where(mask, polish(v0 * mask, v0, factor.gram, mask, 100, converged=0) / factor.norms, 0.0)


def test_enough_steps_reach_the_only_solution(dense: Tensor, factor: AdmmFactor, mask: Tensor) -> None:
    v0, weighed = dense * factor.norms, metric(gram_of(40, ROWS, 4))
    found, _ = descend(v0 * mask, v0, factor.gram, mask, weighed, steps=200)
    # The problem in the kept weights alone, row after row.
    kept = mask.flatten().nonzero().flatten()
    whole = torch.kron(weighed.double(), factor.gram.double())
    lost = whole @ v0.double().flatten()
    expected = torch.zeros(ROWS * WIDTH, dtype=torch.float64)
    expected[kept] = torch.linalg.solve(whole[kept][:, kept], lost[kept])
    torch.testing.assert_close(found.double(), expected.view(ROWS, WIDTH), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", range(1, 9))
def test_every_step_lowers_the_error(dense: Tensor, factor: AdmmFactor, mask: Tensor, steps: int) -> None:
    v0, weighed = dense * factor.norms, metric(gram_of(40, ROWS, 4))
    start = row_by_row(dense, factor, mask) * factor.norms
    found = [descend(start, v0, factor.gram, mask, weighed, steps=count) for count in (steps - 1, steps)]
    before, after = (error(each, v0, factor.gram, weighed) for each, _ in found)
    assert found[1][1].tolist() == pytest.approx([error(start, v0, factor.gram, weighed), after], rel=1e-3)
    assert after <= before * (1 + 1e-6)
    assert after < error(start, v0, factor.gram, weighed)


def test_what_is_best_already_stays_to_the_bit(dense: Tensor, factor: AdmmFactor) -> None:
    v0 = dense * factor.norms
    whole = torch.ones_like(dense, dtype=torch.bool)
    found, errors = descend(v0, v0, factor.gram, whole, metric(gram_of(40, ROWS, 4)))
    assert torch.equal(found, v0)
    assert errors.tolist() == [0, 0]


def test_outputs_that_count_alike_leave_the_best_weights_of_each_alone(
    dense: Tensor, factor: AdmmFactor, mask: Tensor
) -> None:
    best = row_by_row(dense, factor, mask)
    for gram in (torch.eye(ROWS) * 7, torch.zeros(ROWS, ROWS)):
        found, _ = weigh_outputs(best, dense, factor, mask, OutputMetric([gram]))
        torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-4)


def test_the_metric_is_of_the_gradients_and_of_every_output_by_itself() -> None:
    gram = gram_of(40, ROWS, 4)
    gram[0], gram[:, 0] = 0, 0  # an output without gradients keeps the floor
    mean = gram.diagonal().mean()
    found = metric(gram)
    expected = 0.7 * gram / mean
    expected.diagonal().add_(0.3 * (gram.diagonal() / mean).clamp_min(0.3))
    torch.testing.assert_close(found, expected)
    assert found[0, 0] == pytest.approx(0.09)
    assert torch.equal(metric(torch.zeros(3, 3)), torch.eye(3))


def test_one_output_makes_up_for_another_where_the_loss_sees_their_sum_alone() -> None:
    """Both read one input that is left to one of them: the loss of the sum is nothing then, but for the ridge."""
    factor = factorise(torch.eye(2), AdmmSettings(damping=1e-6), invert=False)
    dense, mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[True, False], [False, False]])
    start = dense * mask
    found, notes = weigh_outputs(start, dense, factor, mask, OutputMetric([torch.ones(2, 2)]))
    assert 1.5 < float(found[0, 0]) < 2
    assert notes["gained"] > 0.3


def test_notes_are_of_the_whole_matrix_part_by_part(
    dense: Tensor, factor: AdmmFactor, mask: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_weighting, "WIDEST", 4)
    grams = [gram_of(40, rows.stop - rows.start, 5 + number) for number, rows in enumerate(parts(ROWS))]
    assert len(grams) == 2
    held_out = gram_of(50, WIDTH, 9)
    best = row_by_row(dense, factor, mask)
    found, notes = weigh_outputs(best, dense, factor, mask, OutputMetric(grams, held_out))
    weighed = torch.block_diag(*map(metric, grams))
    assert bool((found[~mask] == 0).all())
    for weight, towards, gram, key in (
        (torch.stack([best, found]) * factor.norms, dense * factor.norms, factor.gram, "gained"),
        (torch.stack([best, found]), dense, held_out, "held_out"),
    ):
        before, after = (error(each, towards, gram, weighed) for each in weight)
        assert notes[key] == pytest.approx(1 - after / before, abs=1e-4)
    assert notes["gained"] > 0


@pytest.mark.parametrize("rows", [1, 511, 512, 513, 1536, 4097])
def test_parts_cover_all_outputs_evenly(rows: int) -> None:
    found = parts(rows)
    assert [place for part in found for place in range(part.start, part.stop)] == list(range(rows))
    sizes = {part.stop - part.start for part in found}
    assert max(sizes) <= 512
    assert max(sizes) - min(sizes) <= 1
