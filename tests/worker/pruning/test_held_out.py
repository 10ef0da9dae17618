"""Windows that nothing is solved on, through whole jobs."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.pruning import PruningJob
from worker.pruning.calibration import Tokenizer, calibration_windows, split
from worker.pruning.statistics import read_document

ADMM = {"name": "admm"}


def calibrated(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    for domain in request["domains"]:
        domain["calibration"] |= changes
    return request


def states(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(Path(request["workspace"]).glob("stage-*/state/*.safetensors")):
        found |= {f"{path.parent.parent.name}/{path.stem}/{name}": t for name, t in load_file(path).items()}
    return found


def test_held_out_windows_reach_neither_the_weights_nor_the_state(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same job with other held-out windows writes the same bytes, and another held-out error."""
    plain, other = Recorder(), Recorder()
    one = calibrated(request_for(method=ADMM, workspace="one"), samples=20)
    digest = prune(one, plain).summary["weights_sha256"]

    def replaced(*arguments: Any) -> torch.Tensor:
        windows = calibration_windows(*arguments)
        windows[9::10] = windows[9::10].flip(1)
        return windows

    # By name, because the package has a function of the same name as this module.
    monkeypatch.setattr(importlib.import_module("worker.pruning.run"), "calibration_windows", replaced)
    two = calibrated(request_for(method=ADMM, workspace="two"), samples=20)
    assert prune(two, other).summary["weights_sha256"] == digest
    for name, tensor in states(one).items():
        assert torch.equal(tensor, states(two)[name])
    layers = [
        (a, b)
        for x, y in zip(plain.blocks, other.blocks, strict=True)
        for a, b in zip(x.layers, y.layers, strict=True)
    ]
    assert all(a.relative_error == b.relative_error for a, b in layers)
    assert all(a.held_out_error != b.held_out_error for a, b in layers)


def test_state_counts_the_tokens_that_were_solved_on(request_for: Request) -> None:
    request = calibrated(request_for(domains="ab", method=ADMM), samples=20)
    prune(request)
    path = Path(request["workspace"]) / "stage-01/state/block-0000.safetensors"
    groups = read_document(path)["groups"].values()
    assert {group["tokens"] for group in groups} == {2 * 18 * 32}


def test_held_out_error_is_that_of_the_held_out_outputs(request_for: Request) -> None:
    """Against the dense and the written first block, run by transformers on the same windows."""
    recorder = Recorder()
    request = calibrated(request_for(method=ADMM), samples=20)
    prune(request, recorder)
    calibration = PruningJob.from_dict(request).domains[0].calibration
    windows = calibration_windows(Tokenizer(Path(request["model"])), calibration)
    seen: dict[str, torch.Tensor] = {}
    dense = AutoModelForCausalLM.from_pretrained(request["model"])
    layer = dense.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda _m, args: seen.__setitem__("x", args[0].reshape(-1, 64)))
    weight = load_file(next((Path(request["workspace"]) / "stage-00/model").glob("model-00001*")))
    pruned = weight["model.layers.0.self_attn.q_proj.weight"]
    record = recorder.blocks[0].layers[0]
    assert record.matrix == "model.layers.0.self_attn.q_proj.weight"
    for part, found in zip(split(windows, 0.1), (record.relative_error, record.held_out_error), strict=True):
        with torch.no_grad():
            dense(part)
            whole = seen["x"] @ layer.weight.T
            lost = seen["x"] @ pruned.T - whole
        assert found == pytest.approx(float(lost.square().sum() / whole.square().sum()), rel=1e-3)


def test_solving_fits_the_windows_it_saw_better(request_for: Request) -> None:
    recorder = Recorder()
    prune(calibrated(request_for(method=ADMM), samples=20, sequence_length=16), recorder)
    stage = recorder.stages[0]
    assert (stage.held_out_error or 0) > (stage.relative_error or 0) > 0


def test_stage_carries_the_mean_errors(request_for: Request) -> None:
    recorder = Recorder()
    request = request_for(domains="ab", method=ADMM)
    prune(request, recorder)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    for stage in recorder.stages:
        layers = [layer for block in recorder.blocks if block.stage == stage.stage for layer in block.layers]
        for kind in ("relative_error", "held_out_error"):
            expected = sum(getattr(layer, kind) for layer in layers) / len(layers)
            assert getattr(stage, kind) == pytest.approx(expected)
            assert report["stages"][stage.stage][kind] == getattr(stage, kind)
    assert report["domains"][0]["calibration"]["held_out_windows"] == 1
    assert all(record["held_out_error"] is not None for record in report["layers"][1])


@pytest.mark.parametrize(("changes", "noted"), [({"samples": 1}, 1), ({"held_out": 0}, 0)])
def test_without_held_out_windows_the_error_is_unknown(
    request_for: Request, changes: dict[str, Any], noted: int
) -> None:
    recorder = Recorder()
    prune(calibrated(request_for(), **changes), recorder)
    layers = [layer for block in recorder.blocks for layer in block.layers]
    assert {layer.held_out_error for layer in layers} == {None}
    assert recorder.stages[0].held_out_error is None
    assert sum("none is held out" in message for _, message, _ in recorder.notes) == noted
