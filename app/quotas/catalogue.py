"""The quotas, what each counts, and how a refusal says so."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from app.kit.problems import Problem
from app.settings import Settings
from app.tables.accounts import ProjectAccount


class Quota(StrEnum):
    """By the names that operators and callers see; the setting is `quota_` and the name."""

    queued_jobs = "queued_jobs"
    running_jobs = "running_jobs"
    pending_tasks = "pending_tasks"
    running_intakes = "running_intakes"
    stored_bytes = "stored_bytes"
    uploads = "uploads"
    upload_bytes = "upload_bytes"


MEANINGS: Final[dict[Quota, str]] = {
    Quota.queued_jobs: "jobs that wait: queued or paused",
    Quota.running_jobs: "jobs that run at once; the others wait",
    Quota.pending_tasks: "models and datasets being taken in, and plans being made",
    Quota.running_intakes: "models and datasets taken in at once; the others wait",
    Quota.stored_bytes: "bytes of its models, datasets, artifacts and checkpoints",
    Quota.uploads: "uploads under way at once, in one process of the API",
    Quota.upload_bytes: "bytes of uploads under way, in one process of the API",
}

Limits = Mapping[Quota, int | None]
"""None is no limit."""


def defaults(settings: Settings) -> dict[Quota, int | None]:
    """What a project may have for which an operator has set nothing."""
    return {quota: getattr(settings, f"quota_{quota}") for quota in Quota}


def limits_of(overrides: Mapping[str, Any] | None, settings: Settings) -> Limits:
    """A project's limits: its own where it has one, else the settings'."""
    return defaults(settings) | _known(overrides or {})


def own_quotas(account: ProjectAccount | None) -> dict[Quota, int | None]:
    """What an operator has set for a project."""
    return _known(account.quotas if account is not None else {})


def _known(quotas: Mapping[str, Any]) -> dict[Quota, int | None]:
    """Without those of another release."""
    return {Quota(name): value for name, value in quotas.items() if name in list(Quota)}


class QuotaExceeded(Problem):
    """The project has as much as it may of something that goes away by itself."""

    status, code, title = 429, "quota_exceeded", "The project has as many as it may"

    def __init__(
        self, quota: Quota = Quota.queued_jobs, limit: int = 500, used: int = 500, wait: int = 30
    ) -> None:
        """wait: seconds after which there may be room."""
        super().__init__(
            f"The project may have {limit} ({MEANINGS[quota]}) and has {used}.",
            headers={"Retry-After": str(wait)},
            extensions={"quota": quota, "limit": limit, "used": used},
        )


class StorageQuotaExceeded(Problem):
    """The project has stored as much as it may: waiting does not help, deleting does."""

    status, code, title = 507, "storage_quota_exceeded", "The project has stored as much as it may"

    def __init__(self, limit: int = 2**40, used: int = 2**40) -> None:
        super().__init__(
            f"The project may store {limit} {MEANINGS[Quota.stored_bytes]} and stores {used}. Delete what it does "
            "not need.",
            extensions={"quota": Quota.stored_bytes, "limit": limit, "used": used},
        )


MAKING: Final = (QuotaExceeded, StorageQuotaExceeded)
"""What every call that makes something can answer."""
