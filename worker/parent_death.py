"""Child processes that do not outlive the worker."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> bool:
    """Be killed when the thread that started us ends, however it ends; whether the kernel sees to that.

    Call it behind a change of user or namespaces, which may clear it. Exits when the parent is gone already.
    """
    tied = sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    return bool(tied)
