"""Paths below the model roots: the only files of this machine that an intake may read."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from worker.model_files.errors import IntakeError

_FIELD = "/source/path"


def resolve(roots: Sequence[Path], relative: object) -> Path:
    """The real path of `relative` below the first root that has it.

    Raises IntakeError for anything that is not a plain relative path, that no root has, or that leads
    out of its root through a symbolic link; the last two are not told apart.
    """
    if not isinstance(relative, str) or not _is_plain(relative):
        raise IntakeError("path_invalid", "The path must be relative to a model root, without `..`.", _FIELD)
    for root in roots:
        real = contained(root, root / relative)
        if real is not None:
            return real
    raise IntakeError("path_not_found", "No model root has this path.", _FIELD)


def contained(root: Path, path: Path) -> Path | None:
    """The real path of an existing `path` when it lies in `root`, else None."""
    try:
        base, real = os.path.realpath(root, strict=True), os.path.realpath(path, strict=True)
    except (OSError, ValueError):
        return None
    return Path(real) if os.path.commonpath([base, real]) == base else None


def root_of(roots: Sequence[Path], real: Path) -> Path:
    """The model root that contains a path which `resolve` gave."""
    return next(root for root in roots if contained(root, real) is not None)


def _is_plain(relative: str) -> bool:
    parts = PurePosixPath(relative).parts
    bad = not parts or relative.startswith(("/", "~")) or ".." in parts or "\\" in relative
    return not bad and relative.isprintable() and len(relative) <= 1000
