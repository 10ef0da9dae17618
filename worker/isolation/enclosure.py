"""What a child does to itself before it reads anything: tie its life, limit it, cut it off.

The network where `unshare` is permitted, which most containers deny; files and TCP where the kernel has Landlock:
docs/operations.md says what to do elsewhere.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Final

from worker.isolation import landlock
from worker.isolation.limits import Confinement, Limits
from worker.parent_death import die_with

CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
OPEN_FILES: Final = 8_192
CPU_GRACE_SECONDS: Final = 5

SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/sys", "/proc"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/mime.types", "/etc/ssl"),
    *("/etc/nvidia", "/etc/OpenCL", "/etc/vulkan", "/run/nvidia", "/run/opengl-driver"),
)
"""Where the machine's programs and libraries are, and what these look up."""
DEVICES: Final = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm", "/dev/dri", "/dev/kfd"),  # noqa: S108
    *("/proc/self", "/tmp/nvidia-mps"),  # noqa: S108 - where NVIDIA's daemon has its pipes
)
"""Written to by drivers, and by the process about itself."""
DEVICE_VARIABLES: Final = ("CUDA_CACHE_PATH", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")


def isolate(parent: int, confinement: Confinement | None = None) -> dict[str, bool]:
    """Call it before threads exist. Exits when the parent is gone already; says whether our life is tied to its
    (`tied`), whether we still have a network (`network`), and whether Landlock has closed TCP and other processes
    (`landlock`), and all files but ours (`files`).

    parent: process id of the supervisor.
    """
    confinement = confinement or Confinement()
    if sys.platform != "linux":
        return {"tied": False, "network": True, "landlock": False, "files": False}
    no_network = _cut_network()
    readable = [*confinement.readable, *_targets(confinement.readable), *SYSTEM, *_python()]
    devices = (
        *DEVICES,
        *glob("/dev/nvidia*"),
        *(os.environ[name] for name in DEVICE_VARIABLES if name in os.environ),
    )
    writable = [*confinement.writable, *devices] if confinement.writable else []
    version = landlock.enter(readable, writable)
    tied = die_with(parent)  # after the change of namespaces
    _limit(confinement.limits)
    return {
        "tied": tied,
        "network": not no_network,
        "landlock": version >= landlock.NET_SINCE,
        "files": bool(version and writable),
    }


def _targets(readable: tuple[str, ...]) -> Iterator[str]:
    """Where the links lead that our supervisor has put into the folders."""
    for folder in readable:
        for place, _, names in os.walk(folder):
            paths = (os.path.join(place, name) for name in names)
            yield from (os.path.realpath(path) for path in paths if os.path.islink(path))


def _python() -> list[str]:
    """Where modules are found."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return [path for path in (sys.prefix, sys.base_prefix, *sys.path, *libraries) if path]


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


def _limit(limits: Limits) -> None:
    """No core files with a model in them; the first to go when memory runs out; and the limits asked for."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    if limits.data_bytes is not None:
        _lower(resource.RLIMIT_DATA, limits.data_bytes)
    if limits.cpu_seconds is not None:
        _lower(resource.RLIMIT_CPU, limits.cpu_seconds, CPU_GRACE_SECONDS)
    if limits.file_bytes is not None:
        # Python ignores the signal, and libraries take the error for one of their own.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _lower(kind: int, wanted: int, grace: int = 0) -> None:
    """Set a limit, below whatever holds already. grace: so much more until the kernel kills."""
    _, hard = resource.getrlimit(kind)
    soft, last = (
        value if hard == resource.RLIM_INFINITY else min(value, hard) for value in (wanted, wanted + grace)
    )
    resource.setrlimit(kind, (soft, last))
