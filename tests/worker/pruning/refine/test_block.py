"""Jobs that tune every block."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.spec.records.history import MatrixRecord
from secateur.spec.records.pipe import Message, Progress
from tests.tiny import make_tiny, make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, domain, prune
from worker.pruning import PruningJob, plan
from worker.pruning.estimate import memory
from worker.pruning.plan import look
from worker.pruning.verify import verify_report

ADMM = {"name": "admm"}
TUNED = {**ADMM, "refine": "block"}


def written(request: dict[str, Any], stage: int = 0) -> dict[str, torch.Tensor]:
    """All tensors of a stage's model."""
    folder = Path(request["workspace"]) / f"stage-{stage:02d}/model"
    return {
        name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


def records(recorder: Recorder) -> dict[str, MatrixRecord]:
    return {record.matrix: record for block in recorder.blocks if not block.stage for record in block.records}


def report(request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(request["workspace"]) / "report.json").read_text())
    return found


def longer(texts: Path, **changes: Any) -> list[dict[str, Any]]:
    """A domain with windows enough for tuning to be of use."""
    found = domain(texts, "a")
    found["calibration"] |= {"samples": 30, **changes}
    return [found]


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "opt-post-norm", "falcon-parallel", "mixtral", "qwen3-moe", "qwen2-moe"]
)
def test_masks_stay_and_the_rest_is_better_on_windows_held_out(
    request_for: Request, texts: Path, tmp_path: Path, family: str
) -> None:
    """Stored transposed, as one tensor an expert or one for all, and as a plain matrix."""
    model = str(make_tiny(family, tmp_path / "model"))
    fields: dict[str, Any] = {"model": model, "domains": longer(texts), "sparsity": {"target": 0.6}}
    gentle = {**TUNED, "refinement": {"learning_rate": 3e-4}}
    plain, tuned = request_for(method=ADMM, workspace="plain", **fields), request_for(method=gentle, **fields)
    one, two = Recorder(), Recorder()
    prune(plain, one)
    prune(tuned, two)
    notes = [record.notes["refine"] for record in records(two).values()]
    assert any(note["kept"] for note in notes)
    assert all((note["after"] < note["before"]) is note["kept"] for note in notes)
    # Later blocks have other inputs, and so other masks.
    for before, after in zip(one.blocks[0].records, two.blocks[0].records, strict=True):
        assert after.mask_sha256 == before.mask_sha256
        unseen = after.notes.get("expert", {}).get("tokens") == 0
        assert (after.weights_sha256 != before.weights_sha256) is (after.notes["refine"]["kept"] and not unseen)
    matrices = {matrix.tensor for matrix in look(PruningJob.from_dict(tuned)).graph.matrices}
    dense = load_file(Path(model) / "model.safetensors")
    for name, tensor in written(tuned).items():
        assert name in matrices or torch.equal(tensor, dense[name]), name
    assert verify_report(Path(tuned["workspace"]) / "stage-00/model", report(tuned)).differences == ()


def test_errors_are_of_what_was_solved_and_digests_of_what_was_tuned(request_for: Request, texts: Path) -> None:
    fields: dict[str, Any] = {"domains": longer(texts), "output": {"keep_domain_statistics": True}}
    request, tuned, plain = request_for(method=TUNED, **fields), Recorder(), Recorder()
    prune(request, tuned)
    prune(request_for(method=ADMM, workspace="plain", **fields), plain)
    for one, other in zip(tuned.blocks[0].records, plain.blocks[0].records, strict=True):
        changed = {"weights_sha256", "notes", "seconds"}
        assert one.model_dump(exclude=changed) == other.model_dump(exclude=changed)
        assert one.weights_sha256 != other.weights_sha256
        assert one.notes.keys() - other.notes.keys() == {"refine"}
    (stage,) = report(request)["stages"]
    assert stage["refine"]["kept"] == stage["refine"]["matrices"] == len(records(tuned))
    assert stage["refine"]["after"] < stage["refine"]["before"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_kept_is_better_after_the_cast(
    request_for: Request, texts: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = make_tiny_llama(tmp_path / "model", dtype=dtype)
    request = request_for(model=str(model), method=TUNED, domains=longer(texts), sparsity={"pattern": "2:4"})
    recorder = Recorder()
    prune(request, recorder)
    assert {tensor.dtype for tensor in written(request).values()} == {dtype}
    assert verify_report(Path(request["workspace"]) / "stage-00/model", report(request)).differences == ()
    assert all(record.notes["refine"]["kept"] for record in records(recorder).values())
    assert all("zeros_beyond_mask" not in record.notes for record in records(recorder).values())


def test_what_makes_nothing_better_is_not_kept(request_for: Request, texts: Path) -> None:
    """At a rate that breaks every block, the files are those of a job that does not tune, and the job says so."""
    wild = {**TUNED, "refinement": {"learning_rate": 1.0, "epochs": 1}}
    fields: dict[str, Any] = {"domains": longer(texts)}
    plain, tuned = request_for(method=ADMM, workspace="plain", **fields), request_for(method=wild, **fields)
    prune(plain)
    recorder = Recorder()
    summary = prune(tuned, recorder).summary
    assert all(torch.equal(tensor, written(plain)[name]) for name, tensor in written(tuned).items())
    notes = [record.notes["refine"] for record in records(recorder).values()]
    assert all(not note["kept"] and note["after"] > note["before"] for note in notes)
    assert [warning.data for warning in summary.warnings if warning.code == "not_refined"] == [
        {"stage": 0, "domain": "a"}
    ]
    assert report(tuned)["stages"][0]["refine"]["before"] == report(tuned)["stages"][0]["refine"]["after"]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_norms_and_biases_are_tuned_where_asked(
    request_for: Request, texts: Path, tmp_path: Path, family: str
) -> None:
    model = make_tiny(family, tmp_path / "model")
    method = {"name": "wanda", "refine": "block", "refinement": {"norms": True}}
    overrides = [{"match": "*.1.*", "skip": True}]
    request = request_for(
        model=str(model), method=method, domains=longer(texts), sparsity={"target": 0.5, "overrides": overrides}
    )
    prune(request)
    dense, after = load_file(model / "model.safetensors"), written(request)
    said = {each["name"]: each["reason"] for each in plan(PruningJob.from_dict(request))["skipped"]}
    for name, tensor in after.items():
        inside, left = ".layers." in name, ".layers.1." in name
        changed = not torch.equal(tensor, dense[name])
        assert changed is (inside and not left), name
        if tensor.ndim == 1:
            assert said[name].endswith("; tuned with its block") is changed
    assert report(request)["skipped"] == plan(PruningJob.from_dict(request))["skipped"]


def test_matrices_that_an_override_skips_stay(request_for: Request, texts: Path, tiny_llama: Path) -> None:
    overrides = [{"match": "*.up_proj.weight", "skip": True}]
    request = request_for(method=TUNED, domains=longer(texts), sparsity={"target": 0.5, "overrides": overrides})
    prune(request)
    dense = load_file(tiny_llama / "model.safetensors")
    left = [name for name in dense if name.endswith("up_proj.weight")]
    assert left
    assert all(torch.equal(written(request)[name], dense[name]) for name in left)


@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
def test_any_method_is_followed_by_tuning(request_for: Request, texts: Path, method: str) -> None:
    request = request_for(method={"name": method, "refine": "block"}, domains=longer(texts))
    recorder = Recorder()
    prune(request, recorder)
    assert all(record.notes["refine"]["kept"] for record in records(recorder).values())


def test_a_block_is_tuned_towards_the_middle_of_both_streams(request_for: Request, texts: Path) -> None:
    """With the target prefix later blocks have other targets; in front of the first block both streams are one."""
    found = []
    for number, target in enumerate(("dense", "prefix")):
        recorder = Recorder()
        method = {**TUNED, "target": target}
        prune(request_for(method=method, domains=longer(texts), workspace=f"{number}"), recorder)
        found.append([block.records[0].notes["refine"]["before"] for block in recorder.blocks])
    assert found[0][0] == pytest.approx(found[1][0], rel=0.2)
    assert found[1][1] > found[0][1]


def test_every_step_can_be_stopped_and_progress_knows_of_it(request_for: Request, texts: Path) -> None:
    class Listener(Recorder):
        def tell(self, record: Message) -> None:
            super().tell(record)
            if isinstance(record, Progress):
                self.last = record

    counts = []
    for epochs in (1, 3):
        method = {"name": "wanda", "refine": "block", "refinement": {"epochs": epochs}}
        listener = Listener()
        prune(request_for(method=method, domains=longer(texts), workspace=f"{epochs}"), listener)
        counts.append(listener.checks)
        fractions = [progress.fraction for progress in listener.progresses]
        assert fractions == sorted(fractions)
        assert listener.last.fraction == 1
    # Of 27 windows, two a step, in each of two blocks.
    assert counts[1] - counts[0] == 2 * 2 * 14


def test_the_plan_counts_what_tuning_holds(request_for: Request, texts: Path) -> None:
    plain, tuned = (
        look(PruningJob.from_dict(request_for(method=method, domains=longer(texts)))) for method in (ADMM, TUNED)
    )
    assert memory(plain).parts["tuning"] == 0 < memory(tuned).parts["tuning"]
    assert memory(tuned).parts["hidden_states"] == 2 * memory(plain).parts["hidden_states"]
    works = [plan(PruningJob.from_dict(request_for(method=m)))["estimates"]["operations"] for m in (ADMM, TUNED)]
    assert works[1] > works[0]
