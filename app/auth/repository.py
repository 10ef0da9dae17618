"""SQL of projects and keys. Expiry is judged by the database's clock."""

from collections.abc import Sequence

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.kit.ids import Prefix, new_id
from app.tables.auth import ApiKey, Project

_A_MINUTE_AGO = func.now() - text("interval '1 minute'")


def ensure_project(session: Session, name: str) -> Project:
    """The project of that name, made when missing; two callers at once get the same one."""
    row = {"id": new_id(Prefix.project), "name": name}
    session.execute(insert(Project).values(row).on_conflict_do_nothing(index_elements=["name"]))
    return session.scalars(select(Project).where(Project.name == name)).one()


def find_live_key(session: Session, digest: bytes) -> ApiKey | None:
    """The key with that digest unless revoked or expired."""
    query = select(ApiKey).where(
        ApiKey.digest == digest,
        ApiKey.revoked_at.is_(None),
        ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()),
    )
    return session.scalars(query).one_or_none()


def touch_key(session: Session, id: str) -> None:
    """Remember the use, at most once a minute; concurrent uses do not wait for each other."""
    stale = (
        select(ApiKey.id)
        .where(ApiKey.id == id, ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < _A_MINUTE_AGO))
        .with_for_update(skip_locked=True, key_share=True)
    )
    session.execute(
        update(ApiKey)
        .where(ApiKey.id.in_(stale))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )


def revoke_key(session: Session, id: str) -> bool:
    """End a key at once; whether it was alive."""
    query = update(ApiKey).where(ApiKey.id == id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
    return bool(session.execute(query.returning(ApiKey.id)).first())


def list_keys(session: Session, project_name: str) -> Sequence[ApiKey]:
    """A project's keys, oldest first."""
    query = select(ApiKey).join(Project).where(Project.name == project_name).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(query).all()
