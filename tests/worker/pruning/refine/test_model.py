"""Jobs that tune the whole model, or its norms, at the end of a stage."""

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.tiny import make_tiny, teach
from tests.worker.pruning.conftest import (
    Recorder,
    Request,
    domain,
    on_device,
    prune,
    requests_in,
)
from tests.worker.pruning.refine.killed import Committing, Keeper, Killed, Whole
from worker.pruning import PruningJob, UserError, fitting
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows
from worker.pruning.disk import disk
from worker.pruning.estimate import memory
from worker.pruning.model.graph import Block
from worker.pruning.plan import look
from worker.pruning.refine import model
from worker.pruning.refine.loaded import Streamed
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.context import StageContext
from worker.pruning.verify import verify_report

ADMM: dict[str, Any] = {"name": "admm"}
TUNED: dict[str, Any] = {**ADMM, "refine": "model", "refinement": {"learning_rate": 1e-3}}
NORMS: dict[str, Any] = {**ADMM, "refine": "norms", "refinement": {"epochs": 4, "relative_rate": 0.02}}
EITHER = pytest.mark.parametrize("tuning", [TUNED, NORMS], ids=["model", "norms"])


def written(folder: Path, stage: int = 0) -> dict[str, torch.Tensor]:
    files = sorted((folder / f"stage-{stage:02d}/model").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def longer(texts: Path, name: str = "a") -> dict[str, Any]:
    found = domain(texts, name)
    found["calibration"] |= {"samples": 20}
    return found


@EITHER
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3-moe"])
def test_it_comes_nearer_to_the_dense_model_and_is_judged_by_the_text(
    request_for: Request, texts: Path, tmp_path: Path, family: str, tuning: dict[str, Any]
) -> None:
    """By transformers' own forward passes over the windows held out, of the model as solved and as written: the
    cross entropy against the dense model falls, and the record has that of the text's own tokens."""
    model = teach(make_tiny(family, tmp_path / "model"))
    sparsity = {"target": 0.7}
    # Where forwards are in bfloat16, its rounding would be in the loss.
    fields: dict[str, Any] = {
        "model": str(model),
        "domains": [longer(texts)],
        "sparsity": sparsity,
        "numerics": "exact",
    }
    plain, tuned = (
        request_for(method={**method, "name": "wanda"}, workspace=name, **fields)
        for name, method in (("plain", ADMM), ("tuned", tuning))
    )
    prune(plain)
    recorder = Recorder()
    prune(tuned, recorder)
    job = PruningJob.from_dict(tuned)
    text = job.texts[job.domains[0].dataset]
    windows = calibration_windows(Tokenizer(model), text, job.domains[0].calibration, "/x").held_out
    solved, new = (Path(each["workspace"]) / "stage-00/model" for each in (plain, tuned))
    (note,) = {str(r.notes["refine"]): r.notes["refine"] for b in recorder.blocks[3:] for r in b.records}.values()
    assert note["kept"]
    dense, following = logits_of(model, windows).softmax(dim=-1), windows[:, 1:].flatten()
    known = {"before": logits_of(solved, windows), "after": logits_of(new, windows)}
    assert functional.cross_entropy(known["after"], dense) < functional.cross_entropy(known["before"], dense)
    for name, logits in known.items():
        assert note[name] == pytest.approx(float(functional.cross_entropy(logits, following)), rel=1e-4)
    assert note["after"] < note["before"]
    before, after = written(Path(plain["workspace"])), written(Path(tuned["workspace"]))
    assert all(torch.equal(after[name] == 0, tensor == 0) for name, tensor in before.items())
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed
    assert tuning is TUNED or all(before[name].ndim == 1 for name in changed)


@torch.no_grad()
def logits_of(model: Path, windows: torch.Tensor) -> torch.Tensor:
    """Of every token that is predicted, (tokens, vocabulary)."""
    found = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(windows).logits
    return found[:, :-1].flatten(0, 1)


@EITHER
def test_blocks_are_committed_once_more_with_what_they_were(
    request_for: Request, texts: Path, tuning: dict[str, Any]
) -> None:
    request = request_for(method=tuning, domains=[longer(texts)])
    recorder = Recorder()
    summary = prune(request, recorder).summary
    folder = Path(request["workspace"])
    assert [(block.stage, block.block) for block in recorder.blocks] == [(0, 0), (0, 1), (0, 0), (0, 1)]
    assert [role for role, _ in recorder.blocks[-1].files] == ["weights", "state", "solved"]
    first, again = recorder.blocks[0].records, recorder.blocks[2].records
    for one, other in zip(first, again, strict=True):
        assert one.mask_sha256 == other.mask_sha256
        assert (one.weights_sha256 == other.weights_sha256) is (tuning is NORMS)
        assert (one.zeros, one.relative_error) == (other.zeros, other.relative_error)
    assert verify_report(folder / "stage-00/model", json_of(folder / "report.json")).differences == ()
    assert summary.weights_sha256 == json_of(folder / "report.json")["stages"][0]["weights_sha256"]
    assert not any(file.path.startswith("solved") for file in prune(request_for(method=tuning)).files)


def json_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def three_stages(texts: Path, tuning: dict[str, Any]) -> dict[str, Any]:
    """Of two domains and a further target."""
    sparsity = {"target": 0.5, "allocation": "uniform", "further": [0.7], "further_statistics": "own"}
    return {"domains": [longer(texts, "a"), longer(texts, "b")], "method": tuning, "sparsity": sparsity}


@pytest.fixture(scope="module", params=[TUNED, NORMS], ids=["model", "norms"])
def whole(
    tiny_llama: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Whole:
    make = requests_in(tmp_path_factory.mktemp("whole"), tiny_llama, texts)
    with on_device():
        return Whole.of(make(**three_stages(texts, request.param)))


@pytest.mark.parametrize("blocks", range(1, 13))
def test_a_killed_job_ends_in_the_same_bytes(request_for: Request, texts: Path, whole: Whole, blocks: int) -> None:
    """Behind every commit: of a block as solved, and of one as tuned, when others are not yet."""
    fields = three_stages(texts, whole.request["method"])
    killed, again = (request_for(workspace=name, **fields) for name in ("killed", "again"))
    keeper = Keeper(Path(killed["workspace"]), Path(again["workspace"]), blocks)
    with pytest.raises(Killed):
        prune(killed, keeper)
    stages = len(keeper.stages)
    there = {block.block for block in keeper.blocks if block.stage == stages}
    again["resume"] = {"stages": stages, "blocks": len(there), "evaluations": whole.known(stages + 1)}
    whole.assert_same(again, prune(again))


@pytest.mark.parametrize("overrides", [[], [{"match": "model.layers.1.*", "skip": True}]])
@pytest.mark.parametrize("tuning", [TUNED | {"refinement": {"learning_rate": 1e-3, "norms": True}}, NORMS])
def test_a_job_killed_between_two_files_ends_in_the_same_bytes(
    request_for: Request,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[dict[str, Any]],
    tuning: dict[str, Any],
) -> None:
    """Above all of the last block, behind which nothing else is left to be tuned; also where nothing of it is."""
    fields: dict[str, Any] = {
        "domains": [longer(texts)],
        "method": tuning,
        "sparsity": {"target": 0.5, "allocation": "uniform", "overrides": overrides},
    }
    expected = Whole.of(request_for(workspace="whole", **fields))
    resume = {"stages": 0, "blocks": 2, "evaluations": expected.known(1)}
    again = request_for(workspace="again", **fields)
    folder = Path(again["workspace"])
    recorder = Committing(2)
    with pytest.raises(Killed):
        prune(again, recorder)
    shutil.move(folder, solved := folder.with_name("solved"))
    for calls in range(6):
        left = iter(range(calls))

        def killed(*arguments: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            write_tensors(*arguments)

        shutil.copytree(solved, folder)
        with monkeypatch.context() as patch:
            patch.setattr("worker.pruning.refine.model.write_tensors", killed)
            with pytest.raises(Killed):
                prune(again | {"resume": resume})
        expected.assert_same(again, prune(again | {"resume": resume}))
        shutil.rmtree(folder)


@EITHER
@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, {"allocation": "error"}),
        ({"output_weighting": "gradients"}, {"pattern": "2:4", "channels": "permuted"}),
    ],
    ids=["shared out", "in another order"],
)
def test_what_a_survey_has_passed_through_the_dense_model_is_not_passed_again(
    request_for: Request,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    tuning: dict[str, Any],
    options: dict[str, Any],
    pattern: dict[str, Any],
) -> None:
    """But by a run that has no survey to make, which ends in the same bytes, and where batches are others."""
    passes, pass_dense = [], model._pass_dense

    def passed(context: StageContext, work: float) -> None:
        passes.append(work)
        pass_dense(context, work)

    monkeypatch.setattr(model, "_pass_dense", passed)
    method = {**tuning, **options, "refinement": {**tuning["refinement"], "windows": 8}}

    def fields(surveyed: int) -> dict[str, Any]:
        sparsity = {"target": 0.5, **pattern, "survey_tokens": surveyed * 32}
        return {"domains": [longer(texts)], "method": method, "sparsity": sparsity}

    whole = Whole.of(request_for(workspace="whole", **fields(8)))
    assert passes == []
    again = request_for(workspace="again", **fields(8))
    with pytest.raises(Killed):
        prune(again, Committing(2))
    assert passes == []
    again["resume"] = {"stages": 0, "blocks": 2, "evaluations": whole.known(1)}
    whole.assert_same(again, prune(again))
    assert passes == [0.0]
    prune(request_for(workspace="other", **fields(9)))
    assert passes[1] > 0.0


@EITHER
def test_it_is_judged_by_as_many_windows_as_it_is_tuned_on(
    request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch, tuning: dict[str, Any]
) -> None:
    judging, distil = [], model._distil

    def seen(context: StageContext, *arguments: Any) -> Any:
        judging.append(len(context.windows.held_out))
        return distil(context, *arguments)

    monkeypatch.setattr(model, "_distil", seen)
    for windows in (1, 4):
        method = {**tuning, "refinement": {**tuning["refinement"], "windows": windows}}
        prune(request_for(workspace=str(windows), method=method, domains=[longer(texts)]))
    assert judging == [1, 2]  # of the two that are held out


@EITHER
def test_what_makes_nothing_better_is_not_kept(request_for: Request, texts: Path, tuning: dict[str, Any]) -> None:
    wild = {**tuning, "refinement": {"learning_rate": 1.0, "epochs": 1}}
    plain, tuned = (
        request_for(method=method, domains=[longer(texts)], workspace=name)
        for name, method in (("plain", ADMM), ("tuned", wild))
    )
    prune(plain)
    summary = prune(tuned).summary
    before, after = (written(Path(each["workspace"])) for each in (plain, tuned))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert "not_refined" in {warning.code for warning in summary.warnings}


def test_of_norms_no_more_than_a_block_is_ever_loaded(
    request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every pass, there and back, so that memory does not grow with blocks."""
    passed, most = Streamed.passed, 0

    def counted(self: Streamed, blocks: Sequence[Block]) -> Iterator[Block]:
        nonlocal most
        for block in passed(self, blocks):
            loaded = [any(not each.is_meta for each in other.module.parameters()) for other in blocks]
            most = max(most, sum(loaded))
            yield block

    monkeypatch.setattr(Streamed, "passed", counted)
    prune(request_for(method=NORMS, domains=[longer(texts)]))
    assert most == 1


def test_a_model_without_norms_is_left_as_it_was_solved(
    request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pruning.refine.written.norms", lambda *_: [])
    plain, tuned = (
        request_for(method=method, domains=[longer(texts)], workspace=name)
        for name, method in (("plain", ADMM), ("tuned", NORMS))
    )
    prune(plain)
    prune(tuned)
    before, after = (written(Path(each["workspace"])) for each in (plain, tuned))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_it_waits_for_commits_and_can_be_stopped(request_for: Request, texts: Path) -> None:
    class Listener(Recorder):
        settled = 0

        def settle(self) -> None:
            assert len(self.blocks) == 2
            self.settled += 1

    listener = Listener()
    surveyed = {"target": 0.5, "allocation": "error"}
    prune(request_for(method={**TUNED, "name": "wanda"}, domains=[longer(texts)], sparsity=surveyed), listener)
    assert listener.settled == 1
    phases = [phase.value for phase, _ in groupby(progress.phase for progress in listener.progresses)]
    assert phases == ["evaluating", "surveying", "pruning", "tuning", "evaluating", "publishing"]
    fractions = [progress.fraction for progress in listener.progresses]
    assert fractions == sorted(fractions)

    class Stopping(Recorder):
        def check(self) -> None:
            if len(self.blocks) == 2:
                self.checks += 1
            if self.checks == 12:
                raise Killed

    with pytest.raises(Killed):
        prune(request_for(method=TUNED, domains=[longer(texts)], workspace="stopped"), stopping := Stopping())
    assert len(stopping.blocks) == 2


def test_a_model_that_does_not_fit_is_refused(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(method=TUNED)
    subject = look(PruningJob.from_dict(request))
    needed = memory(subject)
    assert needed.parts["tuning"] > memory(look(PruningJob.from_dict(request_for()))).parts["tuning"] == 0
    assert disk(subject).parts["stages_solved"] == disk(subject).parts["stages_weights"]
    monkeypatch.setattr(fitting, "host_memory_bytes", lambda: needed.total / 2)
    with pytest.raises(UserError, match="this machine has") as caught:
        prune(request)
    assert caught.value.field == "/method/refine"
    prune(request_for(method={**TUNED, "refine": "block"}))
    monkeypatch.setattr(fitting, "host_memory_bytes", lambda: needed.total * 2)
    prune(request_for(method=TUNED, workspace="fits"))
