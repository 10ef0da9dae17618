"""What a job did: its matrices, evaluations, stages, and how far it is."""

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StringConstraints

Item = TypeVar("Item")


class Record(BaseModel):
    """Base of all that is said: checked when it is made, and again when it is read. Numbers are finite."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


def _as_json(value: Any) -> Any:
    """What JSON makes of it. Half a surrogate pair, which UTF-8 cannot say, becomes a question mark."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return json.loads(text.encode(errors="replace"))


Data = Annotated[dict[str, Any], AfterValidator(_as_json)]
"""Any JSON object."""
Words = Annotated[str, BeforeValidator(_as_json)]
"""Text that may quote a file's."""
List = Annotated[list[Item], FailFast()]
"""A list whose first mistake is the last that is looked for, however long it is."""
Number = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Digest = Annotated[str, StringConstraints(min_length=64, max_length=64)]
MatrixName = Annotated[str, StringConstraints(max_length=300)]
DomainName = Annotated[str, StringConstraints(max_length=200)]


def forms_of(record: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Each field's name, its JSON Schema, and whether it may be null."""
    for name, schema in record.model_json_schema()["properties"].items():
        options = schema.get("anyOf", [schema])
        yield name, options[0], len(options) > 1


class Phase(StrEnum):
    """What an attempt is doing."""

    staging = "staging"
    """The worker is: its engine has not begun."""
    evaluating = "evaluating"
    surveying = "surveying"
    """One pass over the dense model that says where weights may go and what outputs mean for the loss."""
    pruning = "pruning"
    tuning = "tuning"
    """The whole model is, behind its last block."""
    publishing = "publishing"


class Basis(StrEnum):
    """Which domains a matrix's scores are of."""

    domain = "domain"
    """The stage's alone, at weight 1: of one unit in every stage."""
    accumulated = "accumulated"
    """All so far, as the mask was chosen by: grows with stages, weights and recency."""


class MatrixRecord(Record):
    """What happened to one matrix in one stage.

    A field that is new has a default: records of earlier stages travel in the state.
    """

    matrix: MatrixName = Field(description="Name in the checkpoint.")
    rows: Number
    columns: Number
    weights: Count
    zeros: Count = Field(description="Counted in the tensor as written.")
    sparsity: float = Field(description="Counted.")
    target: float
    pattern: Annotated[str, StringConstraints(max_length=20)]
    solver: Annotated[str, StringConstraints(max_length=40)]
    seconds: float
    relative_error: float | None = Field(
        description="‖X(W−W0)ᵀ‖² / ‖XW0ᵀ‖² on this stage's calibration inputs that were solved on; with `refine`, "
        "as solved, before it (`notes.refine` has what that changed)."
    )
    held_out_error: float | None = Field(
        description="The same on the calibration windows held out; null when there were none."
    )
    mask_changed: float | None = Field(
        default=None, description="Share of the mask that differs from the stage before; null in a first stage."
    )
    mask_overlap: float | None = Field(
        default=None,
        description="Jaccard index of the kept weights with the stage before's, |A ∩ B| / |A ∪ B|.",
    )
    revived: float | None = Field(
        default=None, description="Share of the weights that were zero before and are kept now."
    )
    newly_pruned: float | None = Field(
        default=None, description="Share of the weights that were kept before and are zero now."
    )
    domain_errors: dict[str, float | None] | None = Field(
        default=None,
        description="By domain, `relative_error` on that domain's own inputs; null unless the job keeps them.",
    )
    mask_sha256: Digest | None = Field(default=None, description="Equal masks have equal digests.")
    weights_sha256: Digest | None = Field(default=None, description="Of the matrix as written.")
    notes: Data = Field(default={})


QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class SensitivitySummary(Record):
    """How a matrix's scores are distributed. Scores of zero are counted in the histogram's first bin."""

    matrix: MatrixName = Field(description="Name in the checkpoint.")
    basis: Basis = Field(
        description="`domain`: scores by the stage's own domain alone; `accumulated`: by all so far."
    )
    mean: float
    total: float
    quantiles: dict[str, float] = Field(description=f"Keys {', '.join(map(str, QUANTILES))}.")
    histogram: Data = Field(description="`scale` (log10), `edges`, `counts`.")


class Position(Record):
    """Where a job is."""

    phase: Phase
    stage: Number | None = Field(default=None, description="Null while the dense model is evaluated.")
    stages: Number | None = None
    domain: DomainName | None = None
    block: Number | None = None
    blocks: Number | None = None
    fraction: float = Field(description="Of the whole job, 0 to 1; it never falls.")


class StageFigures(Record):
    """What a stage came to; null until it is done."""

    sparsity: float | None
    weights: Count | None
    zeros: Count | None
    calibration_tokens: Count | None = Field(description="Of all windows drawn, also of those held out.")
    relative_error: float | None = Field(description="Mean over the matrices, on the windows solved on.")
    held_out_error: float | None = Field(description="Mean over the matrices, on the windows held out.")
    mask_overlap: float | None = Field(
        default=None,
        description="Of all kept weights with the stage before's, |A ∩ B| / |A ∪ B|; null in a first stage.",
    )
    seconds: float | None


class JobWarning(Record):
    """Something about a job's result, a plan or a model that its owner should know."""

    code: str = Field(
        description="Of jobs and plans: `too_few_tokens`, `held_out_overlaps`, `held_out_alike`, `texts_overlap`, "
        "`expert_fallback`, `masks_unchanged`, `forgetting`, `already_sparse`, `sparser_than_asked`, "
        "`not_refined`, `task_failed`, `evaluation_lost`, `statistics_dropped`, …; of models: "
        "`weights_not_taken`, `index_mismatch`, `index_total_size`, `tensors_not_used`, `tokenizer_split`, …",
        examples=["forgetting"],
    )
    message: Words
    data: Data = Field(default={}, description="The numbers and names behind it.")
