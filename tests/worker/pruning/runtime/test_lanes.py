"""Threads for several devices: one at a time, each with torch's settings as it left them."""

import threading

import pytest
import torch

from worker.pruning.runtime.lanes import in_a_lane, others_turn, side_by_side
from worker.pruning.runtime.numerics import in_any_order, products


def test_results_are_in_the_order_of_their_tasks() -> None:
    tasks = [(number % 3, lambda number=number: (number, in_a_lane())) for number in range(7)]
    assert list(side_by_side(tasks)) == [(number, True) for number in range(7)]


def test_one_lane_is_no_thread_and_begins_a_task_when_it_is_asked_for() -> None:
    begun: list[int] = []
    results = side_by_side([("only", lambda number=number: begun.append(number)) for number in range(2)])
    next(results)
    assert begun == [0]
    assert not in_a_lane()


def test_each_lane_finds_torchs_settings_as_it_left_them() -> None:
    first, second = threading.Event(), threading.Event()

    def rounded() -> tuple[str, int]:
        with products("medium"), in_any_order():
            with others_turn():
                first.set()
                assert second.wait(30)
            return torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()

    def exact() -> tuple[str, int]:
        with others_turn():
            assert first.wait(30)
        found = torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
        second.set()
        return found

    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        with products("highest"):
            assert list(side_by_side([(0, rounded), (1, exact)])) == [("medium", 0), ("highest", 1)]
            assert (torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()) == ("highest", 1)
    finally:
        torch.set_deterministic_debug_mode(mode)


def test_the_first_tasks_error_is_raised_and_nothing_is_begun_behind_it() -> None:
    begun: list[int] = []

    def fail() -> None:
        raise LookupError("first")

    tasks = [(0, fail), (1, lambda: begun.append(1)), (0, lambda: begun.append(2))]
    with pytest.raises(LookupError, match="first"):
        list(side_by_side(tasks))
    assert 2 not in begun
