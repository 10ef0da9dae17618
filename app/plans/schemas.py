"""Plans as callers see them."""

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.kit.refs import InputError, WarningRead
from app.tables.datasets import IntakeState
from app.tables.plans import Plan


class PlannedMatrix(BaseModel):
    """A matrix that will be pruned."""

    name: str = Field(description="Name in the checkpoint.")
    rows: int
    columns: int
    weights: int
    zeros: int
    target: float
    settled: bool = Field(description="False: the job's allocation decides this rate on the calibration data.")
    pattern: str
    comparison_group: str = Field(
        description="Its weights compete within a `row` or the whole `matrix`, whatever was asked."
    )
    solver: str
    overrides: list[str] = Field(description="Those that decide something here, as written.")


class SkippedTensor(BaseModel):
    """A tensor that stays as it is."""

    name: str
    reason: str
    weights: int


class OverrideCount(BaseModel):
    """What one override does."""

    index: int = Field(description="Its place in `sparsity.overrides`, from 0.")
    says: str = Field(description="Its `match` or `regex`.")
    matches: int = Field(description="Matrices.")
    decides: int = Field(description="Matrices for which no later override takes everything back.")


class Overlap(BaseModel):
    """Matrices that several overrides match."""

    overrides: list[int]
    winners: dict[str, int] = Field(description="Field → the override that decides it.")
    matrices: list[str]


class Estimate(BaseModel):
    """A rough figure."""

    total: float
    parts: dict[str, float]
    how: str = Field(description="How it was made, and what it leaves out.")


class Estimates(BaseModel):
    """What the job will need."""

    memory_bytes: Estimate
    disk_bytes: Estimate
    seconds: Estimate


class PlanResult(BaseModel):
    """What the job would do."""

    architecture: str
    blocks: int
    parameters: int
    prefix: list[int] = Field(
        default=[], description="Tokens that the tokenizer puts before every text; each window begins with them."
    )
    pattern: str
    allocation: str
    weights: int = Field(description="In all matched matrices.")
    zeros: int = Field(description="To be made, exactly.")
    sparsity: float
    matched: list[PlannedMatrix]
    skipped: list[SkippedTensor]
    overrides: list[OverrideCount]
    overlaps: list[Overlap]
    estimates: Estimates
    warnings: list[WarningRead] = Field(
        default=[], description="What its job would say as soon as it is made, or has read the model."
    )


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
        return cls(
            id=plan.id,
            state=IntakeState(plan.state),
            model=plan.model_id,
            spec=plan.spec,
            result=PlanResult.model_validate(plan.result) if plan.result is not None else None,
            error=InputError.model_validate(plan.error) if plan.error is not None else None,
            created_at=plan.created_at,
            updated_at=plan.updated_at,
            expires_at=plan.created_at + timedelta(hours=hours),
        )
