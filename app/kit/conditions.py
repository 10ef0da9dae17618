"""Conditional requests (RFC 9110, section 13)."""

from typing import Annotated

from fastapi import Header

IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="The caller's ETag; 304 when it is current."),
]


def none_match(header: str | None, etag: str) -> bool:
    """Whether the caller must be sent the answer: none of his tags is this one (weak comparison)."""
    if header is None:
        return True
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" not in tags and etag not in tags
