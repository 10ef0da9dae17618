"""How blocks are loaded: as stored, in the dtype of forward passes, and replaced matrix by matrix."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.family_models import make_model
from tests.tiny import FAMILIES, make_tiny, make_tiny_llama
from tests.worker.pruning.conftest import Request, prune
from worker.pruning.evaluation.losses import precision
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, PrunableWeight, build_graph
from worker.pruning.model.loading import dense_weight, load_block, put_weight, shares_memory, unload

CPU = torch.device("cpu")


def opened(folder: Path, dtype: str) -> tuple[Checkpoint, BlockRunner]:
    checkpoint = Checkpoint.open(folder)
    with torch.no_grad():
        return checkpoint, BlockRunner(build_graph(folder, checkpoint), checkpoint, CPU, dtype)


def as_solved(matrix: PrunableWeight, tensors: dict[str, Tensor]) -> Tensor:
    """(out, in), float32, of the tensors as stored."""
    stored = matrix.of(tensors).float()
    return stored.T if matrix.transposed else stored


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_products_in_bfloat16_are_those_of_autocast(family: str, tmp_path: Path) -> None:
    """Slow: what a family's code does with its weights beside products is known once it runs."""
    folder = make_tiny(family, tmp_path / family)
    found = []
    for dtype in ("float32", "bfloat16"):
        checkpoint, runner = opened(folder, dtype)
        hidden = runner.enter(torch.arange(40).view(2, 20))
        with precision(CPU, "bfloat16"):
            for block in runner.graph.blocks:
                runner.load_block(block, checkpoint.read(block.tensors))
                hidden = runner.forward(block, hidden)
                found.append(hidden)
    half = len(found) // 2
    assert all(torch.equal(one, other) for one, other in zip(found[:half], found[half:], strict=True))


@torch.no_grad()
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_weights_are_those_stored_whatever_passes_multiply_by(
    stored: torch.dtype, dtype: str, tmp_path: Path
) -> None:
    checkpoint, runner = opened(make_tiny_llama(tmp_path / "model", dtype=stored), dtype)
    block = runner.graph.blocks[0]
    tensors = checkpoint.read(block.tensors)
    runner.load_block(block, tensors)
    paths = {matrix.module for matrix in block.matrices}
    for name, parameter in block.module.named_parameters():
        multiplied = name.removesuffix(".weight") in paths
        assert parameter.dtype is (getattr(torch, dtype) if multiplied else torch.float32), name
    for matrix in block.matrices:
        dense = dense_weight(block, matrix)
        assert dense.dtype is torch.float32
        assert torch.equal(dense, tensors[matrix.name].float())
    unload(block)
    assert not block.unrounded


@torch.no_grad()
@pytest.mark.parametrize("between", [False, True], ids=["at once", "unloaded between"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_block_for_bfloat16_products_is_loaded_again_in_float32(
    stored: torch.dtype, between: bool, tmp_path: Path
) -> None:
    checkpoint, runner = opened(make_tiny_llama(tmp_path / "model", dtype=stored), "bfloat16")
    block = runner.graph.blocks[0]
    tensors = checkpoint.read(block.tensors)
    runner.load_block(block, tensors)
    if between:
        unload(block)
    load_block(block, tensors, runner.graph.names.state, CPU)
    assert {parameter.dtype for parameter in block.module.parameters()} == {torch.float32}
    for matrix in block.matrices:
        assert torch.equal(dense_weight(block, matrix), tensors[matrix.name].float())


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gpt_oss"])
def test_a_block_whose_matrices_are_put_is_the_block_loaded_from_what_was_written(
    family: str, dtype: str, tmp_path: Path
) -> None:
    """Matrices stored transposed, one an expert, and all experts in one tensor."""
    folder = tmp_path / family
    made = make_tiny(family, folder) if family in FAMILIES else make_model(folder, family)
    checkpoint, runner = opened(made, dtype)
    block = runner.graph.blocks[0]
    tensors = checkpoint.read(block.tensors)
    runner.load_block(block, {name: tensor.clone() for name, tensor in tensors.items()})
    for number, matrix in enumerate(block.matrices):
        written = torch.randn_like(matrix.of(tensors)) + number
        put_weight(block, matrix, written)
        matrix.of(tensors).copy_(written)
    found = state_of(block)
    dense = [dense_weight(block, matrix) for matrix in block.matrices]
    runner.load_block(block, tensors)
    expected = state_of(block)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for matrix, one in zip(block.matrices, dense, strict=True):
        assert torch.equal(one, dense_weight(block, matrix))
        assert torch.equal(one, as_solved(matrix, tensors))


def state_of(block: Block) -> dict[str, Tensor]:
    held = {f"stored {name}": tensor.clone() for name, tensor in block.unrounded.items()}
    return held | {name: tensor.clone() for name, tensor in block.module.state_dict().items()}


@torch.no_grad()
def test_memory_that_is_shared_with_what_was_read_is_known(tmp_path: Path) -> None:
    checkpoint, runner = opened(make_tiny_llama(tmp_path / "model", dtype=torch.bfloat16), "bfloat16")
    block = runner.graph.blocks[0]
    tensors = checkpoint.read(block.tensors)
    runner.load_block(block, tensors)
    matrix = block.matrices[0].name
    assert shares_memory(block, tensors[matrix])
    assert not shares_memory(block, tensors[matrix].clone())


def test_a_block_is_loaded_once_to_be_pruned(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once for each model that is evaluated: the dense one, and the pruned one."""
    loaded: list[int] = []
    load = BlockRunner.load_block

    def counted(runner: BlockRunner, block: Block, *rest: Any) -> None:
        loaded.append(block.index)
        load(runner, block, *rest)

    monkeypatch.setattr(BlockRunner, "load_block", counted)
    prune(request_for())
    assert loaded == [0, 1, 0, 1, 0, 1]
