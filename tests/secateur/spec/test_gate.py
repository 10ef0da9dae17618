import math

import pytest

from secateur.spec.gate import Gate, missed, unmeasurable

FIGURES = {"bwt": 2.0, "log_bwt": 0.04, "mean_perplexity": 61.5}


@pytest.mark.parametrize(
    ("gate", "names"),
    [
        (None, []),
        ({"max_bwt": 2.0, "max_log_bwt": None, "max_mean_perplexity": None}, []),
        ({"max_bwt": 1.999}, ["max_bwt"]),
        (
            {"max_bwt": 3.0, "max_log_bwt": 0.03, "max_mean_perplexity": 61.0},
            ["max_log_bwt", "max_mean_perplexity"],
        ),
        ({"max_bwt": -1.0}, ["max_bwt"]),
    ],
)
def test_each_limit_that_is_not_kept_is_named(gate: dict[str, float | None] | None, names: list[str]) -> None:
    assert list(missed(gate, FIGURES, 3)) == names


def test_the_numbers_are_in_the_message() -> None:
    found = missed({"max_bwt": 1.5}, FIGURES, 3)
    assert found == {"max_bwt": "the BWT is 2, above max_bwt 1.5"}


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_no_number_keeps_no_limit(value: float | None) -> None:
    gate = {"max_bwt": 1e9}
    assert list(missed(gate, {**FIGURES, "bwt": value}, 2)) == ["max_bwt"]


def test_a_lineages_first_stage_has_nothing_to_forget() -> None:
    nothing = dict.fromkeys(FIGURES)
    assert missed({"max_bwt": 0.0, "max_log_bwt": 0.0}, nothing, 1) == {}
    assert list(missed({"max_mean_perplexity": 60.0}, FIGURES, 1)) == ["max_mean_perplexity"]


def test_a_limit_that_nothing_is_measured_for_is_refused() -> None:
    gate = Gate(max_bwt=1.0, max_mean_perplexity=50.0)
    assert unmeasurable(gate, [True, False]) == {}
    assert list(unmeasurable(gate, [False, True])) == ["max_bwt"]
    assert list(unmeasurable(gate, [False])) == ["max_mean_perplexity"]
    assert "the parent's gate" in unmeasurable(gate, [False], inherited=True)["max_mean_perplexity"]
    assert unmeasurable(None, [False]) == {}
