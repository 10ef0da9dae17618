"""Summaries of sensitivities as callers see them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.history.sensitivity_repository import BlockSummary
from app.tables.sensitivity import MatrixSummary
from secateur.spec.records.history import Basis


class SensitivityRead(BaseModel):
    """How one matrix's scores in one stage are distributed."""

    model_config = ConfigDict(from_attributes=True)

    job: str = Field(description="Whose stage it is: this job's, or one's that it continues.")
    stage: int = Field(description="In that job.")
    lineage_stage: int = Field(description="Counted over the whole lineage.")
    domain: str
    block: int
    matrix: str = Field(description="Name in the checkpoint.")
    basis: Basis = Field(
        description="`domain`: scores by the stage's own domain alone; `accumulated`: by all so far."
    )
    mean: float
    total: float
    share: float | None = Field(
        description="Of the sum over all of the stage; null until the stage is finished, or if the sum is zero."
    )
    quantiles: dict[str, float | None] = Field(description="Keys 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99.")
    histogram: dict[str, Any] = Field(description="`scale` (log10), `edges`, `counts`.")

    @classmethod
    def of(cls, row: MatrixSummary, share: float | None, lineage_stage: int) -> "SensitivityRead":
        """From its row."""
        names = ("stage", "domain", "block", "matrix", "basis", "mean", "total", "quantiles", "histogram")
        own = {name: getattr(row, name) for name in names}
        return cls(job=row.job_id, lineage_stage=lineage_stage, share=share, **own)


class BlockSensitivityRead(BaseModel):
    """What of a stage's sensitivities falls to one block."""

    job: str = Field(description="Whose stage it is: this job's, or one's that it continues.")
    stage: int = Field(description="In that job.")
    lineage_stage: int = Field(description="Counted over the whole lineage.")
    domain: str
    block: int
    basis: Basis
    matrices: int
    weights: int | None
    mean: float | None = Field(description="A weight.")
    total: float
    share: float | None = Field(
        description="Of the sum over all of the stage; null until the stage is finished, or if the sum is zero."
    )

    @classmethod
    def of(cls, summary: BlockSummary) -> "BlockSensitivityRead":
        """From its row."""
        fields = summary._asdict()
        mean = summary.total / summary.weights if summary.weights else None
        return cls(job=fields.pop("job_id"), mean=mean, **fields)
