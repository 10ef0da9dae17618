import math

import pytest

from worker.pruning.report.report import bwt, log_bwt, mean

ROWS = [[10.0, 50.0, 50.0], [12.0, 20.0, 45.0], [15.0, 21.0, 30.0]]


def test_bwt_is_the_mean_rise_since_each_domain_was_learned() -> None:
    assert bwt(ROWS, [0, 1, 2]) == pytest.approx(((15 - 10) + (21 - 20)) / 2)
    assert log_bwt(ROWS, [0, 1, 2]) == pytest.approx((math.log(15 / 10) + math.log(21 / 20)) / 2)


def test_stasis_has_no_forgetting() -> None:
    assert bwt([[10.0, 50.0]] * 2, [0, 1]) == 0


def test_one_stage_has_no_bwt() -> None:
    assert bwt([[10.0]], [0]) is None
    assert bwt([], []) is None


def test_domains_without_a_column_are_left_out() -> None:
    assert bwt([[10.0, 5.0], [12.0, 5.0], [13.0, 6.0]], [0, None, 1]) == 3.0
    assert mean([None, 2.0, 4.0]) == 3.0
    assert mean([None]) is None
