"""Landlock, where the kernel has it: no TCP, and no hand on any process outside.

It needs no privilege, so it also works in containers that may not make namespaces. A process in a Landlock domain
cannot trace those outside it, which is what reading another process's environment, memory or descriptors through
/proc takes: the supervisor's keys are there, and both run as one user.
"""

import ctypes
import os
from typing import Final

CREATE_RULESET: Final = 444
RESTRICT_SELF: Final = 446
"""System calls; the numbers are the same on every architecture."""
VERSION: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
NET_SINCE, SCOPE_SINCE = 4, 6
"""Versions of Landlock that know rules for TCP, and for sockets and signals."""


class _Ruleset(ctypes.Structure):
    """What is forbidden unless a rule allows it. No rule is ever added."""

    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


def enter() -> bool:
    """Put this process and its children into a domain of their own, for good; before threads exist.

    False where the kernel has no Landlock or too old a one. File accesses stay as they are.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)
    if version < NET_SINCE:
        return False
    rules = _Ruleset(0, BIND_TCP | CONNECT_TCP, ABSTRACT_SOCKETS | SIGNALS if version >= SCOPE_SINCE else 0)
    # An older kernel takes the shorter structure that it knows.
    size = ctypes.sizeof(_Ruleset) if version >= SCOPE_SINCE else _Ruleset.scoped.offset
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)
