import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.jobs.sparsity_spec import Override, implied_target
from app.jobs.spec import JobCreate, canonical_digest
from worker.pruning.errors import SpecError, UserError
from worker.pruning.fields import Fields
from worker.pruning.lineage_spec import OutputSpec
from worker.pruning.method_spec import Method, MethodName
from worker.pruning.overrides import matching
from worker.pruning.sparsity_spec import Override as EngineOverride
from worker.pruning.sparsity_spec import Sparsity
from worker.pruning.spec import Domain
from worker.supervisor import staging

NAMES = ("copal", "admm", "alps", "sparsegpt", "wanda", "magnitude")
METHODS: list[dict[str, Any]] = [
    *({"name": name} for name in NAMES),
    *({"name": name, "weight_update": "admm", "comparison_group": "row"} for name in NAMES),
    {
        "name": "copal",
        "reading": "token",
        "perturbation": "relative",
        "comparison_group": "layer",
        "mode": "restart",
    },
    {"name": "admm", "mode": "sequential", "admm": {"iterations": 30, "schedule": "gradual", "polish_steps": 0}},
    {"name": "auto"},
    {"name": "auto", "mode": "restart", "comparison_group": "row"},
    {"name": "sparsegpt", "sparsegpt": {"block": 64, "damping": 0.1}},
    {"name": "alps", "alps": {"max_steps": 30, "update_every": 1, "rho": 1.0, "damping": 0.1, "polish_steps": 0}},
]
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
    domains = [{"name": "a", "dataset": "ds_a"}]
    spec = {"model": "m", "method": METHODS[0], "sparsity": SPARSITIES[0], "domains": domains}
    return JobCreate.model_validate({**spec, **changes})


MALFORMED: list[dict[str, Any]] = [
    {"target": 0.5, "overrides": [{"skip": True}]},
    {"target": 0.5, "overrides": [{"match": "*", "regex": ".*", "skip": True}]},
    {"target": 0.5, "overrides": [{"match": "*"}]},
    {"target": 0.5, "overrides": [{"match": "*", "skip": False}]},
    {"target": 0.5, "overrides": [{"match": "*", "skip": True, "target": 0.5}]},
    {"target": 0.5, "overrides": [{"match": "*", "skip": True, "method": "wanda"}]},
    {"target": 0.5, "overrides": [{"match": "*", "method": "prayer"}]},
    {"target": 0.5, "overrides": [{"match": "*", "pattern": "4:2"}]},
    {"target": 0.5, "overrides": [{"match": "*", "pattern": "2:4", "target": 0.6}]},
    {"target": 0.5, "overrides": [{"regex": "a" * 301, "skip": True}]},
    {"pattern": "2:4", "overrides": [{"match": "*", "target": 0.5}]},
    {"pattern": "2:4", "overrides": [{"match": "*", "pattern": "unstructured"}]},
]


@pytest.mark.parametrize("sparsity", MALFORMED)
def test_both_refuse_the_same(sparsity: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job(sparsity=sparsity)
    with pytest.raises(SpecError):
        Sparsity.read(Fields(sparsity, "/sparsity"))


SLIPS = ["(", "[", "*a", "a{2,1}", "a)|(b", r"(a)\1", "(?=a)"]
COSTLY = [r"\PN{1000}", ".{0,1000}" * 33, r"(?i)\pL", "((a{9}){9}){9}", r"(a)\Q\E{9}", "a{0,10}"]
TAKEN = [r"model\.layers\.\d{1,2}\..*", "(?i)[!-\U0010ffff]" * 30, r"[[:alpha:]]+\z", "(a|b)*", "(?P<a>b)(?P<a>c)"]


@pytest.mark.parametrize("regex", SLIPS + COSTLY)
def test_expressions_that_cannot_be_used_are_refused_at_once_and_by_the_engine(regex: str) -> None:
    with pytest.raises(ValidationError, match=r"not a regular expression|must not count") as caught:
        job(sparsity={"target": 0.5, "overrides": [{"regex": regex, "skip": True}]})
    assert caught.value.errors()[0]["loc"] == ("sparsity", "overrides", 0, "regex")
    with pytest.raises(UserError, match=r"RE2 syntax|costly"):
        matching(EngineOverride(field="", regex=regex, skip=True), ["a"])


@pytest.mark.parametrize("regex", TAKEN)
def test_expressions_that_the_api_takes_are_taken_by_the_engine(regex: str) -> None:
    job(sparsity={"target": 0.5, "overrides": [{"regex": regex, "skip": True}]})
    matching(EngineOverride(field="", regex=regex, skip=True), ["a"])


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


def _override(read: EngineOverride) -> dict[str, Any]:
    said = {**vars(read), "pattern": read.pattern and str(read.pattern), "skip": read.skip or None}
    return {name: value for name, value in said.items() if name != "field" and value is not None}


@pytest.mark.parametrize("method", METHODS)
def test_the_engine_takes_what_the_api_accepts(method: dict[str, Any]) -> None:
    for sparsity in SPARSITIES:
        resolved = job(method=method, sparsity=sparsity).resolved()
        read = Method.read(Fields(resolved["method"], "/method"))
        assert read.name == method["name"]
        for name in ("mode", "reading", "perturbation", "comparison_group"):
            if name in resolved["method"]:
                assert getattr(read, name) == resolved["method"][name]
        read_sparsity = Sparsity.read(Fields(resolved["sparsity"], "/sparsity"))
        assert read_sparsity.target == resolved["sparsity"]["target"]
        assert read_sparsity.allocation == resolved["sparsity"]["allocation"]
        assert [_override(each) for each in read_sparsity.overrides] == resolved["sparsity"]["overrides"]


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_a_fixed_pattern_takes_no_allocation(allocation: str) -> None:
    with pytest.raises(ValueError, match="leave allocation out"):
        job(sparsity={"pattern": "2:4", "allocation": allocation})


def test_both_have_the_same_defaults() -> None:
    for method in METHODS:
        resolved = job(method=method).resolved()["method"]
        assert Method.read(Fields(resolved)) == Method.read(Fields(method))


@pytest.mark.parametrize("weight", [0.01, 1, 2.5, 100.0, 0.0, 0.009, 100.1, -1, True, "1"])
def test_a_domains_weight_has_the_engines_bounds(weight: Any) -> None:
    domains = [{"name": "a", "dataset": "ds_a", "weight": weight}]
    try:
        read: bool = job(domains=domains).domains[0].weight == weight
    except ValidationError:
        read = False
    request = translate({**job().resolved(), "domains": [{**job().resolved()["domains"][0], "weight": weight}]})
    try:
        Domain.read(Fields(request["domains"][0], "/domains/0"))
    except SpecError:
        assert not read
    else:
        assert read


@pytest.mark.parametrize("mode", ["restart", "sequential"])
def test_a_weight_without_sums_is_refused_at_its_place(mode: str) -> None:
    domains = [{"name": "a", "dataset": "ds_a"}, {"name": "b", "dataset": "ds_b", "weight": 2.0}]
    with pytest.raises(ValidationError) as refused:
        job(domains=domains, method={"name": "wanda", "mode": mode})
    assert [error["loc"] for error in refused.value.errors()] == [("domains", 1, "weight")]
    job(domains=domains)


@pytest.mark.parametrize("output", [{}, {"state_precision": "float32", "keep_domain_statistics": True}])
def test_the_engine_takes_the_output_that_the_api_accepts(output: dict[str, Any]) -> None:
    read = OutputSpec.read(Fields(translate(job(output=output).resolved())["output"], "/output"))
    assert {name: str(value) if name == "state_precision" else value for name, value in vars(read).items()} == {
        "state_precision": "float16",
        "keep_domain_statistics": False,
        "keep_sensitivities": False,
        **output,
    }


@pytest.mark.parametrize("numerics", [{}, {"numerics": "exact"}])
def test_the_engine_takes_the_numerics_that_the_api_accepts(numerics: dict[str, Any]) -> None:
    resolved = job(**numerics).resolved()
    assert translate(resolved)["numerics"] == resolved["numerics"] == numerics.get("numerics", "fast")


def translate(spec: dict[str, Any]) -> dict[str, Any]:
    """What the engine is asked for."""
    return staging.translate(spec, lambda dataset: {"path": dataset})


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


@given(st.integers(1, 999), st.integers(1, 999))
def test_n_of_m_are_kept(kept: int, group: int) -> None:
    if kept < group:
        assert implied_target(f"{kept}:{group}") == pytest.approx(1 - kept / group)
    else:
        with pytest.raises(ValueError, match="less than"):
            implied_target(f"{kept}:{group}")


@pytest.mark.parametrize("pattern", ["", "2:4 ", "02:4", "0:4", "2/4", "2:4:8", "-1:4", "٢:٤", "2:1000"])
def test_other_patterns_do_not_exist(pattern: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        implied_target(pattern)


def test_the_api_process_never_imports_torch() -> None:
    check = (
        "import sys, app.main; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'worker')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
