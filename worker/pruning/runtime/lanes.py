"""Several devices at work on tasks of their own: a thread each, of which one at a time is at the host.

A GPU is told what to do in far less time than it takes to do it, so that one thread after another is enough to
keep all of them busy, as long as a thread that waits for its device (`waiting.settled`) lets the others go on.
Torch's settings belong to the process: each thread finds them again as it left them.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch

T = TypeVar("T")
_lane: Final = threading.local()
Settings = tuple[str, int, int]


@dataclass
class _Turns:
    """turn: held by the thread that is at the host. failed: no further task is begun."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    failed: bool = False


def side_by_side(tasks: Sequence[tuple[object, Callable[[], T]]]) -> Iterator[T]:
    """Results of tasks in their order. tasks: each with the lane that it belongs to; those of a lane are done one
    after another, in their order, and those of different lanes must not depend on each other.

    With one lane each is begun when its result is asked for. Raises the error of the first task that failed.
    """
    lanes: defaultdict[object, list[int]] = defaultdict(list)
    for number, (lane, _) in enumerate(tasks):
        lanes[lane].append(number)
    if len(lanes) < 2:
        for _, task in tasks:
            yield task()
        return
    found: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    turns, begun = _Turns(), _settings()

    def work(own: list[int]) -> None:
        with turns.turn:
            _lane.turn = turns.turn
            _restore(begun)
            for number in own:
                if turns.failed:
                    return
                try:
                    with torch.no_grad():
                        found[number] = tasks[number][1]()
                except BaseException as error:
                    errors[number], turns.failed = error, True

    threads = [
        threading.Thread(target=copy_context().run, args=(work, own), name="lane") for own in lanes.values()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _restore(begun)
    if errors:
        raise errors[min(errors)]
    yield from (found[number] for number in range(len(tasks)))


def in_a_lane() -> bool:
    return getattr(_lane, "turn", None) is not None


@contextmanager
def others_turn() -> Iterator[None]:
    """While this thread waits, another lane goes on. Nothing of torch is to be used meanwhile but waiting."""
    turn: threading.Lock = _lane.turn
    own = _settings()
    turn.release()
    try:
        yield
    finally:
        turn.acquire()
        _restore(own)


def _settings() -> Settings:
    """What a task may change for a time."""
    return (
        torch.get_float32_matmul_precision(),
        torch.get_deterministic_debug_mode(),
        torch.get_num_threads(),
    )


def _restore(own: Settings) -> None:
    if _settings() == own:
        return
    precision, mode, threads = own
    torch.set_float32_matmul_precision(precision)
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)
