"""SQL of projects and their keys as operators and key holders see them."""

from typing import Final

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import Session

from app.kit.pagination import Listing
from app.tables.auth import ApiKey, Project
from app.tables.datasets import Dataset
from app.tables.jobs import Job
from app.tables.models import Model

_CONTENTS: Final[dict[str, type[Job] | type[Model] | type[Dataset]]] = {
    "jobs": Job,
    "models": Model,
    "datasets": Dataset,
}


def find(session: Session, id: str) -> Project | None:
    """The project of that id."""
    return session.scalars(_of(id)).one_or_none()


def find_for_change(session: Session, id: str) -> Project | None:
    """The same, kept from other changes until the transaction ends."""
    return session.scalars(_of(id).with_for_update(key_share=True)).one_or_none()


def find_for_deletion(session: Session, id: str) -> Project | None:
    """The same; meanwhile nothing may be put into it either."""
    return session.scalars(_of(id).with_for_update()).one_or_none()


def _of(id: str) -> Select[Project]:
    return select(Project).where(Project.id == id).execution_options(populate_existing=True)


def listing() -> Listing:
    """All projects, newest first."""
    return Listing(select(Project), (Project.created_at, Project.id), newest_first=True)


def is_taken(session: Session, name: str) -> bool:
    """Whether a project has the name."""
    return session.scalar(select(Project.id).where(Project.name == name)) is not None


def contents(session: Session, id: str) -> list[str]:
    """The kinds of things that a project still has."""
    first = {name: select(table.id).where(table.project_id == id).limit(1) for name, table in _CONTENTS.items()}
    return [name for name, query in first.items() if session.scalar(query) is not None]


def is_expired() -> ColumnElement[bool]:
    """Whether a key's time is over."""
    return and_(ApiKey.expires_at.is_not(None), ApiKey.expires_at <= func.now())


def find_key(session: Session, project: str, id: str, *, lock: bool = False) -> tuple[ApiKey, bool] | None:
    """The project's key, and whether it has expired."""
    query = select(ApiKey, is_expired()).where(ApiKey.project_id == project, ApiKey.id == id)
    query = query.with_for_update(of=ApiKey) if lock else query
    row = session.execute(query.execution_options(populate_existing=True)).one_or_none()
    return (row[0], row[1]) if row is not None else None


def key_listing(project: str) -> Listing:
    """A project's keys, each with whether it has expired, newest first."""
    query = select(ApiKey, is_expired()).where(ApiKey.project_id == project)
    return Listing(query, (ApiKey.created_at, ApiKey.id), newest_first=True)


def count_keys(session: Session, project: str) -> int:
    """Keys that are not revoked."""
    mine = (ApiKey.project_id == project, ApiKey.revoked_at.is_(None))
    return session.scalar(select(func.count()).select_from(ApiKey).where(*mine)) or 0
