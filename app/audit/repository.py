"""SQL of the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.kit.ids import Prefix, new_id
from app.kit.pagination import Listing
from app.tables.audit import AuditEvent

DONE: Final = "done"
_DAY: Final = 86_400
_LINE: Final = insert(AuditEvent.__table__)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Filter:
    """What a log is narrowed to; all parts must hold."""

    project: str | None = None
    key: str | None = None
    action: str | None = None
    object: str | None = None
    outcome: str | None = None
    after: datetime | None = None
    before: datetime | None = None


def note(session: Session, action: str, project: str | None, *, outcome: str = DONE, **more: Any) -> None:
    """Write one line in the caller's transaction. more: the other columns of AuditEvent."""
    line = {"id": new_id(Prefix.audit), "action": action, "project_id": project, "outcome": outcome}
    session.execute(_LINE, line | more)


def listing(filter: Filter) -> Listing:
    """Events, newest first."""
    row = AuditEvent
    wanted: Sequence[tuple[Any, str | None]] = (
        (row.project_id, filter.project),
        (row.key_id, filter.key),
        (row.action, filter.action),
        (row.object_id, filter.object),
        (row.outcome, filter.outcome),
    )
    query: Select[Any] = select(row).where(*(column == value for column, value in wanted if value is not None))
    if filter.after is not None:
        query = query.where(row.at > filter.after)
    if filter.before is not None:
        query = query.where(row.at < filter.before)
    return Listing(query, (row.id,), newest_first=True)


def forget(session: Session, days: float) -> int:
    """Drop what is older; how many."""
    old = delete(AuditEvent).where(AuditEvent.at < from_now(-days * _DAY))
    return len(session.scalars(old.returning(AuditEvent.id)).all())
