"""Which calls count together, and how many of them a minute may have."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from app.kit.json_body import is_json
from app.settings import Settings

WINDOW_SECONDS: Final = 60


class CallClass(StrEnum):
    """Calls that count together."""

    reads = "reads"
    writes = "writes"
    """What makes, changes or deletes something."""
    uploads = "uploads"
    """What carries a file, or a part of one."""
    anonymous = "anonymous"
    """Of one address, without a key that has worked lately."""


@dataclass(frozen=True)
class RatePolicy:
    """At most `quota` calls a minute; 0 is any number."""

    name: CallClass
    quota: int
    shared: bool
    """Counted over all processes of the API, in the broker's server; else by each process for itself."""

    @cached_property
    def header(self) -> bytes:
        """For `RateLimit-Policy`."""
        return f'"{self.name}";q={self.quota};w={WINDOW_SECONDS}'.encode()


def policies(settings: Settings) -> Mapping[CallClass, RatePolicy]:
    """As the operator has set them."""
    return {
        CallClass.reads: RatePolicy(CallClass.reads, settings.rate_reads, shared=False),
        CallClass.writes: RatePolicy(CallClass.writes, settings.rate_writes, shared=True),
        CallClass.uploads: RatePolicy(CallClass.uploads, settings.rate_uploads, shared=True),
        CallClass.anonymous: RatePolicy(CallClass.anonymous, settings.rate_anonymous, shared=False),
    }


def class_of(method: str, content_type: bytes) -> CallClass:
    """What kind of call it is, from its first line and the type of its body."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return CallClass.reads
    carries_file = bool(content_type) and not is_json(content_type.decode("latin-1"))
    return CallClass.uploads if carries_file else CallClass.writes
