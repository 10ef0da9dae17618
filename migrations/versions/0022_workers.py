"""Workers: what each is, so that plans know who will do the work and a job goes to one that holds it"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0022"
down_revision = "0021"

NEEDS = ("needs_memory_bytes", "needs_host_bytes", "needs_device_bytes")


def upgrade() -> None:
    """Jobs that are there already are estimated once a worker comes for which they may be too large."""
    op.create_table(
        "workers",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("device", sa.String(10), nullable=False),
        sa.Column("device_bytes", sa.BigInteger(), nullable=False),
        sa.Column("host_bytes", sa.BigInteger(), nullable=False),
        sa.Column("machine", JSONB(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("device IN ('cpu', 'cuda')", name="device"),
        postgresql_with={"fillfactor": "50"},
    )
    for name in NEEDS:
        op.add_column("jobs", sa.Column(name, sa.BigInteger()))
    op.add_column("jobs", sa.Column("estimate_due_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Any worker takes any job again."""
    op.drop_column("jobs", "estimate_due_at")
    for name in NEEDS:
        op.drop_column("jobs", name)
    op.drop_table("workers")
