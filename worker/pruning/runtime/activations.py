"""Hidden states between two blocks: in memory as far as a budget goes, beyond it in a mapped file."""

import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self, overload

import torch
from torch import Tensor


class ActivationCache:
    """One tensor a batch, on the CPU. Each keeps the shape and dtype that it came with.

    The first ones stay in memory until `budget` bytes are used; the others are pages of a file in `folder`, which
    the kernel writes out and drops when memory is wanted elsewhere. The file has no name from the start, so that
    it is gone with the process however that ends. A full disk is an OSError from `append`, never a signal later:
    the file's space is taken before it is mapped.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        self._left = budget
        self._states: list[Tensor] = []
        self._file: IO[bytes] | None = None
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._states)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        return self._states[index]

    def __setitem__(self, index: int, state: Tensor) -> None:
        """Replace a state by one of its shape, from any device."""
        self._states[index].copy_(state)

    @property
    def on_disk(self) -> int:
        """Bytes of the scratch file."""
        return self._end

    def append(self, state: Tensor) -> None:
        if state.nbytes <= self._left:
            self._left -= state.nbytes
            self._states.append(torch.empty(state.shape, dtype=state.dtype))
        else:
            self._states.append(self._mapped(state.nbytes).view(state.dtype).view(state.shape))
        self._states[-1].copy_(state)

    def clear(self) -> None:
        """Forget every state, and the file."""
        self._states, self._left, self._end = [], self._budget, 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _mapped(self, size: int) -> Tensor:
        """So many more bytes of the file."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by clear
        start = self._end
        end = start + -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if sys.platform == "linux":
            os.posix_fallocate(self._file.fileno(), start, end - start)
        else:
            os.truncate(self._file.fileno(), end)
        self._end = end
        pages = mmap.mmap(self._file.fileno(), size, offset=start)
        return torch.frombuffer(pages, dtype=torch.uint8)
