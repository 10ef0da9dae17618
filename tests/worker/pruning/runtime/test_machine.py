"""How fast a machine is found to be while it does other things, too."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.pruning.runtime import machine

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("alone", "together", "found"),
    [
        (1.0, 0.6, 0.6),  # two threads at work
        (1.0, 0.4, 0.5),  # no quicker than two
        (1.0, 30.0, 1.0),  # other work had the processors
    ],
)
def test_two_threads_are_believed_within_reason(
    alone: float, together: float, found: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def quickest(act: Callable[[], object], clock: Callable[[], float], patience: float) -> float:
        seen.append((torch.get_num_threads(), clock))
        return alone if torch.get_num_threads() == 1 else together

    monkeypatch.setattr(machine, "_quickest", quickest)
    monkeypatch.setattr(machine, "processors", lambda: 2.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert machine._best(CPU, lambda: None, 0.1) == found
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(2, time.perf_counter), (1, time.process_time)]


def test_one_thread_is_timed_by_the_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: list[Any] = []

    def quickest(act: Callable[[], object], clock: Callable[[], float], patience: float) -> float:
        clocks.append(clock)
        return 1.0

    monkeypatch.setattr(machine, "_quickest", quickest)
    monkeypatch.setattr(machine, "processors", lambda: 0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert machine._best(CPU, lambda: None, 0.1) == 2.0, "half of a processor's time is what it may have"
    finally:
        torch.set_num_threads(before)
    assert clocks == [time.process_time]


def test_what_is_measured_is_the_threads_that_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def quickest(act: Callable[[], object], clock: Callable[[], float], patience: float) -> float:
        seen.add(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(machine, "_quickest", quickest)
    before = torch.get_num_threads()
    machine.measure("cpu", tmp_path, 1, quick=True)
    assert seen == {1}
    machine.measure("cpu", tmp_path, 3, quick=True)
    assert seen == {1, 3}
    assert torch.get_num_threads() == before
