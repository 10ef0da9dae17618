"""Which jobs a worker can run, by its memory and by what is installed there. The rule stands here once: the claim
and the place in the queue read it."""

from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.settings import Settings, get_settings
from app.tables.workers import Worker

_HOLDS: Final = (
    "(coalesce(CASE {device} WHEN 'cpu' THEN j.needs_memory_bytes ELSE j.needs_host_bytes END, 0) <= {host}"
    " AND ({device} = 'cpu' OR coalesce(j.needs_device_bytes, 0) <= {of_device})"
    " AND ({harness} OR coalesce(jsonb_array_length(j.spec->'tasks'), 0) = 0))"
)
HOLDS: Final = _HOLDS.format(
    device="CAST(:device AS text)",
    host="CAST(:host_bytes AS bigint)",
    of_device="CAST(:device_bytes AS bigint)",
    harness="CAST(:harness AS boolean)",
)
"""Condition on `jobs j`: the worker of `room_of` holds it. A job that nobody has estimated fits everywhere."""

LIVE_WORKERS: Final = """
    live AS (
        SELECT DISTINCT w.device, w.host_bytes, w.device_bytes, w.harness FROM workers w
        WHERE :by_memory AND w.seen_at > now() - make_interval(secs => :lease)
    )
"""
"""A common table expression: what the different workers there are have. Bind `parameters`."""
HELD_BY: Final = _HOLDS.format(
    device="w.device", host="w.host_bytes", of_device="w.device_bytes", harness="w.harness IS NOT NULL"
)
"""Condition on `jobs j` and a row `w` of `live`."""

_ANY: Final = 2**63 - 1
UNBOUNDED: Final[dict[str, Any]] = {"device": "cpu", "host_bytes": _ANY, "device_bytes": _ANY, "harness": True}
"""What holds every job."""


def parameters(settings: Settings | None = None) -> dict[str, Any]:
    """What `LIVE_WORKERS` is bound with."""
    settings = settings or get_settings()
    return {"by_memory": settings.route_by_memory, "lease": settings.lease_seconds}


def room_of(session: Session, worker: str) -> dict[str, Any]:
    """What `HOLDS` is bound with: what the worker has. One that has not said what it has holds every job."""
    if not get_settings().route_by_memory:
        return UNBOUNDED
    harness = Worker.harness.is_not(None).label("harness")
    columns = select(Worker.device, Worker.host_bytes, Worker.device_bytes, harness).where(Worker.name == worker)
    row = session.execute(columns).one_or_none()
    return UNBOUNDED if row is None else dict(row._mapping)
