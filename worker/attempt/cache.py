"""The worker's local copies of models and texts: content-addressed, bounded, shared by all workers of a host."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from app.delivery.object_keys import StoredFile
from app.settings import Settings
from app.storage import StoreError
from secateur.digests import file_sha256

LOCK_PAUSE_SECONDS: Final = 0.2
CACHE_SHARE: Final = 1 / 3
"""Of the work folder's disk. A job beside it needs room for several copies of its model."""
Pause = Callable[[float], None]


class CorruptObject(StoreError):
    """What the store gave is not what was put there."""


class Cache:
    """`cache/objects/ab/<sha256>`. Users get hard links, so that eviction never pulls a file from under a job."""

    def __init__(self, work_dir: Path, bound: int, download: Callable[[str, Path], None], pause: Pause) -> None:
        """download: writes the object of a key to a path. pause: waits; may raise to give up."""
        self._folder = work_dir / "cache"
        self._bound = bound
        self._download = download
        self._pause = pause
        for name in ("objects", "partial", "locks"):
            (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def link(self, source: StoredFile, target: Path) -> None:
        """Make `target` a read-only copy of the object, from the cache or from the store."""
        entry = self._entry(source.sha256)
        with _lock(self._folder, source.sha256, self._pause):
            if not _is_whole(entry, source):
                self._fetch(source, entry)
            os.utime(entry)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(entry, target)
        self.evict()

    def evict(self) -> int:
        """Remove what was used least recently until the bound holds; bytes removed. Linked files stay."""
        return _remove_oldest(self._folder, held_bytes(self._folder.parent) - self._bound)

    def _entry(self, sha256: str) -> Path:
        return self._folder / "objects" / sha256[:2] / sha256

    def _fetch(self, source: StoredFile, entry: Path) -> None:
        partial = self._folder / "partial" / source.sha256
        try:
            fetch_checked(source, partial, self._download)
            partial.chmod(0o400)
            entry.parent.mkdir(exist_ok=True, mode=0o700)
            partial.replace(entry)
        finally:
            partial.unlink(missing_ok=True)


def shrink(work_dir: Path, size: int) -> int:
    """Remove so many bytes of what was used least recently, as far as nobody uses it; bytes removed."""
    return _remove_oldest(work_dir / "cache", size)


def _remove_oldest(folder: Path, size: int) -> int:
    removed = 0
    for path, status in sorted(_stats(folder / "objects"), key=lambda entry: entry[1].st_mtime):
        if removed >= size:
            break
        with _lock(folder, path.name) as locked:
            if locked and path.exists() and path.stat().st_nlink == 1:
                path.unlink()
                removed += status.st_size
    return removed


def held_bytes(work_dir: Path) -> int:
    """What lies in the cache now."""
    return sum(status.st_size for _, status in _stats(work_dir / "cache" / "objects"))


def bound_of(settings: Settings) -> int:
    """How large the cache may be: as set, or CACHE_SHARE of the disk."""
    if settings.cache_bytes is not None:
        return settings.cache_bytes
    return int(CACHE_SHARE * shutil.disk_usage(settings.work_dir).total)


def sweep_partial(work_dir: Path) -> int:
    """Remove the downloads whose process is gone; how many there were. No bound counts them."""
    folder = work_dir / "cache"
    count = 0
    for path in (folder / "partial").glob("*"):
        with _lock(folder, path.name) as locked:
            if locked and path.exists():
                path.unlink()
                count += 1
    return count


def fetch_checked(source: StoredFile, target: Path, download: Callable[[str, Path], None]) -> None:
    """Download an object and compare its digest. Raises CorruptObject."""
    download(source.key, target)
    if file_sha256(target) != source.sha256:
        target.unlink()
        raise CorruptObject("an object's digest is not the recorded one")


@contextmanager
def _lock(folder: Path, sha256: str, pause: Pause | None = None) -> Iterator[bool]:
    """Hold the lock of an entry (and of a 256th of all others). Yields whether it is held; with a pause it is."""
    descriptor = os.open(folder / "locks" / sha256[:2], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        held = _flock(descriptor)
        while pause is not None and not held:
            pause(LOCK_PAUSE_SECONDS)
            held = _flock(descriptor)
        yield held
    finally:
        os.close(descriptor)


def _stats(objects: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in objects.glob("*/*"):
        with suppress(FileNotFoundError):  # another worker has just evicted it
            yield path, path.stat()


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_whole(entry: Path, source: StoredFile) -> bool:
    """An entry was checked when it came; here only that nobody truncated it."""
    return entry.is_file() and entry.stat().st_size == source.bytes
