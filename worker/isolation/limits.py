"""What a child may take, and what it means when it took more."""

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Self

from worker.model_files.errors import IntakeError

GIB: Final = 2**30
SLACK_BYTES: Final = 2**29
CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limits:
    """None: no limit of this kind.

    memory_bytes: what the child holds of its own, in memory. data_bytes: the same as the kernel counts it when it
    is asked for, touched or not; the request fails. cpu_seconds: of all threads together. silent_seconds: without
    a message. file_bytes: of each file written.
    """

    memory_bytes: int | None = None
    data_bytes: int | None = None
    cpu_seconds: int | None = None
    silent_seconds: float | None = None
    file_bytes: int | None = None

    @classmethod
    def of_reader(cls, memory_bytes: int, seconds: float, threads: int, file_bytes: int | None = None) -> Self:
        """Of a child that only reads: memory, at most the machine's, and time, without a message and of each
        thread. The kernel refuses what goes far beyond in one step; what grows is seen from outside, for few
        libraries say in the end that it was for want of memory."""
        memory = min(memory_bytes, host_memory_bytes())
        return cls(memory, memory + SLACK_BYTES, math.ceil(seconds * threads), seconds, file_bytes)


@dataclass(frozen=True)
class Confinement:
    """What a child is told of its limits when it starts. readable, writable: files and folders; without any
    writable one the files stay as open as they are."""

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    limits: Limits = Limits()

    def dump(self) -> str:
        """For a command line; see `load`."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """From a command line."""
        said = json.loads(text)
        known = {field.name for field in fields(Limits)}
        limits = Limits(**{name: value for name, value in said["limits"].items() if name in known})
        return cls(tuple(said["readable"]), tuple(said["writable"]), limits)


class LimitReached(IntakeError):
    """A child died at a limit while it read the user's files: trying again would end the same way.

    limit: memory, cpu_time, time or file_size.
    """

    _SAID: Final = {
        "memory": ("memory_limit", "takes more than {:.1f} GB of memory"),
        "cpu_time": ("cpu_time_limit", "takes more than {:g} seconds of processor time"),
        "time": ("time_limit", "made no progress for {:g} seconds"),
        "file_size": ("file_size_limit", "writes a file of more than {:.1f} GB"),
    }

    def __init__(self, limit: str, what: str, limits: Limits, field: str | None = None) -> None:
        """what: was read, with its article: `the GGUF file`."""
        code, words = self._SAID[limit]
        bounds = {
            "memory": (limits.memory_bytes or limits.data_bytes or 0) / 1e9,
            "cpu_time": limits.cpu_seconds or 0,
            "time": limits.silent_seconds or 0,
            "file_size": (limits.file_bytes or 0) / 1e9,
        }
        message = (
            f"Reading {what} {words.format(bounds[limit])}, all that this service gives it. Check that it is what "
            "you meant to bring, and bring a smaller or simpler one; if it is right as it is, ask the service's "
            "operator for a higher limit."
        )
        super().__init__(code, message, field)
        self.limit = limit


def host_memory_bytes() -> int:
    """The machine's memory, or what the control group lets us have of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *_group_bounds()])


def _group_bounds() -> list[int]:
    """Bounds of our control group and of those around it, of either version."""
    found: list[int] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (CGROUP, "memory.max") if not controllers else (CGROUP / "memory", "memory.limit_in_bytes")
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):
            text = _read(each / name).strip()
            if text.isdecimal():
                found.append(int(text))
            if each == root:
                break
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
