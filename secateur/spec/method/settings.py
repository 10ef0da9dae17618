"""What the solvers themselves may be told."""

from pydantic import Field, ValidationInfo, field_validator

from secateur.spec.method.choices import Schedule
from secateur.spec.strict import Strict, at_field


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
