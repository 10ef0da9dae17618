"""The devices of the workers there are: how each is, and what decides the bits of what it computes."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.settings import get_settings
from app.tables.workers import WorkerDevice

LONGEST: Final = 1000
"""Signs of a reason."""


def note_health(session: Session, name: str, device: str, uuid: str | None, health: str, said: str) -> None:
    """How a worker's device is now."""
    values = {"device": device, "uuid": uuid, "health": health, "said": said[:LONGEST]}
    since = case((WorkerDevice.health == health, WorkerDevice.since), else_=func.now())
    _write(session, name, values, {"since": since})


def note_fingerprint(session: Session, name: str, digest: str) -> None:
    """What an engine of the worker has said of its device."""
    _write(session, name, {"fingerprint": digest}, {})


def fingerprint_of(session: Session, name: str) -> str | None:
    """As last noted; None before."""
    return session.scalar(select(WorkerDevice.fingerprint).where(WorkerDevice.name == name))


def not_ready(session: Session) -> Sequence[WorkerDevice]:
    """Those of workers that are there, whose device does not let them work."""
    live = WorkerDevice.seen_at > from_now(-get_settings().lease_seconds)
    query = select(WorkerDevice).where(live, WorkerDevice.health != "ready").order_by(WorkerDevice.name)
    return session.scalars(query).all()


def leave(session: Session, name: str) -> None:
    """The worker stops."""
    session.execute(delete(WorkerDevice).where(WorkerDevice.name == name))


def forget(session: Session, seconds: float) -> int:
    """Drop the rows of workers that went without a word so long ago; how many."""
    gone = delete(WorkerDevice).where(WorkerDevice.seen_at < from_now(-seconds))
    return len(session.scalars(gone.returning(WorkerDevice.name)).all())


def _write(session: Session, name: str, values: dict[str, Any], changed: dict[str, Any]) -> None:
    values = values | {"seen_at": func.clock_timestamp()}
    row = insert(WorkerDevice).values(name=name, **values)
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_=values | changed))
