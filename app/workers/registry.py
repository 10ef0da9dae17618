"""A worker's row, from its start to its end.

Nothing rests on a row that is right: the lease says who works on what. A row says what plans may reckon with, and
which jobs a worker had better leave to others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.settings import get_settings
from app.tables.workers import Worker
from app.workers import devices
from secateur.spec.records.machine import Machine

FORGOTTEN_SECONDS: Final = 3600.0
"""So long after it was last seen a worker's row is dropped."""


@dataclass(frozen=True)
class Kind:
    """Workers that are alike."""

    machine: Machine
    """Of the first of them; the others have measured nearly the same."""
    workers: int


def register(session: Session, name: str, machine: Machine) -> None:
    """A worker is there, and this is what it has."""
    values: dict[str, Any] = {
        "device": machine.device,
        "device_bytes": machine.device_bytes,
        "host_bytes": machine.host_bytes,
        "harness": machine.harness,
        "machine": machine.model_dump(mode="json"),
        "started_at": func.now(),
        "seen_at": func.clock_timestamp(),
    }
    row = insert(Worker).values(name=name, **values)
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))


def beat(session: Session, name: str) -> bool:
    """It is still there; whether its row was."""
    seen = update(Worker).where(Worker.name == name).values(seen_at=func.clock_timestamp())
    return session.scalar(seen.returning(Worker.name).execution_options(synchronize_session=False)) is not None


def leave(session: Session, name: str) -> None:
    """It stops."""
    session.execute(delete(Worker).where(Worker.name == name))


def forget(session: Session) -> int:
    """Drop the rows of workers that went without a word; how many."""
    gone = delete(Worker).where(Worker.seen_at < from_now(-FORGOTTEN_SECONDS))
    return len(session.scalars(gone.returning(Worker.name)).all()) + devices.forget(session, FORGOTTEN_SECONDS)


def has_harness(session: Session) -> bool:
    """Whether a worker is there that can do tasks of the lm-evaluation-harness."""
    live = (Worker.seen_at > from_now(-get_settings().lease_seconds), Worker.harness.is_not(None))
    return bool(session.scalar(select(exists().where(*live))))


def kinds(session: Session) -> Sequence[Kind]:
    """What runs jobs now, the largest first."""
    live = select(Worker.machine).where(Worker.seen_at > from_now(-get_settings().lease_seconds))
    rows = session.scalars(live.order_by(Worker.device_bytes.desc(), Worker.host_bytes.desc(), Worker.name))
    alike: dict[tuple[str, bool], list[Machine]] = {}
    for machine in map(Machine.model_validate, rows):
        alike.setdefault((machine.kind, machine.harness is not None), []).append(machine)
    return [Kind(machines[0], len(machines)) for machines in alike.values()]
