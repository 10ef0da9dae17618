import threading

import pytest

from worker.pruning.runtime.prefetch import beside, read_ahead


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


def test_task_and_body_run_at_the_same_time() -> None:
    here, there = threading.Event(), threading.Event()

    def task() -> None:
        there.set()
        assert here.wait(10)

    with beside(task):
        assert there.wait(10)
        here.set()


def test_error_of_the_task_surfaces_at_the_end() -> None:
    def task() -> None:
        raise OSError("disk full")

    reached = []
    with pytest.raises(OSError, match="disk full"), beside(task):
        reached.append(True)
    assert reached


def test_error_of_the_body_goes_first_and_the_task_is_waited_for() -> None:
    ended = threading.Event()
    go = threading.Event()

    def task() -> None:
        go.wait(10)
        ended.set()

    def body() -> None:
        with beside(task):
            go.set()
            raise KeyError

    with pytest.raises(KeyError):
        body()
    assert ended.is_set()
