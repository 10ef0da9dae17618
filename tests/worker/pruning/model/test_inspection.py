"""Numbers that are not finite are the checkpoint's fault, named by their tensor before anything is computed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.family_models import make_model
from secateur.spec.request import Text
from tests.tiny import make_tiny, text
from tests.worker.pruning.conftest import Request, prune
from worker.pruning import EvaluationSpec, UserError, inspect, perplexities

PLACES = [
    ("llama", "model.embed_tokens.weight"),
    ("llama", "model.norm.weight"),
    ("qwen3", "lm_head.weight"),
    ("llama", "model.layers.2.input_layernorm.weight"),
    ("llama", "model.layers.1.mlp.gate_proj.weight"),
    ("gpt2", "transformer.h.0.attn.c_attn.bias"),
    ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight"),
    ("mixtral", "model.layers.0.block_sparse_moe.gate.weight"),
]


def broken(folder: Path, family: str, name: str, value: float, dtype: torch.dtype = torch.float32) -> Path:
    """A model with one bad number."""
    path = make_tiny(family, folder) / "model.safetensors"
    tensors = {each: tensor.to(dtype) for each, tensor in load_file(path).items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, {"format": "pt"})
    return folder


def refused(request: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError) as caught:
        prune(request)
    assert (caught.value.code, caught.value.field) == ("invalid_checkpoint", "/model")
    assert caught.value.message.startswith(f"{name} has values that are not finite")


@pytest.mark.parametrize(("family", "name"), PLACES)
def test_one_number_anywhere(family: str, name: str, tmp_path: Path, request_for: Request) -> None:
    refused(request_for(model=str(broken(tmp_path / "model", family, name, math.nan))), name)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_buffer_may_hold_infinities_and_nothing_that_is_no_number(value: float, tmp_path: Path) -> None:
    """A bias by which experts are chosen: an infinite one shuts an expert off."""
    folder = make_model(tmp_path / "model", "lfm2_moe", layer_types=["conv", "full_attention"] * 2)
    name = "model.layers.2.feed_forward.expert_bias"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][1] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if math.isnan(value):
        with pytest.raises(UserError, match=f"{name} has values that are not finite, the first of them nan"):
            inspect(folder)
    else:
        inspect(folder)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (math.inf, torch.float16),
        (-math.inf, torch.bfloat16),
        (math.nan, torch.bfloat16),
        (1e300, torch.float64),
    ],
)
def test_in_every_dtype(value: float, dtype: torch.dtype, tmp_path: Path, request_for: Request) -> None:
    name = "model.layers.1.mlp.gate_proj.weight"
    refused(request_for(model=str(broken(tmp_path / "model", "llama", name, value, dtype))), name)


def test_in_a_norm_of_eight_bits(tmp_path: Path, request_for: Request) -> None:
    """Only matrices must have one of the usual dtypes."""
    path = make_tiny("llama", tmp_path / "model") / "model.safetensors"
    norm = torch.full((64,), math.nan).to(torch.float8_e4m3fn)
    save_file(load_file(path) | {"model.norm.weight": norm}, path, {"format": "pt"})
    refused(request_for(model=str(path.parent)), "model.norm.weight")


def test_a_perplexity_by_itself_names_it_too(tmp_path: Path) -> None:
    folder = broken(tmp_path / "model", "llama", "model.norm.weight", math.nan)
    (tmp_path / "a.txt").write_text(text(300))
    with pytest.raises(UserError, match=r"model\.norm\.weight has values"):
        perplexities(
            folder, {"a": Text(path=tmp_path / "a.txt")}, EvaluationSpec(sequence_length=16, max_windows=2)
        )


@pytest.mark.parametrize(
    ("name", "value", "whose"),
    [
        # The first block's own products overflow; its inputs do not.
        ("model.layers.0.mlp.down_proj.weight", 1e38, "model.layers.0 "),
        ("model.norm.weight", 3e38, "the output head "),
    ],
)
@pytest.mark.parametrize("method", ["wanda", "admm"])
def test_finite_weights_that_overflow_are_the_models_fault(
    method: str, name: str, value: float, whose: str, tmp_path: Path, request_for: Request
) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError) as caught:
        prune(request_for(model=str(folder), method={"name": method}))
    assert (caught.value.code, caught.value.field) == ("not_finite", "/model")
    assert caught.value.message.startswith(whose)
