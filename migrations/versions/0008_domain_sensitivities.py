"""How important each matrix's weights were to one domain alone"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

TABLE = "job_domain_sensitivities"


def upgrade() -> None:
    """A table beside `job_sensitivities`, whose rows and key stay what they are: scores accumulated so far."""
    op.create_table(
        TABLE,
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("stage", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("matrix", sa.String(length=300), nullable=False),
        sa.Column("domain", sa.String(length=200), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("mean", sa.Double(), nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
        sa.Column("quantiles", postgresql.JSONB(), nullable=False),
        sa.Column("histogram", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f(f"fk_{TABLE}_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "stage", "matrix", name=op.f(f"pk_{TABLE}")),
    )
    op.create_index(f"ix_{TABLE}_block", TABLE, ["job_id", "block"])


def downgrade() -> None:
    """Forget them; the scores that chose the masks are still summarised."""
    op.drop_table(TABLE)
