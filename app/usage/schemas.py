"""Quotas as callers see them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.quotas.catalogue import MEANINGS, Quota


class QuotaUsage(BaseModel):
    """One quota of the project."""

    used: int = Field(description="What the project has now.")
    limit: int | None = Field(description="What it may have; null is any number.")
    counts: str = Field(description="What is counted.", examples=[MEANINGS[Quota.queued_jobs]])


class UsageRead(BaseModel):
    """What a project has of everything that is limited."""

    model_config = ConfigDict(title="Usage")

    object: Literal["usage"] = "usage"
    project: str
    quotas: dict[Quota, QuotaUsage]
