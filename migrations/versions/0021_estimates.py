"""Estimates: what a job's engine expected at its start, and how plans and jobs of one spec find each other"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Plans that are there already are compared with no job; they live for a day."""
    op.add_column("jobs", sa.Column("estimates", JSONB()))
    op.create_index("ix_jobs_spec", "jobs", ["project_id", "spec_digest"])
    op.create_index(
        "ix_jobs_measured",
        "jobs",
        ["method", "finished_at"],
        postgresql_where=sa.text("state = 'succeeded' AND estimates IS NOT NULL"),
    )
    op.add_column("plans", sa.Column("spec_digest", sa.String(64)))
    op.create_index("ix_plans_list", "plans", ["project_id", "created_at", "id"])


def downgrade() -> None:
    """No plan is compared."""
    op.drop_index("ix_plans_list", "plans")
    op.drop_column("plans", "spec_digest")
    op.drop_index("ix_jobs_measured", "jobs")
    op.drop_index("ix_jobs_spec", "jobs")
    op.drop_column("jobs", "estimates")
