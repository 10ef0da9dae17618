"""SQL of idempotency keys; each belongs to one project."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.tables.idempotency import IdempotencyKey


def lock(session: Session, project: str, key: str) -> bool:
    """Whether the key is ours until the transaction ends; somebody else's is not waited for."""
    name = func.hashtextextended(f"idempotency {project} {key}", 0)
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(name))))


@dataclass(frozen=True)
class Kept:
    """A record as it was when it was read."""

    fingerprint: str
    status: int
    headers: Sequence[Sequence[str]]
    body: bytes
    sealed: bool
    is_open: bool
    """Its call is still at work."""


def find(session: Session, project: str, key: str) -> Kept | None:
    """The key's record. Call it with the lock: an expired one is removed."""
    row, mine = IdempotencyKey, _mine(project, key)
    is_open = func.coalesce(row.open_until > func.now(), False)
    columns = (row.fingerprint, row.status, row.headers, row.body, row.sealed, is_open)
    found = session.execute(select(*columns, row.expires_at <= func.now()).where(*mine)).one_or_none()
    if found is None:
        return None
    if found[-1]:
        session.execute(delete(row).where(*mine))
        return None
    return Kept(*found[:-1])


def add(session: Session, record: IdempotencyKey, hours: float, open_seconds: float) -> None:
    """Keep a record for so long; open_seconds: how long its call may still be at work, 0 when it is not."""
    record.expires_at = func.now() + timedelta(hours=hours)
    if open_seconds > 0:
        record.open_until = from_now(open_seconds)
    session.add(record)
    session.flush()


def close(session: Session, project: str, key: str, status: int, headers: list[list[str]], body: bytes) -> None:
    """The last word of a call that was still at work."""
    values = {"status": status, "headers": headers, "body": body, "open_until": None}
    session.execute(update(IdempotencyKey).where(*_mine(project, key)).values(values))


def forget(session: Session) -> int:
    """Drop records that have had their time; how many."""
    expired = delete(IdempotencyKey).where(IdempotencyKey.expires_at < func.now())
    return len(session.scalars(expired.returning(IdempotencyKey.id)).all())


def _mine(project: str, key: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return IdempotencyKey.project_id == project, IdempotencyKey.key == key
