"""What is counted: by phase of the job, and by the line of the engine that asked for it."""

import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Final

ENGINE: Final = "/worker/pruning/"
ROOMS: Final = ("allocation", "calibration", "evaluation", "methods", "objective", "refine", "report", "state")
"""Parts of the engine that give a phase its name; what they call counts as theirs."""
PLUMBING: Final = "state/context.py"
BELOW: Final = ("model/", "runtime/", PLUMBING)
"""What has no phase of its own."""
OUTERMOST: Final = "runner.py"
LOADING: Final = "model/loading.py"
"""What brings weights to the device: a part of its own of the phase that asks for it."""


@dataclass
class Counts:
    """figures: by phase. places: by phase, figure and line. operations: launches by phase and operation. seconds:
    of the modelled device by phase and what it waits for. launched: by device. live, peak: bytes by device; peaks:
    by phase. unordered: sums of floats whose order a GPU does not fix, by line.

    Figures: launches, synchronisations; uploads, downloads, exchanges (between devices) and their bytes as
    `…_bytes`; host_cast_bytes; flops_PRECISION.
    """

    figures: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    places: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    operations: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    launched: Counter[int] = field(default_factory=Counter)
    live: Counter[int] = field(default_factory=Counter)
    peak: Counter[int] = field(default_factory=Counter)
    peaks: Counter[str] = field(default_factory=Counter)
    unordered: Counter[str] = field(default_factory=Counter)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def total(self, figure: str) -> int:
        return sum(each[figure] for each in self.figures.values())

    def add(self, figure: str, amount: int = 1) -> None:
        """To what runs now."""
        phase, line = where()
        with self._lock:
            self.figures[phase][figure] += amount
            self.places[phase, figure, line] += amount

    def launch(self, operation: str, device: int, seconds: float, kind: str, flops: Counter[str]) -> None:
        phase, line = where()
        with self._lock:
            self.figures[phase]["launches"] += 1
            self.figures[phase].update(flops)
            self.places[phase, "launches", line] += 1
            self.operations[phase][operation] += 1
            self.seconds[phase][kind] += seconds
            self.launched[device] += 1

    def wait(self, seconds: float, kind: str) -> None:
        phase, _ = where()
        with self._lock:
            self.seconds[phase][kind] += seconds

    def allocate(self, device: int, size: int) -> None:
        phase, _ = where()
        with self._lock:
            self.live[device] += size
            self.peak[device] = max(self.peak[device], self.live[device])
            self.peaks[phase] = max(self.peaks[phase], self.live[device])

    def free(self, device: int, size: int) -> None:
        with self._lock:
            self.live[device] -= size

    def worst(self, phase: str, figure: str, most: int = 6) -> list[tuple[str, int]]:
        """The lines that ask for most of a phase's figure."""
        own = Counter({line: n for (p, f, line), n in self.places.items() if (p, f) == (phase, figure)})
        return own.most_common(most)


def where() -> tuple[str, str]:
    """Phase and line that run now. The line is the engine's innermost one, and a model's below it."""
    frame: FrameType | None = sys._getframe(2)
    phase, own, outside, other, loads = "", "", "", "", False
    while frame is not None:
        code = frame.f_code
        path, room = _known.get(code) or _place(code)
        if path:
            if code.co_name != "__torch_function__":  # a mode's, that hands a model's calls on
                own = own or f"{path}:{frame.f_lineno} ({code.co_name})"
            phase = room or phase
            loads = loads or path == LOADING
            if path == OUTERMOST:
                break
            other = other if path.startswith(BELOW) else path.split("/")[0].removesuffix(".py")
        elif room and not own and not outside:
            outside = f" in {room}:{frame.f_lineno}"
        frame = frame.f_back
    named = phase or other or getattr(_started, "phase", "outside")
    return (f"{named}/load" if loads else named), (own or "outside the engine") + outside


def start_in(phase: str) -> None:
    """What this thread does outside of any phase belongs to that of who started it."""
    _started.phase = phase


def _place(code: CodeType) -> tuple[str, str]:
    """A file of the engine as its path and the room that names a phase; a model's code as ("", file)."""
    name, found = code.co_filename.replace("\\", "/"), ("", "")
    if ENGINE in name:
        path = name.rsplit(ENGINE, 1)[1]
        room = path.split("/")[0].removesuffix(".py")
        found = path, room if room in ROOMS and path != PLUMBING else ""
    elif "/transformers/" in name:
        found = "", name.rsplit("/", 1)[1]
    _known[code] = found
    return found


_started: Final = threading.local()
_known: Final[dict[CodeType, tuple[str, str]]] = {}
