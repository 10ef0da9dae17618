"""Experts in portions: what a job computes of them does not depend on how many are measured at once.

Slow: whole jobs, one portion against many.
"""

from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch

from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request, domain
from tests.worker.pruning.lineages import Ran, continuing, run_job
from worker.pruning import PruningJob, prune_block
from worker.pruning.calibration import hooks
from worker.pruning.calibration import portions as room
from worker.pruning.calibration.portions import portions
from worker.pruning.disk import disk
from worker.pruning.estimate import memory
from worker.pruning.model.experts import Expert
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.plan import look
from worker.pruning.state.moments import Accumulator

GRAM = 4 * (64**2 + 32**2)
"""Bytes of the Grams of an expert in a tiny mixture of this width."""


def group(name: str, columns: int, expert: int | None = None) -> list[PrunableWeight]:
    place = None if expert is None else Expert("up_proj", expert, 0)
    return [PrunableWeight(name, "experts", 8, columns, expert=place)]


def test_portions_hold_as_many_grams_as_fit_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [group(f"e{index}", 8, index) for index in range(5)]
    groups.insert(2, group("shared", 64))
    monkeypatch.setattr(room, "GRAMS", 2 * 4 * 8**2)
    assert [[g[0].name for g in portion] for portion in portions(groups)] == [
        ["shared", "e0", "e1"],
        ["e2", "e3"],
        ["e4"],
    ]
    monkeypatch.setattr(room, "GRAMS", 1)
    assert [len(portion) for portion in portions(groups)] == [2, 1, 1, 1, 1]
    monkeypatch.undo()
    assert portions(groups) == [groups]
    assert portions([]) == []


def test_without_experts_there_is_one_portion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GRAMS", 1)
    groups = [group("q", 8), group("down", 16)]
    assert portions(groups) == [groups]


CASES: dict[str, dict[str, Any]] = {
    "admm": {
        "method": {"name": "admm"},
        "sparsity": {"target": 0.5, "allocation": "error"},
        "output": {"keep_domain_statistics": True},
    },
    "prefix": {"method": {"name": "admm", "target": "prefix"}},
    "dense": {"method": {"name": "admm", "inputs": "dense"}},
    "token": {"method": {"name": "copal", "reading": "token"}},
    "outliers": {"sparsity": {"target": 0.5, "allocation": "owl"}},
}


def ran(
    request_for: Request, texts: Path, model: Path, workspace: str, samples: int, names: str, **fields: Any
) -> Ran:
    domains = [domain(texts, name) for name in names]
    for each in domains:
        each["calibration"] |= {"samples": samples, "held_out": 0.25}
    return run_job(request_for(model=str(model), domains=domains, workspace=workspace, **fields))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["qwen3-moe", "qwen2-moe"])
def test_fed_experts_are_the_same_to_the_bit_in_one_portion_and_in_many(
    case: str, family: str, request_for: Request, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny(family, tmp_path / "model")
    found = []
    for name, size in (("whole", room.GRAMS), ("parts", GRAM)):
        monkeypatch.setattr(room, "GRAMS", size)
        found.append(ran(request_for, texts, model, name, 32, "ab", **CASES[case]))
    whole, parts = found
    for record in whole.report()["matrices"][-1]:
        assert not record["notes"].get("expert", {}).get("stand_ins"), record["matrix"]
    assert parts.weights() == whole.weights()
    one, other = parts.tensors("state"), whole.tensors("state")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert parts.perplexities() == whole.perplexities()


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"name": "admm"}, {"name": "copal", "reading": "token"}])
def test_starved_experts_have_the_same_stand_ins(
    method: dict[str, Any], request_for: Request, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("mixtral", tmp_path / "model", num_local_experts=8)
    found = []
    for name, size in (("whole", room.GRAMS), ("parts", GRAM)):
        monkeypatch.setattr(room, "GRAMS", size)
        found.append(ran(request_for, texts, model, name, 3, "a", method=method))
    whole, parts = (each.report()["matrices"][0] for each in found)
    assert any(record["notes"].get("expert", {}).get("stand_ins") for record in whole)
    ordered = sorted(parts, key=lambda record: record["matrix"])
    for one, other in zip(ordered, sorted(whole, key=lambda record: record["matrix"]), strict=True):
        assert one["notes"].get("expert") == other["notes"].get("expert")
        assert one["zeros"] == other["zeros"]
    one, other = (each.tensors("state") for each in found)
    for name, value in one.items():
        if "block-0000" in name:  # later blocks read what was pruned, where a bit can turn a mask
            torch.testing.assert_close(value, other[name], rtol=2e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_never_more_grams_than_a_portion_has(
    request_for: Request, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "GRAMS", 2 * GRAM)
    grams: WeakSet[torch.Tensor] = WeakSet()
    solve, alive = prune_block._prune_group, []

    class Watched(Accumulator):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            grams.add(self.gram)

    def counting(*args: Any) -> Any:
        alive.append(len(grams))
        return solve(*args)

    monkeypatch.setattr(hooks, "Accumulator", Watched)
    monkeypatch.setattr(prune_block, "_prune_group", counting)
    model = make_tiny("mixtral", tmp_path / "model", num_local_experts=8)
    ran(request_for, texts, model, "parts", 32, "a", method={"name": "admm"})
    attention = 2  # query, key and value; output
    assert max(alive) <= 2 * (attention + 2) < 2 * 8


@pytest.mark.slow
def test_a_continuation_reads_the_sums_of_a_portion_at_a_time(
    request_for: Request, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "GRAMS", GRAM)
    model = make_tiny("qwen3-moe", tmp_path / "model")
    both = ran(request_for, texts, model, "both", 32, "ab", method={"name": "admm"})
    first = ran(request_for, texts, model, "first", 32, "a", method={"name": "admm"})
    domains = [domain(texts, "b")]
    domains[0]["calibration"] |= {"samples": 32, "held_out": 0.25}
    request = request_for(model=str(model), domains=domains, workspace="second", method={"name": "admm"})
    assert run_job(continuing(first, request)).weights() == both.weights()


def test_the_plan_knows_portions(request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny("mixtral", tmp_path / "model", num_local_experts=8)
    job = PruningJob.from_dict(request_for(model=str(model), method={"name": "admm"}))
    subject = look(job)
    whole, on_disk = memory(subject), disk(subject)
    expert = 4 * (64**2 + 128**2)  # what up and down read
    monkeypatch.setattr(room, "GRAMS", 2 * expert)
    parts, more = memory(subject), disk(subject)
    copies = 3  # this domain's, its held-out windows', the sum
    assert whole.parts["statistics"] - parts.parts["statistics"] == copies * 6 * expert
    assert parts.parts["state"] == 0 < whole.parts["state"]
    tokens = job.domains[0].calibration.tokens
    assert more.parts["experts"] >= whole.parts["state"] + tokens * 64 * 4 > on_disk.parts["experts"] == 0
