"""SQL of plans; `_owned` is the one place where the tenant comes in."""

from typing import Final

from sqlalchemy import ARRAY, Select, String, any_, bindparam, delete, select
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.kit.waiting import Probe
from app.tables.plans import Plan
from app.tables.tasks import Task


def _owned(project: str) -> Select[Plan]:
    return select(Plan).where(Plan.project_id == project)


def find(session: Session, project: str, id: str) -> Plan | None:
    """The project's plan of that id."""
    return session.scalars(_owned(project).where(Plan.id == id)).one_or_none()


PROBE: Final = Probe(
    "plans", select(Plan.id, Plan.state).where(Plan.id == any_(bindparam("ids", type_=ARRAY(String))))
)
"""A plan's mark: its state."""


def forget(session: Session, hours: float) -> int:
    """Drop plans older than that, with their tasks; how many."""
    old = delete(Plan).where(Plan.created_at < from_now(-3600 * hours))
    ids = session.scalars(old.returning(Plan.id)).all()
    session.execute(delete(Task).where(Task.subject_id.in_(ids)))
    return len(ids)
