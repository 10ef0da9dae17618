"""Several targets in one job: each its own model and row of R.

Slow: what one stage leaves for another goes through whole jobs' files.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.spec.records.pipe import Output
from tests.worker.pruning.conftest import Recorder, Request, known_again, prune
from tests.worker.pruning.lineages import continuing, run_job
from worker.pruning import EvaluationSpec, Text, UserError, perplexities, verify

pytestmark = pytest.mark.slow

METHODS: dict[str, dict[str, Any]] = {
    "wanda": {"name": "wanda"},
    "copal": {"name": "copal", "weight_update": "admm"},
    "auto": {"name": "auto", "target": "prefix", "output_weighting": "gradients"},
    "alps": {"name": "alps"},
    "dense": {"name": "admm", "inputs": "dense"},
    "whole": {"name": "admm", "target": "prefix", "output_weighting": "gradients"},
}
SPARSITY: dict[str, Any] = {"target": 0.5, "allocation": "error"}
FURTHER = [0.7, "2:4"]
SHARED: dict[str, Any] = {"further": FURTHER}
OWN: dict[str, Any] = {**SHARED, "further_statistics": "own"}
EXACT = {"state_precision": "float32"}


def model(request: dict[str, Any], output: Output, folder: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in output.files:
        if file.path.startswith(f"{folder}/") and file.path.endswith(".safetensors"):
            found |= load_file(Path(request["workspace"]) / file.local)
    return found


def pruned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.endswith("_proj.weight")}


@pytest.mark.parametrize(
    "method",
    [*METHODS.values(), *(METHODS["whole"] | {"refine": refine} for refine in ("norms", "block", "model"))],
    ids=[*METHODS, "norms", "block", "model"],
)
def test_with_statistics_of_its_own_a_model_is_that_of_a_job_of_its_own(
    request_for: Request, method: dict[str, Any]
) -> None:
    several = request_for(method=method, sparsity=SPARSITY | OWN, output=EXACT)
    recorder = Recorder()
    output = prune(several, recorder)
    assert [stage.calibration_tokens for stage in recorder.stages] == [192, 192, 192]
    for number, own in enumerate(({"target": 0.7, "allocation": "error"}, {"pattern": "2:4"})):
        alone = request_for(method=method, sparsity=own, output=EXACT, workspace=f"alone-{number}")
        theirs = Recorder()
        one = model(alone, prune(alone, theirs), "model")
        other = model(several, output, ("targets/0.7/model", "targets/2-4/model")[number])
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        mine, (their,) = recorder.stages[1 + number], theirs.stages
        figures = ("sparsity", "relative_error", "held_out_error", "weights_sha256")
        assert [getattr(mine, name) for name in figures] == [getattr(their, name) for name in figures]


def test_with_statistics_of_its_own_a_model_is_solved_on_the_sums_before_its_domain(request_for: Request) -> None:
    """In a job of two domains, and in one that continues another's state: the same bytes."""
    sparsity = SPARSITY | {"further": [0.7], "further_statistics": "own"}
    asked: dict[str, Any] = {"method": METHODS["whole"] | {"recency": 0.5}, "output": EXACT}
    both = request_for(domains="ab", sparsity=sparsity, **asked)
    whole = model(both, prune(both), "targets/0.7/model")
    shared = request_for(
        domains="ab", sparsity=sparsity | {"further_statistics": "shared"}, workspace="shared", **asked
    )
    first = [name for name in pruned(whole) if ".layers.0." in name]
    theirs = model(shared, prune(shared), "targets/0.7/model")
    assert all(torch.equal(whole[name], theirs[name]) for name in first), "no block before them differs"
    assert any(not torch.equal(whole[name], theirs[name]) for name in pruned(whole))
    parent = run_job(request_for(domains="a", sparsity=SPARSITY, workspace="parent", **asked))
    child = run_job(continuing(parent, request_for(domains="b", sparsity=sparsity, workspace="child", **asked)))
    found = model(child.request, child.output, "targets/0.7/model")
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_with_shared_statistics_the_first_block_is_that_of_a_job_of_its_own(
    request_for: Request, method: dict[str, Any]
) -> None:
    """No block before it differs, so its statistics are the same ones, and a state in float32 keeps them bit for
    bit: the same rates, targets, masks and weights follow. Behind dense blocks that is so of every block."""
    several = request_for(method=method, sparsity=SPARSITY | SHARED, output=EXACT)
    output = prune(several)
    for number, own in enumerate(({"target": 0.7, "allocation": "error"}, {"pattern": "2:4"})):
        alone = request_for(method=method, sparsity=own, output=EXACT, workspace=f"alone-{number}")
        one = model(alone, prune(alone), "model")
        other = model(several, output, ("targets/0.7/model", "targets/2-4/model")[number])
        assert one.keys() == other.keys()
        alike = "model." if method.get("inputs") == "dense" else "model.layers.0."
        first = {name for name in one if name.startswith(alike)}
        assert all(torch.equal(one[name], other[name]) for name in first)
        matrices = pruned(other)
        zeros = sum(int((tensor == 0).sum()) for tensor in matrices.values())
        assert zeros == round((0.7, 0.5)[number] * sum(tensor.numel() for tensor in matrices.values()))


def test_each_has_a_row_of_r_and_a_stage(request_for: Request, texts: Path) -> None:
    several = request_for(domains="ab", sparsity=SPARSITY | SHARED)
    recorder = Recorder()
    output = prune(several, recorder)
    assert {(each.row, each.domain) for each in recorder.evaluations} == {(r, d) for r in range(5) for d in "ab"}
    assert [stage.domain for stage in recorder.stages] == ["a", "b", "at 0.7", "at 2:4"]
    assert [stage.sparsity for stage in recorder.stages] == pytest.approx([0.5, 0.5, 0.7, 0.5], abs=1e-4)
    assert [stage.calibration_tokens for stage in recorder.stages] == [192, 192, 0, 0]
    assert all(stage.held_out_error for stage in recorder.stages)
    assert output.summary.sparsity == pytest.approx(0.5, abs=1e-4)
    folder = Path(several["workspace"]) / "stage-02" / "model"
    protocol = EvaluationSpec(**several["evaluation"])
    (measured,) = perplexities(folder, {"a": Text(path=texts / "c.txt")}, protocol, threads=1).values()
    row = {each.domain: each.perplexity for each in recorder.evaluations if each.row == 3}
    assert row["a"] == pytest.approx(measured.perplexity, rel=1e-6)
    assert recorder.progresses[-1].fraction == pytest.approx(1)


def test_what_a_job_gives_is_the_same_beside_more_targets(request_for: Request) -> None:
    one = request_for(domains="ab", method=METHODS["whole"], sparsity=SPARSITY, workspace="one")
    two = request_for(domains="ab", method=METHODS["whole"], sparsity=SPARSITY | {"further": [0.7]})
    first, second = prune(one), prune(two)

    def files(request: dict[str, Any], output: Output) -> dict[str, bytes]:
        kept = (file for file in output.files if file.path.startswith(("model/", "state/")))
        return {file.path: (Path(request["workspace"]) / file.local).read_bytes() for file in kept}

    assert files(one, first) == files(two, second)


@pytest.mark.parametrize(
    ("stop", "sparsity"),
    [*((stop, SHARED) for stop in [(1, 1), (2, 0), (2, 1), (3, 1)]), ((2, 1), OWN), ((3, 1), OWN)],
    ids=lambda given: str(given.get("further_statistics") if isinstance(given, dict) else given),
)
def test_an_interrupted_job_ends_in_the_same_bytes(
    request_for: Request, stop: tuple[int, int], sparsity: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"domains": "ab", "method": METHODS["whole"], "sparsity": SPARSITY | sparsity}
    whole = request_for(**asked)
    recorder = Recorder()
    output = prune(whole, recorder)
    again, (stages, blocks) = request_for(**asked, workspace="again"), stop
    for stage in range(stages + 1):
        last = 2 if stage < stages else blocks
        for block in range(last):
            for name in (f"model/model-{block + 1:05d}-of-00003", f"state/block-{block:04d}"):
                path = f"stage-{stage:02d}/{name}.safetensors"
                (Path(again["workspace"]) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(whole["workspace"]) / path, Path(again["workspace"]) / path)
    known = known_again(each for each in recorder.evaluations if each.row <= stages)
    again["resume"] = {"stages": stages, "blocks": blocks, "evaluations": known}
    resumed = Recorder()
    repeated = prune(again, resumed)
    assert [(b.stage, b.block) for b in resumed.blocks] == [(n // 2, n % 2) for n in range(2 * stages + blocks, 8)]
    for mine, theirs in zip(repeated.files, output.files, strict=True):
        assert mine.path == theirs.path
        one, two = Path(again["workspace"]) / mine.local, Path(whole["workspace"]) / theirs.local
        assert one.read_bytes() == two.read_bytes(), mine.path


def test_a_further_target_that_cannot_be_met_is_refused_before_anything_runs(request_for: Request) -> None:
    overrides = [{"match": "*.mlp.*", "target": 0.9}]
    sparsity = {"target": 0.6, "overrides": overrides, "further": [0.05]}
    with pytest.raises(UserError, match=r"0\.05 cannot be met") as caught:
        prune(request_for(sparsity=sparsity))
    assert caught.value.field == "/sparsity/further/0"
    with pytest.raises(UserError, match="2:5 does not divide") as caught:
        prune(request_for(sparsity={"target": 0.6, "further": [0.7, "2:5"]}))
    assert caught.value.field == "/sparsity/further/1"


def test_every_model_is_held_against_the_report(request_for: Request, tmp_path: Path) -> None:
    request = request_for(domains="ab", sparsity=SPARSITY | SHARED)
    output, artifact = prune(request), tmp_path / "artifact"
    for file in output.files:
        (artifact / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(request["workspace"]) / file.local, artifact / file.path)
    for folder in (artifact, artifact / "targets/0.7", artifact / "targets/2-4/model"):
        assert verify.main([str(folder)]) == 0, folder
    shutil.copytree(artifact / "targets/2-4/model", artifact / "targets/0.7/model", dirs_exist_ok=True)
    assert verify.main([str(artifact / "targets/0.7")]) == 1
    shutil.move(artifact / "targets/0.7", artifact / "targets/0.8")
    assert verify.main([str(artifact / "targets/0.8")]) == 2, "nobody asked for it"
