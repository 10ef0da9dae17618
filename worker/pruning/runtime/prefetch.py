"""Reading beside computing: one thread, one thing at a time, one step ahead at the most.

What runs here must not compute with torch: its threads are counted for the computing thread alone.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(read: Callable[[Item], Read], items: Sequence[Item]) -> Iterator[tuple[Item, Read]]:
    """Every item with what `read` makes of it, the next one being read while this one is used.

    An error of `read` is raised when its item is due. Of the results only the next one is held here.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        waiting = [thread.submit(read, item) for item in items[:1]]
        for number, item in enumerate(items):
            waiting += [thread.submit(read, following) for following in items[number + 1 : number + 2]]
            yield item, waiting.pop(0).result()
