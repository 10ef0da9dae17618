"""Keeps children running: starts again what crashed, stops all in order."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from app.local.children import Child
from secateur.backoff import Backoff

LOOK_EVERY: Final = 0.25
MOST_RESTARTS: Final = 6
"""So often in a row a child is started again before the whole stack is given up."""
HEALTHY_AFTER: Final = 60.0
"""A child that ran this long has its crashes forgiven."""
BACKOFF: Final = Backoff(0.5, longest=20.0)

log = logging.getLogger("secateur.local")


@dataclass
class _Watched:
    child: Child
    started: float = field(default_factory=time.monotonic)
    crashes: int = 0
    again_at: float | None = None
    """When to start it again; None while it runs."""


class Supervisor:
    """Watches children from a thread of its own, from `add()` until `stop()`."""

    def __init__(self) -> None:
        self.failure: str | None = None
        """Why the stack was given up."""
        self.ended = threading.Event()
        """Set when a child could not be kept running."""
        self._groups: list[list[_Watched]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._hurried = False
        self._thread: threading.Thread | None = None

    def add(self, *children: Child) -> None:
        """Start children and watch them; those added together are stopped together, the last added first."""
        with self._lock:
            self._groups.append([_Watched(child) for child in children])
            for child in children:
                if not child.running:
                    child.start()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop every child, newest group first; each group has the longest grace of its members."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for group in reversed(self._groups):
            self._stop_together([watched.child for watched in group])
        self._groups.clear()

    def hurry(self) -> None:
        """Make a running `stop()` kill instead of wait; may be called from a signal handler."""
        self._hurried = True

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            with self._lock:
                everyone = [watched for group in self._groups for watched in group]
            for watched in everyone:
                self._look_after(watched)

    def _look_after(self, watched: _Watched) -> None:
        now = time.monotonic()
        if watched.again_at is None and not watched.child.running:
            self._note_crash(watched, now)
        elif watched.again_at is not None and now >= watched.again_at and not self.ended.is_set():
            watched.child.start()
            watched.started, watched.again_at = now, None
            log.info("%s started again", watched.child.name)

    def _note_crash(self, watched: _Watched, now: float) -> None:
        child = watched.child
        code = child.exit_code
        child.kill()  # what is left of its process group
        watched.crashes = 1 if now - watched.started > HEALTHY_AFTER else watched.crashes + 1
        if watched.crashes > MOST_RESTARTS:
            self.failure = f"{child.name} ended {watched.crashes} times in a row; see {child.log}"
            log.error(self.failure)
            watched.again_at = float("inf")
            self.ended.set()
            return
        pause = BACKOFF.after(watched.crashes)
        watched.again_at = now + pause
        log.warning("%s ended with code %s; it starts again in %.1f s", child.name, code, pause)

    def _stop_together(self, children: Sequence[Child]) -> None:
        for child in children:
            child.ask_to_stop()
        deadline = time.monotonic() + max((child.grace for child in children), default=0)
        for child in children:
            while not child.wait(0.1):
                if self._hurried or time.monotonic() > deadline:
                    log.warning("%s did not stop in time and is killed", child.name)
                    break
            child.kill()
