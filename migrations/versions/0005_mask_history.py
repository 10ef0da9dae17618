"""What becomes of the masks from stage to stage, and each domain's own errors"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

ADDED: tuple[tuple[str, str, type], ...] = (
    ("job_layers", "mask_overlap", sa.Double),
    ("job_layers", "revived", sa.Double),
    ("job_layers", "newly_pruned", sa.Double),
    ("job_layers", "domain_errors", postgresql.JSONB),
    ("job_stages", "mask_overlap", sa.Double),
)
DIGESTS = ("mask_sha256", "weights_sha256")


def upgrade() -> None:
    """Nullable columns: rows of earlier jobs have no such figure."""
    for table, column, kind in ADDED:
        op.add_column(table, sa.Column(column, kind(), nullable=True))
    for column in DIGESTS:
        op.add_column("job_layers", sa.Column(column, sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for column in reversed(DIGESTS):
        op.drop_column("job_layers", column)
    for table, column, _ in reversed(ADDED):
        op.drop_column(table, column)
