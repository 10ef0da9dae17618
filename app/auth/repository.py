"""SQL of projects and keys. Expiry is judged by the database's clock."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, Connection, LargeBinary, Row, any_, bindparam, func, select, text, update
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


ALIVE: Final = (ApiKey.revoked_at.is_(None), ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()))
"""Conditions on a key that works."""
_UNUSED: Final = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < _A_MINUTE_AGO)
KEY: Final = (ApiKey.digest, ApiKey.project_id, ApiKey.id, ApiKey.scopes, _UNUSED)
"""What is asked of a key, last of all whether its use was not written down lately."""
_FIND: Final = select(*KEY).where(ApiKey.digest == any_(bindparam("digests", type_=ARRAY(LargeBinary))), *ALIVE)


def find_live_keys(connection: Connection, digests: Sequence[bytes]) -> Sequence[Row[*tuple[Any, ...]]]:
    """KEY of the keys with those digests, but for revoked and expired ones."""
    return connection.execute(_FIND, {"digests": list(digests)}).all()


def touch_keys(connection: Connection, ids: Collection[str]) -> None:
    """Remember the use, at most once a minute; concurrent uses do not wait for each other."""
    stale = select(ApiKey.id).where(ApiKey.id.in_(ids), _UNUSED).with_for_update(skip_locked=True, key_share=True)
    connection.execute(update(ApiKey).where(ApiKey.id.in_(stale)).values(last_used_at=func.now()))


def revoke_key(session: Session, id: str) -> bool:
    """End a key at once; whether it was alive."""
    query = update(ApiKey).where(ApiKey.id == id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
    return bool(session.execute(query.returning(ApiKey.id)).first())


def list_keys(session: Session, project_name: str) -> Sequence[ApiKey]:
    """A project's keys, oldest first."""
    query = select(ApiKey).join(Project).where(Project.name == project_name).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(query).all()
