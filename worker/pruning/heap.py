"""Freed memory that the C library keeps.

glibc takes tensors of less than 32 MiB from a heap and leaves the holes of freed ones in it. A matrix of one shape
does not fit into the hole of another, so over many blocks a process would come to hold several times what is in
use.
"""

import ctypes
from collections.abc import Callable
from functools import cache


def trim() -> None:
    """Give free pages back to the system. Takes milliseconds; does nothing where there is no such call."""
    if (call := _malloc_trim()) is not None:
        call(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        call = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = [ctypes.c_size_t], ctypes.c_int
    found: Callable[[int], int] = call
    return found
