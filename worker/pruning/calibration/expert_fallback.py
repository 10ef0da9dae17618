"""Experts that too few calibration tokens reach: what their statistics are mixed with, and what is said about it.

An expert is starved at a matrix when it got fewer tokens t than the matrix has inputs, T: its Gram is singular
then. Its statistics become those of T tokens, its own t and T − t stand-ins:

- matrices that read the layer's tokens (gate, up): the stand-ins are like the tokens of all the layer's experts;
- matrices that read the expert's own activations (down), which no other expert has: the stand-ins are uncorrelated
  and all of one size, so that with none of its own such a matrix is pruned by magnitude.

Sums of earlier domains that make it T tokens or more need no stand-ins, which would push out what these domains
have taught the expert. Then its own t tokens alone are added, as the part t / T of a domain where t is below T.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from secateur.spec.method import Reading
from secateur.spec.records.history import JobWarning
from worker.pruning.calibration.copal_sums import CopalSums
from worker.pruning.methods.copal import response_power
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.state.moments import Accumulated, Measured

MESSAGE: Final = "too few calibration tokens reached these experts' matrices: the layer's statistics stand in"


@dataclass(frozen=True)
class ExpertTokens:
    """One expert's share of the calibration. carried: tokens that earlier domains' sums have of it. stand_ins: the
    part, 0 to 1, of its statistics not its own."""

    module: str
    index: int
    tokens: int
    threshold: int
    carried: int = 0

    @property
    def stand_ins(self) -> float:
        return 0.0 if self.carried + self.tokens >= self.threshold else 1 - self.tokens / self.threshold

    @property
    def notes(self) -> dict[str, Any]:
        """For the records of its matrices."""
        return {**asdict(self), "stand_ins": self.stand_ins}


def feed(
    block: Block,
    groups: Sequence[Sequence[PrunableWeight]],
    measured: dict[str, Measured],
    copal_sums: Mapping[str, CopalSums] | None = None,
    before: Mapping[str, Accumulated] | None = None,
    pooled: Callable[[str, bool], Measured] | None = None,
) -> tuple[dict[str, Measured], dict[str, ExpertTokens]]:
    """The statistics with those of starved experts mixed, and how every expert's matrix (by its name) fared.

    block: loaded with its dense weights. measured: by group; groups without an expert are handed on. copal_sums:
    by matrix, for those with an importance. before: by group, the earlier domains' sums. pooled: the statistics of
    all of a module's tokens, or of all its experts' activations, where `groups` are not all of its experts'.
    """
    experts: dict[str, ExpertTokens] = {}
    result = dict(measured)
    kinds: dict[tuple[str, bool], list[Sequence[PrunableWeight]]] = defaultdict(list)
    for group in groups:
        if group[0].expert is not None:
            kinds[group[0].module, group[0].expert.activated].append(group)
            name = group[0].name
            share = _fed(group[0], measured[name], (before or {}).get(name))
            experts |= {matrix.name: share for matrix in group}
            if not share.stand_ins and share.tokens < share.threshold:
                result[name] = replace(measured[name], share=share.tokens / share.threshold)
    for (module, activated), members in kinds.items():
        starved = [group for group in members if experts[group[0].name].stand_ins]
        if not starved:
            continue
        everyone = [measured[group[0].name] for group in members]
        whole = _pooled(everyone) if pooled is None else pooled(module, activated)
        for group in starved:
            name, own = group[0].name, measured[group[0].name]
            shared = _isotropic(own, whole) if activated else whole
            result[name] = _mixed(own, shared, experts[name].stand_ins)
            importance = {}
            for matrix in group:
                if (sensed := (copal_sums or {}).get(matrix.name)) and sensed.by_token:
                    unseen = _importance(dense_weight(block, matrix), shared, sensed)
                    seen = own.importance.get(matrix.name, unseen)  # an expert without tokens has none
                    importance[matrix.name] = torch.lerp(seen, unseen, experts[name].stand_ins)
            result[name] = replace(result[name], importance=importance)
    return result, experts


def expert_fallback(stage: int, domain: str, records: Iterable[Mapping[str, Any]]) -> JobWarning | None:
    """records: of the whole stage."""
    experts = [record["notes"]["expert"] for record in records if "expert" in record["notes"]]
    modules = Counter(each["module"] for each in experts if each["stand_ins"])
    if not modules:
        return None
    data = {
        "stage": stage,
        "domain": domain,
        "matrices": modules.total(),
        "of": len(experts),
        "modules": dict(modules),
    }
    return JobWarning(code="expert_fallback", message=MESSAGE, data=data)


def _fed(matrix: PrunableWeight, measured: Measured, before: Accumulated | None) -> ExpertTokens:
    index = matrix.expert.index if matrix.expert else 0
    module = matrix.name.rpartition(f".{index}.")[0] if matrix.slice is None else matrix.tensor.rpartition(".")[0]
    return ExpertTokens(module, index, measured.tokens, matrix.columns, 0 if before is None else before.tokens)


def _pooled(everyone: list[Measured]) -> Measured:
    """The statistics of all tokens of the layer's experts; white noise when there are none."""
    tokens = sum(each.tokens for each in everyone)
    if tokens == 0:
        return _white(everyone[0], 1.0)
    gram = torch.zeros_like(everyone[0].gram)
    mean = torch.zeros_like(everyone[0].mean)
    for each in everyone:
        gram.add_(each.gram, alpha=each.tokens / tokens)
        mean.add_(each.mean, alpha=each.tokens / tokens)
    return Measured(gram, mean, tokens, {})


def _isotropic(own: Measured, pooled: Measured) -> Measured:
    """Uncorrelated activations of the expert's mean size; of the layer's, where the expert has none."""
    return _white(own, float((own if own.tokens else pooled).second.mean()))


def _white(like: Measured, size: float) -> Measured:
    gram = torch.eye(len(like.gram), device=like.gram.device) * size
    return Measured(gram, torch.zeros_like(like.mean), 0, {})


def _mixed(own: Measured, shared: Measured, stand_ins: float) -> Measured:
    gram = torch.lerp(own.gram, shared.gram, stand_ins)
    return replace(own, gram=gram, mean=torch.lerp(own.mean, shared.mean, stand_ins))


def _importance(dense: Tensor, shared: Measured, copal_sums: CopalSums) -> Tensor:
    """What the stand-ins would have for importance, (out, in).

    E dz_i² x_j² is taken as E dz_i² E x_j², as of independent ones, and E |dz_i||x_j| as its upper bound, the root
    of that.
    """
    power = response_power(dense, shared.gram, shared.mean, copal_sums.earlier_mean)
    if copal_sums.reading is Reading.fisher:
        return torch.outer(power, shared.second)
    return torch.outer(power.sqrt(), shared.second.sqrt())
