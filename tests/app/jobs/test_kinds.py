"""What the API thinks that a state holds, held against the engine."""

import itertools
from typing import Any

import pytest

from app.jobs.kinds import FROM_MOMENTS, SOLVING, lacking, solves
from worker.pruning.fields import Fields
from worker.pruning.method_spec import Method, MethodName, Perturbation, Reading


@pytest.mark.parametrize("name", list(MethodName))
def test_both_know_which_methods_solve_with_the_gram(name: MethodName) -> None:
    for update in ({}, {"weight_update": "admm"}) if name is not MethodName.auto else ({},):
        method: dict[str, Any] = {"name": name.value, **update}
        assert solves(method) is Method.read(Fields(method)).updates_weights


def test_the_names_are_the_engines() -> None:
    assert set(SOLVING) <= set(MethodName)
    assert set(FROM_MOMENTS) <= set(Reading)
    for reading in Reading:
        method = Method(MethodName.copal, reading=reading)
        assert method.needs_importance is (reading.value not in FROM_MOMENTS)


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
    assert len(lacking([spec("wanda", "error")], spec("admm", "error"))) == 1, "one reason is enough"


def test_without_sums_nothing_is_missed() -> None:
    sequential = {"method": {"name": "admm", "mode": "sequential"}}
    assert lacking([{"method": {"name": "wanda", "mode": "sequential"}}], sequential) == []
