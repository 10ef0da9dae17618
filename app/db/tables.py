"""Every table, in one import: what Alembic compares and what tests create."""

from app.auth import tables as auth
from app.datasets import tables as datasets
from app.db.base import Base
from app.dispatch import tables as dispatch
from app.jobs import tables as jobs
from app.models import tables as models
from app.plans import tables as plans
from app.sensitivity import tables as sensitivity
from app.tasks import tables as tasks

METADATA = Base.metadata

__all__ = ["METADATA", "auth", "datasets", "dispatch", "jobs", "models", "plans", "sensitivity", "tasks"]
