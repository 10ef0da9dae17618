"""What the C library keeps of freed memory.

glibc takes tensors from a heap and leaves the holes of freed ones in it: those of less than a threshold, which it
raises up to 32 MiB as they are freed, and larger ones, too, where holes have grown together. A matrix of one shape
does not fit into the hole of another. So a process comes to hold several times what is in use, and more with every
block. Tensors that are mapped by themselves leave no holes, but each costs fresh pages: with two threads a job
over a small model took half as long again when those of its forward passes were.
"""

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Event
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
LARGE: Final = 4 * 2**20
LARGEST: Final = 32 * 2**20
KEPT: Final = 512 * 2**20
"""Bytes: of a tensor that is mapped by itself, and gone when it is freed; the most that glibc lets this be; and
what may be free in the heap and stay. A small model's passes take less, and find it again in the next batch and
the next block: fresh pages, which the system fills with zeros, were a tenth of such a job."""


class _Counts(ctypes.Structure):
    """`struct mallinfo2` of <malloc.h>."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


_mapping: Final = Event()


def map_large() -> None:
    """For the whole process, before it has tensors: let the heap be for small ones. Does nothing where there is no
    such call."""
    if (call := _function("mallopt", [ctypes.c_int, ctypes.c_int])) is not None:
        call(M_MMAP_THRESHOLD, LARGE)
        call(M_TRIM_THRESHOLD, KEPT)
        _mapping.set()


@contextmanager
def reusing() -> Iterator[None]:
    """While batch after batch passes through one block: the same sizes come and go, and the heap has their places
    ready. What is to stay longer should be made outside. Does nothing unless `map_large` was called."""
    call = _function("mallopt", [ctypes.c_int, ctypes.c_int]) if _mapping.is_set() else None
    if call is not None:
        call(M_MMAP_THRESHOLD, LARGEST)
    try:
        yield
    finally:
        if call is not None:
            call(M_MMAP_THRESHOLD, LARGE)


def trim() -> None:
    """Give the heap's free pages back to the system, where they are more than what may stay. Takes milliseconds;
    does nothing where there is no such call."""
    if (call := _function("malloc_trim", [ctypes.c_size_t])) is not None and _free() > KEPT:
        call(0)


def _free() -> float:
    """Bytes that are free in the heap; without end where the library cannot say."""
    try:
        call = _library().mallinfo2
    except (OSError, AttributeError):
        return math.inf
    call.restype = _Counts
    found: int = call().fordblks
    return found


def _function(name: str, arguments: list[type]) -> Callable[..., int] | None:
    try:
        call = getattr(_library(), name)
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = arguments, ctypes.c_int
    found: Callable[..., int] = call
    return found


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
