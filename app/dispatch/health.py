"""Whether a dispatcher on this machine works: `python -m app.dispatch.health` ends with 0 or 1.

Each loop touches a file after a turn without error, so a dispatcher that runs but can do nothing is not healthy.
"""

import sys
import time
from pathlib import Path
from typing import Final

from app.settings import get_settings

LOOPS: Final = ("dispatcher", "reaper")
SILENCE_SECONDS: Final = 60.0
"""Seconds without a good turn, beyond the loop's own pause, after which a loop counts as stuck."""


def note_turn(folder: Path | None, loop: str) -> None:
    """Remember that a loop has just worked; nothing without a folder."""
    if folder is not None:
        _mark(folder, loop).touch()


def stuck_loops(folder: Path, pause: float) -> list[str]:
    """Loops without a good turn within the time."""
    oldest = time.time() - SILENCE_SECONDS - pause
    marks = {loop: _mark(folder, loop) for loop in LOOPS}
    return [loop for loop, mark in marks.items() if not mark.exists() or mark.stat().st_mtime < oldest]


def _mark(folder: Path, loop: str) -> Path:
    return folder / f"secateur-{loop}-turn"


if __name__ == "__main__":
    settings = get_settings()
    if settings.health_dir is None:
        sys.exit("set SECATEUR_HEALTH_DIR for the dispatcher and for this check")
    stuck = stuck_loops(settings.health_dir, max(settings.dispatch_seconds, settings.reaper_seconds))
    if stuck:
        sys.exit(f"no good turn lately: {', '.join(stuck)}")
