"""What defines a matrix's scores: where it is one for two jobs, they are of one unit, and their means compare."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.tables.sensitivity import Basis
from secateur.spec.method import RECENCY, SparseGptSettings

FORMULAS: Final = {"admm": "wanda", "alps": "wanda"}
"""Methods whose search for a mask begins with another one's scores."""


@dataclass(frozen=True)
class Scored:
    """A stage whose scores are compared. path: specs of its lineage, oldest first, its own job's last; stage: in
    that job. basis: which domains the scores are of."""

    path: Sequence[dict[str, Any]]
    stage: int
    basis: Basis = Basis.accumulated

    def definition(self, solver: str) -> Hashable:
        """Of the scores of a matrix with this solver, as its record names it."""
        name = solver.partition("+")[0]
        formula = FORMULAS.get(name, name)
        weights = "pruned" if self._method["mode"] == "sequential" and len(self._stages()) > 1 else "dense"
        if formula == "magnitude":
            return formula, weights
        return formula, weights, self._settings(formula), self._domains(formula)

    @property
    def _method(self) -> dict[str, Any]:
        method: dict[str, Any] = self.path[-1]["method"]
        return method

    def _settings(self, formula: str) -> Hashable:
        if formula == "copal":
            return self._method.get("reading", "own_terms"), self._shift()
        if formula == "sparsegpt":
            return float(self._method.get("sparsegpt", {}).get("damping", SparseGptSettings().damping))
        return None

    def _shift(self) -> str:
        return str(self._method.get("perturbation", "domain_shift"))

    def _domains(self, formula: str) -> Hashable:
        """The domains that are summed up, with the factor of each; in their order where that counts. A domain's
        own scores are of one unit whatever it is."""
        if self.basis is Basis.domain:
            return None
        factors: dict[str, float] = {}
        for domain, weight, recency in self._stages():
            if self._method["mode"] != "accumulated":
                factors = {domain: 1.0}
                continue
            factors = {name: factor * recency for name, factor in factors.items()} | {domain: weight}
        ordered = formula == "copal" and self._shift() == "domain_shift"
        return tuple(factors.items()) if ordered else frozenset(factors.items())

    def _stages(self) -> list[tuple[str, float, float]]:
        """All of the lineage so far: the domain, its weight, and what the sums before it are multiplied by."""
        found: list[tuple[str, float, float]] = []
        for spec in self.path:
            method = spec["method"]
            recency = method.get("recency") or RECENCY[method.get("objective", "mean")]
            domains = spec["domains"] if spec is not self.path[-1] else spec["domains"][: self.stage + 1]
            found += [(domain["name"], domain.get("weight", 1.0), recency) for domain in domains]
        return found


def same_scores(one: Scored, other: Scored, solver: str | None, other_solver: str | None) -> bool:
    """Whether a matrix's scores on both sides are of one definition; None: that side has not pruned it."""
    if solver is None or other_solver is None:
        return False
    return one.definition(solver) == other.definition(other_solver)
