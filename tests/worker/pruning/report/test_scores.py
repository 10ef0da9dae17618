import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.spec.records.history import Basis
from tests.worker.pruning.conftest import Recorder, Request, known_again, prune
from worker.pruning import PruningJob, plan
from worker.pruning.report.sensitivity import keepable


@pytest.mark.parametrize(
    ("scores", "dtype"),
    [
        ([1.0, 2.0, 3.0, 4.0], torch.float16),
        ([0.0, 0.0, 0.0, 1.0], torch.float16),
        ([1.0, 2.0, 3.0, 65504.0], torch.float16),
        ([1.0, 2.0, 3.0, 1e5], torch.float32),
        ([1e-6, 2.0, 3.0, 4.0], torch.float32),
        ([1e-6] + [1.0] * 99, torch.float16),
        ([1e-6, 1e-6] + [1.0] * 99, torch.float32),
    ],
)
def test_float16_is_taken_where_it_fits(scores: list[float], dtype: torch.dtype) -> None:
    kept = keepable(torch.tensor([scores]), transposed=False)
    assert kept.dtype is dtype
    assert torch.allclose(kept.float(), torch.tensor([scores]), rtol=2**-11, atol=3e-8)


def test_scores_lie_as_the_checkpoint_does() -> None:
    scores = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(keepable(scores, transposed=True).float(), scores.T)
    assert keepable(scores, transposed=True).is_contiguous()


def kept(request: dict[str, Any], stage: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted((Path(request["workspace"]) / f"sensitivity/stage-{stage:02d}").glob("*.safetensors")):
        found |= load_file(path)
    return found


def written(request: dict[str, Any], stage: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted((Path(request["workspace"]) / f"stage-{stage:02d}/model").glob("*.safetensors")):
        found |= load_file(path)
    return found


KEEP = {"keep_sensitivities": True}


def test_every_stage_keeps_the_scores_that_chose_its_masks(request_for: Request) -> None:
    recorder, request = Recorder(), request_for(domains="ab", output=KEEP)
    output = prune(request, recorder)
    for block in recorder.blocks:
        name = f"sensitivity/stage-{block.stage:02d}/block-{block.block:04d}.safetensors"
        assert block.files[-1] == ("sensitivity", name)
    assert not any(file.path.startswith("sensitivity") for file in output.files), "whoever takes a block has them"
    for stage in (0, 1):
        scores, weights = kept(request, stage), written(request, stage)
        records = [record for block in recorder.blocks if block.stage == stage for record in block.records]
        summaries = [each for block in recorder.blocks if block.stage == stage for each in block.sensitivity]
        summaries = [each for each in summaries if each.basis is Basis.accumulated]
        assert set(scores) == {record.matrix for record in records}
        for summary in summaries:
            own, mask = scores[summary.matrix].float(), weights[summary.matrix] != 0
            assert float(own.sum(dtype=torch.float64)) == pytest.approx(summary.total, rel=1e-3)
            # Wanda compares inside a row: what is kept scores no less than what is not.
            lost = own.masked_fill(mask, -torch.inf).amax(dim=1)
            assert bool((own.masked_fill(~mask, torch.inf).amin(dim=1) >= lost).all())


def test_the_scores_of_magnitude_are_the_weights(request_for: Request) -> None:
    request = request_for(method={"name": "magnitude"}, output=KEEP)
    prune(request)
    dense = load_file(Path(request["model"]) / "model.safetensors")
    for name, scores in kept(request, 0).items():
        assert torch.allclose(scores.float(), dense[name].abs(), rtol=2**-10, atol=3e-8)


def test_nothing_is_kept_unasked(request_for: Request) -> None:
    recorder, request = Recorder(), request_for()
    prune(request, recorder)
    assert {role for block in recorder.blocks for role, _ in block.files} == {"weights", "state"}
    assert not (Path(request["workspace"]) / "sensitivity").exists()


def test_a_block_without_pruned_matrices_has_no_scores(request_for: Request) -> None:
    overrides = [{"match": "model.layers.0.*", "skip": True}]
    sparsity = {"target": 0.3, "allocation": "uniform", "overrides": overrides}
    recorder = Recorder()
    prune(request_for(sparsity=sparsity, output=KEEP), recorder)
    assert ["sensitivity" in dict(block.files) for block in recorder.blocks] == [False, True]


def test_a_resumed_job_keeps_the_same_bytes_without_the_earlier_ones(request_for: Request) -> None:
    """The files of committed blocks are with whoever took them, not in the workspace."""
    whole = request_for(domains="ab", output=KEEP, method={"name": "copal", "weight_update": "admm"})
    recorder = Recorder()
    prune(whole, recorder)
    again = request_for(
        domains="ab", output=KEEP, method={"name": "copal", "weight_update": "admm"}, workspace="again"
    )
    for folder in ("stage-00", "stage-01"):
        shutil.copytree(Path(whole["workspace"]) / folder, Path(again["workspace"]) / folder)
    known = known_again(e for e in recorder.evaluations if e.row <= 1)
    again["resume"] = {"stages": 1, "blocks": 1, "evaluations": known}
    prune(again)
    name = "sensitivity/stage-01/block-0001.safetensors"
    files = [path for path in (Path(again["workspace"]) / "sensitivity").rglob("*") if path.is_file()]
    assert files == [Path(again["workspace"]) / name]
    assert files[0].read_bytes() == (Path(whole["workspace"]) / name).read_bytes()


def test_a_plan_counts_them(request_for: Request) -> None:
    without, asked = (plan(PruningJob.from_dict(request_for(output=each))) for each in ({}, KEEP))
    for figure, blocks in (("memory_bytes", 1), ("disk_bytes", 2)):
        more = asked["estimates"][figure]["parts"]["sensitivities"]
        largest = max(
            sum(entry["weights"] for entry in asked["matched"] if f".layers.{block}." in entry["name"])
            for block in range(2)
        )
        assert more == blocks * 4 * largest
        assert without["estimates"][figure]["parts"]["sensitivities"] == 0
