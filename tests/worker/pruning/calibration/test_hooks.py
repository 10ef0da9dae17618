"""What is heard of a block's inputs while it runs."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from secateur.spec.method import Reading
from tests.tiny import FAMILIES, WINDOW, make_tiny
from worker.pruning.calibration.copal_sums import Sensing
from worker.pruning.calibration.hooks import AllHeard, dense_weight, find_groups, measure
from worker.pruning.evaluation.losses import precision
from worker.pruning.model import graph as skeletons
from worker.pruning.model.block_runner import Shell
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, Block]:
    folder: Path = make_tiny(request.param, tmp_path_factory.mktemp("family") / request.param)
    checkpoint = Checkpoint.open(folder)
    with torch.no_grad():
        shell = Shell(skeletons.build(folder, checkpoint), checkpoint, torch.device("cpu"))
    block = shell.skeleton.blocks[-1]
    shell.load_block(block, checkpoint.read(block.tensors))
    return shell, block


@torch.no_grad()
def test_a_pass_that_stops_early_hears_the_same(loaded: tuple[Shell, Block]) -> None:
    shell, block = loaded
    states = [shell.enter(torch.randint(0, 320, (2, WINDOW))) for _ in range(3)]
    groups = find_groups(block, block.matrices, lambda: shell.forward(block, states[0]))
    stopped = 0

    def run() -> None:
        nonlocal stopped
        for state in states:
            try:
                shell.forward(block, state)
            except AllHeard:
                stopped += 1

    whole = measure(block, groups, run, shell.device)
    assert stopped == 0
    early = measure(block, groups, run, shell.device, stop_early=True)
    experts = any(matrix.expert is not None for matrix in block.matrices)
    assert stopped == (0 if experts else len(states) - 1)
    for name, statistics in whole.items():
        assert early[name].tokens == statistics.tokens
        assert torch.equal(early[name].gram, statistics.gram)
        assert torch.equal(early[name].mean, statistics.mean)


@torch.no_grad()
def test_nothing_stays_behind_on_the_block(loaded: tuple[Shell, Block]) -> None:
    shell, block = loaded
    state = shell.enter(torch.randint(0, 320, (2, WINDOW)))
    groups = find_groups(block, block.matrices, lambda: shell.forward(block, state))
    before = shell.forward(block, state)

    def run() -> None:
        for _ in range(2):
            with suppress(AllHeard):
                shell.forward(block, state)

    measure(block, groups, run, shell.device, stop_early=True)
    assert torch.equal(shell.forward(block, state), before)
    assert not any(module._forward_pre_hooks for module in block.module.modules())


@torch.no_grad()
def test_statistics_are_float32_under_autocast(tmp_path: Path) -> None:
    """Of the inputs as they are multiplied, in bfloat16: their Gram, and a reading of COPAL that sees every
    token."""
    folder = make_tiny("llama", tmp_path / "llama")
    checkpoint = Checkpoint.open(folder)
    shell = Shell(skeletons.build(folder, checkpoint), checkpoint, torch.device("cpu"))
    block = shell.skeleton.blocks[0]
    shell.load_block(block, checkpoint.read(block.tensors))
    heard: dict[str, torch.Tensor] = {}
    for matrix in block.matrices:
        block.module.get_submodule(matrix.module).register_forward_pre_hook(
            lambda _, args, name=matrix.name: heard.__setitem__(name, args[0].bfloat16().float().flatten(0, 1))
        )
    with precision(shell.device, "bfloat16"):
        state = shell.enter(torch.randint(0, 320, (2, WINDOW)))
        groups = find_groups(block, block.matrices, lambda: shell.forward(block, state))
        sensing = {group[0].name: Sensing(Reading.token, None, WINDOW) for group in groups}
        measured = measure(block, groups, lambda: shell.forward(block, state), shell.device, sensing)
    assert len(groups) == 4
    for group in groups:
        name, x = group[0].name, heard[group[0].name]
        sensitivity = (x @ dense_weight(block, group[0]).float().T).abs().T @ x.abs() / len(x)
        torch.testing.assert_close(measured[name].gram, x.T @ x / len(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(measured[name].importance[name], sensitivity, rtol=1e-4, atol=1e-6)
