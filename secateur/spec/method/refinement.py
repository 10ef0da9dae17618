"""Tuning the weights that stay, once all matrices of a block or of the model are solved."""

from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from secateur.spec.strict import Choice, Refusal, Strict, refuse


class Refine(Choice):
    """What is tuned at once, if anything: norms and biases alone, a block at a time, or the whole model."""

    none = "none"
    norms = "norms"
    block = "block"
    model = "model"


RELATIVE_RATE: Final = {Refine.norms: 1.5e-2, Refine.block: 4e-3, Refine.model: 1.2e-3}
"""Where a job names no rate."""
USUAL: Final[dict[Refine, dict[str, Any]]] = {Refine.norms: {"epochs": 1, "windows": 8, "norms": True}}
"""What else is not as the fields say, where a job does not say it."""
RATES: Final = ("relative_rate", "learning_rate")
"""Of which one counts."""


class Refinement(Strict):
    """How the weights that stay are tuned (Adam, its rate falling along a cosine)."""

    epochs: int = Field(
        default=4, ge=1, le=100, description="How often every window is passed. Default for `norms`: 1."
    )
    windows: int | None = Field(
        default=None,
        ge=1,
        description="How many of the calibration windows that are solved on, from the first. Default: 8 for "
        "`norms`, or as the job's `effort` has it, all for `block` and `model`.",
    )
    relative_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Learning rate of the first step as a part of the root mean square of what is tuned, matrix "
        "by matrix, and of every number itself in norms and biases, so that it suits weights of any size. "
        "Default: 0.015 for `norms`, 0.004 for `block`, 0.0012 for `model`.",
    )
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="Of the first step, one for all, in place of `relative_rate`."
    )
    norms: bool = Field(
        default=False,
        description="Tune also what is one number an output or a channel: norms and biases. Always true for "
        "`norms`, which tunes nothing else.",
    )

    @model_validator(mode="after")
    def _one_rate(self) -> "Refinement":
        if self.learning_rate is not None and self.relative_rate is not None:
            message = "takes the place of relative_rate; leave one of them out"
            refuse(self, [Refusal(("learning_rate",), message, self.learning_rate)])
        return self


Refines = Annotated[
    Refine,
    Field(
        description="Tuning of what stays, once it is solved; masks do not change. `norms`: of norms and biases "
        "alone, at the end of a stage, towards the dense model's probabilities; it takes no more memory than a "
        "survey, and little time. `block`: of the weights of one block at a time, towards what its dense weights "
        "give for the same inputs (half of that, and half of what the dense model gives, with the target "
        "`prefix`). `model`: of all weights at the end of a stage, as `norms`; it takes memory for the model, its "
        "gradients and their moments. Kept where it helps on the windows held out, of which every domain needs "
        "some. Default: as the job's `effort` has it."
    ),
]


def settled(refine: Refine | None, given: Refinement | None) -> Refinement | None:
    """With their defaults; None where nothing is tuned. Raises ValueError for settings without use."""
    if refine is None or refine is Refine.none:
        if given is not None:
            raise ValueError("has no effect without refine: norms, block or model; leave it out")
        return None
    given = given or Refinement()
    usual: dict[str, Any] = USUAL.get(refine, {})
    if all(getattr(given, name) is None for name in RATES):
        usual = usual | {"relative_rate": RELATIVE_RATE[refine]}
    said = given.model_fields_set
    if refine is Refine.norms and "norms" in said and not given.norms:
        raise ValueError("`norms` cannot be false with refine: norms, which tunes nothing else; leave it out")
    return given.model_copy(update={name: value for name, value in usual.items() if name not in said})
