"""What a survey of the dense model finds."""

from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

Key = TypeVar("Key", int, str)


@dataclass(frozen=True)
class Survey:
    """What calibration text says about the dense model's matrices; sums over domains.

    outliers: per block, the share of outlying Wanda scores, a float64 scalar (owl). outputs: per matrix, the mean
    of (∂loss/∂z_i)² of every output z_i, (out,). curves: per matrix, see `loss_curve`. A matrix that the survey
    could not look into has no entry.
    """

    outliers: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)

    def plus(self, other: "Survey") -> "Survey":
        """The survey of both texts."""
        return Survey(
            _added(self.outliers, other.outliers),
            _added(self.outputs, other.outputs),
            _added(self.curves, other.curves),
        )

    def times(self, factor: float) -> "Survey":
        """The survey of a text that counts so much."""
        return Survey(
            {key: value * factor for key, value in self.outliers.items()},
            {key: value * factor for key, value in self.outputs.items()},
            {key: value * factor for key, value in self.curves.items()},
        )


def _added(one: dict[Key, Tensor], two: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Sums; what only one of them has (an expert that no token of the other text reached) stays as it is."""
    return {key: one[key] + two[key] if key in one and key in two else (one | two)[key] for key in one | two}
