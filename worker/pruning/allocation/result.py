"""What a survey of the dense model finds."""

from dataclasses import dataclass, field

from torch import Tensor


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
            {block: value + other.outliers[block] for block, value in self.outliers.items()},
            {name: value + other.outputs[name] for name, value in self.outputs.items()},
            {name: value + other.curves[name] for name, value in self.curves.items()},
        )
