"""Idempotency keys keep whole answers, of every call that makes something

What the release before has kept is brought along. Its columns go, so it cannot run beside this one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"

TABLE = "idempotency_keys"
_CARRIED = """
UPDATE idempotency_keys SET
  status = 201,
  sealed = false,
  body = convert_to(response::text, 'UTF8'),
  headers = jsonb_build_array(
    jsonb_build_array('location', '/v1/jobs/' || (response->>'id')),
    jsonb_build_array('content-type', 'application/json')
  ),
  fingerprint = encode(sha256(convert_to('["POST", "/v1/jobs", "", "' || fingerprint || '"]', 'UTF8')), 'hex')
"""


def upgrade() -> None:
    """Whoever repeats a request of before gets the answer of then."""
    op.add_column(TABLE, sa.Column("status", sa.Integer))
    op.add_column(TABLE, sa.Column("headers", JSONB))
    op.add_column(TABLE, sa.Column("body", sa.LargeBinary))
    op.add_column(TABLE, sa.Column("sealed", sa.Boolean))
    op.add_column(TABLE, sa.Column("open_until", sa.DateTime(timezone=True)))
    op.execute(_CARRIED)
    for column in ("status", "headers", "body", "sealed"):
        op.alter_column(TABLE, column, nullable=False)
    op.drop_column(TABLE, "job_id")
    op.drop_column(TABLE, "response")


def downgrade() -> None:
    """Sealed answers of other calls cannot be brought back: every key is forgotten."""
    op.execute("DELETE FROM idempotency_keys")
    for column in ("status", "headers", "body", "sealed", "open_until"):
        op.drop_column(TABLE, column)
    op.add_column(TABLE, sa.Column("job_id", sa.String(40)))
    op.add_column(TABLE, sa.Column("response", JSONB, nullable=False))
    name = op.f("fk_idempotency_keys_job_id")
    op.create_foreign_key(name, TABLE, "jobs", ["job_id"], ["id"], ondelete="SET NULL")
