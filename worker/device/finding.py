"""What a look at a worker's device has found."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Health(StrEnum):
    """Whether jobs can be run on a device."""

    ready = "ready"
    shared = "shared"
    """Others hold its memory."""
    sick = "sick"
    """It is there and does not work, or should be there."""
    absent = "absent"
    """Nothing here looks like a GPU."""


@dataclass(frozen=True)
class Finding:
    """said: the reason, where it is not ready, for operators. uuid: of several, with commas between. others_bytes:
    held by processes of others. device: which of several it is about."""

    health: Health
    said: str = ""
    uuid: str | None = None
    name: str | None = None
    total_bytes: int | None = None
    others_bytes: int | None = None
    device: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        """From `as_json`."""
        return cls(**{**answer, "health": Health(answer["health"])})
