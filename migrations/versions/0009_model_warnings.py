"""What an intake found about a model that its owner should know"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """With a default, so that the release before can still insert."""
    op.add_column("models", sa.Column("warnings", postgresql.JSONB(), server_default="[]", nullable=False))


def downgrade() -> None:
    """Forget them."""
    op.drop_column("models", "warnings")
