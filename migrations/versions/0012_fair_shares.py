"""Fair shares: what each project has had of the workers, and what its operator lets it have

The claim chooses the project first, then its best job: one index has the order within a project.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"

QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    """Nobody has had anything: the first claims go by age."""
    project = sa.ForeignKey("projects.id", ondelete="CASCADE")
    op.create_table(
        "project_accounts",
        sa.Column("project_id", sa.String(40), project, primary_key=True),
        sa.Column("share", sa.Double(), nullable=False, server_default="1"),
        sa.Column("quotas", JSONB(), nullable=False, server_default="{}"),
        sa.CheckConstraint("share > 0", name="share"),
    )
    op.create_table(
        "project_service",
        sa.Column("project_id", sa.String(40), sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("queue", sa.String(20), primary_key=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        postgresql_with={"fillfactor": "50"},
    )
    order = ["project_id", sa.text("priority DESC"), "available_at", "created_at", "id"]
    op.create_index("ix_jobs_queue", "jobs", order, postgresql_where=QUEUED)
    op.drop_index("ix_jobs_claim", "jobs")


def downgrade() -> None:
    """Shares and quotas are forgotten."""
    op.create_index("ix_jobs_claim", "jobs", [sa.text("priority DESC"), "available_at"], postgresql_where=QUEUED)
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_table("project_service")
    op.drop_table("project_accounts")
