"""What tuning has changed for one domain is where the next one's tuning begins.

Slow: both ends are whole stages.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.pruning.conftest import Request, prune
from tests.worker.pruning.lineages import continuing, run_job
from tests.worker.pruning.refine.test_model import TUNED, longer, written
from worker.pruning.refine.block import Tuned
from worker.pruning.refine.carried import KEY

pytestmark = pytest.mark.slow

STILL: dict[str, Any] = TUNED | {"refinement": {"learning_rate": 1e-30}}


def solved(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / f"stage-{stage:02d}/solved").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def changes(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / f"stage-{stage:02d}/state").glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return {name.removesuffix(f"/{KEY}"): each for name, each in tensors.items() if name.endswith(f"/{KEY}")}


def test_a_later_stage_begins_with_what_tuning_has_changed(
    request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a job whose second stage tunes with a rate that changes nothing."""
    monkeypatch.setattr(Tuned, "kept", True)  # whatever the windows held out say
    first = run_job(request_for(method=TUNED, domains=[longer(texts, "a")], output={"state_precision": "float32"}))
    found = changes(first.folder, 0)
    before, after = solved(first.folder, 0), written(first.folder, 0)
    assert found.keys() == {name for name in before if name.endswith("_proj.weight")}
    for name, change in found.items():
        assert torch.equal(change, (after[name].float() - before[name].float()).to(torch.bfloat16)), name
        assert bool(change.any())
    asked = request_for(method=STILL, domains=[longer(texts, "b")], workspace="second")
    second = run_job(continuing(first, asked | {"output": {"state_precision": "float32"}}))
    before, after = solved(second.folder, 0), written(second.folder, 0)
    for name, change in found.items():
        moved = before[name].float() + torch.where(before[name] != 0, change.float(), 0.0)
        assert torch.equal(after[name], torch.where(moved == 0, before[name], moved.to(before[name].dtype))), name


def test_a_stage_whose_tuning_is_not_kept_hands_on_what_those_before_have_changed(
    request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = {"state_precision": "float32"}
    first = run_job(request_for(method=TUNED, domains=[longer(texts, "a")], output=exact))
    monkeypatch.setattr(Tuned, "kept", False)
    asked = request_for(method=TUNED, domains=[longer(texts, "b")], output=exact, workspace="second")
    second = run_job(continuing(first, asked))
    before, after = solved(second.folder, 0), written(second.folder, 0)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    there, then = changes(second.folder, 0), changes(first.folder, 0)
    assert there.keys() == then.keys()
    for name, change in then.items():
        left = torch.where(before[name] != 0, change.float(), 0.0)
        torch.testing.assert_close(there[name].float(), left, rtol=0.01, atol=1e-6)
    third = run_job(request_for(method=TUNED, domains=[longer(texts, "c")], output=exact, workspace="third"))
    assert changes(third.folder, 0) == {}


def test_one_job_or_two_the_bytes_are_the_same(request_for: Request, texts: Path) -> None:
    exact = {"state_precision": "float32"}
    domains = [longer(texts, "a"), longer(texts, "b")]
    whole = run_job(request_for(method=TUNED, domains=domains, output=exact, workspace="whole"))
    first = run_job(request_for(method=TUNED, domains=domains[:1], output=exact, workspace="first"))
    asked = request_for(method=TUNED, domains=domains[1:], output=exact, workspace="second")
    second = run_job(continuing(first, asked))
    assert whole.weights() == second.weights()
    assert whole.states().keys() == second.states().keys()


def test_what_was_not_tuned_is_continued_as_it_was_solved(request_for: Request, texts: Path) -> None:
    untuned = {"name": "admm"}
    first = run_job(request_for(method=untuned, domains=[longer(texts, "a")]))
    assert changes(first.folder, 0) == {}
    asked = request_for(method=STILL, domains=[longer(texts, "b")], workspace="second")
    request = continuing(first, asked)
    prune(request)
    folder = Path(request["workspace"])
    before, after = solved(folder, 0), written(folder, 0)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
