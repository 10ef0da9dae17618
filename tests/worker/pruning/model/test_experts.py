"""Experts: which matrix is which, what each reads, and that the rest of the model is left alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.family_check import check
from benchmarks.family_models import make_model
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, domain, prune
from worker.pruning import PruningJob, plan
from worker.pruning.calibration.hooks import find_groups, measure
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.experts import is_experts, run_experts
from worker.pruning.model.graph import Block, build_graph
from worker.pruning.model.loading import dense_weight
from worker.pruning.state.digests import Contents
from worker.pruning.verify import verify_report

MIXTURES = ["mixtral", "qwen3-moe", "qwen2-moe"]


@pytest.fixture(scope="module", params=MIXTURES)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, BlockRunner, Block]:
    """A mixture with its first block loaded."""
    checkpoint = Checkpoint.open(make_tiny(request.param, tmp_path_factory.mktemp("mixture")))
    graph = build_graph(checkpoint.folder, checkpoint)
    with torch.no_grad():
        runner = BlockRunner(graph, checkpoint, torch.device("cpu"))
    block = graph.blocks[0]
    runner.load_block(block, checkpoint.read(block.tensors))
    return checkpoint, runner, block


def experts_of(block: Block) -> Any:
    return next(module for module in block.module.modules() if is_experts(module))


def test_every_matrix_is_where_its_name_says(opened: tuple[Checkpoint, BlockRunner, Block]) -> None:
    checkpoint, _, block = opened
    stored = checkpoint.read(matrix.name for matrix in block.matrices)
    assert sum(matrix.expert is not None for matrix in block.matrices) == 4 * 3
    for matrix in block.matrices:
        torch.testing.assert_close(dense_weight(block, matrix), stored[matrix.name], rtol=0, atol=0)


def test_experts_told_one_by_one_give_the_module_s_own_result(
    opened: tuple[Checkpoint, BlockRunner, Block],
) -> None:
    module = experts_of(opened[2])
    tokens, index, weights = torch.randn(20, 64), torch.rand(20, 4).topk(2).indices, torch.rand(20, 2)
    heard: dict[tuple[str, int], Tensor] = {}
    with torch.no_grad():
        result = run_experts(module, lambda *h: heard.update({h[:2]: h[2]}), tokens, index, weights)
        torch.testing.assert_close(result, module(tokens, index, weights))
    for expert in range(4):
        routed = (index == expert).any(dim=1)
        assert torch.equal(heard["gate_up_proj", expert], tokens[routed])


@torch.no_grad()
def test_a_group_s_gram_is_that_of_the_tokens_routed_to_its_expert(
    opened: tuple[Checkpoint, BlockRunner, Block],
) -> None:
    _, runner, block = opened
    module, calls = experts_of(block), []
    hidden = runner.enter(torch.randint(0, 320, (2, 32)))
    handle = module.register_forward_pre_hook(lambda _module, args: calls.append(args))
    groups = find_groups(block, block.matrices, lambda: runner.forward(block, hidden))
    tokens, index, _ = calls[0]
    handle.remove()
    measured = measure(block, groups, lambda: runner.forward(block, hidden), runner.device)
    pairs = [group for group in groups if group[0].expert and not group[0].expert.activated]
    assert [len(group) for group in pairs] == [2, 2, 2, 2]
    for group in pairs:
        assert group[0].expert is not None
        own = tokens[(index == group[0].expert.index).any(dim=1)]
        found = measured[group[0].name]
        assert found.tokens == len(own)
        torch.testing.assert_close(found.gram, own.T @ own / len(own), rtol=1e-4, atol=1e-5)
    downs = [group for group in groups if group[0].expert and group[0].expert.activated]
    for pair, (down,) in zip(pairs, downs, strict=True):
        gate, up = (dense_weight(block, matrix) for matrix in pair)
        assert pair[0].expert is not None
        own = tokens[(index == pair[0].expert.index).any(dim=1)]
        inner = torch.nn.functional.silu(own @ gate.T) * (own @ up.T)
        torch.testing.assert_close(measured[down.name].gram, inner.T @ inner / len(own), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_expert_s_gram_is_summed_in_float32_whatever_the_pass_computes_in(
    opened: tuple[Checkpoint, BlockRunner, Block],
) -> None:
    _, runner, block = opened
    module, calls = experts_of(block), []
    with torch.autocast("cpu", torch.bfloat16):
        hidden = runner.enter(torch.randint(0, 320, (2, 32)))
        groups = find_groups(block, block.matrices, lambda: runner.forward(block, hidden))
        handle = module.register_forward_pre_hook(lambda _module, args: calls.append(args))
        measured = measure(block, groups, lambda: runner.forward(block, hidden), runner.device)
        handle.remove()
    tokens, index, _ = calls[0]
    for group in groups:
        if (place := group[0].expert) is None or place.activated:
            continue
        own = tokens[(index == place.index).any(dim=1)].bfloat16().float()  # as the expert multiplies them
        torch.testing.assert_close(measured[group[0].name].gram, own.T @ own / len(own), rtol=1e-5, atol=1e-6)


def test_routers_are_left_alone_and_the_rest_is_planned(request_for: Request, tmp_path: Path) -> None:
    folder = make_tiny("qwen2-moe", tmp_path / "model")
    found = plan(PruningJob.from_dict(request_for(model=str(folder))))
    reasons = {entry["name"]: entry["reason"] for entry in found["skipped"]}
    assert reasons["model.layers.0.mlp.gate.weight"] == "routes tokens to experts (Qwen2MoeTopKRouter)"
    assert reasons["model.layers.0.mlp.shared_expert_gate.weight"] == "routes tokens to experts (Linear)"
    matched = {entry["name"] for entry in found["matched"]}
    assert "model.layers.0.mlp.shared_expert.up_proj.weight" in matched
    assert "model.layers.2.mlp.experts.3.down_proj.weight" in matched
    # A block: four matrices of attention, three of each of four experts, three of the shared one.
    assert found["weights"] == 3 * (2 * 64 * 64 + 2 * 64 * 32 + 4 * 3 * 64 * 32 + 3 * 64 * 64)
    assert found["parameters"] == sum(info.bytes // 4 for info in Checkpoint.open(folder).tensors.values())


def test_dense_blocks_of_a_mixture_are_pruned_too(request_for: Request, tmp_path: Path) -> None:
    folder = make_tiny("qwen3-moe", tmp_path / "model")
    found = plan(PruningJob.from_dict(request_for(model=str(folder))))
    second = {entry["name"] for entry in found["matched"] if ".layers.1.mlp." in entry["name"]}
    assert second == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}


def test_an_override_can_name_one_expert(request_for: Request, tmp_path: Path) -> None:
    folder = make_tiny("mixtral", tmp_path / "model")
    overrides = [{"match": "*.block_sparse_moe.experts.2.*", "skip": True}]
    request = request_for(model=str(folder), sparsity={"target": 0.5, "overrides": overrides})
    found = plan(PruningJob.from_dict(request))
    assert {entry["name"] for entry in found["skipped"] if "override" in entry["reason"]} == {
        f"model.layers.{block}.block_sparse_moe.experts.2.w{part}.weight"
        for block in range(3)
        for part in (1, 2, 3)
    }


def test_tokens_of_every_expert_are_reported(request_for: Request, tmp_path: Path, texts: Path) -> None:
    folder = make_tiny("mixtral", tmp_path / "model")
    request = request_for(model=str(folder), domains=[domain(texts, "a", evaluation=None)])
    recorder = Recorder()
    prune(request, recorder)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    layers = report["stages"][0]["experts"]
    assert list(layers) == [f"model.layers.{block}.block_sparse_moe.experts" for block in range(3)]
    records = {record.matrix: record for block in recorder.blocks for record in block.records}
    for name, layer in layers.items():
        tokens = [layer["tokens"][str(expert)] for expert in range(4)]
        assert sum(tokens) == 2 * 5 * 32  # two experts a token; one of the six windows is held out
        for expert, own in enumerate(tokens):
            assert records[f"{name}.{expert}.w2.weight"].notes["expert"]["tokens"] == own


def fused(family: str, folder: Path) -> Path:
    """One tensor for all experts: as a family stores them, or, of another family, as they are in memory."""
    if family != "qwen3-moe":
        return make_model(folder, family)
    model = AutoModelForCausalLM.from_pretrained(make_tiny(family, folder), dtype=torch.float32)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


FUSED = {"gpt_oss": "gate_up_proj", "granitemoe": "input_linear.weight", "qwen3-moe": "gate_up_proj"}
"""With biases and (experts, in, out); under a name of its own; as the library has it."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FUSED)
def test_experts_in_one_tensor_are_matrices_of_their_own(family: str, tmp_path: Path) -> None:
    folder = fused(family, tmp_path / "model")
    found = check(folder, tmp_path / "checked")
    assert (found.supported, found.reason) == (True, "")
    checkpoint = Checkpoint.open(folder)
    graph = build_graph(folder, checkpoint)
    with torch.no_grad():
        runner = BlockRunner(graph, checkpoint, torch.device("cpu"))
    block = graph.blocks[0]
    runner.load_block(block, checkpoint.read(block.tensors))
    own = [matrix for matrix in block.matrices if matrix.slice is not None]
    assert {matrix.name.rpartition(".")[2] for matrix in own} == {"0", "1", "2", "3"}
    assert any(matrix.tensor.endswith(FUSED[family]) for matrix in own)
    for matrix in own:
        stored = checkpoint.read_slice(matrix.tensor, matrix.slice)
        assert torch.equal(stored, matrix.of(checkpoint.read([matrix.tensor])))
        torch.testing.assert_close(dense_weight(block, matrix), stored.T if matrix.transposed else stored)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["accumulated", "sequential"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_in_one_tensor_over_two_domains(
    mode: str, dtype: torch.dtype, tmp_path: Path, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure of the report is that of the slices as they were written, which are not held twice for it."""
    shown: list[Tensor] = []
    of = Contents.of
    monkeypatch.setattr(Contents, "of", lambda weight: (shown.append(weight), of(weight))[1])
    folder = make_model(tmp_path / "model", "gpt_oss")
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    overrides = [{"match": "*.layers.0.*.gate_up_proj.2", "skip": True}]
    request = request_for(
        model=str(folder),
        method={"name": "sparsegpt", "mode": mode},
        sparsity={"target": 0.5, "overrides": overrides},
        domains="ab",
    )
    prune(request)
    slices = [weight for weight in shown if weight.nbytes < weight.untyped_storage().nbytes()]
    assert len(slices) == 2 * (4 * 2 * 4 - 1)
    workspace = Path(request["workspace"])
    report = json.loads((workspace / "report.json").read_text())
    assert verify_report(workspace / "stage-01/model", report).differences == ()
    before, after = Checkpoint.open(folder), Checkpoint.open(workspace / "stage-01/model")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    kept, pruned = before.read([name])[name], after.read([name])[name]
    assert torch.equal(kept[2], pruned[2])
    assert all(int((pruned[expert] == 0).sum()) > 0 for expert in (0, 1, 3))
    assert list(report["stages"][1]["experts"]) == [f"model.layers.{block}.mlp.experts" for block in range(4)]
