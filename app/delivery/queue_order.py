"""The order in which waiting jobs are claimed. It stands here once: the claim and the place in the queue read it.

Of the projects with a job that may start, the one with the least recent service goes first, its service being the
worker time of its attempts, halved every half-life, by its share. Within a project: priority, then age. A running
attempt counts `ADVANCE_SECONDS` from its first moment, so that many workers that are free at once are shared, too.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from app.settings import Settings, get_settings
from app.shares import DECAYED, ELAPSED
from app.workers import holding

# Bare scalar subqueries: they are evaluated job by job in the index's order, up to the first job that will do.
# PostgreSQL turns EXISTS into joins over all that wait, and takes comparisons for so rare that it sorts first.
CLAIMABLE: Final = """
    j.state = 'queued' AND j.available_at <= now() AND (j.estimate_due_at <= now()) IS NOT FALSE
    AND (SELECT m.state = 'ready' FROM models m WHERE m.id = j.model_id)
    AND (SELECT bool_and(d.state = 'ready') FROM job_datasets jd JOIN datasets d ON d.id = jd.dataset_id
         WHERE jd.job_id = j.id) IS NOT FALSE
"""
"""Condition on `jobs j`: a worker may start it now."""

WITHIN_PROJECT: Final = "j.priority DESC, j.available_at, j.created_at, j.id"
"""Order of `jobs j` of one project; `ix_jobs_queue` has it."""

ADVANCE_SECONDS: Final = 600.0
"""What a running attempt counts at least."""

STANDINGS: Final = f"""
    -- Each project with a queued job, by one look into the index for each.
    waiting AS (
        (SELECT j.project_id FROM jobs j WHERE j.state = 'queued' ORDER BY j.project_id, {WITHIN_PROJECT} LIMIT 1)
        UNION ALL
        SELECT (SELECT j.project_id FROM jobs j WHERE j.state = 'queued' AND j.project_id > w.project_id
                ORDER BY j.project_id, {WITHIN_PROJECT} LIMIT 1)
        FROM waiting w WHERE w.project_id IS NOT NULL
    ),
    running AS (
        SELECT r.project_id, count(*) AS jobs,
               sum(greatest({ELAPSED.format(since="l.claimed_at")}, :advance)) AS seconds
        FROM job_leases l JOIN jobs r ON r.id = l.job_id GROUP BY r.project_id
    ),
    accounts AS (
        SELECT w.project_id, coalesce(a.share, 1) AS share,
               coalesce(s.seconds * {DECAYED.format(since="s.at")}, 0) + coalesce(r.seconds, 0) AS used,
               CASE WHEN jsonb_exists(a.quotas, 'running_jobs') THEN CAST(a.quotas ->> 'running_jobs' AS bigint)
                    ELSE CAST(:running_jobs AS bigint) END AS most,
               coalesce(r.jobs, 0) AS running
        FROM waiting w
        LEFT JOIN project_accounts a USING (project_id)
        LEFT JOIN project_service s ON s.project_id = w.project_id AND s.queue = 'gpu'
        LEFT JOIN running r ON r.project_id = w.project_id
        WHERE w.project_id IS NOT NULL
    ),
    standings AS (SELECT *, most - running AS room FROM accounts)
"""  # noqa: S608 - constants only
"""Common table expressions, after WITH RECURSIVE: `standings` has of every project that waits its `share`, its
`used` seconds, `most` (jobs that may run at once) and `room` (how many more may); both null where there is no
limit. Bind `parameters`."""


def parameters(settings: Settings | None = None) -> dict[str, Any]:
    """What `STANDINGS` is bound with."""
    settings = settings or get_settings()
    return {
        "half_life": settings.fair_share_half_life_hours * 3600,
        "advance": ADVANCE_SECONDS,
        "running_jobs": settings.quota_running_jobs,
        "across": settings.priority_across_projects,
    }


_RING_NEXT: Final = text(f"""
    INSERT INTO outbox (queue, hint, attempts)
    SELECT 'gpu', j.id, 0 FROM jobs j LEFT JOIN project_accounts a USING (project_id)
    WHERE j.project_id = :project AND j.state = 'queued'
      AND CASE WHEN jsonb_exists(a.quotas, 'running_jobs') THEN CAST(a.quotas ->> 'running_jobs' AS bigint)
               ELSE CAST(:running_jobs AS bigint) END IS NOT NULL
    ORDER BY {WITHIN_PROJECT} LIMIT 1
""")  # noqa: S608 - constants only


def ring_next(session: Session, project: str) -> None:
    """A job of the project has ended: where only so many may run, idle workers have passed by the next one."""
    session.execute(_RING_NEXT, {"project": project, "running_jobs": get_settings().quota_running_jobs})


@dataclass(frozen=True)
class Place:
    """Where a queued job stands."""

    ahead: int
    """So many jobs that could start now are claimed before it, if nothing else happens."""
    at_limit: bool
    """Its project runs as many jobs as it may: it waits for one of them, whatever is ahead."""
    held: bool = True
    """Whether a worker is there that can run it, or none at all is known."""


_RIVAL: Final = f"(SELECT bool_or({holding.HELD_BY}) FROM rooms w) IS NOT FALSE"  # noqa: S608 - constants only
"""Condition on `jobs j`: one of the workers that hold the job in question may take this one before it."""
_PLACE: Final[TextClause] = text(f"""
    WITH RECURSIVE {STANDINGS}, {holding.LIVE_WORKERS},
    rooms AS (SELECT w.* FROM live w JOIN jobs j ON j.id = :id WHERE {holding.HELD_BY}),
    mine AS (
        SELECT me.*, s.room, own.ahead, (s.used + own.ahead * :advance) / s.share AS served
        FROM jobs me JOIN standings s USING (project_id)
        CROSS JOIN LATERAL (
            SELECT count(*) AS ahead FROM jobs j WHERE j.project_id = me.project_id AND {CLAIMABLE} AND {_RIVAL}
            AND (-j.priority, j.available_at, j.created_at, j.id)
              < (-me.priority, me.available_at, me.created_at, me.id)
        ) own
        WHERE me.id = :id AND me.state = 'queued'
    ),
    others AS (
        SELECT count(*) AS ahead FROM mine
        JOIN standings s ON s.project_id <> mine.project_id AND coalesce(s.room, 1) > 0
        CROSS JOIN LATERAL (
            SELECT j.priority, j.available_at, j.created_at, j.id,
                   (s.used + (row_number() OVER (ORDER BY {WITHIN_PROJECT}) - 1) * :advance) / s.share AS served
            FROM jobs j WHERE j.project_id = s.project_id AND {CLAIMABLE} AND {_RIVAL}
            ORDER BY {WITHIN_PROJECT}
            -- No more of its jobs can be ahead than would make its service as large as mine.
            LIMIT least(s.room, CASE WHEN NOT :across THEN
                ceil(greatest(mine.served * s.share - s.used, 0) / :advance) + 1 END)
        ) j
        WHERE (CASE WHEN :across THEN -j.priority ELSE 0 END, j.served, j.available_at, j.created_at, j.id)
            < (CASE WHEN :across THEN -mine.priority ELSE 0 END, mine.served, mine.available_at, mine.created_at,
               mine.id)
    )
    SELECT mine.ahead + others.ahead, coalesce(mine.room <= 0, false),
           EXISTS (SELECT FROM rooms) OR NOT EXISTS (SELECT FROM live)
    FROM mine, others
""")  # noqa: S608 - constants only


def place_of(session: Session, job_id: str, settings: Settings | None = None) -> Place | None:
    """Where the job stands; None when it is not queued. Whose the job is, the caller has checked."""
    given = {"id": job_id, **parameters(settings), **holding.parameters(settings)}
    row = session.execute(_PLACE, given).one_or_none()
    return None if row is None else Place(*row)
