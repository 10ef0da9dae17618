"""Conditional requests (RFC 9110, section 13)."""

from typing import Annotated, Final

from fastapi import Header

CURRENT: Final = "The caller's ETag is current"
"""What a 304 says."""
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="The caller's ETag; 304 when it is current."),
]

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag of what the caller has read; 412 when it has changed since."),
]


def matches(header: str | None, version: str) -> bool:
    """Whether a change may be made: one of the caller's tags is of this version (strong comparison).

    version: how the tag begins; what follows a dash counts nothing that a change could overwrite.
    """
    if header is None:
        return True
    tags = [tag.strip() for tag in header.split(",")]
    return "*" in tags or any(tag.strip('"').split("-")[0] == version for tag in tags if tag.startswith('"'))


def none_match(header: str | None, etag: str) -> bool:
    """Whether the caller must be sent the answer: none of his tags is this one (weak comparison)."""
    if header is None:
        return True
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" not in tags and etag not in tags
