"""Growing pauses between tries: one rule for the client, the service and its workers."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Backoff:
    """Seconds to wait after failures in a row: `first` after one, twice as long with each more, to `longest`."""

    first: float
    longest: float

    def after(self, failures: int) -> float:
        """No wait after no failure."""
        return min(self.longest, self.first * 2 ** min(failures - 1, 60)) if failures > 0 else 0.0

    def pauses(self) -> Iterator[float]:
        """The wait after the first failure, after the second, and so on without end."""
        return map(self.after, count(1))
