"""Times at the edges: always aware, always UTC."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC, because PostgreSQL knows fewer offsets than Python. Raises ValueError."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie between the years 1 and 9999") from None


Instant = Annotated[AwareDatetime, AfterValidator(in_utc)]
"""A moment in a request, with its time zone."""
