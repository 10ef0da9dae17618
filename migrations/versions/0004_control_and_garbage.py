"""Chains of retries, limits, budgets of retries, the basis of a checkpoint, tasks of the house"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """New columns are null or have a default, so that the release before can still insert."""
    op.add_column("jobs", sa.Column("root_id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("retry_of", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("basis", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_dropped_at", sa.DateTime(timezone=True), nullable=True))
    for name in ("memory_attempts", "preemptions"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    for name in ("max_runtime_seconds", "max_pending_seconds"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("runtime_seconds", sa.Double(), server_default="0", nullable=False))
    moment = sa.DateTime(timezone=True)
    op.add_column("jobs", sa.Column("queued_at", moment, server_default=sa.text("now()"), nullable=False))
    op.create_foreign_key(op.f("fk_jobs_retry_of"), "jobs", "jobs", ["retry_of"], ["id"], ondelete="SET NULL")
    op.create_index("ix_jobs_root_id", "jobs", ["root_id"])
    op.create_index("ix_jobs_retry_of", "jobs", ["retry_of"], unique=True)
    op.create_index("ix_jobs_pending", "jobs", ["queued_at"], postgresql_where=sa.text("state = 'queued'"))
    op.alter_column("tasks", "project_id", existing_type=sa.String(length=40), nullable=True)
    op.create_index(
        "ix_tasks_garbage",
        "tasks",
        ["subject_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'garbage' AND state = 'queued'"),
    )


def downgrade() -> None:
    """Sweeps are forgotten; they come again."""
    op.drop_index("ix_tasks_garbage", "tasks")
    op.execute("DELETE FROM tasks WHERE project_id IS NULL")
    op.alter_column("tasks", "project_id", existing_type=sa.String(length=40), nullable=False)
    for name in ("ix_jobs_pending", "ix_jobs_retry_of", "ix_jobs_root_id"):
        op.drop_index(name, "jobs")
    op.drop_constraint(op.f("fk_jobs_retry_of"), "jobs", type_="foreignkey")
    for name in (
        *("queued_at", "runtime_seconds", "max_pending_seconds", "max_runtime_seconds", "preemptions"),
        *("memory_attempts", "checkpoint_dropped_at", "basis", "retry_of", "root_id"),
    ):
        op.drop_column("jobs", name)
