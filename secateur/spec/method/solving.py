"""Methods by what becomes of the kept weights: solved for by the method itself, once more after it, or neither."""

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from secateur.spec.method.choices import Mask, OutputWeighting, Target, WeightUpdate
from secateur.spec.method.method import Method
from secateur.spec.method.settings import AdmmSettings
from secateur.spec.strict import Choice

SolvingTarget = Annotated[
    Target,
    Field(
        description="What weights are solved towards. `dense`: what the dense matrix gives for its inputs behind "
        "the pruned blocks; `prefix`: as far as these inputs tell it, what it gives behind the dense blocks, so "
        "that it makes up for what was lost before it. How far is chosen for each group of matrices by the "
        "windows held out, of which every domain needs some. Costs one more forward pass. Default: as the job's "
        "`effort` has it."
    ),
]


Weighting = Annotated[
    OutputWeighting,
    Field(
        description="How the errors of a matrix's outputs are weighed. `none`: alike, each by itself; "
        "`gradients`: by the loss's gradients and how these go together, so that one output may make up for "
        "another; on the mask that is found without. Takes the backward pass that the allocation `error` takes. "
        "Default: as the job's `effort` has it."
    ),
]


class Selecting(Method):
    """A method whose mask may be kept while the kept weights are solved for once more."""

    updatable = True

    weight_update: WeightUpdate = Field(
        default=WeightUpdate.none,
        description="`admm`: replace the kept weights by those which best keep the layer's output.",
    )
    admm: AdmmSettings | None = Field(
        default=None, validate_default=True, description="Only with `weight_update: admm`."
    )

    @field_validator("admm")
    @classmethod
    def _only_with_update(cls, value: AdmmSettings | None, info: ValidationInfo) -> AdmmSettings | None:
        update = info.data.get("weight_update")
        if update is WeightUpdate.none and value is not None:
            raise ValueError("has no effect without weight_update: admm; leave it out")
        return AdmmSettings() if update is WeightUpdate.admm and value is None else value

    @property
    def update(self) -> AdmmSettings | None:
        return self.admm


class Scoring(Selecting):
    """A method that gives every weight a score and changes none."""

    mask: Mask | None = Field(
        default=None,
        validate_default=True,
        description="Only with `weight_update: admm`. `selected`: the method's own mask, and the weights solved "
        "for it. `searched`: ADMM looks for the mask while it solves, by the method's scores of the weights as "
        "they stand. Default: `selected`.",
    )

    @field_validator("mask")
    @classmethod
    def _only_with_a_solver(cls, value: Mask | None, info: ValidationInfo) -> Mask | None:
        update = info.data.get("weight_update")
        if value is not None and update is WeightUpdate.none:
            raise ValueError("has no effect without weight_update: admm; leave it out")
        return Mask.selected if update is WeightUpdate.admm and value is None else value

    target: SolvingTarget | None = Field(
        default=None,
        validate_default=True,
        description="Only with `weight_update: admm`. Default: as `effort` has it.",
    )
    output_weighting: Weighting | None = Field(
        default=None,
        validate_default=True,
        description="Only with `weight_update: admm`. Default: as `effort` has it.",
    )

    @field_validator("target", "output_weighting")
    @classmethod
    def _only_of_a_solver(cls, value: Choice | None, info: ValidationInfo) -> Choice | None:
        update = info.data.get("weight_update")
        if value is not None and update is WeightUpdate.none:
            raise ValueError("has no effect without weight_update: admm; leave it out")
        usual: Choice = Target.dense if info.field_name == "target" else OutputWeighting.none
        return usual if update is WeightUpdate.admm and value is None else value

    @property
    def searches(self) -> bool:
        return self.mask is Mask.searched

    @property
    def follows_dense(self) -> bool:
        return self.target is Target.prefix

    @property
    def weighs_outputs(self) -> bool:
        return self.output_weighting is OutputWeighting.gradients


class Solving(Method):
    """A method that changes the kept weights itself."""

    solves = True

    target: SolvingTarget = Field(default=None, validate_default=True)
    output_weighting: Weighting = Field(default=None, validate_default=True)

    @field_validator("target", mode="before", json_schema_input_type=Target | None)
    @classmethod
    def _own_target(cls, value: Any) -> Any:
        return Target.dense if value is None else value

    @field_validator("output_weighting", mode="before", json_schema_input_type=OutputWeighting | None)
    @classmethod
    def _own_weighting(cls, value: Any) -> Any:
        return OutputWeighting.none if value is None else value

    @property
    def follows_dense(self) -> bool:
        return self.target is Target.prefix

    @property
    def weighs_outputs(self) -> bool:
        return self.output_weighting is OutputWeighting.gradients
