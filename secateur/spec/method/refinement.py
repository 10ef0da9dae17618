"""Tuning the weights that stay, once all matrices of a block or of the model are solved."""

from typing import Annotated, Final

from pydantic import Field, model_validator

from secateur.spec.strict import Choice, Refusal, Strict, refuse


class Refine(Choice):
    """What is tuned at once, if anything: a block at a time, or the whole model."""

    none = "none"
    block = "block"
    model = "model"


RELATIVE_RATE: Final = {Refine.block: 4e-3, Refine.model: 1.2e-3}
"""Where a job names no rate."""
RATES: Final = ("relative_rate", "learning_rate")
"""Of which one counts."""


class Refinement(Strict):
    """How the weights that stay are tuned (Adam, its rate falling along a cosine)."""

    epochs: int = Field(
        default=4, ge=1, le=100, description="How often every calibration window that is solved on is passed."
    )
    relative_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Learning rate of the first step as a part of the root mean square of what is tuned, matrix "
        "by matrix, so that it suits weights of any size. Default: 0.004 for `block`, 0.0012 for `model`.",
    )
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="Of the first step, one for all, in place of `relative_rate`."
    )
    norms: bool = Field(
        default=False, description="Tune also what is one number an output or a channel: norms and biases."
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
        description="Tuning of the weights that stay, once solved; masks do not change. `block`: of one block "
        "at a time, towards what its dense weights give for the same inputs (half of that, and half of what the "
        "dense model gives, with the target `prefix`). `model`: of the whole model at the end of a stage, towards "
        "the dense model's probabilities; it takes memory for the model, its gradients and their moments. Kept "
        "where it helps on the windows held out, of which every domain needs some. Default: as the job's `effort` "
        "has it."
    ),
]


def settled(refine: Refine | None, given: Refinement | None) -> Refinement | None:
    """With their defaults; None where nothing is tuned. Raises ValueError for settings without use."""
    if refine is None or refine is Refine.none:
        if given is not None:
            raise ValueError("has no effect without refine: block or model; leave it out")
        return None
    given = given or Refinement()
    if any(getattr(given, name) is not None for name in RATES):
        return given
    return given.model_copy(update={"relative_rate": RELATIVE_RATE[refine]})
