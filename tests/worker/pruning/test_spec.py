from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, SpecError
from worker.pruning.fields import Fields
from worker.pruning.method_spec import (
    AdmmConfig,
    Method,
    MethodName,
    Mode,
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
        ("/domains/0/calibration/format", "csv", "/domains/0/calibration/format"),
        ("/domains/0/calibration/path", None, "/domains/0/calibration/path"),
        ("/evaluation/sequence_length", 1, "/evaluation/sequence_length"),
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
