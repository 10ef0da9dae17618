"""Rules of quotas."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from app.quotas import repository
from app.quotas.catalogue import Limits, Quota, QuotaExceeded, StorageQuotaExceeded, limits_of
from app.settings import get_settings
from app.tables.accounts import ProjectAccount

AT_ONCE: Final = 100
"""More transactions than all processes of the API have connections for."""
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

    Near a limit the project's row stays locked until the transaction ends, so that no two count the same room.
    Where there is room for all that may be made at the same time, nobody waits for anybody.
    Raises QuotaExceeded, StorageQuotaExceeded.
    """
    own, used = repository.standing(session, project, tuple(_bounded(None, quotas)))
    bounded = _bounded(own, quotas)
    if bounded.keys() - used.keys():  # it has limits of its own
        used = repository.used(session, project, bounded)
    if not bounded or _is_roomy(bounded, used, size):
        return
    bounded = _bounded(repository.lock(session, project), quotas)
    used = repository.used(session, project, bounded)
    for quota, limit in bounded.items():
        if quota is Quota.stored_bytes:
            # Of what is not known in advance, the last one that begins may pass the limit.
            if used[quota] + max(size, 1) > limit:
                raise StorageQuotaExceeded(limit, used[quota])
        elif used[quota] >= limit:
            raise QuotaExceeded(quota, limit, used[quota], _WAIT_SECONDS.get(quota, 30))


def _bounded(own: dict[str, Any] | None, quotas: Iterable[Quota]) -> dict[Quota, int]:
    limits = limits_of(own, get_settings())
    return {quota: limit for quota in quotas if (limit := limits[quota]) is not None}


def _is_roomy(bounded: dict[Quota, int], used: dict[Quota, int], size: int) -> bool:
    """Whether a hundred transactions that do the same at once keep every limit."""
    return all(
        used[quota] + AT_ONCE * (size if quota is Quota.stored_bytes else 1) < bounded[quota] for quota in bounded
    )


def storage_left(session: Session, project: str) -> int | None:
    """Bytes that the project may still store; None for any number."""
    limit = read_limits(session, project)[Quota.stored_bytes]
    if limit is None:
        return None
    return max(0, limit - repository.used(session, project, [Quota.stored_bytes])[Quota.stored_bytes])


def sent_bytes(session: Session, subject: str) -> int:
    """Bytes that were sent for a model or dataset which is not taken in yet; they count as stored."""
    return repository.sent(session, subject)


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
    repository.ring_waiting(session, project)
