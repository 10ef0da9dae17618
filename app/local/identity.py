"""Who a server runs as when we are root.

PostgreSQL refuses to run as root. We then run it as `nobody`, which owns the data folder and nothing else. That
user usually cannot walk to the data folder or to the server's own files when these lie below a private home such
as /root. Opening those folders to everybody would be wrong, so the child keeps one capability instead: to read
and traverse (CAP_DAC_READ_SEARCH), or where a container has not got that, to bypass file permissions
(CAP_DAC_OVERRIDE). No capability is kept when the paths are open anyway.
"""

import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.local.errors import IdentityError

CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2
CAP_SETPCAP: Final = 8


@dataclass(frozen=True)
class Identity:
    """An unprivileged user, and the one capability it keeps (None: none)."""

    uid: int
    gid: int
    capability: int | None


def unprivileged(*paths: Path) -> Identity | None:
    """The identity for a server that refuses root and must reach these paths; None when we are not root."""
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        raise IdentityError("as root this works on Linux only; run it as an ordinary user")
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        raise IdentityError(
            "PostgreSQL does not run as root and there is no user `nobody`; run as an ordinary user"
        ) from None
    if all(_reachable(path, user.pw_uid) for path in paths):
        return Identity(user.pw_uid, user.pw_gid, None)
    return Identity(user.pw_uid, user.pw_gid, _capability())


def _reachable(path: Path, uid: int) -> bool:
    """Whether this user, in no group, may walk to the path and, if it is somebody else's, read it."""
    path = path.resolve()
    for folder in path.parents:
        status = folder.stat()
        if not status.st_mode & (0o100 if status.st_uid == uid else 0o001):
            return False
    status = path.stat()
    return status.st_uid == uid or status.st_mode & 0o005 == 0o005


def _capability() -> int:
    held = _effective()
    if held >> CAP_SETPCAP & 1:
        for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
            if held >> capability & 1:
                return capability
    raise IdentityError(
        "PostgreSQL does not run as root, and the user it would run as cannot reach the state folder or the "
        "installed packages; run as an ordinary user, or use folders that everybody may traverse"
    )


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
