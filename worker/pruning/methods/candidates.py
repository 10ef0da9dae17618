"""What `auto` chooses among: solvers and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from secateur.spec.method import METHODS, AdmmSettings, Method, MethodName


@dataclass(frozen=True)
class Candidate:
    """A solver and its settings; what it does not name is as the solver's own default."""

    label: str
    name: MethodName
    settings: Mapping[str, Any] = field(default_factory=dict)

    def method(self, job: Method) -> Method:
        """In the job's mode and comparison group."""
        shared = {name: getattr(job, name) for name in ("mode", "objective", "recency", "comparison_group")}
        return METHODS[self.name](name=self.name, **shared, **self.settings)


def _admm(damping: float, rho: float) -> Candidate:
    settings = AdmmSettings(damping=damping, rho=rho)
    return Candidate(f"admm damping {damping:g} rho {rho:g}", MethodName.admm, {"admm": settings})


CANDIDATES: Final = (
    _admm(damping=0.1, rho=1.0),
    _admm(damping=0.01, rho=1.0),
    _admm(damping=0.03, rho=1.0),
    _admm(damping=0.3, rho=1.0),
    _admm(damping=1.0, rho=1.0),
    _admm(damping=0.1, rho=0.3),
    Candidate("alps", MethodName.alps),
    Candidate("sparsegpt", MethodName.sparsegpt),
)
"""The first one, ADMM as it is by default, is what the others have to beat; it wins ties. How closely a solution
fits its text is a matter of the damping; rho decides how the mask is found."""
