"""Writing a block's files while the next block is computed.

What runs on the thread must not compute with torch: its threads are counted for the computing thread alone.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

from secateur.spec.records.pipe import BlockResult, Message
from worker.pruning.observer import Observer
from worker.pruning.runtime.lanes import in_a_lane

T = TypeVar("T")


class Behind:
    """One thread, on which at most one block is being written, and the observer that hears of a block once its
    files are whole.

    It is an observer itself: looks at whether to stop (`check`) are when a written block is told of, and when an
    error of its writing is raised. Left with an error, it waits for what is being written, and tells nothing.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._thread = ThreadPoolExecutor(1, "behind")
        self._writing: Future[BlockResult] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def begin(self, task: Callable[[], T]) -> "Future[T]":
        """Something about a block that its writing will ask for. Tasks run in the order of their beginning."""
        return self._thread.submit(task)

    def write(self, task: Callable[[], BlockResult]) -> None:
        """Begin to write a block, when the one before is written and told of. task: returns what is to be told."""
        self.finish()
        self._writing = self._thread.submit(task)

    def finish(self) -> None:
        """Wait until the block that is being written is told of. Raises what its writing has raised."""
        if (writing := self._writing) is not None:
            self._writing = None
            self._observer.tell(writing.result())

    def tell(self, record: Message) -> None:
        self._observer.tell(record)

    def check(self) -> None:
        self._observer.check()
        # A lane keeps the others waiting, and being told of a block may take a while.
        if self._writing is not None and self._writing.done() and not in_a_lane():
            self.finish()

    def settle(self) -> None:
        self.finish()
        self._observer.settle()
