"""Quotas: what each job stores, and indexes that count a project's tasks and bytes"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

STORED = """
    UPDATE jobs j SET stored_bytes = coalesce(
        (j.manifest ->> 'bytes')::bigint,
        (SELECT sum((file ->> 'bytes')::bigint) FROM job_blocks b, jsonb_array_elements(b.files) file
         WHERE b.job_id = j.id AND b.attempt > 0), 0)
"""


def upgrade() -> None:
    """What is stored already counts."""
    op.add_column("jobs", sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(STORED)
    op.create_index(
        "ix_jobs_stored",
        "jobs",
        ["project_id"],
        postgresql_include=["stored_bytes"],
        postgresql_where=sa.text("stored_bytes > 0"),
    )
    op.add_column("tasks", sa.Column("started_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_tasks_pending", "tasks", ["project_id"], postgresql_where=sa.text("state IN ('queued', 'running')")
    )


def downgrade() -> None:
    """Nobody counts any more."""
    op.drop_index("ix_tasks_pending", "tasks")
    op.drop_column("tasks", "started_at")
    op.drop_index("ix_jobs_stored", "jobs")
    op.drop_column("jobs", "stored_bytes")
