"""One word a thing: records of matrices, notifications, `comparison_group: matrix`

Names change, so the release before cannot run beside this one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"

CONSTRAINTS = ("pk_{}", "fk_{}_job_id")
SPECS = ("jobs", "plans")


def upgrade() -> None:
    """Rename; stored specs are rewritten, too."""
    _rename("job_layers", "job_matrices")
    op.alter_column("jobs", "rung_at", new_column_name="notified_at")
    op.alter_column("jobs", "rings", new_column_name="notifications")
    _regroup("layer", "matrix")


def downgrade() -> None:
    """The names as they were."""
    _regroup("matrix", "layer")
    op.alter_column("jobs", "notifications", new_column_name="rings")
    op.alter_column("jobs", "notified_at", new_column_name="rung_at")
    _rename("job_matrices", "job_layers")


def _rename(old: str, new: str) -> None:
    op.rename_table(old, new)
    for name in CONSTRAINTS:
        op.execute(f"ALTER TABLE {new} RENAME CONSTRAINT {name.format(old)} TO {name.format(new)}")


def _regroup(old: str, new: str) -> None:
    """Wherever a spec names a comparison group: in its method, and in methods of overrides."""
    for table in SPECS:
        spec = sa.table(table, sa.column("spec", JSONB))
        text = sa.cast(spec.c.spec, sa.Text)
        before, after = (f'"comparison_group": "{group}"' for group in (old, new))
        op.execute(
            sa.update(spec)
            .where(text.contains(before, autoescape=True))
            .values(spec=sa.cast(sa.func.replace(text, before, after), JSONB))
        )
