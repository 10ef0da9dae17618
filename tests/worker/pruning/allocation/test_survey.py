"""The survey's backward pass, block by block, against autograd over the whole model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.tiny import make_tiny_gemma3, make_tiny_gpt2, make_tiny_llama, make_tiny_opt
from worker.pruning import skeleton as skeletons
from worker.pruning.allocation.curves import loss_curve, loss_scores
from worker.pruning.allocation.owl import OUTLIER
from worker.pruning.allocation.survey import DAMPING, Surveyor, curvature
from worker.pruning.blocks import Shell
from worker.pruning.checkpoint import Checkpoint
from worker.pruning.hidden import HiddenStates
from worker.pruning.settings import torch_settings
from worker.pruning.spec import Allocation


def _surveyor(folder: Path, scratch: Path, *, adapts: bool = False) -> Surveyor:
    source = Checkpoint.open(folder)
    skeleton = skeletons.build(folder, source)
    return Surveyor(
        shell=Shell(skeleton, source, torch.device("cpu")),
        source=source,
        matrices={block.index: block.matrices for block in skeleton.blocks},
        adapts=adapts,
        store=lambda: HiddenStates(scratch, 0),
        advance=lambda block, tokens, passes: None,
    )


def _whole_model(folder: Path, windows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """E g² of the outputs and E x² of the inputs of every linear layer inside the blocks, by plain autograd."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and "head" not in name:

            def hook(_module: object, args: tuple[Tensor], output: Tensor, name: str = name) -> None:
                output.retain_grad()
                kept[name] = output
                inputs[f"{name}.weight"] = args[0].detach().reshape(-1, args[0].shape[-1]).square().mean(dim=0)

            module.register_forward_hook(hook)
    logits = model(windows, use_cache=False).logits[:, :-1]
    functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="sum").backward()
    for name, output in kept.items():
        assert output.grad is not None
        outputs[f"{name}.weight"] = output.grad.reshape(-1, output.shape[-1]).square().mean(dim=0)
    return outputs, inputs


@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_gemma3, make_tiny_opt, make_tiny_gpt2])
def test_block_by_block_gives_the_whole_models_gradients(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    windows = torch.randint(0, 320, (3, 24))
    surveyor = _surveyor(folder, tmp_path)
    with torch_settings(1):
        survey = surveyor.survey(Allocation.error, windows)
    outputs, inputs = _whole_model(folder, windows)
    assert survey.outputs.keys() == {m.name for ms in surveyor.matrices.values() for m in ms}
    checkpoint = Checkpoint.open(folder)
    for matrices in surveyor.matrices.values():
        for matrix in matrices:
            torch.testing.assert_close(survey.outputs[matrix.name], outputs[matrix.name], rtol=1e-3, atol=1e-9)
            dense = checkpoint.read([matrix.name])[matrix.name].float()
            dense = dense.T if matrix.transposed else dense
            expected = loss_curve(loss_scores(dense, outputs[matrix.name], inputs[matrix.name]))
            torch.testing.assert_close(survey.curves[matrix.name], expected, rtol=1e-3, atol=1e-9)


def test_outliers_are_counted_in_every_block(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model", blocks=3)
    windows = torch.randint(0, 320, (2, 24))
    surveyor = _surveyor(folder, tmp_path)
    checkpoint = Checkpoint.open(folder)
    with torch_settings(1):
        survey = surveyor.survey(Allocation.owl, windows)
    _, inputs = _whole_model(folder, windows)
    for block, matrices in surveyor.matrices.items():
        scores = [checkpoint.read([m.name])[m.name] ** 2 * inputs[m.name] for m in matrices]
        count = sum(int((score.sqrt() > OUTLIER * score.sqrt().mean()).sum()) for score in scores)
        assert survey.outliers[block] == pytest.approx(count / sum(m.weights for m in matrices), abs=3e-4)
    assert sum(survey.outliers.values()) > 0
    assert not survey.curves


def test_curvature_is_the_inverse_of_the_inverses_diagonal() -> None:
    inputs = torch.randn(200, 12, dtype=torch.float64)
    gram = inputs.T @ inputs / 200
    damped = gram + DAMPING * gram.diagonal().diag()
    expected = 1 / torch.linalg.inv(damped).diagonal()
    torch.testing.assert_close(curvature(gram.float()).double(), expected, rtol=1e-4, atol=1e-6)


def test_outputs_without_correlations_have_the_gram_as_curvature() -> None:
    diagonal = torch.tensor([1.0, 4.0, 0.25])
    torch.testing.assert_close(curvature(diagonal.diag()), (1 + DAMPING) * diagonal)
