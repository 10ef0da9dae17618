"""What every intake needs beside its request."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.models.references import roots_of
from app.settings import Settings
from app.storage import ObjectStore
from worker.model_files.errors import IntakeError, no_room

SPARE_BYTES: Final = 512 * 2**20
"""Disk that an intake leaves to the rest of the worker."""


@dataclass(frozen=True)
class Context:
    """One task's surroundings; the scratch folder goes when the task ends."""

    project_id: str
    scratch: Path
    store: ObjectStore
    settings: Settings
    check: Callable[[], None]
    """Raises when the work must stop; to be called every few seconds."""
    stored: dict[str, Path] = field(default_factory=dict)
    """Objects of the model that were put into the store, and where they came from."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """What the model's owner should know; see `warn`."""
    own_roots: tuple[str, ...] = ()
    """The project's own model roots, as in its row."""
    hub_token: str | None = field(default=None, repr=False)
    """The project's own token of the hub."""
    storage_left: Callable[[], int | None] = lambda: None
    """Bytes that the project may still store; None for any number."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every folder that the project may register models from."""
        return roots_of(self.settings, self.own_roots)

    def warn(self, code: str, message: str, **data: Any) -> None:
        """Note something that does not keep the model from being taken. data: the names and numbers behind it."""
        self.warnings.append({"code": code, "message": message, "data": data})

    def room(self) -> int:
        """Bytes that the scratch folder may still take."""
        return shutil.disk_usage(self.scratch).free - SPARE_BYTES

    def need_quota(self, size: int) -> None:
        """Refuse what would take the project beyond what it may store."""
        left = self.storage_left()
        if left is not None and size > left:
            raise IntakeError(
                "storage_quota_exceeded",
                f"This stores {size} bytes, and the project may store {left} more. Delete what it does not need, "
                "or ask the service's operator for a larger quota (`stored_bytes`).",
            )

    def need_disk(self, size: int) -> None:
        """Refuse work whose files do not fit into the scratch folder."""
        if size > self.room():
            raise no_room(size)
