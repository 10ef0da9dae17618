"""Bytes that memory has no room for."""

import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Final

import torch
from torch import Tensor

PIECE: Final = 2**30
"""Bytes of one call: the kernel takes no more than twice as many."""


class ScratchFile:
    """A file in `folder` that is made when it is first wanted and has no name, so that it is gone with the process
    however that ends. A full disk is an OSError from `reserve`, never a signal later."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self.size = 0
        """Bytes."""

    def reserve(self, size: int) -> int:
        """Where so many more bytes of the file begin."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close
        start = self.size
        end = start + -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if sys.platform == "linux":
            os.posix_fallocate(self._file.fileno(), start, end - start)
        else:
            os.truncate(self._file.fileno(), end)
        self.size = end
        return start

    def mapped(self, start: int, size: int) -> Tensor:
        """Bytes of it as memory, whose pages the kernel writes out and drops when memory is wanted elsewhere."""
        assert self._file is not None  # noqa: S101 - for the type checker
        pages = mmap.mmap(self._file.fileno(), size, offset=start)
        return torch.frombuffer(pages, dtype=torch.uint8)

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into`, bytes, with what begins at `start`."""
        assert self._file is not None  # noqa: S101 - for the type checker
        done = 0
        while done < len(into):
            found = os.preadv(self._file.fileno(), [into[done : done + PIECE]], start + done)
            if not found:
                raise OSError("the scratch file ended too early")
            done += found

    def write(self, start: int, given: memoryview) -> None:
        """Put `given`, bytes, where `start` is."""
        assert self._file is not None  # noqa: S101 - for the type checker
        done = 0
        while done < len(given):
            done += os.pwrite(self._file.fileno(), given[done : done + PIECE], start + done)

    def close(self) -> None:
        """Give it back to the disk."""
        self.size = 0
        if self._file is not None:
            self._file.close()
            self._file = None
