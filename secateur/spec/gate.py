"""The gate: limits that a job's result must keep to be a success."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import Field, model_validator

from secateur.spec.strict import Strict

MEASURED: Final = {
    "max_bwt": ("BWT", "bwt"),
    "max_log_bwt": ("BWT in log-perplexity", "log_bwt"),
    "max_mean_perplexity": ("mean perplexity", "mean_perplexity"),
}
"""Limit → what it bounds, in words and as a field of the evaluation."""
MEND: Final = "give one, or leave the limit out (a gate of null has none)"
INHERITED: Final = "this is the parent's gate, which holds until another one, or null, takes its place"


class Gate(Strict):
    """Limits of what the result may be like, over the whole lineage. A job that misses one is `failed`
    (`gate_failed`, with the numbers); its files can be downloaded all the same."""

    max_bwt: float | None = Field(
        default=None,
        description="Most that may be forgotten: mean over earlier domains of R[T,i] − R[i,i]. A first stage "
        "forgets nothing and keeps it always.",
    )
    max_log_bwt: float | None = Field(default=None, description="The same of log-perplexities.")
    max_mean_perplexity: float | None = Field(default=None, ge=1, description="Mean of the last row of R.")

    @model_validator(mode="after")
    def _some_limit(self) -> "Gate":
        if all(getattr(self, name) is None for name in MEASURED):
            raise ValueError(f"needs at least one of {', '.join(MEASURED)}")
        return self


def unmeasurable(gate: Gate | None, texts: Sequence[bool], *, inherited: bool = False) -> dict[str, str]:
    """Limit → why it could never be checked. texts: of each stage of the lineage, whether its domain has one.
    inherited: whether the limits are the parent's."""
    if gate is None:
        return {}
    found = {}
    mend = INHERITED if inherited else MEND
    if gate.max_mean_perplexity is not None and not any(texts):
        found["max_mean_perplexity"] = f"no domain has an evaluation text to measure this on; {mend}"
    if len(texts) > 1 and not any(texts[:-1]):
        message = f"no earlier domain has an evaluation text to measure this on; {mend}"
        found |= {name: message for name in ("max_bwt", "max_log_bwt") if getattr(gate, name) is not None}
    return found


def missed(gate: dict[str, Any] | None, figures: Mapping[str, float | None], stages: int) -> dict[str, str]:
    """Limit → the numbers, of each that the result does not keep.

    gate: as in a spec. figures: of the evaluation, by its fields' names. stages: of the whole lineage.
    """
    found = {}
    for name, (words, field) in MEASURED.items():
        limit, value = (gate or {}).get(name), figures[field]
        nothing_to_forget = field != "mean_perplexity" and stages == 1
        if limit is None or nothing_to_forget:
            continue
        if value is None:
            found[name] = f"the {words} could not be measured ({name} is {limit:g})"
        elif not value <= limit:  # also when it is not a number
            found[name] = f"the {words} is {value:.6g}, above {name} {limit:g}"
    return found
