"""Times at the edges: always aware, always UTC."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment with its time zone; leases use the database's clock instead."""
    return datetime.now(UTC)
