"""Models that their owners send file by file"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

FAILED = """
UPDATE models SET state = 'failed',
  error = '{"code": "unsupported", "message": "This release takes no uploads of models.", "field": "/source/type"}'
WHERE state = 'uploading'
"""


def upgrade() -> None:
    """Parts, and a state before the intake."""
    op.create_table(
        "model_parts",
        sa.Column("model_id", sa.String(40), nullable=False),
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.String(400), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_model_parts_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "path", "start", name="pk_model_parts"),
    )
    op.create_index("ix_model_parts_object_key", "model_parts", ["object_key"])
    _states("'uploading', 'pending', 'ready', 'failed'")


def downgrade() -> None:
    """Uploads under way are lost to the release before."""
    op.execute(FAILED)
    _states("'pending', 'ready', 'failed'")
    op.drop_table("model_parts")


def _states(known: str) -> None:
    op.drop_constraint("state", "models", type_="check")
    op.create_check_constraint("state", "models", f"state IN ({known})")
