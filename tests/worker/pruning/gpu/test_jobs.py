"""Whole jobs on a GPU that is pretended: nothing mixes devices, results are the CPU's, and the counts do not rise.

Slow: that a job never mixes devices, waits for one or forgets memory there only whole jobs show.
"""

from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file

from tests.pretend_gpu import Counts, pretend_gpu
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request, known_again
from tests.worker.pruning.gpu import counted
from tests.worker.pruning.lineages import Ran, chain, run_job
from tests.worker.pruning.test_runner import copy_committed

pytestmark = pytest.mark.slow

ERROR: Final = {"target": 0.5, "allocation": "error"}
UNIFORM: Final = {"target": 0.5, "allocation": "uniform"}
FEW_STEPS: Final = {"admm": {"iterations": 3, "mask_steps": 2, "polish_steps": 1}}
"""More of them ask for the same again."""
ADMM: Final = {"name": "admm", **FEW_STEPS}
PREFIX_WEIGHED: Final = {**ADMM, "target": "prefix", "output_weighting": "gradients"}
COUNTED: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "magnitude": ({"name": "magnitude"}, UNIFORM),
    "wanda": ({"name": "wanda"}, ERROR),
    "wanda-searched": ({"name": "wanda", "weight_update": "admm", "mask": "searched", **FEW_STEPS}, ERROR),
    "admm": (ADMM, ERROR),
    "admm-prefix-weighed": (PREFIX_WEIGHED, UNIFORM),
    # Few steps: when it has converged is for the last bits to say.
    "alps": ({"name": "alps", "alps": {"max_steps": 3}}, UNIFORM),
    "sparsegpt": ({"name": "sparsegpt"}, ERROR),
    "copal-token": ({"name": "copal", "reading": "token"}, UNIFORM),
    "copal-fisher": ({"name": "copal", "reading": "fisher", "weight_update": "admm", **FEW_STEPS}, ERROR),
}
"""Method and sparsity of the jobs whose counts are held on to."""
TWO_DOMAINS: Final = ("admm", "copal-token")
"""Those that go on with a second one: with statistics of the first, or with its sums by token as well."""
OTHERS: Final[dict[str, dict[str, Any]]] = {
    "owl": {"method": {"name": "wanda"}, "sparsity": {"target": 0.5, "allocation": "owl"}},
    "admm-2:4": {"method": ADMM, "sparsity": {"pattern": "2:4"}},
    "sequential": {"method": {"name": "sparsegpt", "mode": "sequential"}, "sparsity": UNIFORM, "domains": "ab"},
    "dataset": {"method": {"name": "copal", "reading": "dataset"}, "sparsity": UNIFORM},
    "refine-block": {
        "method": {**PREFIX_WEIGHED, "refine": "block", "refinement": {"norms": True}},
        "sparsity": UNIFORM,
        "domains": "ab",
    },
    "refine-model": {"method": {"name": "wanda", "refine": "model"}, "sparsity": UNIFORM, "domains": "ab"},
    "refine-norms": {"method": {"name": "wanda", "refine": "norms"}, "sparsity": UNIFORM, "domains": "ab"},
    "kept": {
        "method": ADMM,
        "sparsity": UNIFORM,
        "output": {"keep_domain_statistics": True, "keep_sensitivities": True, "state_precision": "float32"},
    },
}
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    **{family: {"name": "wanda"} for family in ("gemma2", "gpt2", "phi3", "opt", "falcon-alibi")},
    "mixtral": ADMM,
    "qwen3-moe": {"name": "copal"},
}


def small(request: dict[str, Any], device: str) -> dict[str, Any]:
    for each in request["domains"]:
        each["calibration"]["samples"] = 4
    return {**request, "device": device, "evaluation": {"sequence_length": 32, "max_windows": 2}}


def on_both(request_for: Request, **fields: Any) -> tuple[Ran, Ran, Counts]:
    """A job on the CPU, the same on the GPU, and what it asked of this one."""
    cpu = run_job(small(request_for(workspace="cpu", **fields), "cpu"))
    with pretend_gpu() as counts:
        gpu = run_job(small(request_for(workspace="gpu", **fields), "cuda:0"))
    return cpu, gpu, counts


def agree(cpu: Ran, gpu: Ran, counts: Counts) -> None:
    """The same number of zeros, nearly the same masks and losses; nothing left on the device, no sum unordered."""
    assert gpu.output.summary.zeros == cpu.output.summary.zeros
    masks = [(one != 0, two != 0) for one, two in zip(written(gpu), written(cpu), strict=True)]
    same = sum(int((one == two).sum()) for one, two in masks)
    assert same / sum(one.numel() for one, _ in masks) > 0.9
    for key, found in gpu.perplexities().items():
        # The GPU multiplies in bfloat16, and a model of random weights makes much of that.
        assert found == pytest.approx(cpu.perplexities()[key], rel=0.1)
    assert not any(counts.live.values())
    assert not counts.unordered


def written(ran: Ran) -> list[torch.Tensor]:
    files = sorted(ran.folder / file.local for file in ran.output.files if file.path.startswith("model/model-"))
    return [tensor for file in files for _, tensor in sorted(load_file(file).items())]


@pytest.mark.parametrize("name", COUNTED)
def test_counted_job(name: str, request_for: Request, half_llama: Path, pytestconfig: pytest.Config) -> None:
    method, sparsity = COUNTED[name]
    fields = {"method": method, "sparsity": sparsity, "domains": "ab" if name in TWO_DOMAINS else "a"}
    cpu, gpu, counts = on_both(request_for, model=str(half_llama), **fields)
    agree(cpu, gpu, counts)
    if pytestconfig.getoption("--accept-counts"):
        counted.accept(name, counts)
    else:
        counted.check(name, counts)


@pytest.mark.parametrize("name", OTHERS)
def test_other_job(name: str, request_for: Request, half_llama: Path) -> None:
    agree(*on_both(request_for, model=str(half_llama), **OTHERS[name]))


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, request_for: Request, tmp_path: Path) -> None:
    model = make_tiny(family, tmp_path / family)
    agree(*on_both(request_for, model=str(model), method=FAMILIES[family], sparsity=UNIFORM))


def test_interrupted_job_ends_in_the_same_bytes(request_for: Request, half_llama: Path) -> None:
    def job(workspace: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"method": ADMM, "sparsity": ERROR, "model": str(half_llama)}
        return small(request_for(domains="ab", workspace=workspace, **fields), "cuda:0")

    with pretend_gpu():
        whole, again = run_job(job("whole")), job("again")
        copy_committed(whole.folder, Path(again["workspace"]), 1, 1)
        reported = known_again(each for each in whole.recorder.evaluations if each.row <= 1)
        resumed = run_job({**again, "resume": {"stages": 1, "blocks": 1, "evaluations": reported}})
    assert resumed.weights() == whole.weights()
    assert resumed.states() == whole.states()


def test_going_on_is_the_same_as_never_having_stopped(request_for: Request, half_llama: Path) -> None:
    fields: dict[str, Any] = {
        "method": {"name": "copal", "weight_update": "admm", **FEW_STEPS},
        "sparsity": UNIFORM,
        "model": str(half_llama),
        "device": "cuda:0",
    }
    with pretend_gpu():
        (whole,) = chain(request_for, "ab", name="whole", **fields)
        last = chain(request_for, "a", "b", **fields)[-1]
    assert last.weights() == whole.weights()
    assert last.states() == whole.states()
