"""What the metrics count, and the call that jobs, tasks and messages came of"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0024"
down_revision = "0023"

TABLES = ("jobs", "tasks", "outbox")
LIVE = "state NOT IN ('succeeded', 'failed', 'cancelled')"


def upgrade() -> None:
    """Counting begins now."""
    op.create_table(
        "metric_counts",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("metric", sa.String(80), nullable=False),
        sa.Column("labels", JSONB, nullable=False),
        sa.Column("bound", sa.Double),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Double, nullable=False),
    )
    for table in TABLES:
        op.add_column(table, sa.Column("origin", JSONB))
    op.create_index("ix_jobs_live", "jobs", ["state", "method"], postgresql_where=sa.text(LIVE))


def downgrade() -> None:
    """What was counted is forgotten."""
    op.drop_index("ix_jobs_live", "jobs")
    for table in TABLES:
        op.drop_column(table, "origin")
    op.drop_table("metric_counts")
