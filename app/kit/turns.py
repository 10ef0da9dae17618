"""Whether a process's loops work: each touches a file after a turn without error."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SILENCE_SECONDS: Final = 60.0
"""Seconds without a good turn, beyond the loop's own pause, after which a loop counts as stuck."""


def note_turn(folder: Path | None, loop: str) -> None:
    """Remember that a loop has just worked; nothing without a folder."""
    if folder is not None:
        _mark(folder, loop).touch()


def stuck_loops(folder: Path, loops: Sequence[str], pause: float) -> list[str]:
    """Those of the loops without a good turn within the time. pause: seconds that they rest between two turns."""
    oldest = time.time() - SILENCE_SECONDS - pause
    marks = {loop: _mark(folder, loop) for loop in loops}
    return [loop for loop, mark in marks.items() if not mark.exists() or mark.stat().st_mtime < oldest]


def complaint(folder: Path | None, loops: Sequence[str], pause: float) -> str | None:
    """What a health check has to say; None when all is well."""
    if folder is None:
        return "set SECATEUR_HEALTH_DIR for the process and for this check"
    stuck = stuck_loops(folder, loops, pause)
    return f"no good turn lately: {', '.join(stuck)}" if stuck else None


def _mark(folder: Path, loop: str) -> Path:
    return folder / f"secateur-{loop}-turn"
