"""Windows that nothing is solved on, through whole jobs.

Slow: that nothing was solved on a window shows when the same job is solved on others.
"""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur.spec.records.history import MatrixRecord
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.pruning import PruningJob
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import CalibrationWindows, calibration_windows
from worker.pruning.methods.candidates import CANDIDATES
from worker.pruning.report.records import HISTORY
from worker.pruning.state.file import read_document

pytestmark = pytest.mark.slow

ADMM = {"name": "admm"}


def calibrated(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    for domain in request["domains"]:
        domain["calibration"] |= changes
    return request


def states(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(Path(request["workspace"]).glob("stage-*/state/*.safetensors")):
        tensors = {name: tensor for name, tensor in load_file(path).items() if name != HISTORY}
        found |= {f"{path.parent.parent.name}/{path.stem}/{name}": tensor for name, tensor in tensors.items()}
    return found


def test_held_out_windows_reach_neither_the_weights_nor_the_state(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same job with other held-out windows writes the same bytes, and another held-out error."""
    plain, other = Recorder(), Recorder()
    one = calibrated(request_for(method=ADMM, workspace="one"), samples=20)
    digest = prune(one, plain).summary.weights_sha256

    def replaced(*arguments: Any) -> CalibrationWindows:
        windows = calibration_windows(*arguments)
        return replace(windows, held_out=windows.held_out.flip(1))

    # By name, because the package has a function of the same name as this module.
    monkeypatch.setattr(importlib.import_module("worker.pruning.runner"), "calibration_windows", replaced)
    two = calibrated(request_for(method=ADMM, workspace="two"), samples=20)
    assert prune(two, other).summary.weights_sha256 == digest
    for name, tensor in states(one).items():
        assert torch.equal(tensor, states(two)[name])
    records = [
        (a, b)
        for x, y in zip(plain.blocks, other.blocks, strict=True)
        for a, b in zip(x.records, y.records, strict=True)
    ]
    assert all(a.relative_error == b.relative_error for a, b in records)
    assert all(a.held_out_error != b.held_out_error for a, b in records)


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
    job = PruningJob.from_dict(request)
    source, calibration = job.texts[job.domains[0].dataset], job.domains[0].calibration
    windows = calibration_windows(Tokenizer(Path(request["model"])), source, calibration, "")
    seen: dict[str, torch.Tensor] = {}
    dense = AutoModelForCausalLM.from_pretrained(request["model"])
    layer = dense.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda _m, args: seen.__setitem__("x", args[0].reshape(-1, 64)))
    weight = load_file(next((Path(request["workspace"]) / "stage-00/model").glob("model-00001*")))
    pruned = weight["model.layers.0.self_attn.q_proj.weight"]
    record = recorder.blocks[0].records[0]
    assert record.matrix == "model.layers.0.self_attn.q_proj.weight"
    measured_on = (windows.solved_on, record.relative_error), (windows.held_out, record.held_out_error)
    for part, found in measured_on:
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
        records = [record for block in recorder.blocks if block.stage == stage.stage for record in block.records]
        for kind in ("relative_error", "held_out_error"):
            expected = sum(getattr(record, kind) for record in records) / len(records)
            assert getattr(stage, kind) == pytest.approx(expected)
            assert report["stages"][stage.stage][kind] == getattr(stage, kind)
    assert report["domains"][0]["calibration"]["held_out_windows"] == 1
    assert all(record["held_out_error"] is not None for record in report["matrices"][1])


@pytest.mark.parametrize(("changes", "noted"), [({"samples": 1}, 1), ({"held_out": 0}, 0)])
def test_without_held_out_windows_the_error_is_unknown(
    request_for: Request, changes: dict[str, Any], noted: int
) -> None:
    recorder = Recorder()
    prune(calibrated(request_for(), **changes), recorder)
    records = [record for block in recorder.blocks for record in block.records]
    assert {record.held_out_error for record in records} == {None}
    assert recorder.stages[0].held_out_error is None
    assert sum("none is held out" in message for _, message, _ in recorder.notes) == noted


def records_of(recorder: Recorder) -> list[MatrixRecord]:
    return [record for block in recorder.blocks for record in block.records]


AUTO = {"name": "auto"}
AIMED = {"target": "prefix", "output_weighting": "gradients"}
SPARSITIES = [{"target": 0.5}, {"target": 0.5, "allocation": "uniform"}, {"pattern": "2:4"}]


@pytest.mark.parametrize("sparsity", SPARSITIES, ids=["error", "uniform", "2:4"])
def test_auto_chooses_what_does_best_on_what_is_held_out(request_for: Request, sparsity: dict[str, Any]) -> None:
    """It records what it tried, and is never worse than ADMM on the same inputs: those of the first block."""
    recorder, admm = Recorder(), Recorder()
    prune(calibrated(request_for(domains="ab", method=AUTO, sparsity=sparsity), samples=10), recorder)
    for record in records_of(recorder):
        auto = record.notes["auto"]
        assert len(auto["tried"]) == len(CANDIDATES)
        assert set(auto["held_out_error"]) == {CANDIDATES[0].label, min(auto["tried"], key=auto["tried"].get)}
        assert auto["chosen"] == min(auto["held_out_error"], key=auto["held_out_error"].get)
        assert record.held_out_error == auto["held_out_error"][auto["chosen"]]
        assert record.solver == auto["chosen"].split()[0]
    zeros = sum(record.zeros for record in records_of(recorder))
    assert zeros * 2 == sum(record.weights for record in records_of(recorder))
    prune(calibrated(request_for(method=ADMM, sparsity=sparsity, workspace="admm"), samples=10), admm)
    pairs = list(zip(recorder.blocks[0].records, admm.blocks[0].records, strict=True))
    assert all((a.held_out_error or 0) <= (b.held_out_error or 0) for a, b in pairs)
    assert any((a.held_out_error or 0) < (b.held_out_error or 0) for a, b in pairs)
    assert all(a.zeros == b.zeros for a, b in pairs)


@pytest.mark.parametrize("aim", [{"target": "prefix"}, {"output_weighting": "gradients"}, AIMED])
def test_auto_chooses_by_what_it_solves_for(request_for: Request, aim: dict[str, Any]) -> None:
    """Towards the dense prefix and with weighed outputs as `admm` is, and by the error of that, which no longer is
    the record's. In the first block the first candidate is `admm` itself."""
    recorder, admm = Recorder(), Recorder()
    changes: dict[str, Any] = {"samples": 10}
    prune(calibrated(request_for(domains="ab", method=AUTO | aim), **changes), recorder)
    prune(calibrated(request_for(domains="ab", method=ADMM | aim, workspace="admm"), **changes), admm)
    weighed, other = 0, set()
    for record, plain in zip(records_of(recorder), records_of(admm), strict=True):
        auto = record.notes["auto"]
        assert auto["chosen"] == min(auto["held_out_error"], key=auto["held_out_error"].get)
        assert ("target" in record.notes) is ("target" in plain.notes)
        assert ("output_weighting" in record.notes) is ("output_weighting" in plain.notes)
        weighed += "output_weighting" in record.notes
        other.add(auto["chosen"])
        if "output_weighting" in aim or record.notes.get("target", {}).get("share"):
            assert auto["held_out_error"][auto["chosen"]] != record.held_out_error
    assert bool(weighed) is ("output_weighting" in aim)
    assert len(other) > 1
    for record, plain in zip(recorder.blocks[0].records, admm.blocks[0].records, strict=True):
        if record.notes["auto"]["chosen"] == CANDIDATES[0].label:
            assert record.weights_sha256 == plain.weights_sha256


def test_auto_keeps_nothing_of_the_held_out_windows_but_the_choice(request_for: Request) -> None:
    """The state of the first block is, to the bit, that of plain ADMM, which never looks at those windows. Once
    more it chooses the same."""
    kept, digests = [], []
    for workspace, method in (("auto", AUTO), ("again", AUTO), ("admm", ADMM)):
        request = calibrated(request_for(method=method, workspace=workspace), samples=10)
        digests.append(prune(request).summary.weights_sha256)
        kept.append({name: t for name, t in states(request).items() if "/block-0000/" in name})
    assert digests[0] == digests[1] != digests[2]
    del kept[1]
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())
    assert any(name.endswith("/gram") for name in kept[0])


def test_an_override_may_ask_for_auto(request_for: Request) -> None:
    recorder = Recorder()
    overrides = [{"match": "*.down_proj.weight", "method": "auto"}]
    prune(request_for(sparsity={"target": 0.5, "overrides": overrides}), recorder)
    for record in records_of(recorder):
        assert ("auto" in record.notes) is record.matrix.endswith("down_proj.weight")


def test_experts_that_held_out_tokens_do_not_reach_take_the_default(request_for: Request, tmp_path: Path) -> None:
    """One held-out window, shorter than what a choice needs, so that the rest takes the default too."""
    recorder = Recorder()
    model = str(make_tiny("mixtral", tmp_path / "mixtral"))
    request = request_for(model=model, method=AUTO, sparsity={"pattern": "2:4"})
    request["domains"][0]["calibration"]["sequence_length"] = 24
    prune(request, recorder)
    for record in records_of(recorder):
        auto = record.notes["auto"]
        assert auto["chosen"] == CANDIDATES[0].label
        assert "held-out tokens reached" in auto["untried"]
        assert record.solver == "admm"


@pytest.mark.parametrize(("method", "changes"), [("wanda", True), ("copal", True), ("admm", False)])
def test_only_errors_of_weights_that_are_not_solved_for_are_measured_on_fewer_tokens(
    request_for: Request, monkeypatch: pytest.MonkeyPatch, method: str, changes: bool
) -> None:
    monkeypatch.setattr("worker.pruning.model.block_runner.BATCH_TOKENS", 32)
    found = []
    for tokens in (32, 10_000):
        monkeypatch.setattr("worker.pruning.calibration.collect.ERROR_TOKENS", tokens)
        recorder = Recorder()
        prune(request_for(method={"name": method}, workspace=str(tokens)), recorder)
        found.append([record for block in recorder.blocks for record in block.records])
    for few, all_of_them in zip(*found, strict=True):
        assert (few.mask_sha256, few.weights_sha256) == (all_of_them.mask_sha256, all_of_them.weights_sha256)
        assert few.held_out_error == all_of_them.held_out_error
        assert (few.relative_error != all_of_them.relative_error) is changes
