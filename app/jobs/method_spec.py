"""The methods as callers choose them: one model a method, told apart by `name`. The engine has the same table."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from app.kit.fields import Strict

Mode = Annotated[
    Literal["accumulated", "restart", "sequential"],
    Field(
        description="What a later domain starts from. `accumulated`: the dense weights and the statistics of all "
        "domains so far; `restart`: the dense weights and this domain's statistics; `sequential`: pruned weights "
        "of the stage before and this domain's statistics."
    ),
]


class AdmmSettings(Strict):
    """The ADMM solver (arXiv 2401.02938)."""

    iterations: int = Field(default=20, ge=1, le=1000, description="Steps; each is one matrix product.")
    mask_steps: int = Field(default=15, ge=1, le=1000, description="The mask is frozen after so many steps.")
    schedule: Literal["immediate", "gradual"] = Field(
        default="immediate", description="`immediate`: the full target from the first step; `gradual`: cubic."
    )
    damping: float = Field(
        default=0.1,
        ge=0,
        le=100,
        description="Ridge towards the dense weights, by the Gram's mean diagonal.",
    )
    rho: float = Field(default=1.0, gt=0, le=1e6, description="Penalty, in normalised coordinates.")
    polish_steps: int = Field(default=10, ge=0, le=1000, description="Conjugate gradient steps on the final mask.")

    @model_validator(mode="after")
    def _freeze_in_time(self) -> "AdmmSettings":
        if self.mask_steps > self.iterations:
            raise ValueError(f"mask_steps must not exceed iterations ({self.iterations})")
        return self


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


ComparisonGroup = Annotated[
    Literal["row", "layer"],
    Field(description="Weights compete in their output row or the whole matrix; under `error` always the latter."),
]


Mask = Literal["selected", "searched"]
Objective = Literal["mean", "least_forgetting"]
Reading = Literal["own_terms", "token", "sample", "dataset", "fisher"]
Perturbation = Literal["domain_shift", "relative"]


class _Method(Strict):
    """What every method has: how it goes from domain to domain."""

    mode: Mode = "accumulated"
    objective: Objective = Field(
        default="mean",
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

    @field_validator("objective", "recency")
    @classmethod
    def _only_with_sums(cls, value: Any, info: ValidationInfo) -> Any:
        mode = info.data.get("mode", "accumulated")
        if mode != "accumulated" and value not in ("mean", None):
            raise ValueError(f"has an effect in mode accumulated only, and mode is {mode}; leave it out")
        return value

    @field_validator("recency")
    @classmethod
    def _instead_of_an_objective(cls, value: float | None, info: ValidationInfo) -> float | None:
        objective = info.data.get("objective", "mean")
        if value is not None and objective != "mean":
            raise ValueError(f"takes the place of what the objective {objective} implies; leave one of them out")
        return value

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class _Selecting(_Method):
    """A method whose mask may be kept while the kept weights are solved for once more."""

    weight_update: Literal["none", "admm"] = Field(
        default="none", description="`admm`: replace the kept weights by those which best keep the layer's output."
    )
    admm: AdmmSettings | None = Field(default=None, description="Only with `weight_update: admm`.")

    @model_validator(mode="after")
    def _only_with_update(self) -> "_Selecting":
        if self.weight_update == "none" and self.admm is not None:
            raise ValueError("admm has no effect without weight_update: admm")
        if self.weight_update == "admm" and self.admm is None:
            self.admm = AdmmSettings()
        return self


class _Scoring(_Selecting):
    """A method that gives every weight a score and changes none."""

    mask: Mask | None = Field(
        default=None,
        description="Only with `weight_update: admm`. `selected`: the method's own mask, and the weights solved "
        "for it. `searched`: ADMM looks for the mask while it solves, by the method's scores of the weights as "
        "they stand. Default: `selected`.",
    )

    @field_validator("mask")
    @classmethod
    def _only_with_a_solver(cls, value: Mask | None, info: ValidationInfo) -> Mask | None:
        if value is not None and info.data.get("weight_update") == "none":
            raise ValueError("has no effect without weight_update: admm; leave it out")
        return value

    @model_validator(mode="after")
    def _mask_of_an_update(self) -> "_Scoring":
        if self.weight_update == "admm" and self.mask is None:
            self.mask = "selected"
        return self


class Magnitude(_Scoring):
    """Baseline: removes the smallest weights of each matrix."""

    name: Literal["magnitude"]
    comparison_group: ComparisonGroup = "layer"


class Wanda(_Scoring):
    """Baseline: removes the weights with the smallest product of size and input norm."""

    name: Literal["wanda"]
    comparison_group: ComparisonGroup = "row"


class Copal(_Scoring):
    """Continual: keeps the weights to which the layer's output is most sensitive over all domains so far
    (our reading of arXiv 2405.02347)."""

    name: Literal["copal"]
    reading: Reading = Field(
        default="own_terms",
        description="How a weight's sensitivity is read off the gradient of ‖dz‖², dz the total differential of "
        "the layer's output: its absolute value for each `token`, each calibration window (`sample`, not for "
        "mixtures of experts) or the whole `dataset`; its root mean square over tokens (`fisher`); or only what "
        "the weight itself contributes (`own_terms`).",
    )
    perturbation: Perturbation = Field(default="domain_shift", description="How the input is thought to change.")
    comparison_group: ComparisonGroup = "row"


class SparseGpt(_Selecting):
    """Baseline: removes weights input by input and lets the inputs still to come make up for each
    (arXiv 2301.00774)."""

    name: Literal["sparsegpt"]
    comparison_group: ComparisonGroup = "layer"
    sparsegpt: SparseGptSettings = SparseGptSettings()


class Alps(_Selecting):
    """Finds the mask and the optimal weights for it together, by ADMM with a growing penalty
    (arXiv 2406.07831)."""

    name: Literal["alps"]
    comparison_group: ComparisonGroup = "layer"
    alps: AlpsSettings = AlpsSettings()


class Admm(_Method):
    """Finds the mask and the optimal weights for it together, by ADMM (arXiv 2401.02938)."""

    name: Literal["admm"]
    weight_update: Literal["admm"] = Field(default="admm", description="Implied.")
    comparison_group: ComparisonGroup = "layer"
    admm: AdmmSettings = AdmmSettings()


class Auto(_Method):
    """Chooses ADMM at one of several settings, ALPS or SparseGPT for each group of matrices that read one input,
    by the error on the calibration windows held out, of which every domain needs some. On those no matrix does
    worse than by `admm` as it is by default."""

    name: Literal["auto"]
    comparison_group: ComparisonGroup = "layer"


Method = Annotated[Magnitude | Wanda | SparseGpt | Admm | Alps | Auto | Copal, Field(discriminator="name")]
METHODS: tuple[type[Strict], ...] = (Copal, Auto, Admm, Alps, SparseGpt, Wanda, Magnitude)
