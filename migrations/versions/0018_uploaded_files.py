"""Uploaded files of any format, read by a task; conversations as a format of datasets"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"

FAILED = """
UPDATE datasets SET format = 'jsonl', state = 'failed',
  error = '{"code": "unsupported", "message": "This release reads no conversations.", "field": null}'
WHERE format = 'chat'
"""


def upgrade() -> None:
    """What was sent, beside what it became."""
    op.add_column("datasets", sa.Column("upload", postgresql.JSONB(), nullable=True))
    _formats("'txt', 'jsonl', 'chat'")


def downgrade() -> None:
    """Conversations are lost to the release before."""
    op.execute(FAILED)
    _formats("'txt', 'jsonl'")
    op.drop_column("datasets", "upload")


def _formats(known: str) -> None:
    op.drop_constraint("format", "datasets", type_="check")
    op.create_check_constraint("format", "datasets", f"format IN ({known})")
