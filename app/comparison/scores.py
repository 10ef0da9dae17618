"""What defines a matrix's scores: where it is one for two jobs, they are of one unit, and their means compare."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.spec.method import Method, MethodName, Mode, read_method
from secateur.spec.records.history import Basis


@dataclass(frozen=True)
class Scored:
    """A stage whose scores are compared. path: specs of its lineage, oldest first, its own job's last; stage: in
    that job. basis: which domains the scores are of."""

    path: Sequence[dict[str, Any]]
    stage: int
    basis: Basis = Basis.accumulated

    def definition(self, solver: str) -> Hashable:
        """Of the scores of a matrix with this solver, as its record names it."""
        method = read_method(self.path[-1]["method"])
        own = method.named(MethodName(solver.partition("+")[0]))
        stages = self._stages()
        weights = "pruned" if method.mode is Mode.sequential and len(stages) > 1 else "dense"
        return own.formula, weights, self._domains(own, stages)

    def _domains(self, method: Method, stages: Sequence[tuple[str, float, float]]) -> Hashable:
        """The domains that are summed up, with the factor of each; in their order where that counts. A domain's
        own scores are of one unit whatever it is, and some scores know no domain."""
        if self.basis is Basis.domain or not method.scores_inputs:
            return None
        factors: dict[str, float] = {}
        for domain, weight, recency in stages:
            if method.mode is not Mode.accumulated:
                factors = {domain: 1.0}
                continue
            factors = {name: factor * recency for name, factor in factors.items()} | {domain: weight}
        return tuple(factors.items()) if method.ordered else frozenset(factors.items())

    def _stages(self) -> list[tuple[str, float, float]]:
        """All of the lineage so far: the domain, its weight, and what the sums before it are multiplied by."""
        found: list[tuple[str, float, float]] = []
        for spec in self.path:
            recency = read_method(spec["method"]).keeps
            domains = spec["domains"] if spec is not self.path[-1] else spec["domains"][: self.stage + 1]
            found += [(domain["name"], domain.get("weight", 1.0), recency) for domain in domains]
        return found


def same_scores(one: Scored, other: Scored, solver: str | None, other_solver: str | None) -> bool:
    """Whether a matrix's scores on both sides are of one definition; None: that side has not pruned it."""
    if solver is None or other_solver is None:
        return False
    return one.definition(solver) == other.definition(other_solver)
