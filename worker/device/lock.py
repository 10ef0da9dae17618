"""One worker a GPU: a lock file in a folder that all workers of a host see, by the GPU's UUID."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self


class DeviceTaken(Exception):
    """Another worker has the GPU."""


class DeviceLock:
    """Held until it is closed, or the process and all that it has forked have ended, however they end."""

    def __init__(self, folder: Path, uuid: str) -> None:
        """Raises DeviceTaken, which says by whom."""
        path = folder / f"{uuid}.lock"
        self._descriptor = _open(path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another worker"
            os.close(self._descriptor)
            raise DeviceTaken(
                f"the GPU {uuid} is {holder}'s: one worker a GPU; give this one another device (SECATEUR_DEVICE)"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    """Workers of different users share the folder, where the system may refuse to create what is there already."""
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):
        path.parent.chmod(0o1777)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor
