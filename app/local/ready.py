"""Waiting until a child serves."""

import time
from collections.abc import Callable
from typing import Final

from app.local.children import Child
from app.local.errors import StartError
from secateur.backoff import Backoff

BACKOFF: Final = Backoff(0.02, longest=0.25)


def wait_until_ready(child: Child, serves: Callable[[], bool], seconds: float) -> None:
    """Return when `serves()` is true; raise StartError when the child ends or the time is over."""
    deadline = time.monotonic() + seconds
    pauses = BACKOFF.pauses()
    while not serves():
        if child.wait(next(pauses)):
            raise StartError(f"{child.name} ended with code {child.exit_code} at start:\n{child.tail()}")
        if time.monotonic() > deadline:
            raise StartError(f"{child.name} did not answer within {seconds:.0f} s:\n{child.tail()}")
