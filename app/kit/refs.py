"""Parts of answers that several features share."""

from typing import Any

from pydantic import BaseModel, Field


class InputError(BaseModel):
    """Why an intake failed; `field` points into the request that asked for it."""

    code: str
    message: str
    field: str | None = None


class WarningRead(BaseModel):
    """Something about a job's result, a plan or a model that its owner should know."""

    code: str = Field(
        description="Of jobs and plans: `too_few_tokens`, `held_out_overlaps`, `held_out_alike`, `texts_overlap`, "
        "`expert_fallback`, `masks_unchanged`, `forgetting`, `already_sparse`, `sparser_than_asked`, "
        "`evaluation_lost`, `statistics_dropped`, …; of models: "
        "`weights_not_taken`, `index_mismatch`, `index_total_size`, `tensors_not_used`, `tokenizer_split`, …",
        examples=["forgetting"],
    )
    message: str
    data: dict[str, Any] = Field(default={}, description="The numbers and names behind it.")
