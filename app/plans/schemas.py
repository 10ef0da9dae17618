"""Plans as callers see them."""

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.kit.refs import InputError
from app.plans.calibration import CalibratedRead
from app.tables.datasets import IntakeState
from app.tables.jobs import Job
from app.tables.plans import Plan
from app.tables.states import State
from secateur.spec.records.plan import PlanResult


class _PlanHead(BaseModel):
    """What a plan and its line in a list share."""

    id: str
    object: Literal["plan"] = "plan"
    state: IntakeState
    model: str
    method: str
    spec_digest: str | None = Field(description="The same as of a job that is made of the same body.")
    error: InputError | None = Field(description="Why the job could not run: when failed.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime


class PlannedJobRead(BaseModel):
    """What a job of the same spec took, beside what was expected of it."""

    id: str
    state: State
    runtime_seconds: float = Field(description="What its attempts took so far, or together.")
    expected_seconds: float | None = Field(
        description="What its first engine expected on its own machine; null until it has started."
    )
    ratio: float | None = Field(description="Taken by expected; null until the job has ended.")


class PlanRead(_PlanHead):
    """A dry run of a job."""

    model_config = ConfigDict(title="Plan")

    spec: dict[str, Any] = Field(description="As accepted, with every default written out.")
    result: PlanResult | None = Field(description="When ready.")
    calibrated: CalibratedRead | None = Field(
        default=None, description="The time by finished jobs; null while none of the method has finished."
    )
    jobs: list[PlannedJobRead] = Field(
        default=[], description="The project's newest jobs of the same spec, at most five, newest first."
    )

    @classmethod
    def of(cls, plan: Plan, hours: float) -> "PlanRead":
        """From its row; hours: how long plans are kept."""
        return cls(**_head(plan, hours), spec=plan.spec, result=plan.result)


class PlanLineRead(_PlanHead):
    """A plan in a list, without its matrices."""

    model_config = ConfigDict(title="PlanLine")

    seconds: float | None = Field(description="As estimated; this and what follows when ready.")
    memory_bytes: float | None
    disk_bytes: float | None

    @classmethod
    def of(cls, plan: Plan, totals: dict[str, Any] | None, hours: float) -> "PlanLineRead":
        """totals: the estimates of its result."""
        names = ("seconds", "memory_bytes", "disk_bytes")
        return cls(**_head(plan, hours), **{name: totals and totals[name]["total"] for name in names})


def job_of(job: Job) -> PlannedJobRead:
    """A job beside its plan."""
    expected = job.estimates["seconds"] if job.estimates else None
    over = job.finished_at is not None and expected
    return PlannedJobRead(
        id=job.id,
        state=State(job.state),
        runtime_seconds=job.runtime_seconds,
        expected_seconds=expected,
        ratio=job.runtime_seconds / expected if over and expected else None,
    )


def _head(plan: Plan, hours: float) -> dict[str, Any]:
    own = {
        name: getattr(plan, name) for name in ("id", "state", "spec_digest", "error", "created_at", "updated_at")
    }
    method = plan.spec["method"]["name"]
    return own | {
        "model": plan.model_id,
        "method": method,
        "expires_at": plan.created_at + timedelta(hours=hours),
    }
