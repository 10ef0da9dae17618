import threading

import pytest

from worker.pruning.runtime.prefetch import read_ahead


def test_one_item_is_read_ahead_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]

    def read(number: int) -> int:
        begun[number].set()
        return number * 10

    reads = read_ahead(read, range(4))
    assert not begun[0].is_set()
    for number in range(4):
        assert next(reads) == (number, number * 10)
        assert number == 3 or begun[number + 1].wait(10)
        assert not any(later.is_set() for later in begun[number + 2 :])
    assert next(reads, None) is None
    assert list(read_ahead(read, [])) == []


def test_reading_error_surfaces_when_its_item_is_due() -> None:
    def read(number: int) -> int:
        if number == 1:
            raise OSError("unreadable")
        return number

    reads = read_ahead(read, range(3))
    assert next(reads) == (0, 0)
    with pytest.raises(OSError, match="unreadable"):
        next(reads)


def test_abandoned_reading_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    reads = read_ahead(lambda number: number, range(3))
    next(reads)
    reads.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
