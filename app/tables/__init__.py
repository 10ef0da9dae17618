"""Every table: who imports one has them all, because foreign keys name tables of other features."""

from app.db.base import Base
from app.tables import (
    accounts,
    audit,
    auth,
    counts,
    datasets,
    idempotency,
    jobs,
    models,
    outbox,
    plans,
    sensitivity,
    tasks,
    webhooks,
    workers,
)

METADATA = Base.metadata

__all__ = [
    "METADATA",
    "accounts",
    "audit",
    "auth",
    "counts",
    "datasets",
    "idempotency",
    "jobs",
    "models",
    "outbox",
    "plans",
    "sensitivity",
    "tasks",
    "webhooks",
    "workers",
]
