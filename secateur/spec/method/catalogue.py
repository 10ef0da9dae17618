"""The methods as callers choose them: one model a method, told apart by `name`."""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, TypeAdapter

from secateur.spec.method.choices import MethodName, Perturbation, Reading, Scope, WeightUpdate
from secateur.spec.method.method import ComparisonGroup, Importance, Method
from secateur.spec.method.settings import AdmmSettings, AlpsSettings, SparseGptSettings
from secateur.spec.method.solving import Scoring, Selecting, Solving


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


class Auto(Solving):
    """Chooses ADMM at one of several settings, ALPS or SparseGPT for each group of matrices that read one input,
    by the error on the calibration windows held out, of which every domain needs some. On those no matrix does
    worse than by `admm` at its own defaults with the same target and weighing."""

    chooses = True

    name: Literal[MethodName.auto]
    comparison_group: ComparisonGroup = Scope.matrix


AnyMethod = Annotated[Magnitude | Wanda | SparseGpt | Admm | Alps | Auto | Copal, Field(discriminator="name")]
_CLASSES: Final[tuple[type[Method], ...]] = (Copal, Auto, Admm, Alps, SparseGpt, Wanda, Magnitude)
METHODS: Final[dict[MethodName, type[Method]]] = {
    get_args(each.model_fields["name"].annotation)[0]: each for each in _CLASSES
}
"""The methods' classes by name, in the order in which they are listed."""
Method.kinds.update(METHODS)
_READER: Final[TypeAdapter[Method]] = TypeAdapter(AnyMethod)


def read_method(value: Any) -> Method:
    """The method that a JSON object describes. Raises pydantic's ValidationError."""
    return _READER.validate_python(value)
