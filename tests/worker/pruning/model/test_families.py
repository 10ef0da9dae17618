"""Block by block must be what the whole model computes, for every family that works from the graph.

Slow: each family's own code is run whole, and block by block.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILIES, WINDOW, make_tiny
from tests.worker.pruning.conftest import Request, domain, prune
from worker.pruning import UserError
from worker.pruning.calibration.hooks import find_groups
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import ModelGraph, build_graph, find_blocks
from worker.pruning.model.loading import unload
from worker.pruning.model.tracing import LENGTH as LENGTH_LOOKED_AT
from worker.pruning.model.tracing import TUPLES, attempt, check_blocks, difference, outside, stand_ins

pytestmark = pytest.mark.slow

LENGTH = 3 * WINDOW


def opened(folder: Path) -> tuple[Checkpoint, ModelGraph, BlockRunner]:
    checkpoint = Checkpoint.open(folder)
    graph = build_graph(folder, checkpoint)
    with torch.no_grad():
        return checkpoint, graph, BlockRunner(graph, checkpoint, torch.device("cpu"))


@pytest.fixture(scope="module", params=FAMILIES)
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(request.param, tmp_path_factory.mktemp("family") / request.param)


@torch.no_grad()
def block_wise_logits(folder: Path, ids: Tensor) -> Tensor:
    """As the engine evaluates a checkpoint: one block in memory at a time."""
    checkpoint, graph, runner = opened(folder)
    hidden = runner.enter(ids)
    for block in graph.blocks:
        runner.load_block(block, checkpoint.read(block.tensors))
        hidden = runner.forward(block, hidden)
        unload(block)
    with runner.head() as head:
        return torch.cat([head(ids[:, piece], hidden[:, piece]) for piece in (slice(5), slice(5, None))], dim=1)


@torch.no_grad()
def loaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    return AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)


@torch.no_grad()
def test_blocks_give_the_logits_of_the_whole_model(model_folder: Path) -> None:
    ids = torch.randint(0, 320, (2, LENGTH))
    whole, _ = loaded(model_folder)
    torch.testing.assert_close(block_wise_logits(model_folder, ids), whole(ids).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pruned_saved_and_loaded_plainly(model_folder: Path, request_for: Request, texts: Path) -> None:
    """The first block by masks alone, the others with new weights."""
    request = request_for(
        model=str(model_folder),
        method={"name": "admm"},
        sparsity={"target": 0.5, "overrides": [{"match": "*.0.*", "method": "wanda"}]},
        domains=[domain(texts, "a", evaluation=None)],
    )
    output = prune(request)
    folder = Path(request["workspace"]) / "stage-00/model"
    before, after = Checkpoint.open(model_folder), Checkpoint.open(folder)
    assert {n: (t.shape, t.dtype) for n, t in after.tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in before.tensors.items()
    }
    old, new = before.read(before.tensors), after.read(after.tensors)
    _, graph, _ = opened(model_folder)
    names = {matrix.name for matrix in graph.matrices}
    assert [name for name in old if name not in names and not torch.equal(old[name], new[name])] == []
    zeros = sum(int((new[name] == 0).sum()) for name in names)
    assert zeros == output.summary.zeros == round(0.5 * output.summary.weights)

    model, info = loaded(folder)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied is bool(model.config.tie_word_embeddings)
    ids = torch.randint(0, 320, (2, LENGTH))
    torch.testing.assert_close(block_wise_logits(folder, ids), model(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_plan_finds_the_calls_that_the_real_weights_give(model_folder: Path) -> None:
    """And leaves the graph without weights, as it was."""
    checkpoint = Checkpoint.open(model_folder)
    graph = build_graph(model_folder, checkpoint)
    check_blocks(graph)
    assert {parameter.device.type for parameter in graph.model.parameters()} == {"meta"}
    runner = opened(model_folder)[2]
    with torch.no_grad(), stand_ins(outside(graph)):
        found = [each for each in (attempt(graph, outputs=outputs) for outputs in TUPLES) if each]
    traced = [each for each in found if isinstance(each, tuple)]
    assert traced
    with torch.no_grad():
        expected = runner.calls(1, LENGTH_LOOKED_AT)
    for calls in traced[0]:
        for block, call, real in zip(graph.blocks, calls, expected, strict=True):
            assert difference("", call.named(block.module), real.named(block.module)) is None


def test_no_block_weight_stays_in_memory(model_folder: Path) -> None:
    _, graph, _ = opened(model_folder)
    for block in graph.blocks:
        assert {parameter.device.type for parameter in block.module.parameters()} == {"meta"}


def test_groups_are_found_by_the_input_tensor(tiny_llama: Path) -> None:
    checkpoint, graph, runner = opened(tiny_llama)
    block = graph.blocks[0]
    with torch.no_grad():
        hidden = runner.enter(torch.randint(0, 320, (1, 8)))
        runner.load_block(block, checkpoint.read(block.tensors))
        groups = find_groups(block, block.matrices, lambda: runner.forward(block, hidden))
    assert [[matrix.module.split(".")[1] for matrix in group] for group in groups] == [
        ["q_proj", "k_proj", "v_proj"],
        ["o_proj"],
        ["gate_proj", "up_proj"],
        ["down_proj"],
    ]


def test_gemma_blocks_have_their_own_arguments(tmp_path: Path) -> None:
    _, _, runner = opened(make_tiny("gemma3", tmp_path / "gemma"))
    with torch.no_grad():
        sliding, full, _ = runner.calls(1, LENGTH)
    assert not torch.equal(sliding.kwargs["position_embeddings"][0], full.kwargs["position_embeddings"][0])
    assert int(sliding.kwargs["attention_mask"][0, 0, -1].sum()) == WINDOW


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("neox", "embed_out.weight"),
        ("gpt2-bare", "h.0.attn.c_attn.weight"),
        ("bloom-bare", "h.0.self_attention.query_key_value.weight"),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight"),
    ],
)
def test_tiny_models_have_the_names_of_the_hub(family: str, name: str, tmp_path: Path) -> None:
    assert name in Checkpoint.open(make_tiny(family, tmp_path / family)).tensors


@pytest.mark.parametrize("family", ["neox", "gpt2-bare"])
def test_overrides_go_by_the_names_of_the_checkpoint(family: str, tmp_path: Path, request_for: Request) -> None:
    folder = make_tiny(family, tmp_path / family)
    first = {"neox": "gpt_neox.layers.0.*", "gpt2-bare": "h.0.*"}[family]
    sparsity = {"target": 0.5, "overrides": [{"match": first, "skip": True}]}
    output = prune(request_for(model=str(folder), sparsity=sparsity))
    assert output.summary.weights == sum(
        matrix.weights for block in opened(folder)[1].blocks[1:] for matrix in block.matrices
    )


def changed(folder: Path, change: Any) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("gpt_neox.final_layer_norm.bias"), "lacks gpt_neox.final_layer_norm.bias"),
        (lambda t: t.update({"embed_out.weight": torch.zeros(2, 64)}), r"embed_out.weight has shape \(2, 64\)"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(320, 64)}), "are the same tensor, lm_head.weight"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    folder = changed(make_tiny("neox", tmp_path / "neox"), change)
    with pytest.raises(UserError, match=message) as caught:
        opened(folder)
    assert caught.value.code == "unsupported_model"


def test_transposed_matrices_are_pruned_as_outputs_by_inputs(tmp_path: Path, request_for: Request) -> None:
    """GPT-2 stores (in, out); 2:4 must hold along the inputs."""
    folder = make_tiny("gpt2", tmp_path / "gpt2")
    request = request_for(model=str(folder), method={"name": "admm"}, sparsity={"pattern": "2:4"})
    output = prune(request)
    assert output.summary.sparsity == 0.5
    written = Checkpoint.open(Path(request["workspace"]) / "stage-00/model")
    _, graph, _ = opened(folder)
    for matrix in graph.matrices:
        weight = written.read([matrix.name])[matrix.name]
        assert weight.shape == (matrix.columns, matrix.rows)
        assert int((weight.T.reshape(matrix.rows, -1, 4) != 0).sum(dim=2).max()) == 2
    AutoModelForCausalLM.from_pretrained(written.folder)


def test_two_lists_of_blocks_are_refused() -> None:
    def blocks() -> torch.nn.ModuleList:
        return torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2)) for _ in range(2)])

    model = torch.nn.ModuleDict({"one": blocks(), "two": blocks()})
    with pytest.raises(UserError, match="one, two"):
        find_blocks(model)
    with pytest.raises(UserError, match="none"):
        find_blocks(torch.nn.Linear(2, 2))
