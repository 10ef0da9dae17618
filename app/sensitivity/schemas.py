"""Summaries of sensitivities as callers see them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SensitivityRead(BaseModel):
    """How the scores that chose one matrix's mask in one stage are distributed."""

    model_config = ConfigDict(from_attributes=True)

    stage: int
    domain: str
    block: int
    matrix: str = Field(description="Name in the checkpoint.")
    mean: float
    total: float
    quantiles: dict[str, float | None] = Field(description="Keys 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99.")
    histogram: dict[str, Any] = Field(description="`scale` (log10), `edges`, `counts`.")
