"""Scratch files of what is received: swept when a process was killed meanwhile, and honest about a full disk."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from app.kit.problems import Unavailable

ABANDONED_SECONDS: Final = 86_400
"""A file that nobody has written to for so long belongs to no upload."""
_PREFIX: Final = "upload-"


def open_scratch(folder: Path) -> IO[bytes]:
    """A new file, whose writer removes it. Raises Unavailable."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(folder)
        return tempfile.NamedTemporaryFile(dir=folder, prefix=_PREFIX, delete=False)
    except OSError as error:
        raise _no_disk() from error


def write_scratch(file: IO[bytes], data: bytes) -> None:
    """Raises Unavailable."""
    try:
        file.write(data)
    except OSError as error:
        raise _no_disk() from error


def flush_scratch(file: IO[bytes]) -> None:
    """Raises Unavailable."""
    try:
        file.flush()
    except OSError as error:
        raise _no_disk() from error


def remove_scratch(file: IO[bytes]) -> None:
    """It may be gone already."""
    Path(file.name).unlink(missing_ok=True)
    with suppress(OSError):  # what could not be written before cannot be now
        file.close()


def _sweep(folder: Path) -> None:
    """Remove what a process left that was killed while it received."""
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):  # another process sweeps too
            if left.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                left.unlink()


def _no_disk() -> Unavailable:
    return Unavailable("There is no room for the upload at the moment.", retry_after=60)
