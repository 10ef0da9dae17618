"""Where a model's files come from: a folder of this machine or a hub."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.intake.roots import contained
from worker.model_files.errors import IntakeError


class Source(Protocol):
    """A flat folder of named files."""

    def listing(self) -> dict[str, int]:
        """Name → bytes of every file at the top level."""

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        """Name → local path of the named files, all of which are in the listing."""


@dataclass(frozen=True)
class FolderSource:
    """A folder in place. Files may be symbolic links as long as they stay in `root`."""

    folder: Path
    root: Path

    def listing(self) -> dict[str, int]:
        with os.scandir(self.folder) as entries:
            files = [entry for entry in entries if entry.is_file()]
            return {entry.name: entry.stat().st_size for entry in files}

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        found = {name: contained(self.root, self.folder / name) for name in names}
        for name, real in found.items():
            if real is None or not real.is_file():
                raise IntakeError("symlink_outside", f"{name} is a link that leads out of the model root.")
        return {name: real for name, real in found.items() if real is not None}


Stamp = tuple[int, int, int]


def stamp(path: Path) -> Stamp:
    """What changes when a file is written again; taken before the scan and after the upload."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
