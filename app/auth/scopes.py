"""What a key may do."""

from enum import StrEnum


class Scope(StrEnum):
    """One set of calls each."""

    jobs_read = "jobs:read"
    jobs_write = "jobs:write"
    data_read = "data:read"
    """Datasets and models."""
    data_write = "data:write"
    admin = "admin"
    """All the others. Only keys of earlier releases have it; no call asks for it, so no new key gets it."""


ORDINARY = (Scope.jobs_read, Scope.jobs_write, Scope.data_read, Scope.data_write)
"""What a new key may have, and gets when nothing else is asked for."""
