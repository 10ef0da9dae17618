"""What a key may do."""

from enum import StrEnum


class Scope(StrEnum):
    """`admin` includes the others."""

    jobs_read = "jobs:read"
    jobs_write = "jobs:write"
    data_read = "data:read"
    """Datasets and models."""
    data_write = "data:write"
    admin = "admin"


ORDINARY = (Scope.jobs_read, Scope.jobs_write, Scope.data_read, Scope.data_write)
"""What a key gets when nothing else is asked for."""
