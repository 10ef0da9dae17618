from itertools import islice

import pytest

from secateur.backoff import Backoff


def test_the_wait_doubles_with_each_failure_up_to_its_bound() -> None:
    backoff = Backoff(0.5, longest=3.0)
    assert [backoff.after(failures) for failures in range(6)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(islice(backoff.pauses(), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("failures", [100, 2_000, 10**9])
def test_no_count_is_too_large(failures: int) -> None:
    assert Backoff(0.1, longest=600.0).after(failures) == 600.0


def test_a_first_wait_of_nothing_stays_nothing() -> None:
    assert Backoff(0.0, longest=600.0).after(50) == 0.0
