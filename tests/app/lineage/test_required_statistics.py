"""What a continuation asks of the state before it, and what it drops."""

import itertools
from typing import Any

from app.lineage.required_statistics import MatrixMethod, dropped, lacking, overriding
from secateur.spec.method import MethodName, Perturbation, Reading


def spec(name: str, allocation: str = "uniform", **method: Any) -> dict[str, Any]:
    return {"method": {"name": name, "mode": "accumulated", **method}, "sparsity": {"allocation": allocation}}


def copal(reading: str = "own_terms", perturbation: str = "domain_shift") -> dict[str, Any]:
    return spec("copal", reading=reading, perturbation=perturbation)


def test_a_method_goes_on_from_itself() -> None:
    for name in MethodName:
        one = copal() if name is MethodName.copal else spec(name.value)
        assert lacking([one, one], one) == []
    for reading, perturbation in itertools.product(Reading, Perturbation):
        one = copal(reading.value, perturbation.value)
        assert lacking([one], one) == []


def test_a_reading_goes_on_from_its_own_importances_alone() -> None:
    for path in ([copal()], [spec("admm")], [copal("token"), copal()]):
        assert [error.pointer for error in lacking(path, copal("token"))] == ["/method/reading"]
    assert lacking([copal("token")], copal()) == []


def test_importances_are_of_one_perturbation_and_moments_serve_both() -> None:
    for reading in Reading:
        found = lacking([copal(reading.value, "relative")], copal(reading.value, "domain_shift"))
        expected = [] if reading is Reading.own_terms else ["/method/perturbation"]
        assert [error.pointer for error in found] == expected
    assert lacking([spec("wanda")], copal(perturbation="relative")) == []


def test_a_survey_is_of_weights_that_are_solved_for_or_of_weights_that_stay() -> None:
    for allocation, pointers in (("error", ["/method/name"]), ("owl", []), ("uniform", [])):
        found = lacking([spec("admm", allocation)], spec("wanda", allocation))
        assert [error.pointer for error in found] == pointers
    assert lacking([spec("admm", "error")], spec("wanda", "error", weight_update="admm")) == []
    (ended,) = lacking([spec("wanda", "error", weight_update="admm")], spec("wanda", "error"))
    assert (ended.pointer, "'wanda' with weight_update admm" in ended.detail) == ("/method/weight_update", True)
    assert len(lacking([spec("wanda", "error")], spec("admm", "error"))) == 1, "one reason is enough"


def test_a_target_behind_the_dense_prefix_goes_on_from_such_ones_alone() -> None:
    prefix, dense = spec("admm", target="prefix"), spec("admm")
    updated = spec("wanda", weight_update="admm", target="prefix")
    assert lacking([prefix, updated], spec("alps", target="prefix")) == []
    for path in ([dense], [prefix, dense], [dense, prefix]):
        assert [error.pointer for error in lacking(path, updated)] == ["/method/target"]
    assert lacking([prefix], dense) == []
    assert dropped(prefix, dense) == ["cross"]


def test_weighed_outputs_go_on_from_such_ones_alone() -> None:
    weighed, plain = spec("admm", output_weighting="gradients"), spec("admm")
    assert lacking([weighed], spec("copal", weight_update="admm", output_weighting="gradients")) == []
    for path in ([plain], [weighed, plain]):
        assert [error.pointer for error in lacking(path, weighed)] == ["/method/output_weighting"]
    assert lacking([weighed], plain) == []
    assert dropped(weighed, plain) == ["output_grams"]


def test_a_survey_by_plain_curvature_serves_all_methods() -> None:
    parent, child = (spec(name, "error") for name in ("admm", "wanda"))
    for each in (parent, child):
        each["sparsity"]["curvature"] = "plain"
    assert lacking([parent], child) == []


def test_without_sums_nothing_is_missed() -> None:
    sequential = {"method": {"name": "admm", "mode": "sequential"}}
    assert lacking([{"method": {"name": "wanda", "mode": "sequential"}}], sequential) == []


OVERRIDES = [{"match": "*.down_proj.weight", "method": "wanda"}, {"match": "*.0.*", "target": 0.5}]
METHODS = [
    MatrixMethod(0, 64, None),
    MatrixMethod(0, 176, MethodName.wanda),
    MatrixMethod(1, 64, None),
    MatrixMethod(1, 176, MethodName.wanda),
]


def overridden(name: str, overrides: list[dict[str, Any]] | None = None, **method: Any) -> dict[str, Any]:
    base = copal() if name == "copal" else spec(name)
    sparsity = {"allocation": "uniform", "overrides": overrides or OVERRIDES}
    return {"method": base["method"] | method, "sparsity": sparsity}


def test_a_gram_that_an_override_kept_nobody_from_keeping_is_missed() -> None:
    solved, selected = overridden("copal", weight_update="admm"), overridden("copal")
    for parent in (overridden("admm"), overridden("sparsegpt"), selected):
        assert [error.pointer for error in lacking([parent], solved, METHODS)] == ["/method/weight_update"]
    assert [error.pointer for error in lacking([selected], overridden("admm"), METHODS)] == ["/method/name"]
    # Wanda is followed by the job's own update in all of these.
    assert lacking([solved], solved, METHODS) == []
    assert lacking([overridden("sparsegpt", weight_update="admm")], solved, METHODS) == []
    # Nothing of the overridden matrices is solved for here.
    assert lacking([overridden("admm")], overridden("sparsegpt"), METHODS) == []
    assert lacking([overridden("admm")], selected, METHODS) == []


def test_what_may_share_a_gram_is_the_engines_to_refuse() -> None:
    """Matrices of as many inputs: the query projection shares the keys' Gram, the attention's output does not."""
    matrices = [MatrixMethod(0, 64, None), MatrixMethod(0, 64, MethodName.wanda)]
    assert lacking([overridden("admm")], overridden("copal", weight_update="admm"), matrices) == []
    assert lacking([overridden("admm")], overridden("copal", weight_update="admm"), []) == []


def test_overrides_that_solve_everywhere_leave_nothing_to_miss() -> None:
    overrides = [{"regex": ".*", "method": "admm"}]
    matrices = [MatrixMethod(0, 64, MethodName.admm), MatrixMethod(0, 176, MethodName.admm)]
    assert lacking([overridden("wanda", overrides)], overridden("alps", overrides), matrices) == []


def test_the_last_override_that_names_a_method_counts() -> None:
    overrides = [{"match": "a", "method": "admm"}, {"regex": "b", "method": "wanda"}, {"match": "c", "skip": True}]
    said = overridden("copal", overrides)
    found = [overriding(said, deciding) for deciding in ((), ("a",), ("a", "b"), ("c",))]
    assert found == [None, "admm", "wanda", None]


def test_what_a_job_keeps_less_is_known() -> None:
    admm, token = spec("admm"), copal("token")
    keeping = {**admm, "output": {"keep_domain_statistics": True}}
    assert dropped(admm, spec("wanda")) == ["gram"]
    assert dropped(token, copal()) == dropped(token, admm) == ["importance"]
    assert dropped(keeping, admm) == ["domain_grams"]
    assert dropped(keeping, spec("wanda")) == ["gram", "domain_grams"]
    for before, after in ((admm, admm), (admm, keeping), (keeping, keeping), (spec("wanda"), spec("magnitude"))):
        assert dropped(before, after) == []
    sequential = {"method": {"name": "wanda", "mode": "sequential"}, "sparsity": {}}
    assert dropped({**sequential, "method": {"name": "admm", "mode": "sequential"}}, sequential) == []


def test_a_gram_dropped_where_an_override_names_the_method_is_known() -> None:
    parent = overridden("copal", weight_update="admm")
    assert dropped(parent, overridden("copal"), METHODS) == ["gram"]
    assert dropped(parent, overridden("admm"), METHODS) == ["gram"], "the overridden matrices' alone"
    assert dropped(overridden("admm"), parent, METHODS) == []
