"""A project's own token of the hub: sealed at rest, opened only by the intake that fetches for the project."""

from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.kit.sealing import Unreadable, seal, unseal
from app.tables.auth import HubToken

_PURPOSE: Final = "hub token"
_SHOWN: Final = 4


def put(session: Session, project: str, token: str, by: str, secret: str) -> HubToken:
    """Keep a token in place of the one before. secret: the service's."""
    values = {
        "sealed": seal(secret, _PURPOSE, project, token.encode()),
        "hint": f"…{token[-_SHOWN:]}",
        "updated_at": from_now(0),
        "updated_by": by,
    }
    row = insert(HubToken).values(project_id=project, **values)
    session.execute(row.on_conflict_do_update(index_elements=["project_id"], set_=values))
    return session.scalars(select(HubToken).where(HubToken.project_id == project)).one()


def find(session: Session, project: str) -> HubToken | None:
    """What is known of the token without opening it."""
    return session.get(HubToken, project)


def open_token(session: Session, project: str, secret: str) -> str | None:
    """The token; None without one, and of one that was sealed under another secret of the service."""
    row = find(session, project)
    if row is None:
        return None
    try:
        return unseal(secret, _PURPOSE, project, row.sealed).decode()
    except Unreadable:
        return None


def remove(session: Session, project: str) -> None:
    """Forget it."""
    session.execute(delete(HubToken).where(HubToken.project_id == project))
