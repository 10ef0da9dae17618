"""Service that projects have had of a queue: seconds of worker time, each counting half one half-life later."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.outbox import Queue
from app.settings import get_settings

DECAYED: Final = (
    "exp(-least(ln(2.0::float8) * greatest(extract(epoch FROM now() - {since})::float8, 0)"
    " / CAST(:half_life AS float8), 100))"
)
"""What one second at `since` counts now. What is older than 144 half-lives counts nothing that matters, and
PostgreSQL refuses an exponential that underflows."""

ELAPSED: Final = f"(CAST(:half_life AS float8) / ln(2.0::float8) * (1 - {DECAYED}))"
"""What all seconds from `since` to now count now."""

_UNTIL: Final = "coalesce(CAST(:until AS timestamptz), now())"
_CHARGE: Final = text(f"""
    INSERT INTO project_service AS s (project_id, queue, seconds, at)
    VALUES (:project, :queue, greatest(
        {ELAPSED.format(since="CAST(:since AS timestamptz)")} - {ELAPSED.format(since=_UNTIL)}, 0), now())
    ON CONFLICT (project_id, queue) DO UPDATE
    SET seconds = s.seconds * {DECAYED.format(since="s.at")} + excluded.seconds, at = greatest(s.at, now())
""")  # noqa: S608 - constants only


def charge(session: Session, project: str, queue: Queue, since: datetime, until: datetime | None = None) -> None:
    """A worker worked for the project from `since` to `until`, or until now."""
    given = {"project": project, "queue": queue, "since": since, "until": until}
    session.execute(_CHARGE, given | {"half_life": half_life()})


def half_life() -> float:
    """Seconds after which service counts half."""
    return get_settings().fair_share_half_life_hours * 3600
