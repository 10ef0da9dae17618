"""SQL of plans; `_owned` is the one place where the tenant comes in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ARRAY, Select, String, any_, bindparam, delete, select
from sqlalchemy.orm import Session, defer, load_only

from app.db.clock import from_now
from app.kit.pagination import Listing
from app.kit.waiting import Probe
from app.tables.jobs import Job
from app.tables.plans import Plan
from app.tables.tasks import Task

MOST_JOBS: Final = 5


def _owned(project: str) -> Select[Plan]:
    return select(Plan).where(Plan.project_id == project)


def find(session: Session, project: str, id: str) -> Plan | None:
    """The project's plan of that id."""
    return session.scalars(_owned(project).where(Plan.id == id)).one_or_none()


@dataclass(frozen=True)
class Filter:
    """What a list of plans is narrowed to; the parts are joined by `and`, states by `or`."""

    states: Sequence[str] = ()
    model: str | None = None
    method: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def listing(project: str, filter: Filter) -> Listing:
    """The project's plans, newest first, each without its result but for the estimates."""
    query = select(Plan, Plan.result["estimates"]).options(defer(Plan.result)).where(Plan.project_id == project)
    if filter.states:
        query = query.where(Plan.state.in_(filter.states))
    if filter.model is not None:
        query = query.where(Plan.model_id == filter.model)
    if filter.method is not None:
        query = query.where(Plan.spec[("method", "name")].as_string() == filter.method)
    if filter.created_after is not None:
        query = query.where(Plan.created_at > filter.created_after)
    if filter.created_before is not None:
        query = query.where(Plan.created_at < filter.created_before)
    return Listing(query, (Plan.created_at, Plan.id), newest_first=True)


def jobs_of(session: Session, project: str, spec_digest: str) -> Sequence[Job]:
    """The project's newest jobs of a spec."""
    shown = load_only(Job.state, Job.runtime_seconds, Job.estimates, Job.finished_at)
    query = select(Job).options(shown).where(Job.project_id == project, Job.spec_digest == spec_digest)
    return session.scalars(query.order_by(Job.created_at.desc()).limit(MOST_JOBS)).all()


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
