"""What is heard of a block's inputs while it runs."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from secateur.spec.method import Reading
from tests.tiny import FAMILIES, WINDOW, make_tiny
from worker.pruning.calibration.copal_sums import CopalSums
from worker.pruning.calibration.hooks import AllHeard, find_groups, measure
from worker.pruning.evaluation.losses import precision
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, build_graph
from worker.pruning.model.loading import dense_weight


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[BlockRunner, Block]:
    folder: Path = make_tiny(request.param, tmp_path_factory.mktemp("family") / request.param)
    checkpoint = Checkpoint.open(folder)
    with torch.no_grad():
        runner = BlockRunner(build_graph(folder, checkpoint), checkpoint, torch.device("cpu"))
    block = runner.graph.blocks[-1]
    runner.load_block(block, checkpoint.read(block.tensors))
    return runner, block


@torch.no_grad()
def test_a_pass_that_stops_early_hears_the_same(loaded: tuple[BlockRunner, Block]) -> None:
    runner, block = loaded
    states = [runner.enter(torch.randint(0, 320, (2, WINDOW))) for _ in range(3)]
    groups = find_groups(block, block.matrices, lambda: runner.forward(block, states[0]))
    stopped = 0

    def run() -> None:
        nonlocal stopped
        for state in states:
            try:
                runner.forward(block, state)
            except AllHeard:
                stopped += 1

    whole = measure(block, groups, run, runner.device)
    assert stopped == 0
    early = measure(block, groups, run, runner.device, stop_early=True)
    experts = any(matrix.expert is not None for matrix in block.matrices)
    assert stopped == (0 if experts else len(states) - 1)
    for name, statistics in whole.items():
        assert early[name].tokens == statistics.tokens
        assert torch.equal(early[name].gram, statistics.gram)
        assert torch.equal(early[name].mean, statistics.mean)


@torch.no_grad()
def test_nothing_stays_behind_on_the_block(loaded: tuple[BlockRunner, Block]) -> None:
    runner, block = loaded
    state = runner.enter(torch.randint(0, 320, (2, WINDOW)))
    groups = find_groups(block, block.matrices, lambda: runner.forward(block, state))
    before = runner.forward(block, state)

    def run() -> None:
        for _ in range(2):
            with suppress(AllHeard):
                runner.forward(block, state)

    measure(block, groups, run, runner.device, stop_early=True)
    assert torch.equal(runner.forward(block, state), before)
    assert not any(module._forward_pre_hooks for module in block.module.modules())


@torch.no_grad()
def test_statistics_are_float32_under_autocast(tmp_path: Path) -> None:
    """Of the inputs as they are multiplied, in bfloat16: their Gram, and a reading of COPAL that sees every
    token."""
    folder = make_tiny("llama", tmp_path / "llama")
    checkpoint = Checkpoint.open(folder)
    runner = BlockRunner(build_graph(folder, checkpoint), checkpoint, torch.device("cpu"))
    block = runner.graph.blocks[0]
    runner.load_block(block, checkpoint.read(block.tensors))
    heard: dict[str, torch.Tensor] = {}
    for matrix in block.matrices:
        block.module.get_submodule(matrix.module).register_forward_pre_hook(
            lambda _, args, name=matrix.name: heard.__setitem__(name, args[0].bfloat16().float().flatten(0, 1))
        )
    with precision(runner.device, "bfloat16"):
        state = runner.enter(torch.randint(0, 320, (2, WINDOW)))
        groups = find_groups(block, block.matrices, lambda: runner.forward(block, state))
        copal_sums = {group[0].name: CopalSums(Reading.token, None, WINDOW) for group in groups}
        measured = measure(block, groups, lambda: runner.forward(block, state), runner.device, copal_sums)
    assert len(groups) == 4
    for group in groups:
        name, x = group[0].name, heard[group[0].name]
        sensitivity = (x @ dense_weight(block, group[0]).float().T).abs().T @ x.abs() / len(x)
        torch.testing.assert_close(measured[name].gram, x.T @ x / len(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(measured[name].importance[name], sensitivity, rtol=1e-4, atol=1e-6)
