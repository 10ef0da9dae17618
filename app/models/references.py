"""References to models on the service's own disks: plain relative paths below a model root, nothing else."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from app.settings import Settings
from secateur.spec.words import shaped

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_+.-]*"

RootPath = Annotated[
    str,
    StringConstraints(
        max_length=500,
        pattern=shaped(
            rf"^{_SEGMENT}(/{_SEGMENT})*$",
            "a path below a model root, without a slash in front, of letters, digits and `_ + . -`; no part "
            "begins with a dot",
        ),
    ),
    Field(description="Relative to a model root; letters, digits, `_ + . -`; no part begins with a dot."),
]


def may_exist(roots: Sequence[Path], relative: str) -> bool:
    """Whether a root has the path, links resolved; also true when a root is not mounted in this process.

    A path that leads out of its root counts as absent, so that the answer says nothing about the rest of the disk.
    The intake checks again when it opens the files.
    """
    if any(not root.is_dir() for root in roots):
        return True
    return any(_inside(root, root / relative) for root in roots)


def _inside(root: Path, path: Path) -> bool:
    try:
        base, real = os.path.realpath(root, strict=True), os.path.realpath(path, strict=True)
    except OSError:
        return False
    return os.path.commonpath([base, real]) == base


def roots_of(settings: Settings, own: Sequence[str]) -> tuple[Path, ...]:
    """Where a project may register models from: every project's roots, and its own below the operator's folder.

    own: as in the project's row. One that a link leads out of that folder counts as absent.
    """
    parent = settings.project_roots
    if parent is None:
        return settings.model_roots
    folders = (parent / name for name in own)
    return (
        *settings.model_roots,
        *(folder for folder in folders if may_exist([parent], str(folder.relative_to(parent)))),
    )
