"""Making and checking API keys."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.auth import repository
from app.auth.scopes import ORDINARY, Scope
from app.auth.tokens import HINT, new_token, token_digest
from app.kit.ids import Prefix, new_id
from app.settings import get_settings
from app.tables.auth import ApiKey


@dataclass(frozen=True)
class Principal:
    """Who is asking: a key of one project."""

    project: str
    key: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the key has got the scope."""
        return scope in self.scopes or Scope.admin in self.scopes


def create_key(
    session: Session,
    project_name: str,
    name: str,
    scopes: Iterable[Scope | str],
    expires_at: datetime | None = None,
) -> str:
    """A new key's text, which is nowhere kept; makes the project when missing.

    Raises ValueError for a scope that new keys do not get, an empty or overlong name, or a past expiry.
    """
    wanted = sorted({Scope(scope) for scope in scopes})
    if refused := set(wanted) - set(ORDINARY):
        raise ValueError(f"no new key gets the scope {', '.join(refused)}; leave it out to get all there are")
    if not wanted:
        raise ValueError("a key needs at least one scope")
    for text in (project_name, name):
        if not 1 <= len(text.strip()) <= 200 or not text.isprintable():
            raise ValueError("names have 1 to 200 printable characters")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise ValueError("the expiry lies in the past")
    token = new_token()
    session.add(
        ApiKey(
            id=new_id(Prefix.key),
            project_id=repository.ensure_project(session, project_name).id,
            name=name,
            hint=token[:HINT],
            digest=token_digest(token, get_settings().secret.get_secret_value()),
            scopes=wanted,
            expires_at=expires_at,
        )
    )
    session.flush()
    return token


def authenticate(connection: Connection, digests: Sequence[bytes]) -> list[Principal | None]:
    """Whose keys these are, by their digests; None for one that is unknown, revoked or expired."""
    rows = repository.find_live_keys(connection, digests)
    found = {row[0]: principal_of(row) for row in rows}
    note_use(connection, rows)
    return [found.get(digest) for digest in digests]


def principal_of(row: Sequence[Any]) -> Principal:
    """From the columns `repository.KEY`."""
    _, project, id, scopes, _ = row
    return Principal(project, id, frozenset(scopes))


def note_use(connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
    """Remember that the keys were used. rows: their `repository.KEY`."""
    unused = {row[2] for row in rows if row[4]}
    if unused:
        repository.touch_keys(connection, unused)
