"""What the C library keeps of freed memory.

glibc takes tensors from a heap and leaves the holes of freed ones in it: those of less than a threshold, which it
raises up to 32 MiB as they are freed, and larger ones, too, where holes have grown together. A matrix of one shape
does not fit into the hole of another. So a process comes to hold several times what is in use, and more with every
block.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
LARGE: Final = 4 * 2**20
KEPT: Final = 64 * 2**20
"""Bytes: of a tensor that is mapped by itself, and gone when it is freed; and free at the heap's end, kept for the
next small one."""


def map_large() -> None:
    """For the whole process, before it has tensors: let the heap be for small ones. Does nothing where there is no
    such call."""
    if (call := _function("mallopt", [ctypes.c_int, ctypes.c_int])) is not None:
        call(M_MMAP_THRESHOLD, LARGE)
        call(M_TRIM_THRESHOLD, KEPT)


def trim() -> None:
    """Give free pages back to the system. Takes milliseconds; does nothing where there is no such call."""
    if (call := _function("malloc_trim", [ctypes.c_size_t])) is not None:
        call(0)


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
