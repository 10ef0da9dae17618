"""Projects over HTTP: disabled ones, rotated keys, hub tokens, model roots of their own, and the audit log

`admin` is the operator's scope from here on. Keys that had it could do whatever their project could, and that is
what they are left with.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"

ORDINARY = """
UPDATE api_keys SET scopes = ARRAY['data:read', 'data:write', 'jobs:read', 'jobs:write']::varchar(40)[]
WHERE 'admin' = ANY(scopes)
"""


def upgrade() -> None:
    """Only additions, but for the scopes."""
    moment = sa.DateTime(timezone=True)
    op.add_column("projects", sa.Column("disabled_at", moment))
    op.add_column("projects", sa.Column("model_roots", JSONB, nullable=False, server_default="[]"))
    op.add_column("api_keys", sa.Column("created_by", sa.String(40)))
    op.add_column("api_keys", sa.Column("rotated_at", moment))
    op.add_column("api_keys", sa.Column("previous_digest", sa.LargeBinary(32)))
    op.add_column("api_keys", sa.Column("previous_until", moment))
    op.add_column("api_keys", sa.Column("suspended", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_api_keys_previous_digest", "api_keys", ["previous_digest"])
    op.execute(ORDINARY)
    op.create_table(
        "hub_tokens",
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("hint", sa.String(20), nullable=False),
        sa.Column("updated_at", moment, nullable=False, server_default=sa.func.now()),
        sa.Column("updated_by", sa.String(40)),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_hub_tokens")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_hub_tokens_project_id"), ondelete="CASCADE"
        ),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("at", moment, nullable=False, server_default=sa.func.now()),
        sa.Column("project_id", sa.String(40)),
        sa.Column("actor_project", sa.String(40)),
        sa.Column("key_id", sa.String(40)),
        sa.Column("action", sa.String(80), nullable=False),
        sa.Column("object_id", sa.String(100)),
        sa.Column("outcome", sa.String(60), nullable=False),
        sa.Column("count", sa.Integer, nullable=False, server_default="1"),
        sa.Column("request_id", sa.String(128)),
        sa.Column("client", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    op.create_index("ix_audit_events_project", "audit_events", ["project_id", "id"])
    op.create_index("ix_audit_events_at", "audit_events", ["at"])


def downgrade() -> None:
    """The log goes, and keys of operators lose their scope: the release before would let them do anything."""
    op.execute("UPDATE api_keys SET scopes = array_remove(scopes, 'admin')")
    op.drop_table("audit_events")
    op.drop_table("hub_tokens")
    for column in ("suspended", "previous_until", "previous_digest", "rotated_at", "created_by"):
        op.drop_column("api_keys", column)
    op.drop_column("projects", "model_roots")
    op.drop_column("projects", "disabled_at")
