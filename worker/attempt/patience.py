"""How long a worker waits until its machine is fit for jobs; one that was started for a job should rather end."""

import time


class OutOfPatience(RuntimeError):
    """The machine has not become fit for jobs; the message says what it lacks."""


class Patience:
    """For one wait, from now on."""

    def __init__(self, seconds: float) -> None:
        """seconds: of the whole wait; may be infinite."""
        self._until = time.monotonic() + seconds

    def next(self, pause: float, said: str) -> float:
        """Seconds until the next look, at the most `pause`. said: what is waited for. Raises OutOfPatience."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise OutOfPatience(said)
        return min(pause, left)
