"""SQL of quotas: a project's own limits, and what it has."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from app.quotas.catalogue import Quota
from app.tables.tasks import INTAKES

_LOCK: Final = text("""
    SELECT a.quotas FROM projects p LEFT JOIN project_accounts a ON a.project_id = p.id
    WHERE p.id = :project FOR NO KEY UPDATE OF p
""")
_READ: Final = text("SELECT quotas FROM project_accounts WHERE project_id = :project")
_INTAKES: Final = ", ".join(f"'{kind}'" for kind in INTAKES)
_USED: Final[dict[Quota, str]] = {
    Quota.queued_jobs: "SELECT count(*) FROM jobs WHERE project_id = :project AND state IN ('queued', 'paused')",
    Quota.running_jobs: """SELECT count(*) FROM job_leases l JOIN jobs j ON j.id = l.job_id
        WHERE j.project_id = :project""",
    Quota.pending_tasks: """SELECT count(*) FROM tasks
        WHERE project_id = :project AND state IN ('queued', 'running')
        AND kind NOT IN ('garbage', 'publication')""",
    Quota.running_intakes: f"""SELECT count(*) FROM tasks
        WHERE project_id = :project AND state = 'running' AND kind IN ({_INTAKES})""",  # noqa: S608 - constants only
    Quota.stored_bytes: """SELECT
        coalesce((SELECT sum(stored_bytes) FROM jobs WHERE project_id = :project AND stored_bytes > 0), 0)
        + coalesce((SELECT sum(bytes) FROM models WHERE project_id = :project), 0)
        + coalesce((SELECT sum(p.bytes) FROM model_parts p JOIN models m ON m.id = p.model_id
                    WHERE m.project_id = :project), 0)
        + coalesce((SELECT sum(coalesce(bytes, CASE state WHEN 'pending' THEN (upload ->> 'bytes')::bigint END))
                    FROM datasets WHERE project_id = :project), 0)""",
}
"""What the database knows; uploads under way are each process's own."""


_SENT: Final = text("""SELECT
    coalesce((SELECT sum(bytes) FROM model_parts WHERE model_id = :subject), 0)
    + coalesce((SELECT (upload ->> 'bytes')::bigint FROM datasets
                WHERE id = :subject AND state = 'pending'), 0)""")


def sent(session: Session, subject: str) -> int:
    """Bytes that were sent for a model or dataset, and count beside what it becomes."""
    return int(session.scalar(_SENT, {"subject": subject}) or 0)


def lock(session: Session, project: str) -> dict[str, Any] | None:
    """The project's own quotas; nobody else counts for it until the transaction ends."""
    own: dict[str, Any] | None = session.scalar(_LOCK, {"project": project})
    return own


@lru_cache
def _standing(quotas: tuple[Quota, ...]) -> TextClause:
    counts = "".join(
        f", CASE WHEN jsonb_exists(a.quotas, '{each}') THEN NULL ELSE ({_USED[each]}) END" for each in quotas
    )
    own = "FROM (SELECT) o LEFT JOIN project_accounts a ON a.project_id = :project"
    return text(f"SELECT a.quotas{counts} {own}")


def standing(
    session: Session, project: str, quotas: tuple[Quota, ...]
) -> tuple[dict[str, Any] | None, dict[Quota, int]]:
    """The project's own quotas, and of those that it has none for, how much it has now; by one statement."""
    own, *counts = session.execute(_standing(quotas), {"project": project}).one()
    return own, {quota: int(count) for quota, count in zip(quotas, counts, strict=True) if count is not None}


def overrides(session: Session, project: str) -> dict[str, Any] | None:
    """The project's own quotas."""
    own: dict[str, Any] | None = session.scalar(_READ, {"project": project})
    return own


_RING: Final = text("""
    INSERT INTO outbox (queue, hint, attempts)
    (SELECT 'gpu', id, 0 FROM jobs WHERE project_id = :project AND state = 'queued' LIMIT 100)
    UNION ALL
    (SELECT 'cpu', id, 0 FROM tasks WHERE project_id = :project AND state = 'queued' LIMIT 100)
""")


def ring_waiting(session: Session, project: str) -> None:
    """More of the project may run now: idle workers should look."""
    session.execute(_RING, {"project": project})


@lru_cache
def _counts(quotas: tuple[Quota, ...]) -> TextClause:
    return text("SELECT " + ", ".join(f"({_USED[quota]}) AS {quota}" for quota in quotas))


def used(session: Session, project: str, quotas: Iterable[Quota] = tuple(_USED)) -> dict[Quota, int]:
    """How much of each the project has now."""
    wanted = tuple(quota for quota in quotas if quota in _USED)
    row = session.execute(_counts(wanted), {"project": project}).one()
    return {quota: int(count) for quota, count in zip(wanted, row, strict=True)}
