"""Tasks of the lm-evaluation-harness"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """What models reached in them, and which workers have the harness."""
    op.create_table(
        "job_tasks",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("task", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model", sa.String(10), primary_key=True),
        sa.Column("scores", JSONB(none_as_null=True)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.add_column("workers", sa.Column("harness", sa.String(40)))


def downgrade() -> None:
    op.drop_column("workers", "harness")
    op.drop_table("job_tasks")
