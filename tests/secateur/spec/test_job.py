import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from secateur.spec.job import JobCreate, canonical_digest, stage_names
from secateur.spec.method import MethodName, read_method
from secateur.spec.sparsity import Channels, Curvature, Override, Pattern
from secateur.spec.strict import explain
from worker.pruning.targets.overrides import matching

NAMES = ("copal", "admm", "alps", "sparsegpt", "wanda", "magnitude")
METHODS: list[dict[str, Any]] = [
    *({"name": name} for name in NAMES),
    *({"name": name, "weight_update": "admm", "comparison_group": "row"} for name in NAMES),
    {
        "name": "copal",
        "reading": "token",
        "perturbation": "relative",
        "comparison_group": "matrix",
        "mode": "restart",
    },
    {"name": "admm", "mode": "sequential", "admm": {"iterations": 30, "schedule": "gradual", "polish_steps": 0}},
    {"name": "auto"},
    {"name": "auto", "mode": "restart", "comparison_group": "row"},
    {"name": "sparsegpt", "sparsegpt": {"block": 64, "damping": 0.1}},
    {"name": "alps", "alps": {"max_steps": 30, "update_every": 1, "rho": 1.0, "damping": 0.1, "polish_steps": 0}},
]
DOMAINS = [{"name": "a", "dataset": "ds_a"}]
SPARSITIES: list[dict[str, Any]] = [
    {"target": 0.5},
    {"target": 0.5, "allocation": "owl"},
    {"target": 0.5, "allocation": "error"},
    {"pattern": "2:4", "overrides": [{"match": "*", "skip": True}]},
    {"pattern": "3:4", "target": 0.25},
    {"target": 0.3, "overrides": [{"match": "a.*", "target": 0}, {"match": "b", "skip": True}]},
    {"target": 0.3, "overrides": [{"regex": "a.*", "pattern": "2:4", "method": "magnitude"}]},
    {"pattern": "2:4", "overrides": [{"match": "a", "pattern": "unstructured", "target": 0.1, "method": "admm"}]},
    {"pattern": "2:4", "overrides": [{"match": "a", "pattern": "4:8", "target": 0.5}]},
]


def job(**changes: Any) -> JobCreate:
    spec = {"model": "m", "method": METHODS[0], "sparsity": SPARSITIES[0], "domains": DOMAINS}
    return JobCreate.model_validate({**spec, **changes})


def refused(**changes: Any) -> str:
    """The JSON pointer of the first error of a spec with these changes."""
    spec = {"model": "m", "method": METHODS[0], "sparsity": SPARSITIES[0], "domains": DOMAINS, **changes}
    with pytest.raises(ValidationError) as caught:
        JobCreate.model_validate(spec)
    return explain(caught.value.errors()[0], spec)[0]


@pytest.mark.parametrize(
    ("override", "pattern", "field"),
    [
        ({"skip": True}, "unstructured", ""),
        ({"match": "*", "regex": ".*", "skip": True}, "unstructured", ""),
        ({"match": "*"}, "unstructured", ""),
        ({"match": "*", "skip": False}, "unstructured", ""),
        ({"match": "*", "skip": True, "target": 0.5}, "unstructured", ""),
        ({"match": "*", "skip": True, "method": "wanda"}, "unstructured", ""),
        ({"match": "*", "skip": 1}, "unstructured", "/skip"),
        ({"match": "*", "method": "prayer"}, "unstructured", "/method"),
        ({"match": "*", "pattern": "4:2"}, "unstructured", "/pattern"),
        ({"match": "*", "pattern": "02:04"}, "unstructured", "/pattern"),
        ({"match": "*", "target": 1.0}, "unstructured", "/target"),
        ({"match": "*", "pattern": "2:4", "target": 0.6}, "unstructured", "/target"),
        ({"regex": "a" * 301, "skip": True}, "unstructured", "/regex"),
        ({"match": "*", "target": 0.5}, "2:4", "/target"),
        ({"match": "*", "pattern": "unstructured"}, "2:4", "/target"),
        ({"match": "*", "skipp": True}, "unstructured", "/skipp"),
    ],
)
def test_a_malformed_override_is_pointed_at(override: dict[str, Any], pattern: str, field: str) -> None:
    sparsity = {"pattern": pattern, "overrides": [override]} | ({"target": 0.5} if pattern != "2:4" else {})
    assert refused(sparsity=sparsity) == f"/sparsity/overrides/0{field}"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"method": None}, "/method"),
        ({"method": {}}, "/method/name"),
        ({"method": {"name": "copa"}}, "/method/name"),
        ({"method": {"name": ["copal"]}}, "/method/name"),
        ({"method": {"name": "copal", "reding": "token"}}, "/method/reding"),
        ({"method": {"name": "admm", "admm": {}, "iterations": 3}}, "/method/iterations"),
        ({"method": {"name": "alps", "alps": {"alps": 1}}}, "/method/alps/alps"),
        ({"method": {"name": "admm", "weight_update": "none"}}, "/method/weight_update"),
        ({"method": {"name": "auto", "weight_update": "admm"}}, "/method/weight_update"),
        ({"method": {"name": "wanda", "admm": {}}}, "/method/admm"),
        ({"method": {"name": "admm", "admm": {"iterations": True}}}, "/method/admm/iterations"),
        ({"method": {"name": "admm", "admm": {"iterations": 5}}}, "/method/admm/mask_steps"),
        ({"method": {"name": "admm", "admm": {"rho": 0}}}, "/method/admm/rho"),
        ({"method": {"name": "admm", "admm": {"damping": float("nan")}}}, "/method/admm/damping"),
        ({"method": {"name": "wanda", "recency": 4.5}}, "/method/recency"),
        ({"method": {"name": "wanda", "objective": "most"}}, "/method/objective"),
        ({"method": {"name": "wanda", "mode": "restart", "recency": 1.0}}, "/method/recency"),
        (
            {"method": {"name": "wanda", "mode": "sequential", "objective": "least_forgetting"}},
            "/method/objective",
        ),
        ({"sparsity": {}}, "/sparsity/target"),
        ({"sparsity": {"target": 1}}, "/sparsity/target"),
        ({"sparsity": {"target": True}}, "/sparsity/target"),
        ({"sparsity": {"target": "0.5"}}, "/sparsity/target"),
        ({"sparsity": {"target": float("inf")}}, "/sparsity/target"),
        ({"sparsity": {"pattern": "4:2"}}, "/sparsity/pattern"),
        ({"sparsity": {"pattern": "2:4", "target": 0.6}}, "/sparsity/target"),
        ({"sparsity": {"target": 0.5, "allocation": "magic"}}, "/sparsity/allocation"),
        ({"sparsity": {"pattern": "2:4", "allocation": "owl"}}, "/sparsity/allocation"),
        ({"domains": []}, "/domains"),
        ({"domains": "ab"}, "/domains"),
        ({"domains": [{"name": "weight", "dataset": "x", "weight": "1"}]}, "/domains/0/weight"),
        ({"domains": [{"name": "a", "dataset": "x"}] * 2}, "/domains/1/name"),
        ({"domains": [{"name": "a", "dataset": "x", "sample": 3}]}, "/domains/0/sample"),
        ({"evaluation": {"sequence_length": 1}}, "/evaluation/sequence_length"),
        ({"evaluaton": {}}, "/evaluaton"),
        ({"outputs": {}}, "/outputs"),
        ({"output": {"state_precision": "float64"}}, "/output/state_precision"),
        ({"output": {"keep_domain_statistics": "yes"}}, "/output/keep_domain_statistics"),
        ({"output": {"keep_everything": True}}, "/output/keep_everything"),
    ],
)
def test_errors_point_at_the_field(change: dict[str, Any], pointer: str) -> None:
    assert refused(**change) == pointer


SLIPS = ["(", "[", "*a", "a{2,1}", "a)|(b", r"(a)\1", "(?=a)"]
COSTLY = [r"\PN{1000}", ".{0,1000}" * 33, r"(?i)\pL", "((a{9}){9}){9}", r"(a)\Q\E{9}", "a{0,10}"]
TAKEN = [r"model\.layers\.\d{1,2}\..*", "(?i)[!-\U0010ffff]" * 30, r"[[:alpha:]]+\z", "(a|b)*", "(?P<a>b)(?P<a>c)"]


@pytest.mark.parametrize("regex", SLIPS + COSTLY)
def test_expressions_that_cannot_be_used_are_refused_at_once(regex: str) -> None:
    with pytest.raises(ValidationError, match=r"not a regular expression|must not count") as caught:
        job(sparsity={"target": 0.5, "overrides": [{"regex": regex, "skip": True}]})
    assert caught.value.errors()[0]["loc"] == ("sparsity", "overrides", 0, "regex")


@pytest.mark.parametrize("regex", TAKEN)
def test_expressions_that_are_taken_can_be_used(regex: str) -> None:
    matching(Override(regex=regex, skip=True), ["a"])


def test_no_expression_keeps_the_service_busy() -> None:
    """Python's `re` takes minutes for the first ones and RE2 without our rule seconds for the others."""
    worst = ['(?i)["-\U0010ffff]' * 21, "(?i)" + "[A-\u1fff]{9}" * 32, r"\W{0,9}" * 42, ".{9}" * 75, ".?" * 150]
    began = time.process_time()
    for regex in worst:
        job(sparsity={"target": 0.5, "overrides": [{"regex": regex, "skip": True}] * 20})
    assert time.process_time() - began < 10


def test_an_override_may_name_every_method_there_is() -> None:
    names = Override.model_json_schema()["properties"]["method"]["anyOf"][0]["enum"]
    for name in names:
        job(method={"name": name}, sparsity={"target": 0.5, "overrides": [{"match": "*", "method": name}]})
    assert set(names) == {name.value for name in MethodName}


@pytest.mark.parametrize("method", METHODS)
def test_a_resolved_spec_is_itself(method: dict[str, Any]) -> None:
    for sparsity in SPARSITIES:
        resolved = job(method=method, sparsity=sparsity, effort=None).resolved()
        assert job(**resolved).resolved() == resolved
        assert read_method(resolved["method"]) == read_method(method)


def test_a_curvature_is_of_the_allocation_error() -> None:
    assert job(sparsity={"target": 0.5}, effort=None).sparsity.curvature is Curvature.adapting
    assert job(sparsity={"target": 0.5, "curvature": "plain"}).sparsity.curvature is Curvature.plain
    for other in (
        {"target": 0.5, "allocation": "owl"},
        {"target": 0.5, "allocation": "uniform"},
        {"pattern": "2:4"},
    ):
        assert job(sparsity=other)
        with pytest.raises(ValidationError, match="no effect without the allocation error") as caught:
            job(sparsity={**other, "curvature": "plain"})
        assert [error["loc"] for error in caught.value.errors()] == [("sparsity", "curvature")]


def test_channels_are_permuted_for_groups_alone() -> None:
    assert job(sparsity={"pattern": "2:4"}, effort=None).sparsity.channels is Channels.as_stored
    one = [{"match": "*", "pattern": "4:8"}]
    for sparsity in ({"pattern": "2:4"}, {"target": 0.5, "overrides": one}):
        assert job(sparsity=sparsity | {"channels": "permuted"}).sparsity.channels is Channels.permuted
    with pytest.raises(ValidationError, match="no effect without an n:m pattern") as caught:
        job(sparsity={"target": 0.5, "channels": "permuted"})
    assert [error["loc"] for error in caught.value.errors()] == [("sparsity", "channels")]


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_a_fixed_pattern_takes_no_allocation(allocation: str) -> None:
    with pytest.raises(ValueError, match="leave allocation out"):
        job(sparsity={"pattern": "2:4", "allocation": allocation})


@pytest.mark.parametrize("weight", [0.01, 1, 2.5, 100.0])
def test_a_domains_weight(weight: float) -> None:
    assert job(domains=[{"name": "a", "dataset": "ds_a", "weight": weight}]).domains[0].weight == weight


@pytest.mark.parametrize("weight", [0.0, 0.009, 100.1, -1, True, "1", None, float("nan")])
def test_no_domain_has_another_weight(weight: Any) -> None:
    assert refused(domains=[{"name": "a", "dataset": "ds_a", "weight": weight}]) == "/domains/0/weight"


@pytest.mark.parametrize("mode", ["restart", "sequential"])
def test_a_weight_without_sums_is_refused_at_its_place(mode: str) -> None:
    domains = [{"name": "a", "dataset": "ds_a"}, {"name": "b", "dataset": "ds_b", "weight": 2.0}]
    with pytest.raises(ValidationError) as refused:
        job(domains=domains, method={"name": "wanda", "mode": mode})
    assert [error["loc"] for error in refused.value.errors()] == [("domains", 1, "weight")]
    job(domains=domains)


def test_defaults_are_part_of_the_digest_and_labels_are_not() -> None:
    short, long = job(), job(method={"name": "copal", "mode": "accumulated"}, labels={"a": "b"}, priority=5)
    assert canonical_digest(short.resolved()) == canonical_digest(long.resolved())
    assert canonical_digest(short.resolved()) != canonical_digest(job(evaluation={"max_windows": 1}).resolved())
    again = JobCreate.model_validate(short.resolved())
    assert again.resolved() == short.resolved()


@pytest.mark.parametrize("overridden", [False, True])
@pytest.mark.parametrize("field", [("held_out", 0), ("samples", 1)])
def test_auto_is_refused_where_nothing_is_held_out(overridden: bool, field: tuple[str, int]) -> None:
    domains = [{"name": name, "dataset": f"ds_{name}"} for name in "ab"]
    overrides = [{"match": "*", "method": "auto"}] if overridden else []
    spec = {
        "method": {"name": "admm" if overridden else "auto"},
        "sparsity": {"target": 0.5, "overrides": overrides},
    }
    assert job(**spec, domains=domains)
    starved = [domains[0], {**domains[1], "calibration": dict([field])}]
    assert job(domains=starved)
    with pytest.raises(ValidationError, match="held out") as caught:
        job(**spec, domains=starved)
    assert [error["loc"] for error in caught.value.errors()] == [("domains", 1, "calibration", field[0])]


def test_a_target_behind_the_dense_prefix_is_refused_where_nothing_is_held_out() -> None:
    starved = [{"name": "a", "dataset": "ds_a", "calibration": {"held_out": 0}}]
    sparsity = {"target": 0.5}
    assert job(method={"name": "sparsegpt"}, sparsity=sparsity, domains=starved)
    with pytest.raises(ValidationError, match="the target `prefix` is chosen by what is gained") as caught:
        job(method={"name": "sparsegpt", "target": "prefix"}, sparsity=sparsity, domains=starved)
    assert {error["loc"] for error in caught.value.errors()} == {("domains", 0, "calibration", "held_out")}


@given(st.integers(1, 999), st.integers(1, 999))
def test_n_of_m_are_kept(kept: int, group: int) -> None:
    if kept < group:
        assert Pattern.parse(f"{kept}:{group}").sparsity == pytest.approx(1 - kept / group)
    else:
        with pytest.raises(ValueError, match="less than"):
            Pattern.parse(f"{kept}:{group}")


@pytest.mark.parametrize("pattern", ["", "2:4 ", "02:4", "0:4", "2/4", "2:4:8", "-1:4", "٢:٤", "2:1000"])
def test_other_patterns_do_not_exist(pattern: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Pattern.parse(pattern)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("app.main", "torch transformers worker"),
        ("secateur.spec.request", "torch transformers worker app httpx typer celery pyarrow"),
        ("secateur", "pydantic httpx typer"),
        ("secateur.client", "torch app worker fastapi celery sqlalchemy pydantic typer"),
        ("worker.pruning", "app celery sqlalchemy fastapi typer"),
    ],
)
def test_what_is_imported_brings_nothing_of_the_others(module: str, unwanted: str) -> None:
    check = f"import sys, {module}; found = set({unwanted.split()}) & set(sys.modules); assert not found, found"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def several(*further: object, **method: object) -> dict[str, Any]:
    return {
        "model": "mdl_1",
        "method": {"name": "admm", **method},
        "sparsity": {"target": 0.5, "further": list(further)},
        "domains": [{"name": "a", "dataset": "ds_1"}],
    }


def with_statistics(body: dict[str, Any], statistics: str) -> dict[str, Any]:
    return body | {"sparsity": body["sparsity"] | {"further_statistics": statistics}}


def test_further_targets_are_stages_behind_those_of_domains() -> None:
    job = JobCreate.model_validate(several(0.7, "2:4"))
    assert job.stage_names == ("a", "at 0.7", "at 2:4")
    resolved = json.loads(json.dumps(job.resolved()))
    assert stage_names(resolved) == ["a", "at 0.7", "at 2:4"]
    assert JobCreate.model_validate(resolved).sparsity == job.sparsity
    of_a_pattern = job.sparsity.at(job.sparsity.further[1])
    assert (of_a_pattern.target, of_a_pattern.allocation, of_a_pattern.further) == (0.5, "uniform", ())
    assert job.sparsity.at(0.7).target == 0.7


def test_further_targets_have_statistics_of_their_own_unless_told() -> None:
    asked = several(0.7, "2:4", refine="model")
    job = JobCreate.model_validate(asked)
    assert job.sparsity.further_statistics == "own"
    assert {job.sparsity.at(further).further_statistics for further in job.sparsity.further} == {"own"}
    assert JobCreate.model_validate(several()).sparsity.further_statistics == "shared"
    plain = JobCreate.model_validate(several(0.7) | {"effort": None})
    assert plain.sparsity.further_statistics == "shared", "as in a spec of a release that knew no others"


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (several(0.5), "/sparsity/further/0", "asked for already"),
        (several(0.6, 0.6), "/sparsity/further/1", "asked for already"),
        (several(0.6, "unstructured"), "/sparsity/further/1", "between 0 and 1, or n:m"),
        (several(1), "/sparsity/further/0", "between 0 and 1, or n:m"),
        (several(0.6, mode="restart"), "/sparsity/further", "the mode accumulated"),
        (
            with_statistics(several(0.6, refine="block"), "shared"),
            "/sparsity/further",
            "set `further_statistics` to own, or `method.refine` to none",
        ),
        (with_statistics(several(), "own"), "/sparsity/further_statistics", "without further targets"),
        (several() | {"sparsity": {"pattern": "2:4", "further": [0.6]}}, "/sparsity/further/0", "fixes every"),
    ],
)
def test_further_targets_that_mean_nothing_are_refused(body: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobCreate.model_validate(body)
    pointer, message = explain(caught.value.errors()[0], body)
    assert pointer == field
    assert said in message


def form(form: str, **changes: Any) -> str | None:
    """Why a job may not have that form; None where it may."""
    spec = {"model": "m", "method": {"name": "wanda"}, "sparsity": {"target": 0.5}, "domains": DOMAINS}
    try:
        JobCreate.model_validate(spec | {"output": {"form": form}} | changes)
    except ValidationError as error:
        place, message = explain(error.errors()[0], {"output": {"form": form}})
        assert place == "/output/form"
        return message
    return None


@pytest.mark.parametrize(
    "method", [{"name": "magnitude"}, {"name": "wanda"}, {"name": "copal", "reading": "token"}]
)
def test_masks_are_enough_where_weights_stay(method: dict[str, Any]) -> None:
    assert form("masks", method=method, sparsity={"target": 0.5, "further": [0.7, "2:4"]}) is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"method": {"name": "admm"}}, "`method.name` admm"),
        ({"method": {"name": "auto"}}, "`method.name` auto"),
        ({"method": {"name": "wanda", "weight_update": "admm"}}, "`method.weight_update` admm"),
        ({"method": {"name": "wanda", "refine": "model"}}, "`method.refine` model"),
        ({"sparsity": {"pattern": "2:4", "channels": "permuted"}}, "`sparsity.channels` permuted"),
        (
            {
                "sparsity": {
                    "target": 0.5,
                    "overrides": [{"match": "a", "skip": True}, {"match": "b", "method": "alps"}],
                }
            },
            "`sparsity.overrides[1].method` alps",
        ),
    ],
)
def test_masks_are_refused_where_weights_change_and_what_changes_them_is_named(
    changes: dict[str, Any], what: str
) -> None:
    assert what in (form("masks", **changes) or "")
    assert form("packed", **changes) is None
