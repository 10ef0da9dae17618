"""Inputs that no Gram should have, through whole blocks: each damping is in the record, or the matrix is named."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.spec.records.history import MatrixRecord
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.pruning import IllConditioned

Change = Callable[[torch.Tensor], torch.Tensor]
METHODS = ["wanda", "admm", "wanda+admm"]
NORM = "model.layers.0.input_layernorm.weight"


def changed(folder: Path, name: str, change: Change) -> str:
    """A tiny Llama, one of whose tensors is another."""
    make_tiny_llama(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})
    return str(folder)


def method(name: str, **admm: Any) -> dict[str, Any]:
    own, _, update = name.partition("+")
    found: dict[str, Any] = {"name": own} | ({"weight_update": update} if update else {})
    return found | ({"admm": admm} if admm else {})


def records(request: dict[str, Any]) -> dict[str, MatrixRecord]:
    recorder = Recorder()
    prune(request, recorder)
    return {record.matrix: record for block in recorder.blocks for record in block.records}


def written(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in (Path(request["workspace"]) / "stage-00/model").glob("*.safetensors"):
        found |= load_file(path)
    return found


def few_tokens(request: dict[str, Any]) -> dict[str, Any]:
    """16 tokens for 64 inputs and more: every Gram has a quarter of its rank."""
    request["domains"][0]["calibration"] |= {"samples": 1, "sequence_length": 16}
    return request


def test_rank_deficient_grams_get_more_damping_and_the_record_says_so(request_for: Request) -> None:
    request = few_tokens(request_for(method=method("admm", damping=0.0, rho=1e-9)))
    found = records(request)
    assert {record.notes.get("damping") for record in found.values()} == {0.01}
    assert {record.notes.get("precision") for record in found.values()} == {"float32"}
    plain = records(few_tokens(request_for(workspace="wanda", method=method("wanda"))))
    first = "model.layers.0.self_attn.q_proj.weight"
    # What was solved with is still the Gram: a diagonal in its place could do no better than Wanda.
    assert (found[first].relative_error or 0) < 0.5 * (plain[first].relative_error or 0)


def test_float64_is_the_last_rung(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 fails whatever the damping: the Grams for which that is so differ between processors."""
    whole = torch.linalg.cholesky_ex

    def in_float64_only(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        root, failed = whole(matrix)
        return root, failed if matrix.dtype == torch.float64 else failed + 1

    monkeypatch.setattr(torch.linalg, "cholesky_ex", in_float64_only)
    found = records(request_for(method=method("admm")))
    assert {record.notes.get("precision") for record in found.values()} == {"float64"}
    assert {record.notes["damping"] for record in found.values()} == {1.0}


def test_no_rung_left_names_the_matrix(request_for: Request) -> None:
    request = few_tokens(request_for(method=method("admm", damping=1e-14, rho=1e-14)))
    with pytest.raises(
        IllConditioned, match=r"model\.layers\.0\.self_attn\.q_proj\.weight: .*not positive definite"
    ):
        prune(request)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_inputs_that_are_all_zero_are_counted_as_dead(
    request_for: Request, tmp_path: Path, name: str, damping: float
) -> None:
    model = changed(tmp_path / "model", NORM, torch.zeros_like)
    settings = {"damping": damping} if "admm" in name else {}
    request = request_for(model=model, method=method(name, **settings))
    found = records(request)
    record = found["model.layers.0.self_attn.q_proj.weight"]
    assert record.notes["dead_inputs"] == 64
    assert record.relative_error is record.held_out_error is None
    assert record.zeros * 2 == record.weights
    assert "dead_inputs" not in found["model.layers.0.mlp.up_proj.weight"].notes
    assert all(bool(torch.isfinite(tensor).all()) for tensor in written(request).values())


@pytest.mark.parametrize("name", METHODS)
def test_one_dead_input_does_not_stop_the_others_from_being_solved_for(
    request_for: Request, tmp_path: Path, name: str
) -> None:
    def kill(norm: torch.Tensor) -> torch.Tensor:
        return norm.index_fill(0, torch.tensor([5]), 0.0)

    model = changed(tmp_path / "model", NORM, kill)
    settings = {"damping": 0.0} if "admm" in name else {}
    request = request_for(model=model, method=method(name, **settings))
    record = records(request)["model.layers.0.self_attn.q_proj.weight"]
    assert record.notes["dead_inputs"] == 1
    assert not written(request)["model.layers.0.self_attn.q_proj.weight"][:, 5].any()
    if "admm" in name:
        plain = records(request_for(model=model, method=method("wanda"), workspace="plain"))
        assert (record.relative_error or 0) < (plain[record.matrix].relative_error or 0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("norm", ["input_layernorm", "post_attention_layernorm"])
def test_inputs_of_a_huge_scale_need_no_rung(request_for: Request, tmp_path: Path, name: str, norm: str) -> None:
    """Solvers work in coordinates where every input has norm one, so a factor of 1e8 cancels."""
    model = changed(tmp_path / "model", f"model.layers.0.{norm}.weight", lambda weight: weight * 1e8)
    request = request_for(model=model, method=method(name))
    found = records(request)
    for record in found.values():
        assert "damping" not in record.notes
        for error in (record.relative_error, record.held_out_error):
            assert error is not None
            assert math.isfinite(error)
    assert (found["model.layers.0.mlp.up_proj.weight"].relative_error or 1) < 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in written(request).values())


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_are_not_finite_name_the_matrix_that_reads_them(
    request_for: Request, tmp_path: Path, name: str
) -> None:
    """Their squares are not: they are past 1e19."""
    values = "model.layers.0.self_attn.v_proj.weight"
    model = changed(tmp_path / "model", values, lambda weight: weight * 1e22)
    with pytest.raises(IllConditioned, match=r"model\.layers\.0\.self_attn\.o_proj\.weight: its inputs"):
        prune(request_for(model=model, method=method(name)) | {"domains": _unevaluated(request_for)})


def _unevaluated(request_for: Request) -> Any:
    domains = request_for()["domains"]
    domains[0]["evaluation"] = None
    return domains
