"""SQL of projects and keys. Expiry is judged by the database's clock."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    and_,
    bindparam,
    column,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.auth.scopes import Scope
from app.db.clock import from_now
from app.kit.ids import Prefix, new_id
from app.tables.auth import ApiKey, Project

_A_MINUTE_AGO = func.now() - text("interval '1 minute'")


def ensure_project(session: Session, name: str) -> Project:
    """The project of that name, made when missing; two callers at once get the same one. Nobody disables it until
    the transaction ends."""
    row = {"id": new_id(Prefix.project), "name": name}
    session.execute(insert(Project).values(row).on_conflict_do_nothing(index_elements=["name"]))
    query = select(Project).where(Project.name == name).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


_UNUSED: Final = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < _A_MINUTE_AGO)
KEY: Final = (ApiKey.id, ApiKey.project_id, ApiKey.scopes, ApiKey.expires_at, _UNUSED)
"""What is asked of a key, last of all whether its use was not written down lately."""


def is_alive() -> ColumnElement[bool]:
    """Whether a key works: neither revoked nor expired, and its project is not disabled."""
    in_time = ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now())
    return and_(ApiKey.revoked_at.is_(None), in_time, ~ApiKey.suspended)


def opened_by(digest: Any) -> ColumnElement[bool]:
    """Whether a text with that digest opens a key: the key's own, or the one before its rotation for its grace."""
    before = and_(ApiKey.previous_digest == digest, ApiKey.previous_until > func.now())
    return and_(or_(ApiKey.digest == digest, before), is_alive())


_ASKED: Final = (
    func.unnest(bindparam("digests", type_=ARRAY(LargeBinary)))
    .table_valued(column("digest", LargeBinary), name="asked")
    .render_derived()
)
_FIND: Final = select(_ASKED.c.digest, *KEY).select_from(_ASKED.join(ApiKey, opened_by(_ASKED.c.digest)))


def find_live_keys(connection: Connection, digests: Sequence[bytes]) -> Sequence[Row[*tuple[Any, ...]]]:
    """Each of the digests that opens a key, with the key's KEY."""
    return connection.execute(_FIND, {"digests": list(digests)}).all()


def put_digest(session: Session, key: ApiKey, hint: str, digest: bytes, grace_seconds: float) -> None:
    """Change the text that opens the key; its row is locked."""
    values = {
        "hint": hint,
        "digest": digest,
        "previous_digest": ApiKey.digest if grace_seconds > 0 else None,
        "previous_until": from_now(grace_seconds) if grace_seconds > 0 else None,
        "rotated_at": func.now(),
    }
    session.execute(
        update(ApiKey).where(ApiKey.id == key.id).values(values).execution_options(synchronize_session=False)
    )


def suspend_keys(session: Session, project: str, suspended: bool) -> None:
    """Let no key of a project work, or let them work again."""
    statement = update(ApiKey).where(ApiKey.project_id == project).values(suspended=suspended)
    session.execute(statement.execution_options(synchronize_session=False))


def find_admin_key(session: Session) -> str | None:
    """Some living key of an operator. Whoever asks is alone with the question until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("the first admin key", 0))))
    admin = ApiKey.scopes.contains([Scope.admin.value])
    return session.scalars(select(ApiKey.id).where(admin, is_alive()).limit(1)).first()


def touch_keys(connection: Connection, ids: Collection[str]) -> None:
    """Remember the use, at most once a minute; concurrent uses do not wait for each other."""
    stale = select(ApiKey.id).where(ApiKey.id.in_(ids), _UNUSED).with_for_update(skip_locked=True, key_share=True)
    connection.execute(update(ApiKey).where(ApiKey.id.in_(stale)).values(last_used_at=func.now()))


def revoke_key(session: Session, id: str) -> str | None:
    """End a key at once; its project, unless it was revoked already."""
    query = update(ApiKey).where(ApiKey.id == id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
    return session.scalar(query.returning(ApiKey.project_id))


def list_keys(session: Session, project_name: str) -> Sequence[ApiKey]:
    """A project's keys, oldest first."""
    query = select(ApiKey).join(Project).where(Project.name == project_name).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(query).all()


def own_roots(session: Session, project: str) -> list[str]:
    """The project's own model roots, relative to the operator's `project_roots`."""
    return list(session.scalar(select(Project.model_roots).where(Project.id == project)) or ())
