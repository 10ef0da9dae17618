"""What a solver holds on a GPU at once is what a plan says of it, and that does not grow with its steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secateur.spec.method import Scope
from secateur.spec.method.settings import AdmmSettings, AlpsSettings, SparseGptSettings
from secateur.spec.sparsity import Pattern
from tests.pretend_gpu import pretend_gpu
from worker.pruning.allocation.curves import loss_curve
from worker.pruning.estimate import SEARCH_COPIES, SOLVER_COPIES
from worker.pruning.methods import admm, alps, lowest, sparsegpt
from worker.pruning.methods.masks import Selection
from worker.pruning.report.sensitivity import summarise

ROWS, WIDTH = 8192, 128
ZEROS = ROWS * WIDTH // 2
HELD = 2
"""Beside what a solver makes: the weights that it is given, and their scores."""
Work = Callable[[Tensor, Tensor, Selection, int], object]


def by_admm(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> object:
    settings = AdmmSettings(iterations=steps, mask_steps=steps, polish_steps=steps)
    return admm.solve_admm(dense, admm.factorise(gram, settings), selection, settings)


def by_alps(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> object:
    settings = AlpsSettings(max_steps=3 * steps)
    return alps.solve_alps(dense, alps.factorise(gram, settings), selection, settings)


def by_sparsegpt(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> object:
    settings = SparseGptSettings(block=WIDTH // steps)
    return sparsegpt.solve_sparsegpt(dense, sparsegpt.factorise(gram, settings), selection, settings)


def summed_up(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> object:
    scores = dense.abs()
    return summarise("w", scores), loss_curve(scores)


def peak(work: Work, selection: Selection, steps: int) -> float:
    """In matrices of the weight's shape, beside that."""
    inputs = torch.randn(1000, WIDTH)
    with pretend_gpu() as counts:
        dense, gram = torch.randn(ROWS, WIDTH).to("cuda"), (inputs.T @ inputs / 1000).to("cuda")
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work(dense, gram, selection, steps)
        assert counts.total("launches")
        return (torch.cuda.max_memory_allocated() - held) / (ROWS * WIDTH * 4)


@pytest.mark.parametrize(
    ("work", "most"),
    [
        (by_admm, SOLVER_COPIES),
        (by_alps, SOLVER_COPIES + SEARCH_COPIES),
        (by_sparsegpt, SOLVER_COPIES),
        (summed_up, SOLVER_COPIES),
    ],
    ids=["admm", "alps", "sparsegpt", "summary"],
)
@pytest.mark.parametrize(
    "selection",
    [
        Selection(Pattern(), Scope.matrix, ZEROS),
        Selection(Pattern(), Scope.row, ZEROS),
        Selection(Pattern(2, 4), Scope.matrix, ZEROS),
    ],
    ids=["matrix", "row", "2:4"],
)
def test_a_plan_counts_what_is_held(
    work: Work, most: int, selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowest, "PIECE", ZEROS)  # as much of this matrix as of one with twice as many weights
    monkeypatch.setattr(sparsegpt, "STRIP", 4)  # as small a part of its inputs
    monkeypatch.setattr(lowest, "LANES", 1)  # next to which a digit's counters are nothing there
    few, many = (peak(work, selection, steps) for steps in (1, 4))
    assert many < few * 1.25 + 0.5
    assert max(few, many) + HELD <= most
