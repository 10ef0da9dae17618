"""One process's own buckets."""

from app.rates.buckets import MOST_BUCKETS, Buckets, Standing


class Clock:
    """Tells what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills_within_a_minute() -> None:
    clock = Clock()
    buckets = Buckets(clock)
    assert [buckets.take("a", 3) for _ in range(4)] == [
        Standing(True, 2, 20),
        Standing(True, 1, 40),
        Standing(True, 0, 60),
        Standing(False, 0, 20),
    ]
    clock.now = 20.0
    assert buckets.take("a", 3) == Standing(True, 0, 60)
    clock.now = 1000.0
    assert buckets.take("a", 3) == Standing(True, 2, 20)


def test_names_do_not_share() -> None:
    buckets = Buckets(Clock())
    assert buckets.take("a", 1).allowed
    assert not buckets.take("a", 1).allowed
    assert buckets.take("b", 1).allowed


def test_no_more_is_kept_than_there_is_room_for() -> None:
    clock = Clock()
    buckets = Buckets(clock)
    for i in range(MOST_BUCKETS + 10):
        buckets.take(str(i), 1)
    assert len(buckets._buckets) == MOST_BUCKETS
    assert not buckets.take(str(MOST_BUCKETS), 1).allowed, "those used lately stay"
