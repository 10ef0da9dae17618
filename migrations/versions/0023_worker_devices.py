"""Devices of workers: how each is, and what decides the bits of what it computes"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Workers write their rows themselves."""
    op.create_table(
        "worker_devices",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("device", sa.String(20), nullable=False, server_default="auto"),
        sa.Column("uuid", sa.String(64)),
        sa.Column("health", sa.String(20), nullable=False, server_default="ready"),
        sa.Column("said", sa.String(1000), nullable=False, server_default=""),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("health IN ('ready', 'shared', 'sick')", name="health"),
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    """What they are is forgotten."""
    op.drop_table("worker_devices")
