"""Which jobs a worker can run, by its memory and by what is installed there. The rule stands here once: the claim
and the place in the queue read it."""

from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.settings import Settings, get_settings
from app.tables.workers import Worker

_MEMORY: Final = (
    "(coalesce(CASE {device} WHEN 'cpu' THEN j.needs_memory_bytes ELSE j.needs_host_bytes END, 0) <= {host}"
    " AND ({device} = 'cpu' OR coalesce(j.needs_device_bytes, 0) <= {of_device}))"
)
_ASKS: Final = "coalesce(jsonb_array_length(j.spec->'tasks'), 0) > 0"
_ROOM: Final = _MEMORY.format(
    device="CAST(:device AS text)",
    host="CAST(:host_bytes AS bigint)",
    of_device="CAST(:device_bytes AS bigint)",
)
HOLDS: Final = f"({_ROOM} AND (CAST(:harness AS boolean) OR NOT {_ASKS}))"
"""Condition on `jobs j`: the worker of `room_of` holds it. A job that nobody has estimated fits everywhere."""

LIVE_WORKERS: Final = """
    live AS (
        SELECT DISTINCT w.device, w.host_bytes, w.device_bytes, w.harness FROM workers w
        WHERE :by_memory AND w.seen_at > now() - make_interval(secs => :lease)
    )
"""
"""A common table expression: what the different workers there are have. Bind `parameters`."""
_ROOM_THERE: Final = _MEMORY.format(device="w.device", host="w.host_bytes", of_device="w.device_bytes")
HELD_BY: Final = f"((NOT :by_memory OR {_ROOM_THERE}) AND (w.harness IS NOT NULL OR NOT {_ASKS}))"
"""Condition on `jobs j` and a row `w` of `live`, or of `workers`. Bind `parameters`."""

_ANY: Final = 2**63 - 1
_UNBOUNDED: Final[dict[str, Any]] = {"device": "cpu", "host_bytes": _ANY, "device_bytes": _ANY}
HOLDS_ALL: Final = _UNBOUNDED | {"harness": True}
"""What holds every job."""


def parameters(settings: Settings | None = None) -> dict[str, Any]:
    """What `LIVE_WORKERS` is bound with."""
    settings = settings or get_settings()
    return {"by_memory": settings.route_by_memory, "lease": settings.lease_seconds}


def room_of(session: Session, worker: str, *, harness: bool) -> dict[str, Any]:
    """What `HOLDS` is bound with: what the worker has. The memory of one that has not said what it has holds every
    job; whether it has the harness it knows without a row.
    """
    columns = select(Worker.device, Worker.host_bytes, Worker.device_bytes).where(Worker.name == worker)
    row = session.execute(columns).one_or_none() if get_settings().route_by_memory else None
    return (_UNBOUNDED if row is None else dict(row._mapping)) | {"harness": harness}
