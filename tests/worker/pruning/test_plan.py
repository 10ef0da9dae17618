import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.packed import Base, pack_file
from secateur.safetensors_header import read_header
from secateur.spec.job import Evaluation
from secateur.spec.method import read_method
from secateur.spec.request import Text
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Request, prune
from tests.worker.pruning.lineages import chain, continuing
from worker.pruning import PruningJob, UserError, perplexities, plan
from worker.pruning.artifact import artifact
from worker.pruning.cost import solve_work
from worker.pruning.disk import disk
from worker.pruning.estimate import memory
from worker.pruning.model.experts import Expert
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.plan import look
from worker.pruning.subject import input_widths, width


def planned(request: dict[str, Any]) -> dict[str, Any]:
    return plan(PruningJob.from_dict(request))


def test_every_tensor_is_matched_or_skipped_with_a_reason(request_for: Request) -> None:
    found = planned(request_for(sparsity={"target": 0.5, "overrides": [{"match": "*.0.mlp.*", "skip": True}]}))
    names = [entry["name"] for entry in (*found["matched"], *found["skipped"])]
    subject = look(PruningJob.from_dict(request_for()))
    assert sorted(names) == sorted(subject.checkpoint.tensors)
    assert all(entry["reason"] for entry in found["skipped"])
    reasons = {entry["name"]: entry["reason"] for entry in found["skipped"]}
    assert reasons["model.layers.0.mlp.up_proj.weight"] == "skipped by the override *.0.mlp.*"
    assert found["zeros"] == sum(entry["zeros"] for entry in found["matched"]) == round(found["weights"] / 2)


def test_the_report_lists_what_was_skipped_as_the_plan_did(request_for: Request) -> None:
    request = request_for(sparsity={"target": 0.5, "overrides": [{"match": "*.0.mlp.*", "skip": True}]})
    prune(request)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert report["skipped"] == planned(request)["skipped"]


def test_overlaps_name_the_matrices_and_the_winners(request_for: Request) -> None:
    overrides = [
        {"match": "*.mlp.*", "target": 0.4, "method": "admm"},
        {"regex": r".*\.1\.mlp\.down_proj\.weight", "pattern": "2:4"},
    ]
    found = planned(request_for(sparsity={"target": 0.5, "overrides": overrides}))
    assert found["overlaps"] == [
        {
            "overrides": [0, 1],
            "winners": {"pattern": 1, "method": 0},
            "matrices": ["model.layers.1.mlp.down_proj.weight"],
        }
    ]
    assert [(entry["matches"], entry["decides"]) for entry in found["overrides"]] == [(6, 6), (1, 1)]
    entry = next(entry for entry in found["matched"] if entry["name"] == "model.layers.1.mlp.down_proj.weight")
    assert (entry["pattern"], entry["solver"], entry["target"]) == ("2:4", "admm", 0.5)
    assert entry["overrides"] == ["*.mlp.*", overrides[1]["regex"]]


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_rates_that_an_allocation_will_move_are_not_called_settled(request_for: Request, allocation: str) -> None:
    overrides = [{"match": "*.down_proj.weight", "target": 0.4}]
    found = planned(request_for(sparsity={"target": 0.5, "allocation": allocation, "overrides": overrides}))
    assert {entry["name"] for entry in found["matched"] if entry["settled"]} == {
        f"model.layers.{block}.mlp.down_proj.weight" for block in (0, 1)
    }
    assert all(entry["settled"] for entry in planned(request_for())["matched"])


@pytest.mark.parametrize(
    ("method", "domains", "output"),
    [
        ("wanda", "a", {}),
        ("admm", "ab", {}),
        ("admm", "a", {"state_precision": "float32"}),
        ("wanda", "abc", {"keep_domain_statistics": True}),
        ("admm", "ab", {"keep_domain_statistics": True, "state_precision": "float32"}),
        ("across", "ab", {}),
        ("across", "a", {"state_precision": "float32"}),
    ],
)
def test_estimated_disk_is_what_the_job_then_takes(
    request_for: Request, method: str, domains: str, output: dict[str, Any]
) -> None:
    across = {"name": "admm", "target": "prefix", "output_weighting": "gradients"}
    solver = across if method == "across" else {"name": method}
    request = request_for(method=solver, domains=domains, output=output)
    job = PruningJob.from_dict(request)
    estimate = disk(look(job))
    assert sum(estimate.parts.values()) == estimate.total
    prune(request)
    workspace = Path(request["workspace"])
    weights = sum(path.stat().st_size for path in workspace.glob("stage-*/model/*.safetensors"))
    state = sum(path.stat().st_size for path in workspace.glob("stage-*/state/*"))
    # The files' headers, and the records that travel in the state, come on top: they count in a model this small.
    documents = 16_384 * len(job.domains) * 2
    assert estimate.parts["stages_weights"] <= weights <= estimate.parts["stages_weights"] + documents
    assert estimate.parts["stages_state"] <= state <= estimate.parts["stages_state"] + documents * len(job.domains)


@pytest.mark.parametrize("form", ["dense", "packed", "masks"])
def test_the_estimated_artifact_is_what_the_job_then_leaves(
    request_for: Request, tmp_path: Path, tiny_llama: Path, form: str
) -> None:
    request = request_for(
        method={"name": "wanda"}, sparsity={"target": 0.5, "further": [0.7]}, output={"form": form}
    )
    estimate = artifact(look(PruningJob.from_dict(request)))
    assert sum(estimate.parts.values()) == estimate.total
    output, found = prune(request), {"models": 0, "state": 0}
    base = Base.open(tiny_llama) if form == "masks" else None
    for file in output.files:
        path = Path(request["workspace"]) / file.local
        if file.path.startswith("state/"):
            found["state"] += path.stat().st_size
        elif file.path.endswith(".safetensors"):
            (folder := tmp_path / file.path).mkdir(parents=True)
            written = path if form == "dense" else pack_file(path, folder, base)
            found["models"] += tensor_bytes(written)
    assert estimate.parts["models"] <= found["models"] <= 1.01 * estimate.parts["models"]
    assert estimate.parts["state"] <= found["state"] <= estimate.parts["state"] + 32_768


def tensor_bytes(path: Path) -> int:
    """Of a safetensors file's tensors."""
    return path.stat().st_size - read_header(path).begin


def test_disk_counts_the_job_that_is_continued(request_for: Request) -> None:
    (parent,) = chain(request_for, "ab", output={"keep_domain_statistics": True})
    request = request_for(domains="c", workspace="child", output={"keep_domain_statistics": True})
    parts = disk(look(PruningJob.from_dict(continuing(parent, request)))).parts
    base = sum(path.stat().st_size for path in (Path(request["workspace"]) / "base").glob("*/*"))
    # The shard of what is outside the blocks is not needed there; the records of both stages come on top.
    outer = (parent.folder / "stage-01/model/model-00003-of-00003.safetensors").stat().st_size
    assert parts["base"] <= base + outer <= parts["base"] + 2 * 2 * 32_768
    assert "base" not in disk(look(PruningJob.from_dict(parent.request))).parts


def test_memory_counts_what_the_state_is_to_keep(request_for: Request) -> None:
    def state(**fields: Any) -> float:
        return memory(look(PruningJob.from_dict(request_for(domains="abc", **fields)))).parts["state"]

    triangles = sum(side * (side + 1) // 2 for side in (64, 64, 64, 128))
    vectors = 4 * (64 + 64 + 64 + 128)
    plain, solved = state(), state(method={"name": "admm"})
    assert solved - plain == 2 * triangles
    assert state(method={"name": "admm"}, output={"state_precision": "float32"}) - solved == 2 * triangles
    kept = state(output={"keep_domain_statistics": True})
    assert kept - plain == 3 * (2 * triangles + vectors)


def test_memory_follows_the_widths_and_the_windows_but_not_the_blocks(
    request_for: Request, tmp_path: Path
) -> None:
    def parts(**changes: Any) -> dict[str, float]:
        return memory(look(PruningJob.from_dict(request_for(**changes)))).parts

    plain = parts()
    deeper = parts(model=str(make_tiny_llama(tmp_path / "deep", blocks=4)))
    assert {**deeper, "process": 0} == {**plain, "process": 0}
    solving = parts(method={"name": "admm"})
    assert solving["statistics"] > 1.5 * plain["statistics"]
    request = request_for(domains="ab")
    for domain in request["domains"]:
        domain["calibration"]["samples"] *= 10
    assert memory(look(PruningJob.from_dict(request))).parts["hidden_states"] > 5 * plain["hidden_states"]
    assert plain["process"] > 0


def test_the_groups_of_a_llama_block_are_counted_right() -> None:
    def matrix(module: str, rows: int, columns: int) -> PrunableWeight:
        return PrunableWeight(f"model.layers.0.{module}.weight", module, rows, columns, False)

    attention = [
        matrix(f"self_attn.{part}_proj", rows, 64) for part, rows in zip("qkvo", (64, 32, 32, 64), strict=True)
    ]
    mlp = [matrix("mlp.gate_proj", 128, 64), matrix("mlp.up_proj", 128, 64), matrix("mlp.down_proj", 64, 128)]
    assert sorted(input_widths(attention + mlp)) == [64, 64, 64, 128]
    assert input_widths([]) == []


def test_every_expert_has_inputs_of_its_own() -> None:
    experts = [
        PrunableWeight(f"{part}.{number}", "mlp.experts", rows, columns, expert=Expert(part, number, 0))
        for number in range(8)
        for part, rows, columns in (("gate", 128, 64), ("up", 128, 64), ("down", 64, 128))
    ]
    assert sorted(input_widths(experts)) == [64] * 8 + [128] * 8


def test_hidden_states_beyond_the_budget_go_to_disk(request_for: Request) -> None:
    subject = look(PruningJob.from_dict(request_for()))
    whole = memory(subject).parts["hidden_states"]
    assert disk(subject).parts["hidden_states"] == 0
    tight = look(PruningJob.from_dict(request_for(hidden_bytes=1000)))
    assert memory(tight).parts["hidden_states"] == 1000
    assert disk(tight).parts["hidden_states"] == whole - 1000


@pytest.mark.parametrize(("tokens", "windows"), [(256, 1), (700, 3), (2**20, 4)])
def test_a_survey_holds_whole_windows_twice(request_for: Request, tokens: int, windows: int) -> None:
    """Their last hidden states and the gradients of these; on disk, the inputs of all blocks."""
    request = request_for(sparsity={"target": 0.5, "survey_tokens": tokens})
    request["domains"][0]["calibration"] |= {"samples": 4, "sequence_length": 200}
    subject = look(PruningJob.from_dict(request))
    states = 4 * width(subject.graph) * windows * 200
    assert memory(subject).parts["survey"] == 2 * states
    assert disk(subject).parts["hidden_states"] == states * len(subject.graph.blocks)
    request["sparsity"] |= {"allocation": "uniform"}
    assert memory(look(PruningJob.from_dict(request))).parts["survey"] == 0


def test_time_grows_with_the_work(request_for: Request) -> None:
    short = planned(request_for())["estimates"]["seconds"]
    request = request_for(domains="abc", method={"name": "admm", "admm": {"iterations": 1000}})
    long = planned(request)["estimates"]["seconds"]
    assert 0 < short["total"] < long["total"]
    assert short["total"] == pytest.approx(sum(short["parts"].values()))
    assert "GFLOP/s" in short["how"]


def test_inputs_behind_dense_blocks_are_planned_with_one_pass_fewer_in_stages_up_to_one_half(
    request_for: Request,
) -> None:
    found = {}
    for inputs in ("pruned", "dense", "dense_to_half"):
        for target in (0.5, 0.7):
            sparsity = {"target": target, "allocation": "uniform"}
            request = request_for(method={"name": "admm", "inputs": inputs}, sparsity=sparsity)
            found[inputs, target] = planned(request)["estimates"]["seconds"]["parts"]["forward"]
    assert found["dense", 0.5] < found["pruned", 0.5]
    assert found["dense_to_half", 0.5] == found["dense", 0.5]
    assert found["dense_to_half", 0.7] == found["pruned", 0.7]


def test_choosing_counts_trials_and_two_solutions(request_for: Request) -> None:
    """Of a matrix as wide as a model's: more than plain ADMM's work twice, less than all candidates' wholes."""
    matrix = PrunableWeight("m", "m", 1536, 576)
    auto, admm, alps = (read_method({"name": name}) for name in ("auto", "admm", "alps"))
    every = 7 * solve_work(admm, matrix) + solve_work(alps, matrix)
    assert 2 * solve_work(admm, matrix) < solve_work(auto, matrix) < every
    aim = {"target": "prefix", "output_weighting": "gradients"}
    aimed = [solve_work(read_method({"name": name, **aim}), matrix) for name in ("auto", "admm")]
    more = [of_aimed - solve_work(plain, matrix) for of_aimed, plain in zip(aimed, (auto, admm), strict=True)]
    assert more[0] == pytest.approx(2 * more[1])
    plain, choosing = (
        memory(look(PruningJob.from_dict(request_for(method={"name": name})))).parts for name in ("admm", "auto")
    )
    assert choosing["solver"] > plain["solver"]
    assert choosing["statistics"] > plain["statistics"]


def test_a_plan_is_refused_like_the_job(request_for: Request) -> None:
    with pytest.raises(UserError) as caught:
        planned(request_for(sparsity={"target": 0.5, "overrides": [{"match": "*.mpl.*", "skip": True}]}))
    assert (caught.value.code, caught.value.field) == ("unmatched_override", "/sparsity/overrides/0/match")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_by_whoever_would_use_it(
    device: str, request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    request = request_for(device=device)
    words = {"a": Text(path=texts / "a.txt")}
    for use in (
        lambda: planned(request),
        lambda: prune(request),
        lambda: perplexities(Path(request["model"]), words, Evaluation(sequence_length=32), device=device),
    ):
        with pytest.raises(UserError, match=f"is {device}, and torch finds 0 GPUs here: choose cpu") as caught:
            use()
        assert (caught.value.code, caught.value.field) == ("invalid_spec", "/device")
    assert planned(request | {"device": "auto"})["weights"]


@pytest.mark.parametrize(("allocation", "scope"), [("uniform", "row"), ("owl", "row"), ("error", "matrix")])
def test_the_comparison_group_is_the_one_that_counts(request_for: Request, allocation: str, scope: str) -> None:
    request = request_for(sparsity={"target": 0.5, "allocation": allocation})
    assert {entry["comparison_group"] for entry in planned(request)["matched"]} == {scope}
    prune(request)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert report["method"]["comparison_group"] == scope


def test_a_model_without_a_usable_tokenizer_is_refused(
    request_for: Request, tiny_llama: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    (model / "tokenizer.json").write_text('{"broken": true}')
    with pytest.raises(UserError, match="tokenizer"):
        planned(request_for(model=str(model)))
