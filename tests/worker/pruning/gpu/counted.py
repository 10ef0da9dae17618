"""What jobs on a GPU may ask of it, in `counts.txt`: a line a job, phase and figure.

Git merges the file by keeping the lines of both sides (.gitattributes); of two lines of a figure the higher holds.
"""

import warnings
from pathlib import Path
from typing import Final

from tests.pretend_gpu import Counts

FILE: Final = Path(__file__).with_name("counts.txt")
FIGURES: Final = (
    "launches",
    "synchronisations",
    "uploads",
    "uploads_bytes",
    "downloads",
    "downloads_bytes",
    "host_cast_bytes",
)
ACCEPT: Final = "python -m pytest tests/worker/pruning/gpu --accept-counts"
SLACK: Final = 200
"""One in so many may come or go by the last bits of a processor's sums, which decide how long a search goes on."""
Key = tuple[str, str, str]
"""Job, phase, figure."""


def known() -> dict[Key, int]:
    found: dict[Key, int] = {}
    for line in FILE.read_text().splitlines() if FILE.exists() else ():
        job, phase, figure, number = line.split()
        found[job, phase, figure] = max(int(number), found.get((job, phase, figure), 0))
    return found


def of(job: str, counts: Counts) -> dict[Key, int]:
    phases = counts.figures.items()
    return {(job, p, f): own[f] for p, own in phases for f in FIGURES if own[f]}


def accept(job: str, counts: Counts) -> None:
    """Write down what a job asks for."""
    kept = {key: number for key, number in known().items() if key[0] != job} | of(job, counts)
    FILE.write_text("".join(f"{' '.join(key)} {number}\n" for key, number in sorted(kept.items())))


def check(job: str, counts: Counts) -> None:
    """Raises AssertionError for what rose, with the lines that ask for it; what fell is a warning."""
    before, now = known(), of(job, counts)
    before = {key: number for key, number in before.items() if key[0] == job}
    raised, lowered = [], []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, 0), now.get(key, 0)
        slack = old // SLACK
        if new > old + slack:
            _, phase, figure = key
            lines = [f"      {number:>9} at {line}" for line, number in counts.worst(phase, figure)]
            raised.append("\n".join([f"  {phase}: {figure} {old} -> {new}; most of them now", *lines]))
        elif new < old - slack:
            lowered.append(f"{key[1]}: {key[2]} {old} -> {new}")
    if lowered:
        warnings.warn(
            f"{job} asks a GPU for less, hold on to it with `{ACCEPT}`: {'; '.join(lowered)}", stacklevel=2
        )
    assert not raised, (
        f"{job} asks more of a GPU than before (of a job over two blocks):\n"
        + "\n".join(raised)
        + f"\nIf this is worth it: `{ACCEPT}`, and say why in the commit."
    )
