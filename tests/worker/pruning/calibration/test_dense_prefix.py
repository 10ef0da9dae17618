"""Whose inputs are compared with those behind the dense prefix, and what is summed of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILIES, make_tiny
from tests.worker.pruning.conftest import Request, prune
from worker.pruning.calibration.dense_prefix import comparable_groups
from worker.pruning.calibration.hooks import find_groups
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph
from worker.pruning.request import PruningJob

LEFT_OUT = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "experts")
"""What reads the activations of the block's own matrices in the families here, and experts."""


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_all_but_what_reads_the_block_s_own_activations_and_experts(tmp_path: Path, family: str) -> None:
    folder = make_tiny(family, tmp_path / "model")
    checkpoint = Checkpoint.open(folder)
    runner = BlockRunner(build_graph(folder, checkpoint), checkpoint, torch.device("cpu"))
    state = runner.enter(torch.randint(0, 320, (1, 8)))
    for block in runner.graph.blocks:
        runner.load_block(block, checkpoint.read(block.tensors))
        groups = find_groups(block, block.matrices, lambda block=block: runner.forward(block, state))
        found = comparable_groups(block, groups, lambda given, block=block: runner.forward(block, given), state)
        expected = [group for group in groups if not any(word in group[0].name for word in LEFT_OUT)]
        assert found == expected
        assert len(found) < len(groups)


def inputs_of(model: nn.Module, path: str, ids: Tensor) -> Tensor:
    """What a module reads, (tokens, in)."""
    heard: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    model(ids)
    hook.remove()
    return heard[0].flatten(0, 1).double()


@torch.no_grad()
def test_what_is_summed_is_of_the_whole_models_run_side_by_side(request_for: Request, tiny_llama: Path) -> None:
    request = request_for(
        method={"name": "admm", "target": "prefix"},
        output={"state_precision": "float32"},
        numerics="exact",  # as the models that it is held against
        domains="a",
    )
    prune(request)
    folder = Path(request["workspace"]) / "stage-00"
    job = PruningJob.from_dict(request)
    calibration = job.domains[0].calibration
    ids = calibration_windows(Tokenizer(tiny_llama), job.texts["a"], calibration, "").solved_on
    dense: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
    pruned: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
    # Behind the pruned block each block is measured dense.
    pruned.model.layers[1].load_state_dict(dense.model.layers[1].state_dict())
    state = load_file(folder / "state/block-0001.safetensors")
    for group, module in (("self_attn.q_proj", "q"), ("self_attn.o_proj", "o"), ("mlp.gate_proj", "gate")):
        path = f"model.layers.1.{group}"
        x, y = inputs_of(pruned, path, ids), inputs_of(dense, path, ids)
        expected = (y - x).T @ x / len(x)
        found = state[f"{path}.weight/cross"].double()
        scale = expected.abs().max()
        assert scale > 0, module
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-3, atol=1e-4)
    assert "model.layers.1.mlp.down_proj.weight/cross" not in state
    first = load_file(folder / "state/block-0000.safetensors")
    # Nothing is pruned before the first block: what is left is rounding of the sums.
    name = "model.layers.0.self_attn.q_proj.weight"
    assert first[f"{name}/cross"].abs().max() <= 1e-5 * first[f"{name}/second"].max()
