"""Plans as callers see them."""

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.kit.refs import InputError
from app.tables.datasets import IntakeState
from app.tables.plans import Plan
from secateur.spec.records.plan import PlanResult


class PlanRead(BaseModel):
    """A dry run of a job."""

    model_config = ConfigDict(title="Plan")

    id: str
    object: Literal["plan"] = "plan"
    state: IntakeState
    model: str
    spec: dict[str, Any] = Field(description="As accepted, with every default written out.")
    result: PlanResult | None = Field(description="When ready.")
    error: InputError | None = Field(description="Why the job could not run: when failed.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, plan: Plan, hours: float) -> "PlanRead":
        """From its row; hours: how long plans are kept."""
        own = {name: getattr(plan, name) for name in cls.model_fields if hasattr(plan, name)}
        return cls(**own | {"model": plan.model_id, "expires_at": plan.created_at + timedelta(hours=hours)})
