"""Scratch folders: one an attempt, private, and gone with it."""

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

ABANDONED_SECONDS: Final = 86_400


class Scratch:
    """`scratch/{job}-{fence}` below the work folder, held by a file lock for as long as this process lives."""

    def __init__(self, work_dir: Path, name: str) -> None:
        self._parent = work_dir / "scratch"
        self._lock_path = self._parent / f"{name}.lock"
        self._lock: int | None = None
        self.folder = self._parent / name
        self.workspace = self.folder / "workspace"
        self.model = self.folder / "model"
        self.data = self.folder / "data"

    def __enter__(self) -> Self:
        self._parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _try_lock(self._lock_path)
        if self._lock is None:
            raise RuntimeError("another process uses this scratch folder")
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder, self.workspace, self.model, self.data):
            folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self.folder)
        self._lock_path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)


def sweep(work_dir: Path) -> int:
    """Remove the scratch folders of attempts whose process is gone; how many there were."""
    parent = work_dir / "scratch"
    count = 0
    for folder in sorted(parent.glob("job_*")):
        if folder.is_dir() and (lock := _try_lock(folder.with_name(f"{folder.name}.lock"))) is not None:
            _remove(folder)
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
            os.close(lock)
            count += 1
    for folder in parent.glob("intake-*"):
        with suppress(FileNotFoundError):  # its intake has just ended
            if folder.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                _remove(folder)
                count += 1
    return count


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(path: Path) -> int | None:
    """Descriptor that holds the lock, or None when another process does. It is not inherited by children."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
