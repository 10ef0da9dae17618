"""A model that is sparse already: it is said, and its zeros stay where the job asks for that.

Slow: zeros that must stay are counted in what was written.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.spec.method import Scope
from secateur.spec.sparsity import Pattern
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, prune
from tests.worker.pruning.report.test_warnings import said
from worker.pruning.methods.masks import Selection, follows

pytestmark = pytest.mark.slow

METHODS: list[dict[str, Any]] = [
    {"name": "magnitude"},
    {"name": "copal", "mask": "searched", "weight_update": "admm"},
    {"name": "wanda", "weight_update": "admm"},
    {"name": "sparsegpt"},
    {"name": "admm"},
    {"name": "alps"},
    {"name": "auto"},
]
TRANSPOSED = "c_"


def oriented(name: str, tensor: Tensor) -> Tensor:
    """(out, in): GPT-2 stores it the other way round."""
    return tensor.T if TRANSPOSED in name else tensor


def thinned(family: str, folder: Path, pattern: str | None = "2:4", *, only: str = "") -> Path:
    """A model whose prunable matrices, those with `only` in their names, follow a pattern (None: 70 % zeros)."""
    path = make_tiny(family, folder) / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if is_matrix(name, tensor) and only in name:
            weight = oriented(name, tensor)
            zeros = round(0.7 * weight.numel())
            selection = Selection(Pattern.parse(pattern or "unstructured"), Scope.matrix, 0 if pattern else zeros)
            tensors[name] = oriented(name, weight * selection.mask(weight.abs())).contiguous()
    save_file(tensors, path, {"format": "pt"})
    return folder


def is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and ("layers." in name or ".h." in name)


def matrices(folder: Path) -> dict[str, Tensor]:
    """Prunable ones as (out, in), of all files of a model."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {n: oriented(n, t) for n, t in load_file(path).items() if is_matrix(n, t)}
    return found


def kept(request: dict[str, Any], stage: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The matrices before and after; every zero from before is there."""
    before = matrices(Path(request["model"]))
    after = matrices(Path(request["workspace"]) / f"stage-{stage:02d}" / "model")
    assert before.keys() == after.keys() != set()
    for name, weight in before.items():
        assert bool((after[name][weight == 0] == 0).all()), name
    return before, after


@pytest.mark.parametrize(
    ("family", "method"),
    [*(("llama", method) for method in METHODS), ("gpt2", {"name": "sparsegpt"})],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
@pytest.mark.parametrize("sparsity", [{"target": 0.6, "allocation": "uniform"}, {"pattern": "1:4"}], ids=str)
def test_two_in_four_stays_two_in_four(
    family: str, method: dict[str, Any], sparsity: dict[str, Any], tmp_path: Path, request_for: Request
) -> None:
    model = thinned(family, tmp_path / "model")
    request = request_for(model=str(model), method=method, sparsity={**sparsity, "keep_zeros": True})
    prune(request)
    _, after = kept(request)
    zeros = sum(int((weight == 0).sum()) for weight in after.values())
    weights = sum(weight.numel() for weight in after.values())
    assert zeros == round(sparsity.get("target", 0.75) * weights)
    assert all(follows(weight, Pattern(2, 4)) for weight in after.values())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_zeros_enough_for_the_target_leave_a_model_as_it_is(
    method: dict[str, Any], tmp_path: Path, request_for: Request
) -> None:
    model = thinned("llama", tmp_path / "model")
    request = request_for(model=str(model), method=method, sparsity={"pattern": "2:4", "keep_zeros": True})
    prune(request)
    before, after = kept(request)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("mode", ["accumulated", "restart", "sequential"])
@pytest.mark.parametrize("name", ["admm", "sparsegpt"])
def test_every_stage_keeps_them(name: str, mode: str, tmp_path: Path, request_for: Request) -> None:
    model = thinned("llama", tmp_path / "model", None, only="self_attn")
    sparsity = {"target": 0.5, "allocation": "error", "keep_zeros": True}
    request = request_for(model=str(model), method={"name": name, "mode": mode}, sparsity=sparsity, domains="ab")
    prune(request)
    for stage in (0, 1):
        kept(request, stage)


def test_more_zeros_than_asked_are_kept_and_said(tmp_path: Path, request_for: Request) -> None:
    model = thinned("llama", tmp_path / "model", None, only="mlp")
    recorder = Recorder()
    sparsity = {"target": 0.5, "allocation": "uniform", "keep_zeros": True}
    request = request_for(model=str(model), method={"name": "admm"}, sparsity=sparsity)
    found = said(recorder, prune(request, recorder).summary)
    _, after = kept(request)
    shares = {name: float((weight == 0).float().mean()) for name, weight in after.items()}
    assert {round(share, 2) for name, share in shares.items() if "mlp" in name} == {0.7}
    assert {round(share, 2) for name, share in shares.items() if "mlp" not in name} == {0.5}
    (sparser,), (sparse,) = found["sparser_than_asked"], found["already_sparse"]
    assert (sparser["matrices"], sparse["matrices"], sparse["of"], sparse["pattern"]) == (9, 9, 21, None)
    weights = sum(weight.numel() for weight in after.values())
    assert sparser["sparsity"] == sum(int((weight == 0).sum()) for weight in after.values()) / weights
    assert sparser["target"] == 0.5


@pytest.mark.parametrize(
    ("family", "pattern"), [("llama", "2:4"), ("gpt2", "2:4"), ("llama", "4:8"), ("llama", "1:4"), ("llama", None)]
)
def test_the_pattern_that_a_model_came_with(
    family: str, pattern: str | None, tmp_path: Path, request_for: Request
) -> None:
    recorder = Recorder()
    summary = prune(request_for(model=str(thinned(family, tmp_path / "model", pattern))), recorder).summary
    (sparse,) = said(recorder, summary)["already_sparse"]
    assert sparse["pattern"] == pattern
    assert sparse["share"] == pytest.approx({None: 0.7, "1:4": 0.75}.get(pattern, 0.5), abs=0.01)
    assert sparse["matrices"] == sparse["of"]


def test_without_the_option_zeros_are_weights_like_others(tmp_path: Path, request_for: Request) -> None:
    """A search that finds a better mask takes weights that were zeros."""
    model = thinned("llama", tmp_path / "model")
    sparsity = {"target": 0.7, "allocation": "uniform"}
    request = request_for(model=str(model), method={"name": "alps"}, sparsity=sparsity)
    prune(request)
    before, after = (matrices(folder) for folder in (model, Path(request["workspace"]) / "stage-00" / "model"))
    assert any(bool(((before[name] == 0) & (weight != 0)).any()) for name, weight in after.items())
