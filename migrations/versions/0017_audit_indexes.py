"""The audit log is found by key and by object, too"""

from alembic import op

revision = "0017"
down_revision = "0016"

TABLE = "audit_events"


def upgrade() -> None:
    """Each with the id, by which the log is read."""
    op.create_index("ix_audit_events_key", TABLE, ["key_id", "id"])
    op.create_index("ix_audit_events_object", TABLE, ["object_id", "id"])


def downgrade() -> None:
    """As it was."""
    op.drop_index("ix_audit_events_object", TABLE)
    op.drop_index("ix_audit_events_key", TABLE)
