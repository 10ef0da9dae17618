"""What follows from R."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.spec.metrics import Entries, Figures, figures, mean

STAGES = ("a", "b", "c")
DENSE = [9.0, 40.0, 40.0]
ROWS = [DENSE, [10.0, 50.0, 50.0], [12.0, 20.0, 45.0], [15.0, 21.0, 30.0]]


def entries(rows: list[list[float]], columns: tuple[str, ...] = STAGES) -> Entries:
    return {(n, name): value for n, row in enumerate(rows) for name, value in zip(columns, row, strict=True)}


def test_bwt_is_the_mean_rise_since_each_domain_was_learned() -> None:
    found = figures(STAGES, entries(ROWS))
    assert found.bwt == pytest.approx(((15 - 10) + (21 - 20)) / 2)
    assert found.log_bwt == pytest.approx((math.log(15 / 10) + math.log(21 / 20)) / 2)
    assert (found.mean_perplexity, found.dense_mean_perplexity) == (22.0, pytest.approx(89 / 3))


def test_one_stage_has_no_bwt_and_nothing_has_no_figures() -> None:
    assert figures("a", entries([[8.0], [10.0]], ("a",))) == Figures(
        mean_perplexity=10.0, dense_mean_perplexity=8.0
    )
    assert figures("ab", {}) == figures("", {}) == Figures()


def test_domains_without_a_column_are_left_out() -> None:
    rows = [[9.0, 4.0], [10.0, 5.0], [12.0, 5.0], [13.0, 6.0]]
    found = figures(STAGES, entries(rows, ("a", "c")))
    assert (found.mean_perplexity, found.dense_mean_perplexity, found.bwt) == (9.5, 6.5, 3.0)
    assert found.log_bwt == pytest.approx(math.log(1.3))


@pytest.mark.parametrize("missing", [(3, "a"), (3, "b"), (1, "a"), (2, "b"), (3, "c")])
def test_a_missing_entry_leaves_out_what_needs_it(missing: tuple[int, str]) -> None:
    found = figures(STAGES, {key: value for key, value in entries(ROWS).items() if key != missing})
    assert (found.mean_perplexity is None) is (missing[0] == 3)
    assert (found.bwt is None) is (found.log_bwt is None) is (missing != (3, "c"))


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=6))
def test_masks_that_do_not_move_neither_forget_nor_learn(perplexities: list[float]) -> None:
    names = tuple(f"d{index}" for index in range(len(perplexities)))
    found = figures(names, entries([perplexities] * (len(names) + 1), names))
    assert (found.bwt, found.log_bwt) == (0, 0)


def test_a_mean_is_over_what_is_known_and_of_infinities_no_number() -> None:
    assert (mean([None, 2.0, 4.0]), mean([None]), mean([])) == (3.0, None, None)
    assert mean([math.inf, 1.0]) == math.inf
    found = mean([math.inf, -math.inf])
    assert found is not None
    assert math.isnan(found)
