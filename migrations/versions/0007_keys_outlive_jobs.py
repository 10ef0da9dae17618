"""Idempotency keys outlive the jobs that they made"""

from alembic import op

revision = "0007"
down_revision = "0006"

TABLE, COLUMN = "idempotency_keys", "job_id"
REFERENCE = "fk_idempotency_keys_job_id"


def upgrade() -> None:
    """The release before writes the column always and reads it never."""
    op.alter_column(TABLE, COLUMN, nullable=True)
    _refer("SET NULL")


def downgrade() -> None:
    """Keys of deleted jobs are forgotten, as they were."""
    op.execute("DELETE FROM idempotency_keys WHERE job_id IS NULL")
    _refer("CASCADE")
    op.alter_column(TABLE, COLUMN, nullable=False)


def _refer(ondelete: str) -> None:
    op.drop_constraint(op.f(REFERENCE), TABLE, type_="foreignkey")
    op.create_foreign_key(op.f(REFERENCE), TABLE, "jobs", [COLUMN], ["id"], ondelete=ondelete)
