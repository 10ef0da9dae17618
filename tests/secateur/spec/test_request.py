from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secateur.spec.method import (
    AdmmSettings,
    Mode,
    Objective,
    Perturbation,
    Reading,
    Schedule,
    Scope,
    WeightUpdate,
)
from secateur.spec.output import Output
from secateur.spec.sparsity import Pattern
from worker.pruning import PruningJob, SpecError


def request(*, domains: str = "a", **fields: Any) -> dict[str, Any]:
    return {
        "workspace": "work",
        "model": "model",
        "method": {"name": "wanda"},
        "sparsity": {"target": 0.5},
        "domains": [
            {"name": name, "dataset": name, "calibration": {"samples": 6}, "evaluation": "test"}
            for name in domains
        ],
        "texts": {name: {"path": f"{name}.txt"} for name in (*domains, "test", "y")},
        "evaluation": {"sequence_length": 32},
        **fields,
    }


def read(**fields: Any) -> PruningJob:
    return PruningJob.from_dict(request(**fields))


def base(**fields: Any) -> dict[str, Any]:
    """A base of two stages, the second of them evaluated."""
    return {"folder": "base", "domains": ["x", "y"], "evaluations": [{"domain": "y", "dataset": "y"}], **fields}


def test_defaults() -> None:
    job = read(method={"name": "copal"})
    method = job.method
    assert method.name == "copal"
    assert method.mode is Mode.accumulated
    assert method.weight_update is WeightUpdate.none
    assert (method.reading, method.perturbation) == (Reading.own_terms, Perturbation.domain_shift)
    assert method.comparison_group is Scope.row
    assert job.sparsity.pattern == Pattern()
    admm = read(method={"name": "admm"}).method
    assert admm.name == "admm"
    assert admm.weight_update is WeightUpdate.admm
    assert admm.comparison_group is Scope.matrix
    assert admm.admm == AdmmSettings(
        iterations=20, mask_steps=15, schedule=Schedule.immediate, damping=0.1, rho=1.0, polish_steps=10
    )


def test_a_pattern_sets_the_target() -> None:
    job = read(sparsity={"pattern": "2:4"})
    assert job.sparsity.target == 0.5
    assert job.workspace == Path("work")


def test_a_job_without_a_base_begins_its_lineage() -> None:
    job = read(domains="ab")
    assert (job.base, job.first_stage, job.lineage) == (None, 0, ("a", "b"))
    assert job.output == Output()
    assert [domain.weight for domain in job.domains] == [1, 1]
    assert (job.method.objective, job.method.recency, job.method.keeps) == (Objective.mean, None, 1)


def test_a_base_puts_its_domains_before_the_own_ones() -> None:
    job = read(domains="ab", base=base())
    assert (job.first_stage, job.lineage) == (2, ("x", "y", "a", "b"))
    assert [(name, text.path, field) for name, text, field in job.evaluated] == [
        ("y", Path("y.txt"), "/base/evaluations/0/dataset"),
        ("a", Path("test.txt"), "/domains/0/evaluation"),
        ("b", Path("test.txt"), "/domains/1/evaluation"),
    ]


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(request: dict[str, Any]) -> None:
        *parents, last = path.strip("/").split("/")
        node: Any = request
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "pointer"),
    [
        ("/method", {"name": "copal" * 1000}, "/method/name"),
        ("/domains/0/dataset", "other", "/domains/0/dataset"),
        ("/domains/0/dataset", None, "/domains/0/dataset"),
        ("/domains/1/evaluation", "other", "/domains/1/evaluation"),
        ("/domains/0/calibration/sample", 3, "/domains/0/calibration/sample"),
        ("/texts/a/path", None, "/texts/a/path"),
        ("/texts/a/path", "", "/texts/a/path"),
        ("/texts/a/path", "\udfff.txt", "/texts/a/path"),
        ("/texts/a/format", "csv", "/texts/a/format"),
        ("/texts/a/field", "text", "/texts/a/field"),
        ("/evaluaton", {}, "/evaluaton"),
        ("/numerics", "medium", "/numerics"),
        ("/domains/0/calibration/documents", "apart", "/domains/0/calibration/documents"),
        ("/domains/0/calibration/documents", True, "/domains/0/calibration/documents"),
        ("/evaluation/documents", "Joined", "/evaluation/documents"),
        ("/outputs", {}, "/outputs"),
        ("/workspace", "", "/workspace"),
        ("/model", 3, "/model"),
        ("/model", "model\0", "/model"),
        ("/workspace", "work\ud800", "/workspace"),
        ("/threads", True, "/threads"),
        ("/threads", 0, "/threads"),
        ("/threads", 2**63, "/threads"),
        ("/device", "gpu", "/device"),
        ("/device", "cpu\n", "/device"),
        ("/hidden_bytes", -1, "/hidden_bytes"),
        ("/device", "", "/device"),
        ("/resume", {"stage": 3}, "/resume/stage"),
        ("/resume", {"stages": 3}, "/resume/stages"),
        ("/resume", {"stages": 2, "blocks": 1}, "/resume/stages"),
        ("/resume", {"blocks": "1"}, "/resume/blocks"),
        ("/resume", {"evaluations": [{"row": 0, "domain": "a"}]}, "/resume/evaluations/0/perplexity"),
        ("/base", {}, "/base/domains"),
        ("/base", base(domains=[]), "/base/domains"),
        ("/base", base(domains=["x", "x"]), "/base/domains"),
        ("/base", base(domains="xy"), "/base/domains"),
        ("/base", base(stages=2), "/base/stages"),
        ("/base", base(domains=["x", "b"], evaluations=[]), "/domains/1/name"),
        ("/base", base(domains=["x", "z"]), "/base/evaluations/0/domain"),
        ("/base", base(evaluations=[{"domain": "y", "dataset": "y"}] * 2), "/base/evaluations/1/domain"),
        ("/base", base(evaluations=[{"domain": "y", "dataset": "z"}]), "/base/evaluations/0/dataset"),
        ("/base", base(evaluations=[{"domain": "y"}]), "/base/evaluations/0/dataset"),
        ("/base", base(folder="/tmp/base"), "/base/folder"),
        ("/base", base(folder="base/../.."), "/base/folder"),
        ("/base", base(folder="\ud800"), "/base/folder"),
    ],
)
def test_errors_point_at_the_field(path: str, value: Any, pointer: str) -> None:
    asked = request(domains="ab")
    _set(path, value)(asked)
    with pytest.raises(SpecError) as caught:
        PruningJob.from_dict(asked)
    assert caught.value.field == pointer
    assert caught.value.code == "invalid_spec"
    assert pointer in caught.value.message
    assert len(caught.value.message) < 300, "what was sent is not repeated"


def test_restart_has_nothing_to_go_on_from() -> None:
    with pytest.raises(SpecError) as caught:
        read(method={"name": "wanda", "mode": "restart"}, base=base())
    assert caught.value.field == "/method/mode"


@pytest.mark.parametrize("nothing", [None, [], "request", 3])
def test_a_request_that_is_no_object_is_refused(nothing: Any) -> None:
    with pytest.raises(SpecError):
        PruningJob.from_dict(nothing)
