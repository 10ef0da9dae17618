"""SQL of quotas: a project's own limits, and what it has."""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.quotas.catalogue import Quota

_LOCK: Final = text("""
    SELECT a.quotas FROM projects p LEFT JOIN project_accounts a ON a.project_id = p.id
    WHERE p.id = :project FOR NO KEY UPDATE OF p
""")
_READ: Final = text("SELECT quotas FROM project_accounts WHERE project_id = :project")
_USED: Final[dict[Quota, str]] = {
    Quota.queued_jobs: "SELECT count(*) FROM jobs WHERE project_id = :project AND state IN ('queued', 'paused')",
    Quota.running_jobs: """SELECT count(*) FROM job_leases l JOIN jobs j ON j.id = l.job_id
        WHERE j.project_id = :project""",
    Quota.pending_tasks: """SELECT count(*) FROM tasks
        WHERE project_id = :project AND state IN ('queued', 'running') AND kind <> 'garbage'""",
    Quota.running_intakes: """SELECT count(*) FROM tasks
        WHERE project_id = :project AND state = 'running' AND kind NOT IN ('garbage', 'plan')""",
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


def used(session: Session, project: str, quotas: Iterable[Quota] = tuple(_USED)) -> dict[Quota, int]:
    """How much of each the project has now."""
    wanted = [quota for quota in quotas if quota in _USED]
    columns = ", ".join(f"({_USED[quota]}) AS {quota}" for quota in wanted)
    row = session.execute(text(f"SELECT {columns}"), {"project": project}).one()
    return {quota: int(count) for quota, count in zip(wanted, row, strict=True)}
