"""Tensors that a model does not need go into the pruned checkpoint as they are, and change nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from secateur.spec.records.pipe import Inspection
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request, prune
from worker.pruning import PruningJob, inspect, plan
from worker.pruning.model.checkpoint import Checkpoint

UNUSED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 256, 256).tril().bool(),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
        "v_head.summary.weight": torch.randn(1, 64),
        "v_head.summary.bias": torch.randn(1),
    },
    "llama": {
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.rand(8),
        "model.layers.3.self_attn.q_proj.weight": torch.randn(64, 64).bfloat16(),
        "mtp.layers.0.mlp.up_proj.weight": torch.randn(128, 64),
        "extra.weight": torch.ones(4, 4).to(torch.float8_e4m3fnuz),
        "position_ids": torch.arange(256)[None],
        "model.layers.0.self_attn.q_proj.bias": torch.randn(64),
    },
    "qwen3-moe": {"model.layers.9.mlp.experts.0.down_proj.weight": torch.randn(64, 32)},
}


@pytest.mark.parametrize("family", UNUSED)
def test_unneeded_tensors_are_copied_and_said(family: str, tmp_path: Path, request_for: Request) -> None:
    folder = make_tiny(family, tmp_path / family)
    request = request_for(model=str(folder))
    without = prune(request | {"workspace": str(tmp_path / "without")}).summary
    path = folder / "model.safetensors"
    save_file(load_file(path) | UNUSED[family], path, {"format": "pt"})

    assert inspect(folder) == Inspection(unused=sorted(UNUSED[family]), warnings=[])
    skipped = {entry["name"]: entry["reason"] for entry in plan(PruningJob.from_dict(request))["skipped"]}
    assert {skipped[name] for name in UNUSED[family]} == {"no part of the model (copied as it is)"}

    summary = prune(request).summary
    for field in ("zeros", "weights", "masks_sha256", "weights_sha256", "mean_perplexity"):
        assert getattr(summary, field) == getattr(without, field), field
    pruned = Path(request["workspace"]) / "stage-00/model"
    checkpoint = Checkpoint.open(pruned)
    for name, tensor in checkpoint.read(UNUSED[family]).items():
        assert tensor.dtype == UNUSED[family][name].dtype
        assert torch.equal(tensor, UNUSED[family][name])
    report = AutoModelForCausalLM.from_pretrained(pruned, output_loading_info=True)[1]
    assert not report["missing_keys"]
