"""Whole jobs on tiny models, by the files they leave.

Slow: every method, mode and pattern goes through the files that it writes.
"""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur.spec.records.pipe import Output
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, known_again, prune
from worker.pruning import EvaluationSpec, PruningJob, Stopped, Text, UserError, perplexities, plan

pytestmark = pytest.mark.slow

COPAL_ADMM = {"name": "copal", "weight_update": "admm"}
TOWARDS_PREFIX = {"name": "admm", "target": "prefix"}
WEIGHED = {"name": "admm", "output_weighting": "gradients"}
TUNED = {**TOWARDS_PREFIX, "refine": "block", "refinement": {"norms": True}}


def contents(request: dict[str, Any], output: Output) -> dict[str, bytes]:
    return {file.path: (Path(request["workspace"]) / file.local).read_bytes() for file in output.files}


def weights(request: dict[str, Any], stage: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted((Path(request["workspace"]) / f"stage-{stage:02d}/model").glob("*.safetensors")):
        found |= load_file(path)
    return found


STOPS = list(itertools.product((0, 1), (0, 1, 2)))
"""After that many stages and blocks of the next."""


@pytest.mark.parametrize(
    ("method", "stops"),
    [
        (COPAL_ADMM, STOPS),
        ({"name": "admm"}, [(0, 1), (1, 1)]),
        ({"name": "alps"}, [(0, 1), (1, 1)]),
        (TOWARDS_PREFIX, STOPS),
        ({"name": "admm", "inputs": "dense"}, STOPS),
        ({"name": "wanda", "inputs": "dense", "mode": "sequential"}, STOPS),
        (WEIGHED, [(0, 1), (1, 1)]),
        (TUNED, [(0, 1), (1, 1)]),
        ({"name": "wanda", "mode": "sequential", "refine": "block"}, [(0, 1), (1, 1)]),
    ],
    ids=[
        "copal+admm",
        "admm",
        "alps",
        "prefix",
        "dense inputs",
        "and sequential",
        "weighed",
        "tuned",
        "tuned again",
    ],
)
def test_interrupted_job_ends_in_the_same_bytes(
    request_for: Request, method: dict[str, Any], stops: list[tuple[int, int]]
) -> None:
    """Whatever block the run was stopped after, the resumed one gives bit-identical files."""
    whole = request_for(domains="ab", method=method)
    recorder = Recorder()
    expected = contents(whole, prune(whole, recorder))
    for stages, blocks in stops:
        again = request_for(domains="ab", method=method, workspace=f"again-{stages}-{blocks}")
        copy_committed(Path(whole["workspace"]), Path(again["workspace"]), stages, blocks)
        reported = known_again(e for e in recorder.evaluations if e.row <= stages)
        again["resume"] = {"stages": stages, "blocks": blocks, "evaluations": reported}
        listener = Recorder()
        assert contents(again, prune(again, listener)) == expected
        first = stages * 2 + blocks
        assert [(b.stage, b.block) for b in listener.blocks] == [(i // 2, i % 2) for i in range(first, 4)]
        assert {e.row for e in listener.evaluations} == set(range(stages + 1, 3))


def copy_committed(source: Path, target: Path, stages: int, blocks: int) -> None:
    """Only what a block's commit holds: shards and states."""
    for stage in range(2):
        for block in range(2 if stage < stages else blocks if stage == stages else 0):
            for name in (
                f"stage-{stage:02d}/model/model-{block + 1:05d}-of-00003.safetensors",
                f"stage-{stage:02d}/state/block-{block:04d}.safetensors",
            ):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, target / name)


@pytest.mark.parametrize(
    "method", [COPAL_ADMM, TOWARDS_PREFIX | WEIGHED, TUNED], ids=["copal+admm", "both", "tuned"]
)
def test_same_job_gives_the_same_bytes(request_for: Request, method: dict[str, Any]) -> None:
    one, two = request_for(method=method, workspace="one"), request_for(method=method, workspace="two")
    assert contents(one, prune(one)) == contents(two, prune(two))


def test_report_has_no_path_and_no_clock(request_for: Request, tmp_path: Path) -> None:
    request = request_for(domains="ab")
    prune(request)
    text = (Path(request["workspace"]) / "report.json").read_text()
    assert str(tmp_path) not in text
    assert "seconds" not in text
    report = json.loads(text)
    assert [row["after"] for row in report["evaluation"]["rows"]] == [None, "a", "b"]
    assert len(report["matrices"]) == 2
    assert report["summary"]["sparsity"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("allocation", ["uniform", "owl", "error"])
@pytest.mark.parametrize(
    "method",
    [{"name": name} for name in ("magnitude", "wanda", "copal", "sparsegpt", "admm", "alps", "auto")]
    + [COPAL_ADMM],
    ids=lambda method: "+".join((method["name"], *list(method.values())[1:])),
)
def test_sequential_pruning_stands_still(request_for: Request, method: dict[str, Any], allocation: str) -> None:
    """Masks stay exactly: what is zero goes again, at no cost, so there is nothing to make up for either."""
    sparsity = {"target": 0.5, "allocation": allocation}
    request = request_for(domains="ab", method={**method, "mode": "sequential"}, sparsity=sparsity)
    recorder = Recorder()
    prune(request, recorder)
    later = weights(request, 1)
    assert all(torch.equal(first, later[key]) for key, first in weights(request, 0).items())
    changed = {record.mask_changed for b in recorder.blocks if b.stage for record in b.records}
    assert changed == {0.0}
    assert len({record.mask_sha256 for b in recorder.blocks for record in b.records}) == 14


@pytest.mark.parametrize("name", ["magnitude", "wanda", "copal", "sparsegpt", "admm", "alps", "auto"])
def test_sequential_pruning_by_a_pattern_stands_still(request_for: Request, name: str) -> None:
    request = request_for(domains="ab", method={"name": name, "mode": "sequential"}, sparsity={"pattern": "2:4"})
    prune(request)
    first, second = weights(request, 0), weights(request, 1)
    assert all(torch.equal(first[key], second[key]) for key in first)


SOLVERS = [
    {"name": "admm"},
    {"name": "alps"},
    {"name": "sparsegpt"},
    {"name": "sparsegpt", "weight_update": "admm"},
    {"name": "wanda", "weight_update": "admm"},
    {"name": "copal", "weight_update": "admm", "mask": "searched"},
]


@pytest.mark.parametrize("method", SOLVERS, ids=lambda method: "+".join(method.values()))
@pytest.mark.parametrize("allocation", ["uniform", "error"])
def test_every_solver_goes_towards_the_dense_prefix(
    request_for: Request, method: dict[str, str], allocation: str
) -> None:
    """The first block has no gap before it; behind it the records say what was taken, and down is left out."""
    sparsity = {"target": 0.7, "allocation": allocation}
    first: list[torch.Tensor] = []
    for target in ("dense", "prefix"):
        recorder = Recorder()
        request = request_for(method=method | {"target": target}, sparsity=sparsity, workspace=target)
        prune(request, recorder)
        first.append(weights(request, 0)["model.layers.0.mlp.gate_proj.weight"])
    assert torch.equal(*first)
    notes = {record.matrix: record.notes for block in recorder.blocks for record in block.records}
    assert all(("target" in own) is ("down_proj" not in name) for name, own in notes.items())
    shares = {name: own["target"]["share"] for name, own in notes.items() if "target" in own}
    assert all(share == 0 for name, share in shares.items() if ".0." in name)
    assert any(shares.values())
    taken = [own["target"] for own in notes.values() if "target" in own and own["target"]["share"]]
    assert all(own["gap"] > 0 and own["error"] > 0 for own in taken)


@pytest.mark.parametrize("method", SOLVERS, ids=lambda method: "+".join(method.values()))
@pytest.mark.parametrize("sparsity", [{"pattern": "2:4"}, {"target": 0.6, "allocation": "error"}], ids=str)
def test_every_solver_weighs_outputs(
    request_for: Request, method: dict[str, str], sparsity: dict[str, Any]
) -> None:
    """On the masks found without; what is gained on the windows solved on is so, as a rule, on those held out."""
    recorders = []
    for weighting in ("none", "gradients"):
        recorders.append(Recorder())
        fields = {"method": method | {"output_weighting": weighting}, "sparsity": sparsity}
        prune(request_for(workspace=weighting, **fields), recorders[-1])
    plain, weighed = ([record for block in each.blocks for record in block.records] for each in recorders)
    notes = [record.notes["output_weighting"] for record in weighed]
    assert not any("output_weighting" in record.notes for record in plain)
    assert all(own["gained"] > 0 for own in notes)
    assert sum(own["held_out"] for own in notes) > 0
    first = len(recorders[0].blocks[0].records)
    assert [r.mask_sha256 for r in plain[:first]] == [r.mask_sha256 for r in weighed[:first]]
    assert all(one.weights_sha256 != two.weights_sha256 for one, two in zip(plain, weighed, strict=True))


def test_behind_blocks_that_are_left_as_they_are_there_is_no_gap(request_for: Request) -> None:
    overrides = [{"match": "model.layers.0.*", "skip": True}]
    recorder = Recorder()
    prune(request_for(method=TOWARDS_PREFIX, sparsity={"target": 0.4, "overrides": overrides}), recorder)
    gaps = [record.notes["target"]["gap"] for record in recorder.blocks[1].records if "target" in record.notes]
    assert gaps == [0.0] * 6


def test_an_override_that_only_selects_is_left_out_of_the_dense_prefix(request_for: Request) -> None:
    overrides = [{"match": "*.mlp.*", "method": "wanda"}, {"match": "*.v_proj.weight", "method": "sparsegpt"}]
    sparsity = {"target": 0.7, "allocation": "uniform", "overrides": overrides}
    recorder = Recorder()
    prune(request_for(method=TOWARDS_PREFIX, sparsity=sparsity), recorder)
    notes = {record.matrix: record.notes for block in recorder.blocks for record in block.records}
    assert {name.rpartition(".self_attn.")[2] for name, own in notes.items() if "target" in own} == {
        f"{part}_proj.weight" for part in "qkvo"
    }


def test_restart_forgets_the_first_domain(request_for: Request) -> None:
    request = request_for(domains="ab", method={"name": "wanda", "mode": "restart"})
    prune(request)
    alone = request_for(domains="b", method={"name": "wanda"}, workspace="alone")
    prune(alone)
    both, single = weights(request, 1), weights(alone, 0)
    assert all(torch.equal(both[key], single[key]) for key in single)


def test_accumulated_statistics_change_the_mask(request_for: Request) -> None:
    recorder = Recorder()
    prune(request_for(domains="ab", method={"name": "wanda"}), recorder)
    changed = [record.mask_changed for b in recorder.blocks if b.stage == 1 for record in b.records]
    assert all(share is not None and 0 <= share < 0.5 for share in changed)
    assert any(share for share in changed)
    assert all(record.mask_changed is None for b in recorder.blocks if b.stage == 0 for record in b.records)


def test_one_domain_of_copal_is_wanda(request_for: Request) -> None:
    one, two = request_for(method={"name": "copal"}), request_for(method={"name": "wanda"}, workspace="two")
    assert prune(one).summary.weights_sha256 == prune(two).summary.weights_sha256


@pytest.mark.parametrize("mode", ["accumulated", "restart", "sequential"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "sparsegpt", "sparsegpt": {"block": 32}},
        {"name": "sparsegpt", "weight_update": "admm", "comparison_group": "row"},
        {"name": "alps", "comparison_group": "row"},
    ],
    ids=["sparsegpt", "sparsegpt+admm", "alps"],
)
def test_solvers_run_over_domains_in_every_mode(request_for: Request, method: dict[str, Any], mode: str) -> None:
    recorder = Recorder()
    request = request_for(domains="ab", method=method | {"mode": mode})
    output = prune(request, recorder)
    assert output.summary.zeros * 2 == output.summary.weights
    update = "+admm" if "weight_update" in method else ""
    assert {record.solver for b in recorder.blocks for record in b.records} == {method["name"] + update}
    described = json.loads((Path(request["workspace"]) / "report.json").read_text())["method"]
    assert described["comparison_group"] == method.get("comparison_group", "matrix")
    assert described[method["name"]]["damping"] == 0.01
    if mode == "accumulated":
        first, second = weights(request, 0), weights(request, 1)
        assert any(not torch.equal(first[key], second[key]) for key in first)


def test_events_are_complete_and_in_order(request_for: Request) -> None:
    recorder = Recorder()
    request = request_for(domains="ab", method=COPAL_ADMM)
    output = prune(request, recorder)
    assert [(e.row, e.domain) for e in recorder.evaluations] == [(row, d) for row in range(3) for d in "ab"]
    assert [(b.stage, b.block) for b in recorder.blocks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [s.domain for s in recorder.stages] == ["a", "b"]
    assert all(s.zeros * 2 == s.weights for s in recorder.stages)
    fractions = [p.fraction for p in recorder.progresses]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert recorder.checks > 50
    for block in recorder.blocks:
        assert (len(block.records), len(block.sensitivity)) == (7, 2 * 7)
        for role, path in block.files:
            assert role in ("weights", "state")
            assert (Path(request["workspace"]) / path).is_file()
        assert all(0 < (record.relative_error or 0) < 1 for record in block.records)
    paths = {file.path for file in output.files}
    assert {"model/config.json", "model/tokenizer.json", "state/block-0001.safetensors", "report.json"} <= paths
    assert "model/LICENSE.txt" in paths


def test_overrides_reach_the_files(request_for: Request) -> None:
    overrides = [{"match": "*.down_proj.weight", "target": 0.4}, {"match": "model.layers.0.*", "skip": True}]
    request = request_for(
        sparsity={"target": 0.5, "allocation": "uniform", "overrides": overrides}, method={"name": "admm"}
    )
    planned = plan(PruningJob.from_dict(request))
    output = prune(request)
    written, dense = weights(request, 0), load_file(Path(request["model"]) / "model.safetensors")
    assert output.summary.zeros == round(output.summary.weights / 2) == planned["zeros"]
    for name, tensor in written.items():
        if ".layers.0." in name:
            assert torch.equal(tensor, dense[name])
    for entry in planned["matched"]:
        assert int((written[entry["name"]] == 0).sum()) == entry["zeros"]
    reasons = {entry["name"]: entry["reason"] for entry in planned["skipped"]}
    assert "override" in reasons["model.layers.0.mlp.up_proj.weight"]
    assert "outside" in reasons["model.embed_tokens.weight"]


def test_each_matrix_is_pruned_by_the_pattern_and_method_of_its_override(request_for: Request) -> None:
    overrides = [
        {"match": "*.mlp.*", "pattern": "2:4", "method": "admm"},
        {"regex": r".*\.0\.mlp\.up_proj\.weight", "method": "magnitude"},
    ]
    request = request_for(sparsity={"target": 0.6, "allocation": "uniform", "overrides": overrides}, domains="ab")
    recorder = Recorder()
    output = prune(request, recorder)
    assert output.summary.zeros == round(0.6 * output.summary.weights)
    dense = load_file(Path(request["model"]) / "model.safetensors")
    for stage in (0, 1):
        written = weights(request, stage)
        for record in (record for block in recorder.blocks if block.stage == stage for record in block.records):
            tensor = written[record.matrix]
            kept = tensor[tensor != 0]
            if "mlp" not in record.matrix:
                assert (record.pattern, record.solver, record.notes) == ("unstructured", "wanda", {})
                assert torch.equal(kept, dense[record.matrix][tensor != 0])
                continue
            assert int((tensor.reshape(tensor.shape[0], -1, 4) != 0).sum(dim=2).max()) == 2
            assert record.pattern == "2:4"
            chosen = "layers.0.mlp.up_proj" in record.matrix
            assert record.solver == ("magnitude" if chosen else "admm")
            assert record.notes["overrides"] == [*(["*.mlp.*"]), *([overrides[1]["regex"]] if chosen else [])]
            # Only ADMM moves the weights that it keeps.
            assert torch.equal(kept, dense[record.matrix][tensor != 0]) is chosen


def test_a_method_of_an_override_gives_what_the_job_would_give_with_it(request_for: Request) -> None:
    alone = request_for(method={"name": "admm"}, workspace="alone")
    mixed = request_for(
        sparsity={"target": 0.5, "allocation": "uniform", "overrides": [{"match": "*", "method": "admm"}]}
    )
    assert prune(alone).summary.weights_sha256 == prune(mixed).summary.weights_sha256


@pytest.mark.parametrize("pattern", ["2:4", "5:8"])
@pytest.mark.parametrize("name", ["wanda", "admm", "magnitude", "sparsegpt", "alps"])
def test_n_of_m_holds_in_the_files(request_for: Request, name: str, pattern: str) -> None:
    request = request_for(sparsity={"pattern": pattern}, method={"name": name})
    prune(request)
    kept, group = map(int, pattern.split(":"))
    for key, tensor in weights(request, 0).items():
        if "proj" in key:
            assert int((tensor.reshape(tensor.shape[0], -1, group) != 0).sum(dim=2).max()) == kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_keeps_the_dtype_and_exact_zeros(request_for: Request, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = make_tiny_llama(tmp_path / "half", dtype=dtype)
    request = request_for(model=str(folder), method={"name": "admm"})
    output = prune(request)
    assert {tensor.dtype for tensor in weights(request, 0).values()} == {dtype}
    assert output.summary.sparsity == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(request_for: Request, tmp_path: Path, tied: bool) -> None:
    request = request_for(model=str(make_tiny_llama(tmp_path / "model", tied=tied)))
    prune(request)
    assert ("lm_head.weight" in weights(request, 0)) is not tied
    model = AutoModelForCausalLM.from_pretrained(Path(request["workspace"]) / "stage-00/model")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_reported_perplexity_is_that_of_the_files(request_for: Request, texts: Path) -> None:
    recorder = Recorder()
    request = request_for(method={"name": "admm"})
    prune(request, recorder)
    folder = Path(request["workspace"]) / "stage-00/model"
    found = perplexities(
        folder, {"c": Text(path=texts / "c.txt")}, EvaluationSpec(sequence_length=32, max_windows=4)
    )["c"]
    assert found.perplexity == recorder.evaluations[-1].perplexity
    assert found.protocol == recorder.evaluations[-1].protocol
    model = AutoModelForCausalLM.from_pretrained(folder)
    windows = recorder.evaluations[-1].windows
    assert windows == 4
    assert model.num_parameters() > 0


def test_domain_without_evaluation_has_no_column(request_for: Request) -> None:
    request = request_for(domains="ab")
    request["domains"][0]["evaluation"] = None
    recorder = Recorder()
    output = prune(request, recorder)
    assert {e.domain for e in recorder.evaluations} == {"b"}
    assert output.summary.bwt is None


def test_stop_is_obeyed(request_for: Request) -> None:
    class Impatient(Recorder):
        def check(self) -> None:
            super().check()
            if self.checks > 25:
                raise Stopped

    with pytest.raises(Stopped):
        prune(request_for(domains="ab"), Impatient())


def test_windows_longer_than_the_model_are_refused(request_for: Request) -> None:
    request = request_for(evaluation={"sequence_length": 4096, "max_windows": 1})
    with pytest.raises(UserError) as caught:
        plan(PruningJob.from_dict(request))
    assert caught.value.field == "/evaluation/sequence_length"


def test_torch_settings_are_put_back(request_for: Request) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.is_grad_enabled()
    prune(request_for(threads=1))
    assert before == (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.is_grad_enabled())
