"""Rules of keys: whoever makes one gives nothing that he has not; an operator gives anything."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth.scopes import Scope
from app.auth.service import KeyRequest, NewKey, Principal, make_key, rotate_key
from app.kit.problems import FieldError, Forbidden, Invalid, NotFound, Problem, exists
from app.projects import repository
from app.projects.schemas import KeyCreate
from app.projects.service import reach
from app.tables.auth import ApiKey

MOST_KEYS: Final = 500
"""Keys of a project that are not revoked."""


class KeyNotFound(NotFound):
    code, title = "key_not_found", "There is no such key"


class KeyEnded(Problem):
    status, code, title = 409, "key_ended", "The key is revoked or has expired"


class TooManyKeys(Problem):
    status, code, title = 409, "too_many_keys", "The project has too many keys; revoke some"


class GrantExceeded(Forbidden):
    code, title = "grant_exceeded", "A key gives no scope and no time that it has not"

    def __init__(self, detail: str | None = None) -> None:
        Problem.__init__(self, detail)


class ExpiryPassed(Invalid):
    code, title = "expiry_passed", "The expiry lies in the past"


def create(session: Session, principal: Principal, project: str, body: KeyCreate, secret: str) -> NewKey:
    """A key of the project. Raises ProjectNotFound, GrantExceeded, TooManyKeys, ExpiryPassed."""
    owner = reach(session, principal, project, lock=True)
    _check_grant(principal, body.scopes)
    _check_expiry(session, principal, body)
    if repository.count_keys(session, project) >= MOST_KEYS:
        raise TooManyKeys(f"A project has at most {MOST_KEYS} keys that are not revoked.")
    suspended = owner.disabled_at is not None
    wanted = KeyRequest(body.name, tuple(body.scopes), body.expires_at, principal.key, suspended)
    return make_key(session, project, wanted, secret)


def read(
    session: Session, principal: Principal, project: str, id: str, *, lock: bool = False
) -> tuple[ApiKey, bool]:
    """The key, and whether it has expired. Raises ProjectNotFound, KeyNotFound."""
    reach(session, principal, project)
    return exists(repository.find_key(session, project, id, lock=lock), KeyNotFound)


def rename(session: Session, principal: Principal, project: str, id: str, name: str) -> tuple[ApiKey, bool]:
    """Give it another name. Raises ProjectNotFound, KeyNotFound, GrantExceeded."""
    key, expired = _take(session, principal, project, id)
    key.name = name
    session.flush()
    return key, expired


def rotate(
    session: Session, principal: Principal, project: str, id: str, grace_seconds: float, secret: str
) -> NewKey:
    """A new text for the key. Raises ProjectNotFound, KeyNotFound, KeyEnded, GrantExceeded."""
    key, expired = _take(session, principal, project, id)
    if key.revoked_at is not None or expired:
        raise KeyEnded
    _check_time(principal, key)
    return rotate_key(session, key, grace_seconds, secret)


def revoke(session: Session, principal: Principal, project: str, id: str) -> None:
    """End it at once, with what a rotation has left. Raises ProjectNotFound, KeyNotFound, GrantExceeded."""
    key, _ = _take(session, principal, project, id)
    if key.revoked_at is None:
        key.revoked_at = func.now()
        session.flush()


def _take(session: Session, principal: Principal, project: str, id: str) -> tuple[ApiKey, bool]:
    """The key, locked, for a change: of one that has no more than the asking one."""
    found = read(session, principal, project, id, lock=True)
    _check_grant(principal, [Scope(scope) for scope in found[0].scopes])
    return found


def _check_grant(principal: Principal, scopes: Sequence[Scope]) -> None:
    if principal.may(Scope.admin):
        return
    if beyond := sorted(set(scopes) - principal.scopes):
        raise GrantExceeded(f"The key that asks has not got {', '.join(beyond)}.")


def _check_expiry(session: Session, principal: Principal, body: KeyCreate) -> None:
    if body.expires_at is not None and body.expires_at <= session.execute(select(func.now())).scalar_one():
        raise ExpiryPassed(errors=[FieldError("lies in the past", pointer="/expires_at")])
    if not _outlives(principal, body.expires_at):
        return
    raise GrantExceeded(f"The key that asks expires at {principal.expires_at}; give the new one no later expiry.")


def _check_time(principal: Principal, key: ApiKey) -> None:
    """Who rotates another key holds its new text. Whoever expires takes none that lives on."""
    if key.id != principal.key and _outlives(principal, key.expires_at):
        raise GrantExceeded("The key that asks expires before this one.")


def _outlives(principal: Principal, expires_at: object) -> bool:
    """Whether that is later than the asking key's own end. An operator gives any time."""
    end = principal.expires_at
    if end is None or principal.may(Scope.admin):
        return False
    return expires_at is None or expires_at > end  # type: ignore[operator]
