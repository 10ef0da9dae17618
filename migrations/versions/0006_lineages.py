"""Lineages: jobs that go on from another job's final state"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """New columns are null or have a default, so that the release before can still insert."""
    op.add_column("jobs", sa.Column("continues", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("lineage_id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("first_stage", sa.Integer(), server_default="0", nullable=False))
    op.create_foreign_key(op.f("fk_jobs_continues"), "jobs", "jobs", ["continues"], ["id"])
    op.create_index("ix_jobs_continues", "jobs", ["continues"])
    op.create_index("ix_jobs_lineage_id", "jobs", ["lineage_id"])


def downgrade() -> None:
    """Continuations become jobs without a past; what they have computed stays."""
    for name in ("ix_jobs_lineage_id", "ix_jobs_continues"):
        op.drop_index(name, "jobs")
    op.drop_constraint(op.f("fk_jobs_continues"), "jobs", type_="foreignkey")
    for name in ("first_stage", "lineage_id", "continues"):
        op.drop_column("jobs", name)
