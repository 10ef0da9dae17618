"""Making and checking API keys."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.auth import repository
from app.auth.scopes import Scope
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
    expires_at: datetime | None = None

    def may(self, *scopes: Scope) -> bool:
        """Whether the key has got one of the scopes."""
        return not self.scopes.isdisjoint(scopes)


@dataclass(frozen=True)
class KeyRequest:
    """What a new key is to be."""

    name: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None = None
    created_by: str | None = None
    suspended: bool = False


@dataclass(frozen=True)
class NewKey:
    """A key and its text, which is nowhere kept."""

    key: ApiKey
    text: str = field(repr=False)


def make_key(session: Session, project: str, wanted: KeyRequest, secret: str) -> NewKey:
    """A key of the project. secret: the service's pepper."""
    token = new_token()
    key = ApiKey(
        id=new_id(Prefix.key),
        project_id=project,
        name=wanted.name,
        hint=token[:HINT],
        digest=token_digest(token, secret),
        scopes=sorted(set(wanted.scopes)),
        expires_at=wanted.expires_at,
        created_by=wanted.created_by,
        suspended=wanted.suspended,
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return NewKey(key, token)


def rotate_key(session: Session, key: ApiKey, grace_seconds: float, secret: str) -> NewKey:
    """A new text for the key. The one before works for so long yet, and the one before that no more."""
    token = new_token()
    repository.put_digest(session, key, token[:HINT], token_digest(token, secret), grace_seconds)
    session.refresh(key)
    return NewKey(key, token)


def create_key(
    session: Session,
    project_name: str,
    name: str,
    scopes: Iterable[Scope | str],
    expires_at: datetime | None = None,
) -> NewKey:
    """A new key, for those who operate the service without HTTP; makes the project when missing.

    Raises ValueError for an unknown scope or none, an empty or overlong name, or a past expiry.
    """
    wanted = tuple(Scope(scope) for scope in scopes)
    if not wanted:
        raise ValueError("a key needs at least one scope")
    for text in (project_name, name):
        if not 1 <= len(text.strip()) <= 200 or not text.isprintable():
            raise ValueError("names have 1 to 200 printable characters")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise ValueError("the expiry lies in the past")
    project = repository.ensure_project(session, project_name)
    secret = get_settings().secret.get_secret_value()
    return make_key(
        session,
        project.id,
        KeyRequest(name, wanted, expires_at, suspended=project.disabled_at is not None),
        secret,
    )


def authenticate(connection: Connection, digests: Sequence[bytes]) -> list[Principal | None]:
    """Whose keys these are, by their digests; None for one that is unknown, revoked or expired, or whose project
    is disabled."""
    rows = repository.find_live_keys(connection, digests)
    found = {row[0]: principal_of(row[1:]) for row in rows}
    note_use(connection, [row[1:] for row in rows])
    return [found.get(digest) for digest in digests]


def principal_of(row: Sequence[Any]) -> Principal:
    """From the columns `repository.KEY`."""
    id, project, scopes, expires_at, _ = row
    return Principal(project, id, frozenset(scopes), expires_at)


def note_use(connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
    """Remember that the keys were used. rows: their `repository.KEY`."""
    unused = {row[0] for row in rows if row[-1]}
    if unused:
        repository.touch_keys(connection, unused)
