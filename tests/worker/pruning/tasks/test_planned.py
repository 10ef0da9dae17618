"""What is known of a job's tasks before it runs: their work, what they take, and their data."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secateur.spec.records.plan import Lack
from secateur.spec.tasks import HarnessTask
from tests.harness import needs_harness
from tests.machines import cpu
from tests.tiny import POSITIONS, VOCABULARY, make_tiny_llama
from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, plan
from worker.pruning.cost import ROW_TOKENS, TASK_ROWS
from worker.pruning.estimate import REQUEST_BYTES
from worker.pruning.tasks import ready
from worker.pruning.tasks.ready import borrow

needs_harness()


def _index() -> dict[str, Any]:
    """As the harness has one: a group of a group, a tag and a task with settings of its own."""

    def entry(kind: str, *names: str, **cfg: Any) -> Any:
        return SimpleNamespace(kind=SimpleNamespace(name=kind), tags=set(names), cfg=cfg)

    return {
        "all": entry("GROUP", task=["some", "tagged", {"task": "c", "num_fewshot": 5}]),
        "some": entry("GROUP", task=["a", "b"]),
        "tagged": entry("TAG", "a", "c"),
        **{name: entry("TASK", task=name) for name in "abc"},
    }


def test_every_task_of_a_group_and_every_choice_counts_as_work() -> None:
    def sub(rows: int, shots: int) -> Any:
        return SimpleNamespace(eval_docs=[{}] * rows, get_config={"num_fewshot": shots}.get)

    loaded = {"tasks": {"a": sub(300, 1), "b": sub(20, 0), "c": sub(90, 0)}}
    manager = SimpleNamespace(all_subtasks=[], all_groups=["group"], load=lambda _: loaded)
    _, tokens = ready._load(manager, HarnessTask(name="group", limit=50), "/tasks/0/name")
    assert tokens == ROW_TOKENS * (50 * 2 + 20 + 50)
    assert ready._subtasks(_index(), "all") == 5
    row = {"question": "q" * 30, "choices": ["c" * 10] * 5, "answer": 0}
    assert ready._read_tokens([row] * 4, shots=0, limit=3, longest=99) == 3 * 5 * 10
    assert ready._read_tokens([row] * 4, shots=2, limit=None, longest=99) == 4 * 5 * 30
    assert ready._read_tokens([row] * 4, shots=2, limit=None, longest=16) == 4 * 5 * 16


def test_a_plan_counts_the_whole_model_and_needs_a_worker_with_the_harness(
    request_for: Request, tmp_path: Path
) -> None:
    """Of a model with so many blocks that all of them are more than what one takes."""
    folder = make_tiny_llama(tmp_path / "deep", blocks=40, hidden=192)
    request = request_for(model=str(folder), tasks=[{"name": "arc_easy"}])
    request |= {"hidden_bytes": 0, "evaluation": {"sequence_length": 32, "max_windows": 1}}
    without, having = (cpu().model_copy(update={"harness": version}) for version in (None, "0.4.13"))
    request["machines"] = [each.model_dump(mode="json") for each in (without, having)]
    known = plan(PruningJob.from_dict(request))
    found = known["estimates"]
    plain = plan(PruningJob.from_dict(request | {"tasks": []}))["estimates"]
    assert [fit["lacks"] for fit in found["workers"]] == [[Lack.harness], []]
    parts = found["memory_bytes"]["parts"]
    assert parts.keys() - plain["memory_bytes"]["parts"].keys() == {"harness", "tasks"}
    others = sum(parts[name] for name in parts.keys() - {"harness", "tasks", "process", "outer_weights"})
    whole = 4 * known["parameters"] + 12 * POSITIONS * VOCABULARY  # in float32, three copies of logits
    assert parts["tasks"] == whole - others > 0
    assert found["seconds"]["total"] > plain["seconds"]["total"]
    assert "the whole model" in found["memory_bytes"]["how"]
    two = [{"name": "arc_easy", "limit": 10}, {"name": "arc_challenge", "limit": 10_000}]
    more = plan(PruningJob.from_dict(request | {"tasks": two}))["estimates"]["memory_bytes"]["parts"]
    assert more["harness"] - parts["harness"] == REQUEST_BYTES * (10_000 - TASK_ROWS) * ROW_TOKENS


def test_a_borrowed_cache_is_links_beside_locks_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    folder = theirs / "datasets/allenai___ai2_arc/ARC-Easy/0.0.0"
    folder.mkdir(parents=True)
    (folder / "data.arrow").write_bytes(b"rows")
    (folder / "data.lock").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(ours))
    borrow(theirs)
    inside = ours / "allenai___ai2_arc/ARC-Easy/0.0.0"
    assert os.listdir(inside) == ["data.arrow"]
    assert (inside / "data.arrow").read_bytes() == b"rows"
    (inside / "data.lock").touch()
    borrow(theirs)
