"""One job on two GPUs that are pretended: the bytes of one, whichever device computes what.

Slow: that no tensor of one device meets one of the other, and that sums are added in one order, only whole jobs
show.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from tests.pretend_gpu import pretend_gpu
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request, known_again
from tests.worker.pruning.gpu.test_jobs import ADMM, ERROR, PREFIX_WEIGHED, UNIFORM, small
from tests.worker.pruning.lineages import run_job
from tests.worker.pruning.test_runner import copy_committed
from worker.pruning.calibration import portions
from worker.pruning.channels import stage as channels
from worker.pruning.model import block_runner
from worker.pruning.refine import model as tuning

pytestmark = pytest.mark.slow

JOBS: Final[dict[str, dict[str, Any]]] = {
    "wanda": {"method": {"name": "wanda"}, "sparsity": ERROR},
    "admm": {"method": ADMM, "sparsity": UNIFORM, "domains": "ab"},
    "dense-inputs": {"method": {**ADMM, "inputs": "dense"}, "sparsity": UNIFORM, "domains": "ab"},
    "surveyed-norms": {"method": {**ADMM, "refine": "norms"}, "sparsity": ERROR},
    "prefix-refined": {"method": {**PREFIX_WEIGHED, "refine": "block"}, "sparsity": UNIFORM},
    "alps": {"method": {"name": "alps", "alps": {"max_steps": 3}}, "sparsity": UNIFORM},
    "sparsegpt": {"method": {"name": "sparsegpt", "mode": "sequential"}, "sparsity": UNIFORM, "domains": "ab"},
    "copal-token": {
        "method": {"name": "copal", "reading": "token"},
        "sparsity": UNIFORM,
        "output": {"keep_domain_statistics": True, "keep_sensitivities": True},
    },
}
TWO: Final = "cuda:0,1"
PERMUTED: Final = {"pattern": "2:4", "channels": "permuted"}


@pytest.fixture(autouse=True)
def of_two_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches so small that devices take turns."""
    monkeypatch.setattr(block_runner, "BATCH_TOKENS", 64)


@pytest.mark.parametrize("name", JOBS)
def test_two_devices_give_the_bytes_of_one(name: str, request_for: Request, half_llama: Path) -> None:
    fields = {"model": str(half_llama), **JOBS[name]}
    with pretend_gpu() as alone:
        one = run_job(several(request_for(workspace="one", **fields), "cuda:0"))
    with pretend_gpu(devices=2) as counts:
        two = run_job(several(request_for(workspace="two", **fields), TWO))
    assert two.weights() == one.weights()
    assert two.states() == one.states()
    assert two.perplexities() == one.perplexities()
    assert counts.launched[1] > counts.launched[0] / 10
    # Each device gets the model, and what is found comes to the host once.
    assert counts.total("uploads_bytes") <= 2 * alone.total("uploads_bytes")
    assert counts.total("downloads_bytes") == alone.total("downloads_bytes")
    assert counts.total("exchanges_bytes") > 0
    assert not any(counts.live.values())
    assert not counts.unordered


WANDA: Final = {"name": "wanda"}
TUNED: Final = {**WANDA, "refine": "model", "refinement": {"epochs": 1}}
PASSES: Final[dict[str, tuple[Any, str, float, dict[str, Any]]]] = {
    "tuned model": (tuning, "_pass_dense", 1 / 3, {"method": TUNED, "sparsity": UNIFORM}),
    # Most of a search is looks at a few tokens of one window.
    "channels": (channels, "_search", 1 / 50, {"method": WANDA, "sparsity": PERMUTED}),
}
"""Passes over the dense model: where they are, what the second device launches there for one launch of the first,
at the least, and a job that makes them."""


@pytest.mark.parametrize("name", PASSES)
def test_dense_passes_are_shared_and_give_the_bytes_of_one(
    name: str, request_for: Request, half_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function, least, fields = PASSES[name]
    fields = {"model": str(half_llama), **fields}
    with pretend_gpu():
        one = run_job(several(request_for(workspace="one", **fields), "cuda:0"))
    launched: Counter[int] = Counter()
    whole = getattr(module, function)

    def counted(*arguments: Any) -> Any:
        before = Counter(counts.launched)
        found = whole(*arguments)
        launched.update(counts.launched - before)
        return found

    monkeypatch.setattr(module, function, counted)
    with pretend_gpu(devices=2) as counts:
        two = run_job(several(request_for(workspace="two", **fields), TWO))
    assert two.weights() == one.weights()
    assert two.states() == one.states()
    assert launched[1] > least * launched[0] > 0


def several(request: dict[str, Any], device: str) -> dict[str, Any]:
    request = small(request, device)
    for each in request["domains"]:
        each["calibration"] |= {"samples": 5}
    return request


@pytest.mark.parametrize("grams", [portions.GRAMS, 1], ids=["one portion", "portions"])
@pytest.mark.parametrize("method", [ADMM, {**ADMM, "target": "prefix"}, {**ADMM, "inputs": "dense"}])
def test_experts_are_solved_on_both(
    method: dict[str, Any], grams: int, request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are measured in portions, what one device has is measured on the other."""
    monkeypatch.setattr(portions, "GRAMS", grams)
    fields = {"model": str(make_tiny("mixtral", tmp_path / "m")), "method": method, "sparsity": UNIFORM}
    with pretend_gpu():
        one = run_job(several(request_for(workspace="one", **fields), "cuda:0"))
    with pretend_gpu(devices=2):
        two = run_job(several(request_for(workspace="two", **fields), TWO))
    assert two.weights() == one.weights()
    assert two.states() == one.states()


def test_begun_on_one_device_and_ended_on_two(request_for: Request, half_llama: Path) -> None:
    def job(workspace: str, device: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"method": ADMM, "sparsity": UNIFORM, "model": str(half_llama)}
        return several(request_for(domains="ab", workspace=workspace, **fields), device)

    with pretend_gpu(devices=2):
        whole, again = run_job(job("whole", "cuda:1")), job("again", TWO)
        copy_committed(whole.folder, Path(again["workspace"]), 1, 1)
        reported = known_again(each for each in whole.recorder.evaluations if each.row <= 1)
        resumed = run_job({**again, "resume": {"stages": 1, "blocks": 1, "evaluations": reported}})
    assert resumed.weights() == whole.weights()
    assert resumed.states() == whole.states()
