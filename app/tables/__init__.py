"""Every table, in one import: what Alembic compares and what tests create."""

from app.db.base import Base
from app.tables import auth, datasets, jobs, models, plans, sensitivity, tasks
from app.tables import outbox as dispatch

METADATA = Base.metadata

__all__ = ["METADATA", "auth", "datasets", "dispatch", "jobs", "models", "plans", "sensitivity", "tasks"]
