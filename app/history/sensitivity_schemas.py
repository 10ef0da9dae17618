"""Summaries of sensitivities as callers see them."""

from pydantic import BaseModel, Field

from app.history.sensitivity_repository import BlockSummary
from app.jobs.schemas import OF_A_RECORD, PlaceRead
from app.tables.sensitivity import MatrixSummary
from secateur.spec.records.history import Basis, SensitivitySummary


class _Share(BaseModel):
    share: float | None = Field(
        description="Of the sum over all of the stage; null until the stage is finished, or if the sum is zero."
    )


class SensitivityRead(SensitivitySummary, _Share, PlaceRead):
    """How one matrix's scores in one stage are distributed."""

    model_config = OF_A_RECORD

    @classmethod
    def of(cls, row: MatrixSummary, share: float | None, lineage_stage: int) -> "SensitivityRead":
        """From its row."""
        own = {name: getattr(row, name) for name in ("stage", "domain", "block", *SensitivitySummary.model_fields)}
        return cls(job=row.job_id, lineage_stage=lineage_stage, share=share, **own)


class BlockSensitivityRead(_Share, PlaceRead):
    """What of a stage's sensitivities falls to one block."""

    basis: Basis
    matrices: int
    weights: int | None
    mean: float | None = Field(description="A weight.")
    total: float

    @classmethod
    def of(cls, summary: BlockSummary) -> "BlockSensitivityRead":
        """From its row."""
        fields = summary._asdict()
        mean = summary.total / summary.weights if summary.weights else None
        return cls(job=fields.pop("job_id"), mean=mean, **fields)
