"""COPAL's readings inside a job: what is measured of real blocks, and where windows cannot be told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from secateur.spec.method import Reading
from tests.pairs import pairs
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request, domain, prune
from worker.pruning import PruningJob, SpecError, UserError, plan
from worker.pruning.calibration.copal_sums import CopalSums
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows
from worker.pruning.model.experts import Expert
from worker.pruning.model.graph import PrunableWeight

READINGS = [reading for reading in Reading if reading is not Reading.own_terms]


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fc1 reads windows that the block has flattened."""
    return make_tiny("opt", tmp_path_factory.mktemp("models") / "opt")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("qwen2-moe", tmp_path_factory.mktemp("models") / "mixture")


def unheld(texts: Path, name: str) -> dict[str, Any]:
    made = domain(texts, name, evaluation=None)
    return made | {"calibration": made["calibration"] | {"held_out": 0}}


def read_by(model: Path, module: str, request: dict[str, Any]) -> Tensor:
    """What the dense model's module reads of the calibration windows, (windows, tokens, in)."""
    job = PruningJob.from_dict(request)
    learned = job.domains[0]
    windows = calibration_windows(Tokenizer(model), job.texts[learned.dataset], learned.calibration, "").solved_on
    heard: list[Tensor] = []
    network = AutoModelForCausalLM.from_pretrained(model)
    handle = network.get_submodule(module).register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    with torch.no_grad():
        for window in windows:
            network(input_ids=window.unsqueeze(0))
    handle.remove()
    return torch.stack([inputs.reshape(-1, inputs.shape[-1]) for inputs in heard])


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", ["self_attn.k_proj", "fc1"])
def test_a_job_measures_whole_windows_also_where_a_block_flattens_them(
    reading: Reading, name: str, opt: Path, request_for: Request, texts: Path
) -> None:
    method = {"name": "copal", "reading": reading.value, "perturbation": "relative"}
    overrides = [{"match": "*", "skip": True}, {"match": f"*.0.{name}.weight", "target": 0.5}]
    request = request_for(
        model=str(opt),
        method=method,
        domains=[unheld(texts, "a")],
        sparsity={"target": 0.5, "allocation": "uniform", "overrides": overrides},
        numerics="exact",  # as the inputs that are expected
    )
    prune(request)
    full = f"model.decoder.layers.0.{name}.weight"
    state = load_file(Path(request["workspace"]) / "stage-00/state/block-0000.safetensors")
    dense = load_file(opt / "model.safetensors")[full].double()
    inputs = read_by(opt, f"model.decoder.layers.0.{name}", request).double()
    assert inputs.shape == (6, 32, dense.shape[1])
    gradients = torch.einsum("oi,wti,wtj->wtoj", dense, inputs, inputs)
    expected = {
        Reading.token: gradients.abs().sum((0, 1)),
        Reading.sample: gradients.sum(1).abs().sum(0),
        Reading.dataset: gradients.sum((0, 1)).abs(),
        Reading.fisher: gradients.square().sum((0, 1)),
    }[reading]
    found = state[f"{full}/importance"].double()
    torch.testing.assert_close(found, expected / inputs[..., 0].numel(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("reading", "mode", "perturbation"),
    pairs(READINGS, ["accumulated", "restart", "sequential"], ["relative", "domain_shift"]),
)
def test_every_reading_runs_over_domains(
    request_for: Request, reading: Reading, mode: str, perturbation: str
) -> None:
    method = {"name": "copal", "reading": reading.value, "mode": mode, "perturbation": perturbation}
    request = request_for(domains="ab", method=method | {"comparison_group": "matrix"})
    output = prune(request)
    assert output.summary.zeros * 2 == output.summary.weights


@pytest.mark.parametrize("reading", [reading for reading in READINGS if reading is not Reading.sample])
def test_experts_take_every_reading_that_needs_no_windows(
    reading: Reading, mixture: Path, request_for: Request, texts: Path
) -> None:
    method = {"name": "copal", "reading": reading.value}
    output = prune(request_for(model=str(mixture), method=method, domains=[unheld(texts, n) for n in "ab"]))
    assert output.summary.zeros == round(output.summary.weights / 2)


def test_samples_of_experts_are_refused_when_planned_and_when_run(
    mixture: Path, request_for: Request, texts: Path
) -> None:
    method = {"name": "copal", "reading": "sample"}
    request = request_for(model=str(mixture), method=method, domains=[unheld(texts, "a")])
    for refused in (lambda: plan(PruningJob.from_dict(request)), lambda: prune(request)):
        with pytest.raises(SpecError, match=r"experts\.0.*own_terms, token, dataset or fisher") as caught:
            refused()
        assert caught.value.field == "/method/reading"


def test_samples_are_taken_of_a_mixture_whose_experts_have_another_method(
    mixture: Path, request_for: Request, texts: Path
) -> None:
    overrides = [{"match": "*.experts.*", "method": "wanda"}]
    request = request_for(
        model=str(mixture),
        method={"name": "copal", "reading": "sample"},
        domains=[unheld(texts, "a")],
        sparsity={"target": 0.5, "allocation": "uniform", "overrides": overrides},
    )
    output = prune(request)
    assert output.summary.zeros == round(output.summary.weights / 2)
    state = load_file(Path(request["workspace"]) / "stage-00/state/block-0000.safetensors")
    sums = {name for name in state if name.endswith("/importance")}
    assert "model.layers.0.mlp.shared_expert.up_proj.weight/importance" in sums
    assert not any(".experts." in name for name in sums)


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 4)])
def test_inputs_that_are_not_whole_windows_are_refused_by_name(shape: tuple[int, ...]) -> None:
    matrix = PrunableWeight("layer.w", "w", 3, 4)
    with pytest.raises(UserError, match=r"layer\.w does not read whole windows"):
        CopalSums(Reading.sample, None, 5).added(matrix, torch.randn(3, 4), torch.randn(*shape))


def test_an_expert_has_no_windows_even_where_the_count_fits() -> None:
    matrix = PrunableWeight("layer.w", "w", 3, 4, expert=Expert("down_proj", 0, 0))
    with pytest.raises(UserError, match="whole windows"):
        CopalSums(Reading.sample, None, 5).added(matrix, torch.randn(3, 4), torch.randn(10, 4))


def test_a_plan_counts_what_a_reading_keeps(request_for: Request) -> None:
    estimates = {}
    for reading in ("own_terms", "token"):
        request = request_for(domains="ab", method={"name": "copal", "reading": reading})
        found = plan(PruningJob.from_dict(request))
        estimates[reading] = found["estimates"]
    disk = [estimates[reading]["disk_bytes"]["parts"]["stages_state"] for reading in ("own_terms", "token")]
    assert disk[1] - disk[0] == 2 * 4 * found["weights"]
    memory = [estimates[reading]["memory_bytes"]["parts"]["statistics"] for reading in ("own_terms", "token")]
    assert memory[1] > memory[0]
