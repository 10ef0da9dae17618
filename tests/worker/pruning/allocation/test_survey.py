"""The survey's backward pass, block by block, against autograd over the whole model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from secateur.spec.sparsity import SURVEY_TOKENS
from tests.tiny import make_tiny, make_tiny_llama
from worker.pruning.allocation.curves import loss_curve, loss_scores
from worker.pruning.allocation.output_grams import OutputGrams
from worker.pruning.allocation.owl import OUTLIER
from worker.pruning.allocation.result import Survey
from worker.pruning.allocation.survey import DAMPING, _add_squares, curvature, survey
from worker.pruning.calibration.windows import CalibrationWindows
from worker.pruning.cost import survey_tokens
from worker.pruning.errors import IllConditioned
from worker.pruning.methods import output_weighting
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.experts import is_experts, run_experts
from worker.pruning.model.graph import build_graph
from worker.pruning.observer import Silent
from worker.pruning.request import PruningJob
from worker.pruning.runtime.behind import Behind
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.numerics import torch_settings
from worker.pruning.runtime.progress import Kind, Tracker
from worker.pruning.state.context import StageContext
from worker.pruning.targets.budget import assign


def _stage(
    folder: Path,
    windows: Tensor,
    allocation: str = "error",
    *,
    dtype: str = "float32",
    prefix: tuple[int, ...] = (),
    method: dict[str, str] | None = None,
    output_grams: OutputGrams | None = None,
    survey_tokens: int = SURVEY_TOKENS,
) -> StageContext:
    """Of a job whose method selects only where none is given, with all of the windows to look at."""
    samples, length = windows.shape
    calibration = {"samples": samples, "sequence_length": length}
    job = PruningJob.from_dict(
        {
            "model": str(folder),
            "workspace": str(folder.parent),
            "method": method or {"name": "wanda"},
            "sparsity": {"target": 0.5, "allocation": allocation, "survey_tokens": survey_tokens},
            "domains": [{"name": "a", "dataset": "a", "calibration": calibration}],
            "texts": {"a": {"path": "a.txt"}},
        }
    )
    source = Checkpoint.open(folder)
    graph = build_graph(folder, source)
    return StageContext(
        job=job,
        source=source,
        runner=BlockRunner(graph, source, torch.device("cpu")),
        dtype=dtype,
        tracker=Tracker(Silent(), 1, len(graph.blocks), dict.fromkeys(Kind, 1.0)),
        behind=Behind(Silent()),
        stage=0,
        name="a",
        windows=CalibrationWindows(windows, windows[:0], windows.numel(), prefix=prefix),
        targets=assign(graph.matrices, job.sparsity),
        room=Room(),
        hidden=HiddenStates(folder.parent, torch.device("cpu"), Room()),
        output_grams=output_grams,
        last=HiddenStates(folder.parent, torch.device("cpu"), Room()),
    )


def _whole_model(
    folder: Path, windows: Tensor, context: int = 1, *, together: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """E g² of the outputs (together: Σ g gᵀ) and E x² of the inputs of every linear layer inside the blocks, by
    plain autograd."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}

    def keep(name: str, arriving: Tensor, output: Tensor) -> None:
        output.retain_grad()
        kept[name] = output
        inputs[f"{name}.weight"] = arriving.detach().reshape(-1, arriving.shape[-1]).square().mean(dim=0)

    for name, module in model.named_modules():
        if is_experts(module):

            def experts(*args: Any, _name: str = name, _module: Any = module) -> Tensor:
                return run_experts(_module, lambda p, index, x, z: keep(f"{_name}.{p}.{index}", x, z), *args)

            module.forward = experts
        elif type(module).__name__ in ("Linear", "Conv1D") and "head" not in name:
            module.register_forward_hook(lambda _, args, output, name=name: keep(name, args[0], output))
    logits = model(windows, use_cache=False).logits[:, context - 1 : -1]
    functional.cross_entropy(logits.flatten(0, 1), windows[:, context:].flatten(), reduction="sum").backward()
    for name, output in kept.items():
        assert output.grad is not None
        gradients = output.grad.reshape(-1, output.shape[-1])
        outputs[f"{name}.weight"] = gradients.T @ gradients if together else gradients.square().mean(dim=0)
    return outputs, inputs


@pytest.mark.parametrize("family", ["llama", "gemma3", "opt", "gpt2", "neox", "bloom", "phi3"])
def test_block_by_block_gives_the_whole_models_gradients(family: str, tmp_path: Path) -> None:
    folder = make_tiny(family, tmp_path / "model")
    windows = torch.randint(0, 320, (3, 24))
    stage = _stage(folder, windows)
    with torch_settings(1):
        found = survey(stage)
    outputs, inputs = _whole_model(folder, windows)
    assert found.outputs.keys() == stage.targets.keys()
    for matrix in stage.runner.graph.matrices:
        torch.testing.assert_close(found.outputs[matrix.name], outputs[matrix.name], rtol=1e-3, atol=1e-9)
        dense = stage.source.read([matrix.name])[matrix.name].float()
        dense = dense.T if matrix.transposed else dense
        expected = loss_curve(loss_scores(dense, outputs[matrix.name], inputs[matrix.name]))
        torch.testing.assert_close(found.curves[matrix.name], expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("allocation", ["uniform", "owl", "error"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "mixtral"])
def test_block_by_block_gives_how_the_whole_models_gradients_go_together(
    family: str, allocation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of 50 outputs at the most; an expert's per token of the text, too."""
    monkeypatch.setattr(output_weighting, "WIDEST", 50)
    folder = make_tiny(family, tmp_path / "model")
    windows = torch.randint(0, 320, (3, 24))
    method = {"name": "admm", "output_weighting": "gradients"}
    expected, _ = _whole_model(folder, windows, together=True)
    with OutputGrams(tmp_path) as found, torch_settings(1):
        stage = _stage(folder, windows, allocation, method=method, output_grams=found)
        surveyed = survey(stage)
        for matrix in stage.runner.graph.matrices:
            grams = found.of(matrix.name, torch.device("cpu"))
            if matrix.expert is not None:
                continue
            assert grams is not None
            assert len(grams) > 1 or matrix.rows <= 50
            for rows, gram in zip(output_weighting.parts(matrix.rows), grams, strict=True):
                torch.testing.assert_close(
                    gram, expected[matrix.name][rows, rows] / windows.numel(), rtol=1e-3, atol=1e-9
                )
    assert bool(surveyed.outputs) is (allocation == "error")
    assert bool(surveyed.outliers) is (allocation == "owl")


def test_tokens_of_a_prefix_are_not_predicted(tmp_path: Path) -> None:
    folder, windows = make_tiny_llama(tmp_path / "model"), torch.randint(0, 320, (3, 24))
    with torch_settings(1):
        found = survey(_stage(folder, windows, prefix=(0, 1, 2, 3)))
    outputs, _ = _whole_model(folder, windows, context=5)
    for name, expected in found.outputs.items():
        torch.testing.assert_close(expected, outputs[name], rtol=1e-3, atol=1e-9)


def test_squares_of_half_precision_gradients_are_summed_in_full(tmp_path: Path) -> None:
    """bfloat16 has eight bits: squares and a sum rounded to them are off by up to 2⁻⁸."""
    matrix = _stage(make_tiny_llama(tmp_path / "model"), torch.zeros((1, 24))).blocks[0].matrices[0]
    gradient = torch.randn(2000, matrix.rows).bfloat16()
    leaf = torch.zeros_like(gradient, requires_grad=True)
    squares: dict[str, Tensor] = {}
    output = leaf * 1
    _add_squares(squares, matrix, output, 0)
    output.backward(gradient)  # type: ignore[no-untyped-call]
    assert squares[matrix.name].dtype is torch.float64
    torch.testing.assert_close(squares[matrix.name], gradient.double().square().sum(dim=0), rtol=1e-5, atol=0)


def test_a_survey_in_half_precision_is_about_that_in_full(tmp_path: Path) -> None:
    folder, windows = make_tiny_llama(tmp_path / "model"), torch.randint(0, 320, (8, 24))
    found = []
    for dtype in ("float32", "bfloat16"):
        with torch_settings(1):
            found.append(survey(_stage(folder, windows, dtype=dtype)))
    full, half = found
    assert half.outputs.keys() == full.outputs.keys()
    for name, outputs in full.outputs.items():
        assert half.outputs[name].dtype is half.curves[name].dtype is torch.float32
        assert not torch.equal(half.outputs[name], outputs)
        torch.testing.assert_close(half.outputs[name], outputs, rtol=0.1, atol=0.02 * float(outputs.max()))
        torch.testing.assert_close(half.curves[name], full.curves[name], rtol=0.1, atol=1e-9)


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_experts_are_surveyed_by_the_tokens_that_reach_them(family: str, tmp_path: Path) -> None:
    folder = make_tiny(family, tmp_path / "model")
    windows = torch.randint(0, 320, (3, 24))
    stage = _stage(folder, windows)
    with torch_settings(1):
        found = survey(stage)
    outputs, _ = _whole_model(folder, windows)
    compared = 0
    for block in stage.blocks:
        for matrix in block.matrices:
            if (place := matrix.expert) is None or matrix.name not in found.outputs:
                continue
            key = f"model.layers.{block.index}.{matrix.module}.{place.parameter}.{place.index}.weight"
            expected = outputs[key][place.first_row :][: matrix.rows]
            torch.testing.assert_close(found.outputs[matrix.name], expected, rtol=1e-3, atol=1e-9)
            compared += 1
    assert compared > 12


def test_surveys_of_two_texts_add_up_also_where_an_expert_was_reached_once() -> None:
    one = Survey({0: torch.tensor(1.0)}, {"a": torch.ones(2)}, {"a": torch.ones(3)})
    two = Survey({0: torch.tensor(2.0)}, {"a": torch.ones(2), "b": torch.ones(4)}, {"b": torch.ones(3)})
    both = one.plus(two)
    assert both.outliers == {0: 3.0}
    assert both.outputs["a"].tolist() == [2.0, 2.0]
    assert both.outputs["b"].tolist() == [1.0] * 4
    assert both.curves.keys() == {"a", "b"}


def test_outliers_are_counted_in_every_block(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model", blocks=3)
    windows = torch.randint(0, 320, (2, 24))
    stage = _stage(folder, windows, "owl")
    with torch_settings(1):
        found = survey(stage)
    _, inputs = _whole_model(folder, windows)
    for block in stage.blocks:
        scores = [stage.source.read([m.name])[m.name] ** 2 * inputs[m.name] for m in block.matrices]
        count = sum(int((score.sqrt() > OUTLIER * score.sqrt().mean()).sum()) for score in scores)
        assert found.outliers[block.index] == pytest.approx(count / block.weights, abs=3e-4)
    assert sum(found.outliers.values()) > 0
    assert not found.curves


def test_curvature_is_the_inverse_of_the_inverses_diagonal() -> None:
    inputs = torch.randn(200, 12, dtype=torch.float64)
    gram = inputs.T @ inputs / 200
    damped = gram + DAMPING * gram.diagonal().diag()
    expected = 1 / torch.linalg.inv(damped).diagonal()
    torch.testing.assert_close(curvature(gram.float())[0].double(), expected, rtol=1e-4, atol=1e-6)


def test_outputs_without_correlations_have_the_gram_as_curvature() -> None:
    diagonal = torch.tensor([1.0, 4.0, 0.25])
    torch.testing.assert_close(curvature(diagonal.diag()), ((1 + DAMPING) * diagonal, {}))


def test_a_gram_that_needs_more_damping_is_reported_and_one_beyond_help_is_refused() -> None:
    """Correlations that no data could have: the least eigenvalue is 1 − c."""
    correlated = torch.tensor([[1.0, 1.5], [1.5, 1.0]])
    found, notes = curvature(correlated)
    assert notes == {"damping": 10 * DAMPING, "precision": "float32"}
    assert bool((found > 0).all())
    with pytest.raises(IllConditioned, match="not positive definite"):
        curvature(torch.tensor([[1.0, 5.0], [5.0, 1.0]]))


@pytest.mark.parametrize(("tokens", "looked_at"), [(256, 2), (300, 2), (384, 3), (SURVEY_TOKENS, 4)])
def test_a_survey_looks_at_the_first_whole_windows_of_so_many_tokens(
    tokens: int, looked_at: int, tmp_path: Path
) -> None:
    folder, windows = make_tiny_llama(tmp_path / "model"), torch.randint(0, 320, (4, 128))
    stage = _stage(folder, windows, survey_tokens=tokens)
    assert survey_tokens(stage.job, stage.domain.calibration) == looked_at * 128
    with torch_settings(1):
        found, expected = survey(stage), survey(_stage(folder, windows[:looked_at]))
    for name, outputs in expected.outputs.items():
        assert torch.equal(found.outputs[name], outputs)
        assert torch.equal(found.curves[name], expected.curves[name])
