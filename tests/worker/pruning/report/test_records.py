import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.spec.records.history import MatrixRecord
from tests.records import matrix_record
from tests.worker.pruning.conftest import Recorder, Request, prune
from tests.worker.pruning.lineages import chain
from worker.pruning.report.records import compare_masks, mask_overlap, read_history, timeless
from worker.pruning.report.warnings import UNCHANGED_ABOVE, masks_unchanged
from worker.pruning.state.digests import mask_bits


def record_of(written: torch.Tensor, name: str = "m") -> MatrixRecord:
    zeros, (rows, columns) = int((written == 0).sum()), written.shape
    weights = written.numel()
    return matrix_record(name, rows=rows, columns=columns, weights=weights, zeros=zeros, sparsity=zeros / weights)


def compared(now: torch.Tensor, then: torch.Tensor, name: str = "m") -> MatrixRecord:
    return compare_masks(record_of(now, name), mask_bits(now), mask_bits(then))


def test_figures_of_two_masks_by_hand() -> None:
    # Kept then: 0, 1, 2, 3. Kept now: 2, 3, 4. In common 2 of 5; 4 is revived; 0 and 1 are newly pruned.
    then = torch.tensor([[1.0, -2.0, 3.0, 4.0, 0.0], [0.0] * 5])
    now = torch.tensor([[0.0, 0.0, 9.0, -9.0, 1.0], [0.0] * 5])
    found = compared(now, then)
    assert found.mask_overlap == pytest.approx(2 / 5)
    assert (found.revived, found.newly_pruned, found.mask_changed) == (0.1, 0.2, pytest.approx(0.3))


@pytest.mark.parametrize(
    ("now", "then", "overlap"),
    [
        ([1.0, 0.0], [2.0, 0.0], 1.0),  # the weight moved, the mask did not
        ([1.0, 0.0], [0.0, 1.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [1.0, 1.0], 0.0),
        ([1.0, 1.0], [1.0, 0.0], 0.5),
    ],
)
def test_overlap_at_its_ends(now: list[float], then: list[float], overlap: float) -> None:
    assert compared(torch.tensor([now]), torch.tensor([then])).mask_overlap == overlap


def test_a_stages_overlap_is_that_of_all_weights_together() -> None:
    """Not the mean of the matrices', from figures that went through JSON."""
    generator = torch.Generator().manual_seed(0)
    pairs = [
        tuple((torch.rand(shape, generator=generator) < keep).float() for keep in (0.3, 0.6))
        for shape in ((3, 7), (64, 33))
    ]
    records = json.loads(json.dumps(timeless(compared(*pair) for pair in pairs)))
    now, then = (torch.cat([pair[side].flatten() for pair in pairs]) != 0 for side in (0, 1))
    assert mask_overlap(records) == int((now & then).sum()) / int((now | then).sum())
    assert "seconds" not in records[0]


def test_without_a_stage_before_there_is_no_overlap() -> None:
    assert mask_overlap(timeless([record_of(torch.ones(2, 2))])) is None
    assert masks_unchanged(0, "a", None) is None
    assert masks_unchanged(1, "b", UNCHANGED_ABOVE) is None


def matrices(workspace: Path, stage: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted((workspace / f"stage-{stage:02d}/model").glob("*.safetensors")):
        found |= load_file(path)
    return found


def second_stage(recorder: Recorder) -> Iterator[MatrixRecord]:
    return (record for block in recorder.blocks if block.stage == 1 for record in block.records)


def test_a_jobs_figures_are_those_of_its_files(request_for: Request) -> None:
    recorder, request = Recorder(), request_for(domains="ab", method={"name": "admm"})
    prune(request, recorder)
    workspace = Path(request["workspace"])
    first, second = matrices(workspace, 0), matrices(workspace, 1)
    common = united = 0
    for record in second_stage(recorder):
        then, now = first[record.matrix] != 0, second[record.matrix] != 0
        shared, either = int((then & now).sum()), int((then | now).sum())
        assert record.mask_overlap == pytest.approx(shared / either)
        assert record.revived == pytest.approx(float((now & ~then).float().mean()))
        assert record.newly_pruned == pytest.approx(float((then & ~now).float().mean()))
        assert record.domain_errors is None
        common, united = common + shared, united + either
    assert [stage.mask_overlap for stage in recorder.stages] == [None, common / united]
    assert 0 < common < united
    assert not [data for _, _, data in recorder.notes if data.get("code") == "masks_unchanged"]
    report = json.loads((workspace / "report.json").read_text())
    assert [stage["mask_overlap"] for stage in report["stages"]] == [None, common / united]
    assert all(record["mask_overlap"] is record["revived"] is None for record in report["matrices"][0])


def warnings(recorder: Recorder) -> list[dict[str, Any]]:
    return [
        data for level, _, data in recorder.notes if level == "warning" and data.get("code") == "masks_unchanged"
    ]


def test_unchanged_masks_are_said_also_when_the_stage_was_resumed(request_for: Request) -> None:
    """A sequential job with selection alone cannot change its masks. All blocks but the last are from before."""
    method = {"name": "wanda", "mode": "sequential"}
    recorder, whole = Recorder(), request_for(domains="ab", method=method)
    prune(whole, recorder)
    expected = [
        {"code": "masks_unchanged", "stage": 1, "domain": "b", "mask_overlap": 1.0, "limit": UNCHANGED_ABOVE}
    ]
    assert warnings(recorder) == expected
    for blocks in (1, 2):
        again = request_for(domains="ab", method=method, workspace=f"again-{blocks}")
        shutil.copytree(whole["workspace"], again["workspace"])
        for block in range(blocks, 2):
            name = f"stage-01/model/model-{block + 1:05d}-of-00003.safetensors"
            (Path(again["workspace"]) / name).unlink()
            (Path(again["workspace"]) / f"stage-01/state/block-{block:04d}.safetensors").unlink()
        again["resume"] = {"stages": 1, "blocks": blocks, "evaluations": []}
        listener = Recorder()
        prune(again, listener)
        assert len(listener.blocks) == 2 - blocks
        assert warnings(listener) == expected
        assert [stage.mask_overlap for stage in listener.stages] == [1.0]


def test_records_travel_outside_of_the_header_which_does_not_grow_with_them(request_for: Request) -> None:
    """Over three stages of two jobs, with errors by domain of the stage's own records only."""
    kept = {"keep_domain_statistics": True}
    parent, child = chain(request_for, "ab", "c", method={"name": "admm"}, output=kept)
    path = "state/block-0001.safetensors"
    with child.artifact(path).open("rb") as handle:
        header = handle.read(int.from_bytes(handle.read(8), "little"))
    assert b"mask_sha256" not in header
    assert b"domain_errors" not in header
    history = read_history(child.artifact(path))
    assert [len(records) for records in history] == [7, 7, 7]
    assert {record["domain_errors"] for stage in history[:2] for record in stage} == {None}
    own = [block.records for block in child.recorder.blocks if block.block == 1]
    assert list(history[2]) == timeless(own[0])
    assert all(set(record["domain_errors"]) == set("abc") for record in history[2])
    earlier = [block.records for block in parent.recorder.blocks if block.block == 1]
    for stage, records in enumerate(earlier):
        assert [{**record, "domain_errors": None} for record in timeless(records)] == history[stage]
