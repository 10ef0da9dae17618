"""A job's version rises with every change that its owner can see, whoever makes it"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

VISIBLE = [
    "model_id",
    "state",
    "phase",
    "method",
    "spec",
    "spec_digest",
    "labels",
    "priority",
    "retry_of",
    "continues",
    "lineage_id",
    "first_stage",
    "attempts",
    "lost_attempts",
    "memory_attempts",
    "preemptions",
    "max_runtime_seconds",
    "max_pending_seconds",
    "runtime_seconds",
    "cancel_requested_at",
    "pause_requested_at",
    "failure",
    "result",
    "created_at",
    "started_at",
    "finished_at",
]
"""Columns of `jobs` that the answer is made of, beside `version` and `updated_at`."""
_OLD, _NEW = (", ".join(f"{row}.{name}" for name in VISIBLE) for row in ("OLD", "NEW"))

# What a worker, a foreign key or a hand changes counts alike; `updated_at` never moves alone.
JOBS = f"""
CREATE FUNCTION raise_job_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version <> OLD.version OR ({_OLD}) IS DISTINCT FROM ({_NEW}) THEN
        NEW.version := greatest(NEW.version, OLD.version + 1);
        NEW.updated_at := now();
    ELSE
        NEW.updated_at := OLD.updated_at;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER raise_job_version BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION raise_job_version();
"""
# From a sequence, so that a row that is deleted and written anew never has an old number.
PROGRESS = """
CREATE FUNCTION raise_progress_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := nextval('job_progress_version');
    RETURN NEW;
END $$;
CREATE TRIGGER raise_progress_version BEFORE INSERT OR UPDATE ON job_progress
    FOR EACH ROW EXECUTE FUNCTION raise_progress_version();
"""


def upgrade() -> None:
    """Triggers, and a version of progress."""
    op.execute("CREATE SEQUENCE job_progress_version")
    default = sa.text("nextval('job_progress_version')")
    op.add_column("job_progress", sa.Column("version", sa.BigInteger(), nullable=False, server_default=default))
    op.alter_column("job_progress", "version", server_default=sa.text("0"))
    op.execute(JOBS)
    op.execute(PROGRESS)


def downgrade() -> None:
    """Undo it."""
    op.execute("DROP TRIGGER raise_progress_version ON job_progress")
    op.execute("DROP FUNCTION raise_progress_version")
    op.execute("DROP TRIGGER raise_job_version ON jobs")
    op.execute("DROP FUNCTION raise_job_version")
    op.drop_column("job_progress", "version")
    op.execute("DROP SEQUENCE job_progress_version")
