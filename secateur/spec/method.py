"""The methods as callers choose them: one model a method, told apart by `name`."""

from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from secateur.spec.strict import Choice, Strict, at_field


class MethodName(Choice):
    copal = "copal"
    auto = "auto"
    admm = "admm"
    alps = "alps"
    sparsegpt = "sparsegpt"
    wanda = "wanda"
    magnitude = "magnitude"


class WeightUpdate(Choice):
    """What happens to the kept weights once the method is done."""

    none = "none"
    admm = "admm"


class Mode(Choice):
    """What a later domain starts from."""

    accumulated = "accumulated"
    restart = "restart"
    sequential = "sequential"


class Objective(Choice):
    """What the sums over domains are for."""

    mean = "mean"
    least_forgetting = "least_forgetting"


class Scope(Choice):
    """Among which weights scores are compared."""

    row = "row"
    matrix = "matrix"


class Mask(Choice):
    """Whose mask the weights are solved for: the method's own, or one that ADMM looks for by its scores."""

    selected = "selected"
    searched = "searched"


class Target(Choice):
    """What a matrix is solved towards: its dense weights, or its outputs behind the dense blocks before it."""

    dense = "dense"
    prefix = "prefix"


class OutputWeighting(Choice):
    """How the errors of a matrix's outputs are weighed while its kept weights are solved for."""

    none = "none"
    gradients = "gradients"


class Reading(Choice):
    """Where COPAL's gradient is taken in absolute value."""

    own_terms = "own_terms"
    token = "token"  # noqa: S105 - a reading of the sensitivity per token, not a secret
    sample = "sample"
    dataset = "dataset"
    fisher = "fisher"


class Perturbation(Choice):
    relative = "relative"
    domain_shift = "domain_shift"


class Schedule(Choice):
    immediate = "immediate"
    gradual = "gradual"


RECENCY: Final = {Objective.mean: 1.0, Objective.least_forgetting: 2.0}
"""What the sums so far are multiplied by before a new domain is added."""


class AdmmSettings(Strict):
    """The ADMM solver (arXiv 2401.02938)."""

    iterations: int = Field(default=20, ge=1, le=1000, description="Steps; each is one matrix product.")
    mask_steps: int = Field(
        default=15, ge=1, le=1000, validate_default=True, description="The mask is frozen after so many steps."
    )
    schedule: Schedule = Field(
        default=Schedule.immediate,
        description="`immediate`: the full target from the first step; `gradual`: cubic.",
    )
    damping: float = Field(
        default=0.1,
        ge=0,
        le=100,
        description="Ridge towards the dense weights, by the Gram's mean diagonal.",
    )
    rho: float = Field(default=1.0, gt=0, le=1e6, description="Penalty, in normalised coordinates.")
    polish_steps: int = Field(default=10, ge=0, le=1000, description="Conjugate gradient steps on the final mask.")

    @field_validator("mask_steps")
    @classmethod
    def _freeze_in_time(cls, value: int, info: ValidationInfo) -> int:
        iterations = info.data.get("iterations", value)
        if value > iterations:
            raise at_field(f"must not exceed iterations ({iterations})")
        return value


class SparseGptSettings(Strict):
    """The SparseGPT solver (arXiv 2301.00774)."""

    block: int = Field(default=128, ge=1, le=4096, description="Inputs whose mask is chosen at once.")
    damping: float = Field(default=0.01, ge=0, le=100, description="Ridge, by the Gram's mean diagonal.")


class AlpsSettings(Strict):
    """The ALPS solver (arXiv 2406.07831)."""

    max_steps: int = Field(
        default=300, ge=1, le=10_000, description="Steps at most; the settled support ends them."
    )
    update_every: int = Field(default=3, ge=1, le=1000, description="Steps between two changes of the penalty.")
    rho: float = Field(
        default=0.1, gt=0, le=1e6, description="The penalty to begin with, in normalised coordinates."
    )
    damping: float = Field(
        default=0.01, ge=0, le=100, description="Ridge towards the dense weights, by the Gram's mean diagonal."
    )
    polish_steps: int = Field(default=10, ge=0, le=1000, description="Conjugate gradient steps on the final mask.")


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


SolvingTarget = Annotated[
    Target,
    Field(
        description="What weights are solved towards. `dense`: what the dense matrix gives for its inputs behind "
        "the pruned blocks; `prefix`: as far as these inputs tell it, what it gives behind the dense blocks, so "
        "that it makes up for what was lost before it. How far is chosen for each group of matrices by the "
        "windows held out, of which every domain needs some. Costs one more forward pass."
    ),
]


Weighting = Annotated[
    OutputWeighting,
    Field(
        description="How the errors of a matrix's outputs are weighed. `none`: alike, each by itself; "
        "`gradients`: by the loss's gradients and how these go together, so that one output may make up for "
        "another; on the mask that is found without. Takes the backward pass that the allocation `error` takes."
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
        named = METHODS[name]
        shared = named.model_fields.keys() & type(self).model_fields.keys() - {"name", "comparison_group"}
        kept = {field: value for field in shared if (value := getattr(self, field)) is not None}
        if self.update is None:
            # ADMM's own update is no wish for one after a selection.
            kept.pop("weight_update", None)
            if issubclass(named, Selecting):
                kept.pop("admm", None)
        if not named.solves and "weight_update" not in kept:
            kept.pop("target", None)
            kept.pop("output_weighting", None)
        return named(name=name, **kept)


class Selecting(Method):
    """A method whose mask may be kept while the kept weights are solved for once more."""

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
        default=None, validate_default=True, description="Only with `weight_update: admm`. Default: `dense`."
    )
    output_weighting: Weighting | None = Field(
        default=None, validate_default=True, description="Only with `weight_update: admm`. Default: `none`."
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


class Magnitude(Scoring):
    """Baseline: removes the smallest weights of each matrix."""

    scores_inputs = False

    name: Literal[MethodName.magnitude]
    comparison_group: ComparisonGroup = Scope.matrix


class Wanda(Scoring):
    """Baseline: removes the weights with the smallest product of size and input norm."""

    name: Literal[MethodName.wanda]
    comparison_group: ComparisonGroup = Scope.row


class Copal(Scoring):
    """Continual: keeps the weights to which the layer's output is most sensitive over all domains so far
    (our reading of arXiv 2405.02347)."""

    squared_scores = True  # in |W0||dz| both factors double

    name: Literal[MethodName.copal]
    reading: Reading = Field(
        default=Reading.own_terms,
        description="How a weight's sensitivity is read off the gradient of ‖dz‖², dz the total differential of "
        "the layer's output: its absolute value for each `token`, each calibration window (`sample`, not for "
        "mixtures of experts) or the whole `dataset`; its root mean square over tokens (`fisher`); or only what "
        "the weight itself contributes (`own_terms`).",
    )
    perturbation: Perturbation = Field(
        default=Perturbation.domain_shift, description="How the input is thought to change."
    )
    comparison_group: ComparisonGroup = Scope.row

    @property
    def importance(self) -> Importance | None:
        return None if self.reading is Reading.own_terms else Importance(self.reading, self.perturbation)

    @property
    def formula(self) -> tuple[Any, ...]:
        return self.name, self.reading, self.perturbation

    @property
    def ordered(self) -> bool:
        return self.perturbation is Perturbation.domain_shift


class Solving(Method):
    """A method that changes the kept weights itself."""

    solves = True

    target: SolvingTarget = Target.dense
    output_weighting: Weighting = OutputWeighting.none

    @property
    def follows_dense(self) -> bool:
        return self.target is Target.prefix

    @property
    def weighs_outputs(self) -> bool:
        return self.output_weighting is OutputWeighting.gradients


class SparseGpt(Selecting, Solving):
    """Baseline: removes weights input by input and lets the inputs still to come make up for each
    (arXiv 2301.00774)."""

    name: Literal[MethodName.sparsegpt]
    comparison_group: ComparisonGroup = Scope.matrix
    sparsegpt: SparseGptSettings = SparseGptSettings()

    @property
    def formula(self) -> tuple[Any, ...]:
        return self.name, self.sparsegpt.damping


class Alps(Selecting, Solving):
    """Finds the mask and the optimal weights for it together, by ADMM with a growing penalty
    (arXiv 2406.07831)."""

    name: Literal[MethodName.alps]
    comparison_group: ComparisonGroup = Scope.matrix
    alps: AlpsSettings = AlpsSettings()

    @property
    def formula(self) -> tuple[Any, ...]:
        return (MethodName.wanda,)


class Admm(Solving):
    """Finds the mask and the optimal weights for it together, by ADMM (arXiv 2401.02938)."""

    name: Literal[MethodName.admm]
    weight_update: Literal[WeightUpdate.admm] = Field(default=WeightUpdate.admm, description="Implied.")
    comparison_group: ComparisonGroup = Scope.matrix
    admm: AdmmSettings = AdmmSettings()

    @property
    def formula(self) -> tuple[Any, ...]:
        return (MethodName.wanda,)


class Auto(Method):
    """Chooses ADMM at one of several settings, ALPS or SparseGPT for each group of matrices that read one input,
    by the error on the calibration windows held out, of which every domain needs some. On those no matrix does
    worse than by `admm` as it is by default."""

    solves = True
    chooses = True

    name: Literal[MethodName.auto]
    comparison_group: ComparisonGroup = Scope.matrix


AnyMethod = Annotated[Magnitude | Wanda | SparseGpt | Admm | Alps | Auto | Copal, Field(discriminator="name")]
_CLASSES: Final[tuple[type[Method], ...]] = (Copal, Auto, Admm, Alps, SparseGpt, Wanda, Magnitude)
METHODS: Final[dict[MethodName, type[Method]]] = {
    get_args(each.model_fields["name"].annotation)[0]: each for each in _CLASSES
}
"""The methods' classes by name, in the order in which they are listed."""
_READER: Final[TypeAdapter[Method]] = TypeAdapter(AnyMethod)


def read_method(value: Any) -> Method:
    """The method that a JSON object describes. Raises pydantic's ValidationError."""
    return _READER.validate_python(value)
