"""What a page of jobs reads of the database, in a small table and in a large one."""

import os
from typing import Any

from sqlalchemy import Connection, create_engine, text

from app.jobs import repository
from app.jobs.repository import Filter
from app.kit.pagination import Listing

SMALL = 1000
FILTERS = {
    "no filter": Filter(),
    "state": Filter(states=("succeeded",)),
    "method": Filter(method="wanda"),
    "model": Filter(model="mdl_load"),
}
# Copies of one job, all within one project; every tenth has another state, every third another method.
FILL = """
INSERT INTO jobs (id, project_id, model_id, state, method, spec, spec_digest, labels, priority, version,
                  last_event, attempts, lost_attempts, fence, notifications, created_at)
SELECT 'job_' || lpad(CAST(n AS text), 32, '0'), project_id, model_id,
       CASE n % 10 WHEN 0 THEN 'succeeded' ELSE 'failed' END,
       CASE n % 3 WHEN 0 THEN 'wanda' ELSE method END, spec, spec_digest, '{}', 0, 1, 1, 1, 0, 1, 0,
       timestamptz '2020-01-01' + n * interval '1 second'
FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n, (SELECT * FROM jobs ORDER BY created_at LIMIT 1) j
"""
PROGRESS = """
INSERT INTO job_progress (job_id, phase, fraction)
SELECT 'job_' || lpad(CAST(n AS text), 32, '0'), 'pruning', 0.5
FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n
"""


def page_buffers(service: Any, large: int) -> str:
    """Buffers of a page by filter, and how many times those of the small table it reads in the large one."""
    engine = create_engine(os.environ["SECATEUR_DATABASE_URL"])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        project = connection.execute(text("SELECT project_id FROM jobs LIMIT 1")).scalar_one()
        connection.execute(
            text("DELETE FROM jobs WHERE id NOT IN (SELECT id FROM jobs ORDER BY created_at LIMIT 1)")
        )
        small = measured(connection, project, 1, SMALL)
        found = measured(connection, project, SMALL + 1, large)
    lines = [f"| page of 50 | buffers at 1,000 jobs | at {large:,} | times |", "|---|---|---|---|"]
    lines += [f"| {name} | {small[name]} | {found[name]} | {found[name] / small[name]:.2f} |" for name in FILTERS]
    return "\n".join(lines)


def measured(connection: Connection, project: str, first: int, last: int) -> dict[str, int]:
    """Fill the table up to job `last`; buffers of each page."""
    for statement in (FILL, PROGRESS):
        connection.execute(text(statement), {"first": first, "last": last})
    connection.execute(text("VACUUM ANALYZE jobs, job_progress"))
    return {name: buffers(connection, repository.listing(project, filter)) for name, filter in FILTERS.items()}


def buffers(connection: Connection, listing: Listing) -> int:
    """Shared buffers that the page's statement touches."""
    statement = listing._statement(goes_on=False)
    compiled = statement.params({**listing.given, "page_rows": 51}).compile(
        connection.engine, compile_kwargs={"literal_binds": True}
    )
    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {compiled}").scalar_one()
    top = plan[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
