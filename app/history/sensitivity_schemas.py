"""Summaries of sensitivities as callers see them."""

from typing import Any

from pydantic import BaseModel, Field

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
    def of(cls, basis: Basis, *row: Any) -> "BlockSensitivityRead":
        """From its row."""
        place = ("job", "stage", "lineage_stage", "domain", "block")
        found = dict(zip((*place, "matrices", "weights", "total", "share"), row, strict=True))
        mean = found["total"] / found["weights"] if found["weights"] else None
        return cls(basis=basis, mean=mean, **found)
