"""Rules of quotas."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from app.quotas import repository
from app.quotas.catalogue import Limits, Quota, QuotaExceeded, StorageQuotaExceeded, limits_of
from app.settings import get_settings
from app.tables.accounts import ProjectAccount

_WAIT_SECONDS: Final = {Quota.pending_tasks: 10}
"""After which there may be room; 30 where nothing is said."""


@dataclass(frozen=True)
class Usage:
    """One quota of a project."""

    quota: Quota
    used: int
    limit: int | None


def reserve(session: Session, project: str, *quotas: Quota, size: int = 0) -> None:
    """Room for one more of each, or for `size` more bytes; called last before it is made.

    The project's row stays locked until the transaction ends, so that no two count the same room.
    Raises QuotaExceeded, StorageQuotaExceeded.
    """
    limits = limits_of(repository.lock(session, project), get_settings())
    bounded = {quota: limit for quota in quotas if (limit := limits[quota]) is not None}
    if not bounded:
        return
    used = repository.used(session, project, bounded)
    for quota, limit in bounded.items():
        if quota is Quota.stored_bytes:
            # Of what is not known in advance, the last one that begins may pass the limit.
            if used[quota] + max(size, 1) > limit:
                raise StorageQuotaExceeded(limit, used[quota])
        elif used[quota] >= limit:
            raise QuotaExceeded(quota, limit, used[quota], _WAIT_SECONDS.get(quota, 30))


def storage_left(session: Session, project: str) -> int | None:
    """Bytes that the project may still store; None for any number."""
    limit = read_limits(session, project)[Quota.stored_bytes]
    if limit is None:
        return None
    return max(0, limit - repository.used(session, project, [Quota.stored_bytes])[Quota.stored_bytes])


def read_limits(session: Session, project: str) -> Limits:
    """What the project may have."""
    return limits_of(repository.overrides(session, project), get_settings())


def usage(session: Session, project: str) -> list[Usage]:
    """What the project has of what the database counts, with its limits."""
    limits, used = read_limits(session, project), repository.used(session, project)
    return [Usage(quota, used[quota], limits[quota]) for quota in used]


def change(session: Session, project: str, share: float | None, quotas: dict[Quota, int | None]) -> None:
    """Set a project's share (None: as it is) and those of its own quotas that are named."""
    repository.lock(session, project)
    account = session.get(ProjectAccount, project, populate_existing=True)
    if account is None:
        account = ProjectAccount(project_id=project, quotas={})
        session.add(account)
    if share is not None:
        account.share = share
    account.quotas = account.quotas | {str(name): limit for name, limit in quotas.items()}
    session.flush()
