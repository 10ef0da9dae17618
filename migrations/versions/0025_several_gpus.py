"""A worker may have several GPUs"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Room for the names of all of them."""
    op.alter_column("worker_devices", "device", type_=sa.String(60), existing_server_default="auto")
    op.alter_column("worker_devices", "uuid", type_=sa.String(1000))


def downgrade() -> None:
    """Workers with several write their rows anew."""
    op.execute("DELETE FROM worker_devices WHERE length(device) > 20 OR length(uuid) > 64")
    op.alter_column("worker_devices", "device", type_=sa.String(20), existing_server_default="auto")
    op.alter_column("worker_devices", "uuid", type_=sa.String(64))
