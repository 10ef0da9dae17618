"""Two jobs side by side, as callers see them. Differences are the other's figure minus this one's."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.comparison.repository import Pair
from app.kit.pagination import Page
from secateur.spec.records.history import Basis


class TwoRead(BaseModel):
    """One figure of both jobs."""

    job: float | None
    other: float | None
    difference: float | None

    @classmethod
    def of(cls, job: float | None, other: float | None) -> "TwoRead":
        """From what is known."""
        known = job is not None and other is not None
        return cls(job=job, other=other, difference=other - job if known else None)  # type: ignore[operator]


class ComparedRowRead(BaseModel):
    """A row of both matrices R."""

    row: int
    after: str | None = Field(description="The domain after whose stage it is; null for the dense model.")
    other_after: str | None
    perplexity: dict[str, TwoRead] = Field(description="By domain.")


class ComparedEvaluationRead(BaseModel):
    """Both matrices R, over the domains that both evaluate under one protocol."""

    domains: list[str]
    only_job: list[str] = Field(description="Domains that only this job evaluates.")
    only_other: list[str]
    rows: list[ComparedRowRead]
    mean_perplexity: TwoRead = Field(description="Over the domains that both measure at their end.")
    bwt: TwoRead = Field(description="Null unless both measure the same domains.")
    log_bwt: TwoRead = Field(description="Null unless both measure the same domains.")


class ComparedMatrixRead(BaseModel):
    """One matrix of both models; what only one of them has pruned is null on the other side."""

    block: int
    matrix: str
    weights: int
    pattern: str | None
    other_pattern: str | None
    solver: str | None
    other_solver: str | None
    sparsity: TwoRead
    relative_error: TwoRead
    held_out_error: TwoRead
    sensitivity_mean: TwoRead = Field(
        description="The difference is null where the scores are not defined alike: by the formula, its settings, "
        "and on the basis `accumulated` the domains so far with their factors."
    )
    sensitivity_share: TwoRead = Field(description="Of the whole stage's sensitivity.")
    same_mask: bool | None = Field(description="Null when a side has no record of its mask.")
    same_weights: bool | None

    @classmethod
    def of(cls, pair: Pair, *, one_unit: bool) -> "ComparedMatrixRead":
        """From its row. one_unit: whether the scores of both sides are defined alike."""
        one, other = pair.one, pair.other
        mean = TwoRead.of(one["mean"], other["mean"])
        if not one_unit:
            mean.difference = None
        return cls(
            block=pair.block,
            matrix=pair.matrix,
            weights=pair.weights,
            **{name: one[name] for name in ("pattern", "solver")},
            **{f"other_{name}": other[name] for name in ("pattern", "solver")},
            **{
                name: TwoRead.of(one[name], other[name])
                for name in ("sparsity", "relative_error", "held_out_error")
            },
            sensitivity_mean=mean,
            sensitivity_share=TwoRead.of(one["share"], other["share"]),
            same_mask=_same(one["mask_sha256"], other["mask_sha256"]),
            same_weights=_same(one["weights_sha256"], other["weights_sha256"]),
        )


class AgreementRead(BaseModel):
    """How far two models agree, over all matrices that are asked for."""

    matrices: int = Field(description="Pruned on both sides.")
    only_job: int
    only_other: int
    same_masks: int = Field(description="So many of them have the very same mask.")
    same_weights: int = Field(description="And so many the same weights.")
    unknown: int = Field(description="So many have a side without a record of its mask.")
    weights: int
    weights_under_same_masks: int


class ComparedStageRead(BaseModel):
    """The stage of one side."""

    stage: int = Field(description="In its job.")
    domain: str


class ComparedHistoryRead(BaseModel):
    """What both jobs did to the matrices of one model."""

    job: ComparedStageRead
    other: ComparedStageRead
    sensitivity_basis: Basis = Field(
        description="Of the matrices' sensitivities: `domain` where both stages have them by their domains alone."
    )
    agreement: AgreementRead
    matrices: Page[ComparedMatrixRead] = Field(description="By block and name.")


class ComparisonRead(BaseModel):
    """Two jobs of one project."""

    model_config = ConfigDict(title="Comparison")

    object: Literal["comparison"] = "comparison"
    job: str
    other: str
    evaluation: ComparedEvaluationRead | None = Field(description="Null when only the history was asked for.")
    history: ComparedHistoryRead | None = Field(description="Null when only the evaluation was asked for.")


def _same(one: str | None, other: str | None) -> bool | None:
    return None if one is None or other is None else one == other
