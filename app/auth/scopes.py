"""What a key may do."""

from enum import StrEnum


class Scope(StrEnum):
    """One set of calls each; none has another one in it."""

    jobs_read = "jobs:read"
    jobs_write = "jobs:write"
    data_read = "data:read"
    """Datasets and models."""
    data_write = "data:write"
    keys_write = "keys:write"
    """The keys of the own project; a key gives no scope that it has not."""
    audit_read = "audit:read"
    """The audit log of the own project."""
    admin = "admin"
    """The operator's: all projects with their keys, hub tokens, model roots and audit logs, but no project's jobs
    and data."""


ORDINARY = (Scope.jobs_read, Scope.jobs_write, Scope.data_read, Scope.data_write)
"""What a new key gets on the command line when nothing else is asked for."""
EVERY = tuple(Scope)
