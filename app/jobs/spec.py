"""The job as it is asked for: typed, with every default, nothing unknown and nothing converted in silence."""

import hashlib
import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from app.jobs.method_spec import Method
from app.kit.fields import Strict

_PATTERN: Final = re.compile(r"([1-9][0-9]{0,2}):([1-9][0-9]{0,2})")

DomainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


def implied_target(pattern: str) -> float | None:
    """Sparsity of an n:m pattern, of which n weights in every m are kept; None for `unstructured`.

    Raises ValueError for anything else.
    """
    if pattern == "unstructured":
        return None
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise ValueError("must be `unstructured` or n:m, for example 2:4")
    kept, group = int(match.group(1)), int(match.group(2))
    if kept >= group:
        raise ValueError("an n:m pattern keeps n of every m weights, so n must be less than m")
    return 1 - kept / group


def _known_pattern(pattern: str) -> str:
    implied_target(pattern)
    return pattern


class Override(Strict):
    """An exception for the matrices whose name matches; the last match counts."""

    match: Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")] = Field(
        description="Glob over the checkpoint's tensor names.", examples=["*.down_proj.weight"]
    )
    target: float | None = Field(default=None, ge=0, lt=1, description="Sparsity of these matrices.")
    skip: bool | None = Field(default=None, description="Leave these matrices as they are.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "Override":
        if (self.target is None) != (self.skip is True):
            raise ValueError("needs exactly one of `target` and `skip: true`")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class Sparsity(Strict):
    """How much is removed, and in which pattern."""

    target: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of all prunable weights (that no override skips) to remove, met to the weight. "
        "An n:m pattern implies it.",
    )
    pattern: Annotated[str, AfterValidator(_known_pattern)] = Field(
        default="unstructured",
        description="`unstructured`, or n:m: n of every m consecutive inputs are KEPT, as in 2:4.",
        examples=["unstructured", "2:4"],
    )
    allocation: Literal["uniform", "owl", "error"] = Field(
        default="uniform",
        description="How the matrices share the target. `uniform`: all at one rate; `owl`: by the share of "
        "outliers in their activations; `error`: by the reconstruction errors measured on the calibration data. "
        "Only with the pattern `unstructured`: n:m fixes every rate.",
    )
    overrides: list[Override] = Field(default=[], max_length=100)

    @model_validator(mode="after")
    def _agree(self) -> "Sparsity":
        implied = implied_target(self.pattern)
        if implied is None:
            if self.target is None:
                raise ValueError("target is required with the pattern unstructured")
            return self
        if self.target is not None and abs(self.target - implied) > 1e-9:
            raise ValueError(f"the pattern {self.pattern} implies the target {implied}; leave target out")
        if self.allocation != "uniform":
            raise ValueError(f"the pattern {self.pattern} fixes every rate; leave allocation out")
        if any(override.target is not None for override in self.overrides):
            raise ValueError(f"the pattern {self.pattern} implies every target; an override can only skip")
        self.target = implied
        return self


class Calibration(Strict):
    """The text windows that statistics are gathered on."""

    samples: int = Field(default=128, ge=1, le=16384, description="Windows.")
    sequence_length: int = Field(default=2048, ge=2, le=131072, description="Tokens a window.")
    seed: int = Field(default=0, ge=0, lt=2**31)
    held_out: float = Field(
        default=0.1,
        ge=0,
        lt=0.5,
        description="Share of the windows that nothing is solved on; they measure the error of what was solved.",
    )


class Domain(Strict):
    """One stage: the model learns to keep what this domain needs, without the earlier domains' data."""

    name: DomainName
    dataset: str = Field(max_length=100, description="Calibration text: `ds_…`.")
    calibration: Calibration = Calibration()
    evaluation: str | None = Field(
        default=None, max_length=100, description="Test text: `ds_…`; without it the domain has no column in R."
    )


class Evaluation(Strict):
    """Protocol of the perplexities."""

    sequence_length: int = Field(default=2048, ge=2, le=131072, description="Tokens a window, without overlap.")
    max_windows: int = Field(default=64, ge=1, le=100_000, description="Windows from the start of each test text.")


class JobCreate(Strict):
    """Ask for a model to be pruned over an ordered list of domains."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "mdl_019d1c2e8a8b7c5f9d3e4a6b7c8d9e0f",
                    "method": {"name": "copal", "weight_update": "admm"},
                    "sparsity": {"target": 0.5, "overrides": [{"match": "model.layers.0.*", "skip": True}]},
                    "domains": [
                        {
                            "name": "support",
                            "dataset": "ds_019d1c2e8a8b7c5f9d3e4a6b7c8d9e10",
                            "calibration": {"samples": 128, "sequence_length": 2048},
                            "evaluation": "ds_019d1c2e8a8b7c5f9d3e4a6b7c8d9e11",
                        }
                    ],
                    "labels": {"team": "search"},
                }
            ]
        }
    )

    model: str = Field(max_length=100, description="`mdl_…`")
    method: Method
    sparsity: Sparsity
    domains: list[Domain] = Field(min_length=1, max_length=64, description="In the order of their stages.")
    evaluation: Evaluation = Evaluation()
    priority: int = Field(default=0, ge=-100, le=100, description="Higher ones start first.")
    labels: dict[LabelKey, LabelValue] = Field(default={}, max_length=16)

    @model_validator(mode="after")
    def _distinct_domains(self) -> "JobCreate":
        names = [domain.name for domain in self.domains]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"domains must have different names; used twice: {', '.join(twice)}")
        return self

    def resolved(self) -> dict[str, Any]:
        """The spec with every default written out; what the job does depends on nothing else."""
        return self.model_dump(mode="json", exclude={"priority", "labels"})

    def datasets(self) -> dict[str, str]:
        """Dataset id → JSON pointer of its first mention."""
        found: dict[str, str] = {}
        for index, domain in enumerate(self.domains):
            found.setdefault(domain.dataset, f"/domains/{index}/dataset")
            if domain.evaluation is not None:
                found.setdefault(domain.evaluation, f"/domains/{index}/evaluation")
        return found


def canonical_digest(value: Any) -> str:
    """Hex sha256 of a JSON value written in one way: sorted keys, no blanks, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
