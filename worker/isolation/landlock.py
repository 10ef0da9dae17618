"""Landlock, where the kernel has it: no file but the named ones, no TCP, and no hand on any process outside.

It needs no privilege, so it also works in containers that may not make namespaces. A process in a Landlock domain
cannot trace those outside it, which is what reading another process's environment, memory or descriptors through
/proc takes: the supervisor's keys are there, and both run as one user.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from typing import Final

CREATE_RULESET: Final = 444
ADD_RULE: Final = 445
RESTRICT_SELF: Final = 446
"""System calls; the numbers are the same on every architecture."""
VERSION: Final = 1
PATH_BENEATH: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
NET_SINCE, SCOPE_SINCE = 4, 6
"""Versions of Landlock that know rules for TCP, and for sockets and signals."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14}
"""Version of Landlock → the rights to files that came with it: the first thirteen, links and renames between
folders, and truncation. Control of devices (version 5) is left open: a GPU is driven by it."""
READ: Final = EXECUTE | READ_FILE | READ_DIR
OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | FILE_RIGHTS[3]
"""Rights that a file, which is no folder, can have."""


class _Ruleset(ctypes.Structure):
    """What is forbidden unless a rule allows it."""

    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    """What is allowed below an opened path."""

    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Of the kernel's Landlock; 0 where it has none."""
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)))


def enter(readable: Iterable[str] = (), writable: Iterable[str] = ()) -> int:
    """Put this process and its children into a domain of their own, for good; before threads exist.

    readable, writable: the files and folders left, and all below them; without a writable one, file accesses stay
    as they are. Says which version of Landlock was entered: 0 where the kernel has none. TCP is closed from
    version 4 on, signals and abstract sockets from version 6 on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    known = version()
    readable, writable = list(readable), list(writable)
    files = sum(rights for since, rights in FILE_RIGHTS.items() if since <= known) if writable else 0
    if not files and known < NET_SINCE:
        return 0
    rules = _Ruleset(
        files,
        BIND_TCP | CONNECT_TCP if known >= NET_SINCE else 0,
        ABSTRACT_SOCKETS | SIGNALS if known >= SCOPE_SINCE else 0,
    )
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(_size(known)), 0)
    if ruleset < 0:
        return 0
    try:
        if files:
            for paths, rights in ((readable, READ & files), (writable, files)):
                for path in paths:
                    _allow(libc, ruleset, path, rights)
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return 0
        return known if libc.syscall(RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _size(version: int) -> int:
    """An older kernel takes the shorter structure that it knows."""
    if version >= SCOPE_SINCE:
        return ctypes.sizeof(_Ruleset)
    return _Ruleset.scoped.offset if version >= NET_SINCE else _Ruleset.net.offset


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """Leave a path open; one that is not there is passed over."""
    with contextlib.suppress(OSError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = rights if os.path.isdir(path) else rights & OF_FILES
            rule = _PathBeneath(allowed, opened)
            libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(opened)
