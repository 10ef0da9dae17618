"""How far a job is and how long it will still take, from the arithmetic each part costs."""

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum

from secateur.spec.records.history import Phase
from secateur.spec.records.pipe import Progress
from worker.pruning.observer import Observer

SECONDS_BETWEEN = 1.0


class Kind(StrEnum):
    """Kinds of work run at different speeds, so each has its own measured rate."""

    evaluate = "evaluate"
    forward = "forward"
    solve = "solve"


@dataclass(frozen=True)
class _Where:
    """The part of the job that is running."""

    phase: Phase = Phase.evaluating
    stage: int | None = None
    domain: str | None = None
    block: int | None = None


@dataclass
class Tracker:
    """Counts floating point operations done of those planned. The fraction never falls."""

    observer: Observer
    stages: int
    blocks: int
    planned: dict[Kind, float]
    done: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    _measured: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    _seconds: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    _where: _Where = _Where()
    _mark: float = field(default_factory=time.monotonic)
    _told: float = 0.0
    _fraction: float = 0.0

    def skip(self, kind: Kind, work: float) -> None:
        """Work that an earlier run of this job has done: it counts, but says nothing about our speed."""
        self.done[kind] += work

    def restart_clock(self) -> None:
        """Call before a kind of work whose time must not include what went before."""
        self._mark = time.monotonic()

    def advance(self, kind: Kind, work: float) -> None:
        """Work just finished; the time since the last call was spent on it."""
        now = time.monotonic()
        self.done[kind] += work
        self._measured[kind] += work
        self._seconds[kind] += now - self._mark
        self._mark = now
        self.observer.check()
        if now - self._told >= SECONDS_BETWEEN:
            self.tell()

    def move(self, phase: Phase, stage: int | None, domain: str | None, block: int | None = None) -> None:
        self._where = _Where(phase, stage, domain, block)
        self.observer.check()
        self.tell()

    def at_block(self, block: int) -> None:
        """As `move` to another block of the same part, which is not worth a message of its own."""
        self._where = replace(self._where, block=block)

    def tell(self) -> None:
        self._told = time.monotonic()
        self.observer.tell(
            Progress(
                **vars(self._where),
                stages=self.stages,
                blocks=self.blocks,
                fraction=self.fraction(),
                eta_seconds=self.eta(),
            )
        )

    def fraction(self) -> float:
        total = sum(self.planned.values())
        now = sum(min(self.done[kind], self.planned[kind]) for kind in Kind) / total if total else 1.0
        self._fraction = max(self._fraction, min(now, 1.0))
        return self._fraction

    def eta(self) -> float | None:
        """Seconds left; None until something has been measured. A kind not yet seen takes the average rate."""
        work, seconds = sum(self._measured.values()), sum(self._seconds.values())
        if not work:
            return None
        left = 0.0
        for kind in Kind:
            known = self._measured[kind] > 0
            rate = self._seconds[kind] / self._measured[kind] if known else seconds / work
            left += max(self.planned[kind] - self.done[kind], 0.0) * rate
        return left

    def finish(self) -> None:
        self._fraction = 1.0
        for kind in Kind:
            self.done[kind] = self.planned[kind]
        self.move(Phase.publishing, self.stages - 1, None, self.blocks)
