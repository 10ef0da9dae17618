"""Pages of jobs by method or model are found in their order, however many jobs there are"""

from alembic import op

revision = "0020"
down_revision = "0019"

INDEXES = {"ix_jobs_method": "method", "ix_jobs_model": "model_id"}


def upgrade() -> None:
    """An index for each filter that can be rare."""
    for name, column in INDEXES.items():
        op.create_index(name, "jobs", ["project_id", column, "created_at", "id"])


def downgrade() -> None:
    """Undo it."""
    for name in INDEXES:
        op.drop_index(name, "jobs")
