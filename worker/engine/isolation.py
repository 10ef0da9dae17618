"""What the engine's process does to itself before it reads anything: tie its life, limit it, cut it off.

The network where `unshare` is permitted, which most containers deny; TCP where the kernel has Landlock:
docs/operations.md says what to do elsewhere.
"""

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Final

from worker.engine import landlock
from worker.parent_death import die_with

CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
OPEN_FILES: Final = 8_192


def isolate(parent: int) -> dict[str, bool]:
    """Call it before threads exist. Exits when the parent is gone already; says whether our life is tied to its
    (`tied`), and whether we still have a network (`network`).

    parent: process id of the supervisor.
    """
    if sys.platform != "linux":
        return {"tied": False, "network": True, "landlock": False}
    no_network = _cut_network()
    enclosed = landlock.enter()
    tied = die_with(parent)  # after the change of namespaces
    _limit()
    return {"tied": tied, "network": not no_network, "landlock": enclosed}


def _cut_network() -> bool:
    """Into a network namespace with nothing in it; where that takes a user namespace, our user stays itself."""
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _limit() -> None:
    """No core files with a model in them; the first to go when memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
