"""Errors on held-out calibration windows"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ADDED = (
    ("job_layers", "held_out_error"),
    ("job_stages", "relative_error"),
    ("job_stages", "held_out_error"),
)


def upgrade() -> None:
    """Nullable columns: rows of earlier jobs have no such figure."""
    for table, column in ADDED:
        op.add_column(table, sa.Column(column, sa.Double(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for table, column in reversed(ADDED):
        op.drop_column(table, column)
