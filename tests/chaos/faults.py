"""The faults: what can happen to which process, drawn at random."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

import psutil

from tests.chaos.harness import WORKERS, House
from tests.chaos.parts import Part, freeze

LEASE: Final = 3.0
FREEZE: Final = (1.2 * LEASE, 2.5 * LEASE)
"""Seconds that a frozen process stays so: longer than a lease."""
BLOCKS_BETWEEN: Final = (2, 9)
AT_ONCE: Final = 0.15
"""So often a fault follows the last one without waiting for work: while engines start, or a part is away."""
PATIENCE: Final = 45.0
"""Seconds without that much work after which the next fault comes all the same."""
SERVICES: Final = ("api", "dispatcher", "postgres", "seaweedfs", "valkey")
OF_A_WORKER: Final = ("engine", "child", "parent", "group")
HOW: Final = ("kill", "freeze", "terminate")
WEIGHTS: Final = {**dict.fromkeys(OF_A_WORKER, 2.0), **dict.fromkeys(SERVICES, 1.0)}


@dataclass(frozen=True)
class Fault:
    """One that has happened."""

    at: float
    """Unix time."""
    what: str
    how: str
    worker: str | None
    """Whose process it was."""
    held: tuple[tuple[str, int], ...] = field(default=())
    """Jobs and attempts that it may have hit: of the worker, or all when it struck a server."""

    @property
    def kind(self) -> str:
        return f"{self.how} {self.what}"


class Pace:
    """When to strike: mostly after some blocks of work, so that a slow machine gets anywhere; at times at once."""

    def __init__(self, house: House, draw: Random) -> None:
        self._house = house
        self._draw = draw
        self._next()

    def is_time(self) -> bool:
        """Whether it is; then the next time is drawn."""
        now = time.monotonic()
        worked = self._solved() >= self._blocks and now >= self._after
        if worked or now >= self._at_last:
            self._next()
            return True
        return False

    def _next(self) -> None:
        now = time.monotonic()
        self._blocks = self._solved() + (
            0 if self._draw.random() < AT_ONCE else self._draw.randint(*BLOCKS_BETWEEN)
        )
        self._after = now + self._draw.uniform(0.2, 3.0)
        self._at_last = now + PATIENCE

    def _solved(self) -> int:
        return self._house.ledger.read_bytes().count(b"\n")


class Chaos:
    """Strikes when it is told to."""

    def __init__(self, house: House, draw: Random) -> None:
        self.faults: list[Fault] = []
        self._house = house
        self._draw = draw

    def strike(self) -> None:
        """One fault; nothing when what was drawn is not there or frozen."""
        what = self._draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        how = self._draw.choice(HOW)
        seconds = self._draw.uniform(*FREEZE)
        worker = self._draw.choice(WORKERS) if what in OF_A_WORKER else None
        part = self._house.parts[worker or what]
        if part.frozen or not part.child.running:
            return
        held = self._held(worker)
        act = self._of_worker(part, what, how, seconds) if worker else _of_part(part, how, seconds)
        if act is not None:
            at = time.time()
            act()
            self.faults.append(Fault(at, what, how, worker, held))

    def _held(self, worker: str | None) -> tuple[tuple[str, int], ...]:
        """Leases of that worker, or all."""
        pattern = f"{worker or ''}%"
        rows = self._house.query("SELECT job_id, attempt FROM job_leases WHERE worker LIKE %s", pattern)
        return tuple((str(job), int(attempt)) for job, attempt in rows or [])

    def _of_worker(self, part: Part, what: str, how: str, seconds: float) -> Callable[[], None] | None:
        if what == "group":
            return (lambda: part.ask_to_stop(group=True)) if how == "terminate" else _of_part(part, how, seconds)
        target = _find(part, what)
        if target is None:
            return None
        if how == "freeze":
            return lambda: freeze([target], seconds)
        if how == "terminate" and what == "parent":
            return part.ask_to_stop
        number = signal.SIGKILL if how == "kill" else signal.SIGTERM
        return lambda: _send(target, number)


def _of_part(part: Part, how: str, seconds: float) -> Callable[[], None]:
    """To the process with all of its descendants."""
    if how == "kill":
        return part.kill
    return part.ask_to_stop if how == "terminate" else lambda: part.freeze(seconds)


def _find(part: Part, what: str) -> psutil.Process | None:
    """A process of a worker: Celery's parent, its pool child, or the engine below that."""
    with suppress(psutil.Error, IndexError):
        parent, *others = part.family()
        engines = [process for process in others if "--report-fd" in process.cmdline()]
        children = [process for process in others if process not in engines]
        return {"parent": [parent], "child": children, "engine": engines}[what][0]
    return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
