"""What every method has: how it goes from domain to domain, and what it asks of the engine."""

from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from secateur.spec.method.choices import RECENCY, Inputs, MethodName, Mode, Objective, Perturbation, Reading, Scope
from secateur.spec.method.refinement import Refine, Refinement, Refines, settled
from secateur.spec.method.settings import AdmmSettings
from secateur.spec.strict import Refusal, Strict, refuse

DomainMode = Annotated[
    Mode,
    Field(
        description="What a later domain starts from. `accumulated`: the dense weights and the statistics of all "
        "domains so far; `restart`: the dense weights and this domain's statistics; `sequential`: pruned weights "
        "of the stage before and this domain's statistics."
    ),
]
ComparisonGroup = Annotated[
    Scope,
    Field(description="Weights compete in their output row or the whole matrix; under `error` always the latter."),
]
MeasuredInputs = Annotated[
    Inputs,
    Field(
        description="Behind which blocks a matrix's inputs are measured. `pruned`: those before it as they are "
        "written; `dense`: as the stage begins with them, so that the windows pass every block once instead of "
        "twice, and a domain's statistics are the same whatever was pruned before. Up to 50 % that costs at most "
        "2 % of the perplexity, and more beyond: `dense_to_half` is `dense` in stages of at most 50 %, and else "
        "`pruned`. Not with the target `prefix` or `refine: block`. Default: as the job's `effort` has it."
    ),
]


class Importance(NamedTuple):
    """Which sums of the size of a matrix COPAL's scores come from."""

    reading: Reading
    perturbation: Perturbation


class Method(Strict):
    """What every method has: how it goes from domain to domain, and what it asks of the engine."""

    solves: ClassVar[bool] = False
    """Whether it changes the kept weights itself."""
    chooses: ClassVar[bool] = False
    """Whether it chooses among other methods, by the error on the calibration windows held out."""
    scores_inputs: ClassVar[bool] = True
    """Whether its scores depend on the calibration text."""
    squared_scores: ClassVar[bool] = False
    """Whether an output twice as large has scores four times as high, not two times."""

    updatable: ClassVar[bool] = False
    """Whether its kept weights may be solved for once more."""
    kinds: ClassVar[dict[MethodName, type["Method"]]] = {}
    """Every method's class."""

    name: MethodName
    mode: DomainMode = Mode.accumulated
    objective: Objective = Field(
        default=Objective.mean,
        description="What the sums over domains are for. `mean`: the least perplexity on average, every domain "
        "counts the same; `least_forgetting`: earlier domains count twice when one is added. Only with the mode "
        "`accumulated`.",
    )
    recency: float | None = Field(
        default=None,
        gt=0,
        le=4,
        description="Instead of an objective: what the sums so far are multiplied by before a domain is added. "
        "Below 1 a newer domain counts more, above 1 less. Only with the mode `accumulated`.",
    )
    comparison_group: ComparisonGroup
    inputs: MeasuredInputs = Field(default=None, validate_default=True)
    refine: Refines = Field(default=None, validate_default=True)
    refinement: Refinement | None = Field(
        default=None, validate_default=True, description="Only with a `refine` that is not `none`."
    )

    @field_validator("inputs", mode="before", json_schema_input_type=Inputs | None)
    @classmethod
    def _own_inputs(cls, value: Any) -> Any:
        return Inputs.pruned if value is None else value

    @field_validator("refine", mode="before", json_schema_input_type=Refine | None)
    @classmethod
    def _own_refine(cls, value: Any) -> Any:
        return Refine.none if value is None else value

    @field_validator("refinement")
    @classmethod
    def _only_with_refine(cls, value: Refinement | None, info: ValidationInfo) -> Refinement | None:
        return settled(info.data.get("refine"), value)

    @field_validator("objective", "recency")
    @classmethod
    def _only_with_sums(cls, value: Any, info: ValidationInfo) -> Any:
        mode = info.data.get("mode", Mode.accumulated)
        if mode is not Mode.accumulated and value not in (Objective.mean, None):
            raise ValueError(f"has an effect in mode accumulated only, and mode is {mode}; leave it out")
        return value

    @field_validator("recency")
    @classmethod
    def _instead_of_an_objective(cls, value: float | None, info: ValidationInfo) -> float | None:
        objective = info.data.get("objective", Objective.mean)
        if value is not None and objective is not Objective.mean:
            raise ValueError(f"takes the place of what the objective {objective} implies; leave one of them out")
        return value

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}

    @model_validator(mode="after")
    def _where_pruned_blocks_are_passed(self) -> Self:
        looks = {"target: prefix": self.follows_dense, "refine: block": self.refine is Refine.block}
        if self.inputs is not Inputs.pruned and (fields := [field for field, given in looks.items() if given]):
            message = (
                f"must be `pruned`, or left out, because `{fields[0]}` looks at what comes behind pruned blocks"
            )
            refuse(self, [Refusal(("inputs",), message, self.inputs)])
        return self

    @property
    def keeps(self) -> float:
        """γ in sums ← γ · sums + weight · measured."""
        return RECENCY[self.objective] if self.recency is None else self.recency

    @property
    def update(self) -> AdmmSettings | None:
        """Settings of the ADMM that solves for the kept weights once chosen; None: they stay as they are."""
        return None

    @property
    def searches(self) -> bool:
        """Whether ADMM looks for the mask that the weights are then solved for, by this method's scores."""
        return False

    @property
    def importance(self) -> Importance | None:
        """The sums that its scores need beside the moments of the inputs, which every state has."""
        return None

    @property
    def formula(self) -> tuple[Any, ...]:
        """What its scores are, or those that its search for a mask begins with: a method and its settings."""
        return (self.name,)

    @property
    def ordered(self) -> bool:
        """Whether its scores depend on the order of the domains."""
        return False

    @property
    def updates_weights(self) -> bool:
        """Whether kept weights change at all, for which the Gram is needed."""
        return self.solves or self.update is not None

    @property
    def follows_dense(self) -> bool:
        """Whether its weights are solved towards the outputs behind the dense prefix."""
        return False

    @property
    def weighs_outputs(self) -> bool:
        """Whether its weights are solved for with outputs weighed by the loss's gradients."""
        return False

    @property
    def statistics(self) -> frozenset[str]:
        """What it needs of all domains beside moments, and what its state holds for a continuation."""
        needed = {
            "gram": self.updates_weights,
            "importance": self.importance is not None,
            "cross": self.follows_dense,
            "output_grams": self.weighs_outputs,
        }
        return frozenset(kind for kind, needs in needed.items() if needs)

    @property
    def solver(self) -> str:
        """What a record says: the method, what follows its selection, and whether that looks for the mask."""
        return str(self.name) + "+admm" * (self.update is not None) + ":searched" * self.searches

    def named(self, name: MethodName | None) -> "Method":
        """The method of a matrix whose override names another one: the job's settings, that selection or solver.

        Weights are compared as is that method's own habit. The job's `weight_update` follows a method that takes
        one. None: this very method.
        """
        if name is None or name is self.name:
            return self
        named = self.kinds[name]
        shared = named.model_fields.keys() & type(self).model_fields.keys() - {"name", "comparison_group"}
        kept = {field: value for field in shared if (value := getattr(self, field)) is not None}
        if self.update is None:
            # ADMM's own update is no wish for one after a selection.
            kept.pop("weight_update", None)
            if named.updatable:
                kept.pop("admm", None)
        if not named.solves and "weight_update" not in kept:
            kept.pop("target", None)
            kept.pop("output_weighting", None)
        return named(name=name, **kept)
