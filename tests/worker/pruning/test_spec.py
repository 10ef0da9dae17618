from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, SpecError
from worker.pruning.fields import Fields
from worker.pruning.lineage_spec import OutputSpec, Precision
from worker.pruning.method_spec import (
    AdmmConfig,
    Method,
    MethodName,
    Mode,
    Objective,
    Perturbation,
    Reading,
    Schedule,
    WeightUpdate,
)
from worker.pruning.patterns import Pattern, Scope


def test_defaults(request_for: Request) -> None:
    job = PruningJob.from_dict(request_for(method={"name": "copal"}))
    assert job.method.mode is Mode.accumulated
    assert job.method.weight_update is WeightUpdate.none
    assert job.method.reading is Reading.own_terms
    assert job.method.perturbation is Perturbation.domain_shift
    assert job.method.scope is Scope.row
    assert job.method.admm == AdmmConfig(20, 15, Schedule.immediate, 0.1, 1.0, 10)
    assert job.sparsity.pattern == Pattern()


def test_admm_implies_its_own_weight_update(request_for: Request) -> None:
    job = PruningJob.from_dict(request_for(method={"name": "admm"}))
    assert job.method.weight_update is WeightUpdate.admm
    assert job.method.scope is Scope.layer


def test_a_method_under_another_name_keeps_the_settings_but_not_the_comparison() -> None:
    def method(**fields: Any) -> Method:
        return Method.read(Fields({"name": "copal", "mode": "restart", "comparison_group": "layer", **fields}))

    assert method().named(None) == method().named(MethodName.copal) == method()
    assert (method().named(MethodName.wanda).scope, method().named(MethodName.wanda).mode) == (
        Scope.row,
        "restart",
    )
    assert method().named(MethodName.wanda).solver == "wanda"
    assert method().named(MethodName.admm).solver == "admm"
    updating = method(weight_update="admm", admm={"iterations": 30})
    assert updating.named(MethodName.wanda).solver == "wanda+admm"
    assert updating.named(MethodName.wanda).admm.iterations == 30
    # An update that was asked for follows whatever takes one.
    assert updating.named(MethodName.alps).solver == "alps+admm"
    solving = Method.read(Fields({"name": "sparsegpt", "weight_update": "admm"}))
    assert (solving.solver, solving.named(MethodName.wanda).solver) == ("sparsegpt+admm", "wanda+admm")
    # What auto chooses solves for the weights itself.
    assert updating.named(MethodName.auto).solver == "auto"
    auto = Method.read(Fields({"name": "auto"}))
    assert (auto.scope, auto.updates_weights, auto.named(MethodName.wanda).solver) == (Scope.layer, True, "wanda")
    # ADMM's own update is no wish for one after a plain selection.
    solving = Method.read(Fields({"name": "admm"}))
    assert solving.named(MethodName.magnitude).solver == "magnitude"
    assert not solving.named(MethodName.magnitude).updates_weights


def test_pattern_sets_the_target(request_for: Request) -> None:
    job = PruningJob.from_dict(request_for(sparsity={"pattern": "2:4"}))
    assert job.sparsity.target == 0.5
    assert job.workspace == Path(request_for()["workspace"])


def base(**fields: Any) -> dict[str, Any]:
    """A base of two stages, the second of them evaluated."""
    evaluations = [{"domain": "y", "evaluation": {"path": "y.txt", "format": "txt", "text_field": None}}]
    return {"folder": "base", "stages": 2, "domains": ["x", "y"], "evaluations": evaluations, **fields}


def test_a_job_without_a_base_begins_its_lineage(request_for: Request) -> None:
    job = PruningJob.from_dict(request_for(domains="ab"))
    assert (job.base, job.first_stage, job.lineage) == (None, 0, ("a", "b"))
    assert job.output == OutputSpec(Precision.float16, False, False)
    assert [domain.weight for domain in job.domains] == [1, 1]
    assert (job.method.objective, job.method.recency, job.method.keeps) == (Objective.mean, None, 1)


def test_a_base_puts_its_domains_before_the_own_ones(request_for: Request) -> None:
    job = PruningJob.from_dict(request_for(domains="ab", base=base()))
    assert (job.first_stage, job.lineage) == (2, ("x", "y", "a", "b"))
    assert [(name, field) for name, _, field in job.evaluated] == [
        ("y", "/base/evaluations/0/evaluation"),
        ("a", "/domains/0/evaluation"),
        ("b", "/domains/1/evaluation"),
    ]


@pytest.mark.parametrize(
    ("method", "keeps"),
    [
        ({}, 1.0),
        ({"objective": "mean", "recency": None}, 1.0),
        ({"objective": "least_forgetting"}, 2.0),
        ({"recency": 0.5}, 0.5),
        ({"objective": "mean", "recency": 4}, 4.0),
    ],
)
def test_recency_is_what_is_said_or_what_the_objective_implies(method: dict[str, Any], keeps: float) -> None:
    assert Method.read(Fields({"name": "wanda", **method})).keeps == keeps


def test_an_objective_beside_a_recency_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        Method.read(Fields({"name": "wanda", "objective": "least_forgetting", "recency": 2.0}, "/method"))
    assert caught.value.field == "/method/recency"
    assert "least_forgetting" in caught.value.message


@pytest.mark.parametrize("mode", ["restart", "sequential"])
@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"method": {"recency": 1.0}}, "/method/recency"),
        ({"method": {"objective": "least_forgetting"}}, "/method/objective"),
        ({"weight": 2}, "/domains/0/weight"),
    ],
)
def test_what_weighs_sums_is_refused_where_there_are_none(
    request_for: Request, mode: str, changes: dict[str, Any], pointer: str
) -> None:
    request = request_for(method={"name": "wanda", "mode": mode, **changes.get("method", {})})
    request["domains"][0]["weight"] = changes.get("weight", 1)
    with pytest.raises(SpecError) as caught:
        PruningJob.from_dict(request)
    assert caught.value.field == pointer
    assert "accumulated" in caught.value.message


def test_restart_has_nothing_to_go_on_from(request_for: Request) -> None:
    with pytest.raises(SpecError) as caught:
        PruningJob.from_dict(request_for(method={"name": "wanda", "mode": "restart"}, base=base()))
    assert caught.value.field == "/method/mode"


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
        ("/method", None, "/method"),
        ("/method", {"name": "copa"}, "/method/name"),
        ("/method", {"name": "copal", "reding": "token"}, "/method/reding"),
        ("/method", {"name": "admm", "weight_update": "none"}, "/method/weight_update"),
        ("/method", {"name": "auto", "weight_update": "admm"}, "/method/weight_update"),
        ("/method", {"name": "admm", "admm": {"iterations": 0}}, "/method/admm/iterations"),
        ("/method", {"name": "admm", "admm": {"iterations": 5}}, "/method/admm/mask_steps"),
        ("/method", {"name": "admm", "admm": {"rho": 0}}, "/method/admm/rho"),
        ("/method", {"name": "admm", "admm": {"damping": float("nan")}}, "/method/admm/damping"),
        ("/sparsity", {}, "/sparsity/target"),
        ("/sparsity", {"target": 1}, "/sparsity/target"),
        ("/sparsity", {"target": True}, "/sparsity/target"),
        ("/sparsity", {"target": "0.5"}, "/sparsity/target"),
        ("/sparsity", {"pattern": "4:2"}, "/sparsity/pattern"),
        ("/sparsity", {"pattern": "2:4", "target": 0.6}, "/sparsity/target"),
        ("/sparsity", {"target": 0.5, "allocation": "magic"}, "/sparsity/allocation"),
        ("/sparsity", {"pattern": "2:4", "allocation": "owl"}, "/sparsity/allocation"),
        ("/sparsity", {"target": 0.5, "overrides": [{"match": "*"}]}, "/sparsity/overrides/0"),
        (
            "/sparsity",
            {"pattern": "2:4", "overrides": [{"match": "*", "target": 0.1}]},
            "/sparsity/overrides/0/target",
        ),
        ("/domains", [], "/domains"),
        ("/domains/1/name", "a", "/domains/0/name"),
        ("/domains/0/calibration/samples", 0, "/domains/0/calibration/samples"),
        ("/domains/0/calibration/held_out", 0.5, "/domains/0/calibration/held_out"),
        ("/domains/0/calibration/held_out", -0.1, "/domains/0/calibration/held_out"),
        ("/domains/0/calibration/documents", "apart", "/domains/0/calibration/documents"),
        ("/domains/0/calibration/documents", True, "/domains/0/calibration/documents"),
        ("/evaluation/documents", "Joined", "/evaluation/documents"),
        ("/domains/0/calibration/format", "csv", "/domains/0/calibration/format"),
        ("/domains/0/calibration/path", None, "/domains/0/calibration/path"),
        ("/evaluation/sequence_length", 1, "/evaluation/sequence_length"),
        ("/domains/0/weight", 0, "/domains/0/weight"),
        ("/domains/0/weight", 101, "/domains/0/weight"),
        ("/method", {"name": "wanda", "recency": 0}, "/method/recency"),
        ("/method", {"name": "wanda", "recency": 4.5}, "/method/recency"),
        ("/method", {"name": "wanda", "objective": "most"}, "/method/objective"),
        ("/numerics", "medium", "/numerics"),
        ("/output", {"state_precision": "float64"}, "/output/state_precision"),
        ("/output", {"keep_domain_statistics": "yes"}, "/output/keep_domain_statistics"),
        ("/output", {"keep_everything": True}, "/output/keep_everything"),
        ("/base", {}, "/base/stages"),
        ("/base", base(stages=3), "/base/domains"),
        ("/base", base(domains=["x", "x"]), "/base/domains"),
        ("/base", base(domains="xy"), "/base/domains"),
        ("/base", base(domains=["x", "b"], evaluations=[]), "/domains/1/name"),
        ("/base", base(domains=["x", "z"]), "/base/evaluations/0/domain"),
        ("/base", base(folder="/tmp/base"), "/base/folder"),
        ("/base", base(folder="base/../.."), "/base/folder"),
        ("/base", base(evaluations=[{"domain": "y"}]), "/base/evaluations/0/evaluation"),
    ],
)
def test_errors_point_at_the_field(request_for: Request, path: str, value: Any, pointer: str) -> None:
    request = request_for(domains="ab")
    _set(path, value)(request)
    with pytest.raises(SpecError) as caught:
        PruningJob.from_dict(request)
    assert caught.value.field == pointer
    assert caught.value.code == "invalid_spec"
    assert pointer in caught.value.message


def test_a_request_that_is_no_object_is_refused() -> None:
    with pytest.raises(SpecError):
        PruningJob.from_dict([])
