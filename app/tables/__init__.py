"""Every table: who imports one has them all, because foreign keys name tables of other features."""

from app.db.base import Base
from app.tables import (
    accounts,
    audit,
    auth,
    datasets,
    idempotency,
    jobs,
    models,
    outbox,
    plans,
    sensitivity,
    tasks,
    webhooks,
)

METADATA = Base.metadata

__all__ = [
    "METADATA",
    "accounts",
    "audit",
    "auth",
    "datasets",
    "idempotency",
    "jobs",
    "models",
    "outbox",
    "plans",
    "sensitivity",
    "tasks",
    "webhooks",
]
