"""What a GPU is asked for does not grow where it need not: with a matrix's width, or with a solver's steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.spec.method import Scope
from secateur.spec.method.settings import AdmmSettings, AlpsSettings, SparseGptSettings
from secateur.spec.sparsity import Pattern
from tests.pretend_gpu import Counts, pretend_gpu
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Request, prune
from worker.pruning.methods import admm, alps, lowest, sparsegpt
from worker.pruning.methods.lowest import kth_lowest, without_lowest_of_each
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.runtime.numerics import torch_settings
from worker.pruning.state.file import pack

Solve = Callable[[Tensor, Tensor, Selection, int], Solution]
"""Of a weight, its inputs' Gram, what is to stay, and the number of steps."""
LOOKED_AT = 3 * alps.LOOKS
"""Steps of ALPS between two looks at whether it is at its end."""


def by_admm(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> Solution:
    settings = AdmmSettings(iterations=steps, mask_steps=steps)
    return admm.solve_admm(dense, admm.factorise(gram, settings), selection, settings)


def by_polish(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> Solution:
    settings = AdmmSettings(iterations=1, mask_steps=1, polish_steps=steps)
    return admm.solve_admm(dense, admm.factorise(gram, settings), selection, settings)


def by_alps(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> Solution:
    settings = AlpsSettings(max_steps=steps)
    return alps.solve_alps(dense, alps.factorise(gram, settings), selection, settings)


def by_sparsegpt(dense: Tensor, gram: Tensor, selection: Selection, steps: int) -> Solution:
    settings = SparseGptSettings(block=dense.shape[1] // steps)
    return sparsegpt.solve_sparsegpt(dense, sparsegpt.factorise(gram, settings), selection, settings)


SELECTIONS = {
    "matrix": Selection(Pattern(), Scope.matrix, 32 * 32),
    "row": Selection(Pattern(), Scope.row, 32 * 32),
    "2:4": Selection(Pattern(2, 4), Scope.matrix, 32 * 32),
}


def solved(solve: Solve, selection: Selection, steps: int, width: int = 64) -> Counts:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(32, width, generator=generator)
    inputs = torch.randn(2 * width, width, generator=generator)
    gram = inputs.T @ inputs / len(inputs)
    with pretend_gpu() as counts:
        solution = solve(dense.to("cuda"), gram.to("cuda"), selection, steps)
        assert solution.mask.is_cuda
        del solution
    return counts


class Scattered(TorchDispatchMode):
    """Which operations put values to places that others of them may have, and whether in torch's fixed order: on a
    GPU that sorts the places first."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, bool]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(("scatter", "index_put", "index_add", "kthvalue")):
            self.found.add((name, torch.are_deterministic_algorithms_enabled()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scope", [Scope.matrix, Scope.row])
def test_nothing_is_sorted_for_what_has_the_same_result_in_any_order(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowest, "SORTED", 0)  # as of a large matrix
    scores, seen = torch.rand(8, 64), Scattered()
    with pretend_gpu(), torch_settings(torch.get_num_threads(), device=torch.device("cuda", 0)):
        on_device, gram = scores.to("cuda"), (scores.T @ scores).to("cuda")
        with seen:
            Selection(Pattern(), scope, 100).mask(on_device)
            kth_lowest(on_device.flatten(), 3, 200)
            without_lowest_of_each(on_device, torch.arange(8).to("cuda"))
            pack(gram, gram.diagonal())
        assert torch.are_deterministic_algorithms_enabled()
    assert {name.strip("_") for name, _ in seen.found} >= {"scatter", "scatter_add"}
    assert not [name for name, sorts in seen.found if sorts]


@pytest.mark.parametrize("scope", SELECTIONS)
@pytest.mark.parametrize("solve", [by_admm, by_polish, by_sparsegpt])
def test_no_step_waits_for_the_device(solve: Solve, scope: str) -> None:
    few, many = (solved(solve, SELECTIONS[scope], steps) for steps in (2, 8))
    assert many.total("launches") > few.total("launches")
    assert many.total("synchronisations") == few.total("synchronisations"), many.places.most_common(5)


@pytest.mark.parametrize("scope", SELECTIONS)
def test_alps_looks_up_once_in_a_while(scope: str) -> None:
    few, many = (solved(by_alps, SELECTIONS[scope], steps) for steps in (LOOKED_AT - 1, 2 * LOOKED_AT + 1))
    assert many.total("synchronisations") - few.total("synchronisations") <= 2, many.places.most_common(5)


@pytest.mark.parametrize("scope", SELECTIONS)
@pytest.mark.parametrize("solve", [by_admm, by_alps])
def test_a_wider_matrix_takes_no_more_launches(solve: Solve, scope: str) -> None:
    narrow, wide = (solved(solve, SELECTIONS[scope], 3, width) for width in (64, 256))
    assert wide.operations == narrow.operations


@pytest.mark.slow
def test_a_wider_model_takes_no_more_launches(request_for: Request, tmp_path: Path) -> None:
    """Slow: every part of a job but SparseGPT's solver, with the matrices that its blocks really have."""
    asked = []
    for width in (64, 128):
        model = make_tiny_llama(tmp_path / f"{width}", hidden=width, blocks=1, dtype=torch.bfloat16)
        fields = {"method": {"name": "admm"}, "sparsity": {"target": 0.5}, "device": "cuda:0"}
        with pretend_gpu() as counts:
            prune(request_for(model=str(model), workspace=f"work-{width}", **fields))
        asked.append({phase: (own["launches"], own["synchronisations"]) for phase, own in counts.figures.items()})
    assert asked[0] == asked[1]
