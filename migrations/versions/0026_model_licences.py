"""The licence that a model's card names"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Unknown of the models that are there: their cards were not kept."""
    op.add_column("models", sa.Column("license", JSONB()))


def downgrade() -> None:
    """Forget them."""
    op.drop_column("models", "license")
