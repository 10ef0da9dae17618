"""Block by block must be what the whole model computes, for every family that works from the graph."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny import (
    make_tiny_gemma3,
    make_tiny_gpt2,
    make_tiny_llama,
    make_tiny_neox,
    make_tiny_opt,
    make_tiny_qwen3,
)
from tests.worker.pruning.conftest import Request, prune
from worker.pruning import UserError
from worker.pruning import skeleton as skeletons
from worker.pruning.blocks import Shell, unload
from worker.pruning.checkpoint import Checkpoint
from worker.pruning.groups import find_groups
from worker.pruning.skeleton import Skeleton, find_blocks

FAMILIES = {
    "llama": make_tiny_llama,
    "qwen3": make_tiny_qwen3,
    "gemma3": make_tiny_gemma3,
    "opt": make_tiny_opt,
}
Maker = Callable[..., Path]


def opened(folder: Path) -> tuple[Checkpoint, Skeleton, Shell]:
    checkpoint = Checkpoint.open(folder)
    skeleton = skeletons.build(folder, checkpoint)
    with torch.no_grad():
        return checkpoint, skeleton, Shell(skeleton, checkpoint, torch.device("cpu"))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp("family") / request.param, blocks=3)


def test_blocks_give_the_logits_of_the_whole_model(model_folder: Path) -> None:
    checkpoint, skeleton, shell = opened(model_folder)
    ids = torch.randint(0, 320, (2, 24))
    with torch.no_grad():
        hidden = shell.enter(ids)
        for block in skeleton.blocks:
            shell.load_block(block, checkpoint.read(block.tensors))
            hidden = shell.forward(block, hidden)
            unload(block.module)
        logits = shell.leave(ids, hidden, torch.arange(24))
        whole = AutoModelForCausalLM.from_pretrained(model_folder)(ids).logits
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


def test_whole_job_loads_plainly_and_its_zeros_are_counted(model_folder: Path, request_for: Request) -> None:
    request = request_for(model=str(model_folder), method={"name": "admm"}, sparsity={"target": 0.5})
    output = prune(request)
    model = AutoModelForCausalLM.from_pretrained(Path(request["workspace"]) / "stage-00/model")
    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    _, skeleton, _ = opened(model_folder)
    names = {matrix.name for matrix in skeleton.matrices}
    zeros = sum(int((value == 0).sum()) for name, value in model.named_parameters() if name in names)
    assert zeros == output.summary["zeros"] == round(0.5 * output.summary["weights"])
    for name, value in plain.named_parameters():
        if name not in names:
            assert torch.equal(value, model.get_parameter(name)), name


def test_no_block_weight_stays_in_memory(model_folder: Path) -> None:
    _, skeleton, _ = opened(model_folder)
    for block in skeleton.blocks:
        assert {parameter.device.type for parameter in block.module.parameters()} == {"meta"}


def test_groups_are_found_by_the_input_tensor(tiny_llama: Path) -> None:
    checkpoint, skeleton, shell = opened(tiny_llama)
    block = skeleton.blocks[0]
    with torch.no_grad():
        hidden = shell.enter(torch.randint(0, 320, (1, 8)))
        shell.load_block(block, checkpoint.read(block.tensors))
        groups = find_groups(block, block.matrices, lambda: shell.forward(block, hidden))
    assert [[matrix.module.split(".")[1] for matrix in group] for group in groups] == [
        ["q_proj", "k_proj", "v_proj"],
        ["o_proj"],
        ["gate_proj", "up_proj"],
        ["down_proj"],
    ]


def test_gemma_blocks_have_their_own_arguments(tmp_path: Path) -> None:
    _, _, shell = opened(make_tiny_gemma3(tmp_path / "gemma"))
    with torch.no_grad():
        sliding, full = shell.calls(1, 32)
    assert not torch.equal(sliding.kwargs["position_embeddings"][0], full.kwargs["position_embeddings"][0])


def test_renamed_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_neox(tmp_path / "neox")
    with pytest.raises(UserError, match=r"embed_out\.weight belongs to no module"):
        opened(folder)


def test_transposed_matrices_are_pruned_as_outputs_by_inputs(tmp_path: Path, request_for: Request) -> None:
    """GPT-2 stores (in, out); 2:4 must hold along the inputs."""
    folder = make_tiny_gpt2(tmp_path / "gpt2")
    request = request_for(model=str(folder), method={"name": "admm"}, sparsity={"pattern": "2:4"})
    output = prune(request)
    assert output.summary["sparsity"] == 0.5
    written = Checkpoint.open(Path(request["workspace"]) / "stage-00/model")
    _, skeleton, _ = opened(folder)
    for matrix in skeleton.matrices:
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
