"""Allocations through a whole job on a tiny model.

Slow: that rates add up to the target shows in what was written.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from secateur.spec.records.history import MatrixRecord
from tests.worker.pruning.conftest import Recorder, Request, prune
from tests.worker.pruning.test_runner import contents, copy_committed

pytestmark = pytest.mark.slow


def records(recorder: Recorder, stage: int = 0) -> dict[str, MatrixRecord]:
    return {record.matrix: record for block in recorder.blocks if block.stage == stage for record in block.records}


def sparsity(allocation: str, **fields: Any) -> dict[str, Any]:
    return {"target": 0.6, "allocation": allocation, **fields}


def test_by_plain_curvature_rates_are_those_of_weights_that_stay(request_for: Request) -> None:
    """Whatever the method does with the weights; both are of the same survey otherwise."""

    def targets(name: str, **fields: Any) -> dict[str, float]:
        recorder = Recorder()
        workspace = "-".join((name, *fields.values()))
        prune(
            request_for(method={"name": name}, sparsity=sparsity("error", **fields), workspace=workspace), recorder
        )
        return {name: each.target for name, each in records(recorder).items()}

    kept = targets("wanda")
    assert targets("admm", curvature="plain") == kept
    assert targets("wanda", curvature="plain") == kept
    assert targets("admm") != kept


@pytest.mark.parametrize("allocation", ["owl", "error"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "copal", "admm"])
def test_the_total_is_met_to_the_weight_with_unequal_rates(
    request_for: Request, allocation: str, method: str
) -> None:
    recorder = Recorder()
    prune(request_for(method={"name": method}, sparsity=sparsity(allocation)), recorder)
    found = records(recorder)
    assert sum(each.zeros for each in found.values()) == round(0.6 * sum(each.weights for each in found.values()))
    assert len({each.target for each in found.values()}) > 1
    assert all(each.target == pytest.approx(each.sparsity, abs=1e-9) for each in found.values())


def test_a_matrix_s_curve_is_by_its_own_method(request_for: Request) -> None:
    """Overrides that give every matrix a solver make the curves of a job with that solver; one override, one."""

    def curves(name: str, method: str, overrides: list[dict[str, str]]) -> dict[str, Tensor]:
        request = request_for(
            method={"name": method}, sparsity=sparsity("error", overrides=overrides), workspace=name
        )
        prune(request)
        state = load_file(Path(request["workspace"]) / "stage-00/state/block-0000.safetensors")
        return {
            key.removesuffix("/loss/curve"): part for key, part in state.items() if key.endswith("/loss/curve")
        }

    down = "model.layers.0.mlp.down_proj.weight"
    kept, solved = curves("kept", "wanda", []), curves("solved", "admm", [])
    named = curves("named", "wanda", [{"match": "*", "method": "admm"}])
    one = curves("one", "wanda", [{"match": down, "method": "admm"}])
    assert kept.keys() == solved.keys() == named.keys() == one.keys()
    for name in kept:
        assert not torch.equal(kept[name], solved[name])
        assert torch.equal(named[name], solved[name])
        assert torch.equal(one[name], (solved if name == down else kept)[name])


def test_rows_of_a_matrix_are_compared_by_what_they_mean_for_the_loss(request_for: Request) -> None:
    """Wanda takes as much from each row; with a survey rows that matter less lose more."""
    request = request_for(sparsity=sparsity("error"))
    prune(request)
    shard = load_file(Path(request["workspace"]) / "stage-00/model/model-00001-of-00003.safetensors")
    zeros = (shard["model.layers.0.mlp.up_proj.weight"] == 0).sum(dim=1)
    assert int(zeros.max() - zeros.min()) > 1


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_overrides_keep_their_targets(request_for: Request, allocation: str) -> None:
    overrides = [{"match": "*.down_proj.weight", "target": 0.25}, {"match": "*.0.*.q_proj.weight", "skip": True}]
    recorder = Recorder()
    prune(request_for(sparsity=sparsity(allocation, overrides=overrides)), recorder)
    found = records(recorder)
    assert "model.layers.0.self_attn.q_proj.weight" not in found
    assert all(each.target == 0.25 for name, each in found.items() if name.endswith("down_proj.weight"))
    assert sum(each.zeros for each in found.values()) == round(0.6 * sum(each.weights for each in found.values()))


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_interrupted_job_shares_out_the_same(request_for: Request, allocation: str) -> None:
    method = {"name": "copal", "weight_update": "admm"}
    whole = request_for(domains="ab", method=method, sparsity=sparsity(allocation))
    recorder = Recorder()
    expected = contents(whole, prune(whole, recorder))
    for stages, blocks in ((0, 1), (0, 2), (1, 1)):
        again = request_for(
            domains="ab", method=method, sparsity=sparsity(allocation), workspace=f"again-{stages}-{blocks}"
        )
        copy_committed(Path(whole["workspace"]), Path(again["workspace"]), stages, blocks)
        again["resume"] = {"stages": stages, "blocks": blocks, "evaluations": []}
        assert contents(again, prune(again)) == expected


def test_a_later_domain_counts_beside_the_earlier_ones(request_for: Request) -> None:
    """Accumulated rates differ from those that the second domain alone would give."""
    accumulated, alone = Recorder(), Recorder()
    prune(request_for(domains="ab", sparsity=sparsity("error"), workspace="both"), accumulated)
    prune(request_for(domains="b", sparsity=sparsity("error"), workspace="alone"), alone)
    second, only = records(accumulated, 1), records(alone)
    assert any(second[name].target != only[name].target for name in only)


def test_restart_shares_out_by_its_own_domain(request_for: Request) -> None:
    restart, alone = Recorder(), Recorder()
    method = {"name": "wanda", "mode": "restart"}
    prune(request_for(domains="ab", method=method, sparsity=sparsity("error"), workspace="both"), restart)
    prune(request_for(domains="b", method=method, sparsity=sparsity("error"), workspace="alone"), alone)
    second = records(restart, 1)
    assert {name: each.target for name, each in records(alone).items()} == {n: r.target for n, r in second.items()}


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_a_sequential_job_keeps_the_shares_of_its_first_stage(request_for: Request, allocation: str) -> None:
    """Zeros stay zeros, so with other shares the total would be missed and the masks would move."""
    recorder = Recorder()
    method = {"name": "wanda", "mode": "sequential"}
    prune(request_for(domains="ab", method=method, sparsity=sparsity(allocation)), recorder)
    first, second = records(recorder, 0), records(recorder, 1)
    assert {name: each.target for name, each in first.items()} == {
        name: each.target for name, each in second.items()
    }
    assert all(each.mask_changed == 0 for each in second.values())
    weights = sum(each.weights for each in second.values())
    assert sum(each.zeros for each in second.values()) == round(0.6 * weights)
