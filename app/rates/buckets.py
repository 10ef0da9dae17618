"""Token buckets of one process: what a call costs nothing for."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from app.rates.policies import WINDOW_SECONDS

MOST_BUCKETS: Final = 20_000
"""The one that was used least lately goes first; whoever comes back after that has a full one."""


class Standing(NamedTuple):
    """After a call was counted."""

    allowed: bool
    remaining: int
    """Calls that are left at once."""
    reset: int
    """Seconds until all are there again; of a refused call, until the next one is."""


class Buckets:
    """One bucket for each name, which `quota` calls fill and a minute empties."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """By name: the tokens that were left, and when."""

    def take(self, name: Hashable, quota: int) -> Standing:
        """Count a call."""
        now = self._clock()
        left, at = self._buckets.get(name, (float(quota), now))
        left = min(quota, left + (now - at) * quota / WINDOW_SECONDS)
        allowed = left >= 1
        left -= allowed
        self._buckets[name] = (left, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        missing = quota - left if allowed else 1 - left
        return Standing(allowed, int(left), math.ceil(missing * WINDOW_SECONDS / quota))
